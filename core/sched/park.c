/* sched/park.c: see park.h for the states, the protocol and why nobody oversleeps.
 * Tests  tests/sched/test_park.c */
#include "sched/park.h"

#include "base/clock.h"
#include "os/futex.h"
#include "os/placement.h"

#define TURNS_PER_CLOCK 32u
#define HOLE_NS (200 * TD_NS_PER_US) /* in a spin: longer than interrupts take, shorter than a thread's turn */
#define CALM_NS (10 * TD_NS_PER_MS)

/* ---- Asleep ---------------------------------------------------------------------------------------------------- */

static void say_parked(struct td_sched *sched, struct td_hand *hand, enum td_hand_state state)
{
    td_atomic_fetch_add_seq(&sched->parked, 1);
    (void)TD_EDGE(park_S1, td_atomic_exchange_seq, td_atomic_store_relaxed)(&hand->state, state); /* S1, J1 */
}

bool td_park_begin(struct td_sched *sched, struct td_hand *hand)
{
    const int32_t searching = (int32_t)td_atomic_fetch_sub_seq(&sched->searching, 1); /* W1 */
    say_parked(sched, hand, TD_HAND_IDLE);
    return searching <= 1;
}

void td_park_begin_wait(struct td_sched *sched, struct td_hand *hand, uint64_t tag)
{
    td_atomic_store_relaxed(&hand->waits_for, tag);
    say_parked(sched, hand, TD_HAND_WAITING);
}

/* From `parked` to WOKEN or AWAKE; false: it was not that. */
static bool unpark(struct td_sched *sched, struct td_hand *hand, uint32_t parked, enum td_hand_state next)
{
    const bool was_idle = parked == TD_HAND_IDLE;
    if (!td_atomic_cas_strong_seq(&hand->state, &parked, next))
        return false;
    td_atomic_fetch_sub_seq(&sched->parked, 1);
    if (was_idle)
        td_atomic_fetch_add_seq(&sched->searching, 1);
    return true;
}

void td_park_cancel(struct td_sched *sched, struct td_hand *hand)
{
    if (!unpark(sched, hand, TD_HAND_IDLE, TD_HAND_AWAKE) &&
        !unpark(sched, hand, TD_HAND_WAITING, TD_HAND_AWAKE))
        td_atomic_store_seq(&hand->state, TD_HAND_AWAKE); /* whoever woke it has counted it */
}

td_status td_park_sleep_until(struct td_sched *sched, struct td_hand *hand, int64_t deadline_ns)
{
    const uint32_t state = td_atomic_load_relaxed(&hand->state);
    td_status status = TD_OK;
    if (state != TD_HAND_WOKEN)
        status = td_futex_wait_until(&hand->state, state, deadline_ns, false);
    td_park_cancel(sched, hand);
    return status == TD_EAGAIN ? TD_OK : status;
}

/* ---- Awake ----------------------------------------------------------------------------------------------------- */

void td_park_search(struct td_sched *sched)
{
    td_atomic_fetch_add_seq(&sched->searching, 1);
}

void td_park_found(struct td_sched *sched)
{
    const uint32_t searching = TD_EDGE(park_W1, td_atomic_fetch_add_seq,
                                       td_atomic_fetch_add_apart)(&sched->searching, UINT32_MAX); /* W1 */
    if ((int32_t)searching <= 1)
        td_park_wake_for_any(sched);
}

/* ---- Waking ---------------------------------------------------------------------------------------------------- */

/* A worker that is woken is not to run where its waker does. */
static void place(struct td_hand *hand)
{
    const int cpu = td_cpu_current();
    if (hand->thread == 0 || td_atomic_load_relaxed(&hand->keeps_off) == (uint32_t)(cpu + 1))
        return;
    td_atomic_store_relaxed(&hand->waker_cpu, (uint32_t)(cpu + 1));
    td_cpus_confine(hand->thread, &hand->cpus, cpu);
}

