/* ring/doorbell.h: how both sides sleep, and are woken only when they do.
 *
 * Two directions, one idea: the sleeper first says that it sleeps, then looks once more; the other side first
 * publishes, then looks whether somebody sleeps. All these accesses are seq_cst, so at least one of the two sees the
 * other (Dekker); there is no state in which work waits and everybody sleeps. The stores are written as exchanges: on
 * x86-64 that is the same instruction, and on aarch64 it also holds under qemu's user emulation, which lets a load pass
 * an earlier stlr, and on which the tests for that machine run.
 *
 * Workers (D). Each parks on its own word in states[]:
 *
 *      BUSY <--> SEARCHING --park--> PARKED --(wake)--> WOKEN --(awake)--> SEARCHING
 *                                       \--(work seen, or a signal)----------^
 *
 *      worker: states[w] = PARKED (D1); look at the tails of both lanes (D2); sleep while states[w] == PARKED.
 *      parent: a tail += 1 (D3); look at states[] (D4); PARKED -> WOKEN by CAS; futex wake.
 *      D1 before D2 and D3 before D4 in one total order: either the worker sees the new tail or the parent sees PARKED.
 *      The parent wakes the most recently parked worker, and only as many as there are tasks that no awake worker will
 *      take: a searching worker needs no wake-up.
 *
 *      So a searching worker owes a look. It may take another task, or leave, at the very moment at which it is counted
 *      on, and then it wakes a colleague in its place (W):
 *      worker: states[w] = BUSY, or LEAVING (W1); look at the tails (W2); wake parked workers if tasks wait.
 *      D3 before D4 and W1 before W2: either the parent did not count on it, or it sees the task it was counted on for.
 *      A worker that goes from one task to the next stays BUSY, is never counted on, and pays for none of this.
 *
 * The parent (B). One bell per process, shared by all its pools:
 *
 *      waiter: listen |= FUTEX (B1); look at all completion rings (B2); sleep while `rings` has not changed.
 *      worker: done_tail += 1 (B3); look at `listen` (B4); clear the bit it answers; rings += 1; wake.
 *      Whoever clears the bit wakes; the others return at once: one system call however many workers finish together.
 *      EVENT asks for the eventfd instead, on which the native thread polls; LOOP for another one, on which an event
 *      loop of the user's does (pool/group.c). Neither hears of what a sleeping waiter is woken for: that one drains,
 *      and passes on what is theirs.
 *
 * Crash  a worker that dies between clearing a bit and waking leaves the waiter asleep, and unheard by everybody else,
 *        or an event loop; one that dies between PARKED -> WOKEN and waking leaves a worker asleep whom everybody takes
 *        to be awake; one that dies searching may have been counted on. Whoever cleans up after it calls
 *        td_doorbell_succeed once its state is EMPTY: that wakes the waiter, the event loop, and whoever is WOKEN, once
 *        more (a look for nothing where they were awake), and others for the tasks it was counted on for. The native
 *        thread is the one that cleans up.
 * Tests  tests/ring/test_doorbell.c */
#ifndef TD_RING_DOORBELL_H
#define TD_RING_DOORBELL_H

#include "base/atomic.h"
#include "base/status.h"
#include "ring/submission.h"

#define TD_BELL_MAGIC UINT64_C(0x6c6c6562) /* "bell" */
#define TD_LISTEN_FUTEX 1u                 /* a thread sleeps on `rings` */
#define TD_LISTEN_EVENT 2u                 /* the native thread wants to hear of completions */
#define TD_LISTEN_LOOP 4u                  /* an event loop does, which sleeps in a poll of its own */

/* In a memfd of one page, made by the parent before its first pool. */
struct td_bell {
    uint64_t magic;
    td_atomic_u32 listen; /* TD_LISTEN_* */
    td_atomic_u32 rings;  /* the futex word */
    td_atomic_u32 asleep; /* the parent's token holder sleeps: its CPU is free to spin on */
    td_atomic_u32 cpu;    /* where the token holder was last seen to run, plus 1 */
};

struct td_bell_map {
    struct td_bell *bell;
    int fd;
    int event_fd;
    int loop_fd;
};

td_status td_bell_new(struct td_bell_map *map);
/* Takes the descriptors over on success. */
td_status td_bell_attach(struct td_bell_map *map, int fd, int event_fd, int loop_fd);
void td_bell_fini(struct td_bell_map *map);

/* Worker, after a completion: wakes whoever listens. One load when nobody does. */
void td_bell_ring(struct td_bell_map *map);
/* Worker: somebody must come, even if only the native thread can. */
void td_bell_ring_loud(struct td_bell_map *map);

/* Parent. `seen` is what td_bell_listen returned; TD_OK when rung, TD_ETIMEDOUT, TD_EINTR. Between the two calls the
 * caller looks at all rings. */
uint32_t td_bell_listen(struct td_bell_map *map);
td_status td_bell_sleep_until(struct td_bell_map *map, uint32_t seen, int64_t deadline_ns);
void td_bell_unlisten(struct td_bell_map *map);
/* Parent: from here on a completion rings one of these descriptors as well, once. The caller then looks at all rings.
 */
void td_bell_expect(struct td_bell_map *map, uint32_t listener);
/* Parent's token holder, when it begins to wait: here it runs. td_bell_sleep_until says so again when it wakes. */
void td_bell_show_cpu(struct td_bell_map *map);
/* Worker: does the parent's token holder run on our CPU, as far as is known? */
bool td_bell_shares_cpu(const struct td_bell_map *map);
/* Parent: wakes the thread in td_bell_sleep_until from another thread. */
void td_bell_kick(struct td_bell_map *map);

/* Parent, after a push, and whoever stops searching: wakes parked workers while fewer are awake and free than tasks
 * wait. Returns how many. */
uint32_t td_doorbell_wake_workers(struct td_segment_map *map);
/* Parent, when a worker's death is certain and its state EMPTY: does what it may have taken on, and not done
 * (Crash). */
void td_doorbell_succeed(struct td_segment_map *map, struct td_bell_map *bell);
/* Parent: wakes one worker whatever waits (to leave, to take a cancel). */
void td_doorbell_wake_worker(struct td_segment_map *map, uint32_t worker);

/* Worker: from SEARCHING to BUSY or LEAVING (W). Wakes others for the tasks that it was counted on for. */
void td_doorbell_stop_searching(struct td_segment_map *map, uint32_t worker, enum td_seat_state next);

/* Worker: sleeps until woken or the deadline. The caller has found nothing to claim; `seen` are the tails up to which
 * it looked (claim's from). Doesn't sleep when the seat says dismissed or leaving, no task will follow, or relief
 * (relief.h) is asked for. The state is
 * SEARCHING again on return. TD_OK: look again; TD_EINTR; TD_ETIMEDOUT. */
td_status td_doorbell_park_until(struct td_segment_map *map, uint32_t worker, const uint64_t seen[TD_LANES],
                                 int64_t deadline_ns);
/* In a signal handler of the worker's process, which has set seat.leaving: if it is parked, or about to sleep, it
 * won't. */
void td_doorbell_stay_awake(struct td_segment_map *map, uint32_t worker);

/* Does a worker sleep that nobody has woken? A hint. */
bool td_doorbell_is_any_parked(const struct td_segment_map *map);

/* Worker: may it spin? Only while busy and searching processes together fit the CPU budget; one that was woken and does
 * not run yet takes no CPU. */
bool td_doorbell_may_spin(const struct td_segment_map *map, const struct td_bell_map *bell);

#endif
