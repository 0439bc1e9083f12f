/* sched/park.h: how hands sleep, and who wakes them.
 *
 * A hand that has nothing to do looks around for a moment, at most spin_ns, and then sleeps on a word of its own:
 *
 *      AWAKE --begin--> IDLE, or WAITING --(wake: for a range, for the end of its loop)--> WOKEN --> AWAKE
 *                          \------(it finds something itself; deadline; signal)-------------------^
 *
 * A worker without work is IDLE; WAITING is a hand whose loop is not done, because others have parts of it. Both are
 * called parked here.
 *
 * Whoever publishes ranges wakes one hand that may take one, if all others sleep; whoever is woken takes it, and wakes
 * another for what else is there, or publishes something in turn. So hands come to a loop in a chain that branches,
 * and its caller pays for one system call. While a worker is awake without work (it is *searching*) nobody is woken:
 * it looks at all deques, again and again. But it may find something else, or give up, just when it is counted on; so
 * it owes a look, too, when it was the last one.
 *
 * Three pairs of accesses must not pass each other. All are seq_cst, in one total order:
 *
 *      S   to sleep:    state = IDLE or WAITING (S1); look at all deques (S2); sleep while it is that
 *          to publish:  bottom += n (S3); look at `parked`, at `searching`, at the states (S4)
 *      W   to find:     searching -= 1 (W1); if that was the last: look at all deques, wake one for what is there (W2)
 *          to sleep:    searching -= 1 (W1); S1; S2; if that was the last: W2
 *      J   to wait:     state = WAITING (J1, which is S1, too); is anything left? (J2); sleep while it is that
 *          to finish:   left -= n (J3); if nothing is: look at the caller's state (J4); wake it if that is WAITING
 *
 * The two counters are summaries, on the safe side: `parked` grows before S1 and falls after the state has changed
 * again, so it is no less than the hands that are parked. `searching` grows after a worker is searching, and is lowered
 * by nobody but those who are: so it is no more than the workers that will come to W1 (it may be -1 for a moment), and
 * the last of them finds 1, or less.
 *
 * Claim: while a range lies in a deque, no hand that may take it sleeps unless another one is on its way to look. See
 * what whoever published it found at S4:
 *      parked = 0: whoever sleeps later has S1 after S4, so S2 after S3, and sees the range.
 *      searching > 0: some worker comes to W1 after S4. The last one that does sees the range at W2, and wakes a hand
 *          for it, unless it takes it.
 *      a hand that may take it is parked: it was woken, and is on its way. One that was not parked when its state was
 *          looked at, and sleeps later, has S1 after that look.
 * Whoever is on its way and takes something else was a searching worker, which owes W2; or a waiting hand, that may
 * take the range itself once it is through with the other. A worker that was parked because there were too many callers
 * (hand.h) is woken when one leaves (td_park_wake_for_any).
 * Nothing but speed depends on the claim: the hand in whose deque a range lies comes to it in any case. For J it is
 * otherwise: but J1 stands before J2 and J3 before J4, so the caller sees that nothing is left, or is seen waiting.
 *
 * Whom the kernel wakes it often puts on the CPU of the waker, although others idle; a caller goes on working, so its
 * worker would wait there for milliseconds, or interrupt it. So a worker takes the CPU of its last waker out of its
 * affinity mask while it sleeps, and a waker on another one takes that out instead. While it works the mask is as it
 * was when its thread began: what a chunk starts inherits it.
 *
 * Spinning is for CPUs that nobody wants. Hands that are awake are never more than CPUs (hand.h); others show
 * themselves by taking ours away: a hand that spins looks at the clock all the time, and one that finds a hole in it
 * sleeps, and nobody spins for a while.
 *
 * Ordering    what a wake-up brings, P and J do (deque.h, hand.h); the words here order nothing but themselves.
 * Tests       tests/sched/test_park.c */
#ifndef TD_SCHED_PARK_H
#define TD_SCHED_PARK_H

#include "sched/hand.h"

/* From here on a worker that was searching is seen as asleep, and looks once more. True: it was the last, and must call
 * td_park_wake_for_any after that look. */
bool td_park_begin(struct td_sched *sched, struct td_hand *hand);
/* The same for a hand that waits for the rest of a loop, of which this is the tag. */
void td_park_begin_wait(struct td_sched *sched, struct td_hand *hand, uint64_t tag);
/* The look found something: the hand is as it was before. */
void td_park_cancel(struct td_sched *sched, struct td_hand *hand);
/* It did not: sleeps, and is then as it was before. TD_OK: look again; TD_ETIMEDOUT, TD_EINTR. */
td_status td_park_sleep_until(struct td_sched *sched, struct td_hand *hand, int64_t deadline_ns);

/* Around a worker's sleep: it keeps off its waker's CPU, and may run anywhere again. */
void td_park_keep_off_waker(struct td_hand *hand);
void td_park_roam(struct td_hand *hand);

/* A worker without work is searching; and one that has found some is not, and wakes another if it was the last. */
void td_park_search(struct td_sched *sched);
void td_park_found(struct td_sched *sched);

/* Wakes the hand if it waits: its loop is done. */
void td_park_wake(struct td_sched *sched, struct td_hand *hand);
/* Wakes a hand for something that lies in a deque, if anything does and nobody searches. */
void td_park_wake_for_any(struct td_sched *sched);
/* The same for a range with this tag; true: it woke one. */
bool td_park_wake_for(struct td_sched *sched, uint64_t tag);

/* After ranges with this tag were published. */
static inline void td_park_announce(struct td_sched *sched, uint64_t tag)
{
    if (td_atomic_load_seq(&sched->parked) != 0) /* S4 */
        (void)td_park_wake_for(sched, tag);
}

/* May this hand take a range with this tag, when it has nothing else to do? For a worker; and for one that waits for
 * the rest of a loop. */
static inline bool td_may_take_free(const struct td_sched *sched, const struct td_hand *hand, uint64_t tag)
{
    return td_tag_place(tag, hand->index, sched->workers) < td_tag_count(tag) &&
           td_hand_is_within_budget(sched, hand);
}
static inline bool td_may_take_waiting(uint64_t mine, uint64_t tag)
{
    return td_tag_root(tag) == td_tag_root(mine) && td_tag_depth(tag) >= td_tag_depth(mine);
}

/* A wait that is awake: turn by turn, until it says false. */
struct td_spin {
    uint32_t turn;
    int64_t looked_ns, until_ns;
};
bool td_spin_turn(struct td_sched *sched, struct td_spin *spin);

#endif