void td_park_keep_off_waker(struct td_hand *hand)
{
    const uint32_t waker_cpu = td_atomic_load_relaxed(&hand->waker_cpu);
    if (hand->thread == 0 || waker_cpu == 0)
        return;
    td_cpus_confine(0, &hand->cpus, (int)waker_cpu - 1);
    td_atomic_store_relaxed(&hand->keeps_off, waker_cpu);
}

void td_park_roam(struct td_hand *hand)
{
    if (hand->thread == 0 || td_atomic_load_relaxed(&hand->waker_cpu) == 0)
        return;
    td_atomic_store_relaxed(&hand->keeps_off, 0);
    td_cpus_confine(0, &hand->cpus, -1);
}

/* False: it is not parked so, or could not be started. */
static bool wake(struct td_sched *sched, struct td_hand *hand, enum td_hand_state parked)
{
    if (td_atomic_load_seq(&hand->state) != (uint32_t)parked || !unpark(sched, hand, parked, TD_HAND_WOKEN))
        return false; /* J4, S4 */
    if (parked == TD_HAND_WAITING || hand->started) {
        if (parked == TD_HAND_IDLE)
            place(hand);
        td_futex_wake(&hand->state, 1, false);
        return true;
    }
    hand->started = true;
    if (sched->start(hand))
        return true;
    td_atomic_fetch_sub_seq(&sched->searching, 1); /* it stays WOKEN, so nobody tries again */
    return false;
}

void td_park_wake(struct td_sched *sched, struct td_hand *hand)
{
    (void)wake(sched, hand, TD_HAND_WAITING);
}

/* The state first: who is seen waiting has said for what. */
static bool waits_for_such(struct td_hand *hand, uint64_t tag)
{
    return td_atomic_load_seq(&hand->state) == TD_HAND_WAITING && /* S4 */
           td_may_take_waiting(td_atomic_load_relaxed(&hand->waits_for), tag);
}

bool td_park_wake_for(struct td_sched *sched, uint64_t tag)
{
    if ((int32_t)td_atomic_load_seq(&sched->searching) > 0) /* S4 */
        return false;
    for (uint32_t i = 0; i < td_tag_count(tag); i++) {
        struct td_hand *hand = td_hand_at(sched, (td_tag_from(tag) + i) % sched->workers);
        if (td_hand_is_within_budget(sched, hand) && wake(sched, hand, TD_HAND_IDLE))
            return true;
    }
    const uint32_t count = td_atomic_load_acquire(&sched->hand_count); /* H */
    for (uint32_t i = 0; i < count; i++) {
        struct td_hand *hand = td_hand_at(sched, i);
        if (waits_for_such(hand, tag) && wake(sched, hand, TD_HAND_WAITING))
            return true;
    }
    return false;
}

void td_park_wake_for_any(struct td_sched *sched)
{
    struct td_range range;
    uint64_t place;
    if (td_atomic_load_seq(&sched->parked) == 0)
        return;
    const uint32_t count = td_atomic_load_acquire(&sched->hand_count); /* H */
    for (uint32_t i = 0; i < count; i++)
        if (td_deque_peek(&td_hand_at(sched, i)->deque, &range, &place) &&
            td_park_wake_for(sched, range.tag)) /* W2 */
            return;
}

/* ---- Spinning -------------------------------------------------------------------------------------------------- */

bool td_spin_turn(struct td_sched *sched, struct td_spin *spin)
{
    if (sched->spin_ns == 0)
        return false;
    td_pause();
    if (++spin->turn % TURNS_PER_CLOCK != 0)
        return true;
    const int64_t now = td_now_ns();
    if (spin->until_ns == 0) {
        spin->until_ns = now + sched->spin_ns;
        spin->looked_ns = now;
        return now >= (int64_t)td_atomic_load_relaxed(&sched->calm_until_ns);
    }
    if (now - spin->looked_ns > HOLE_NS) {
        td_atomic_store_relaxed(&sched->calm_until_ns, (uint64_t)(now + CALM_NS));
        return false;
    }
    spin->looked_ns = now;
    return now < spin->until_ns;
}
