/* tests/sched/test_park.c: sleeping and waking: units; for each pair of accesses that must not be reordered (S, W, J)
 * two threads that run into each other at all offsets. Spinning.
 *
 * A lost wake-up shows as a sleeper whom nobody has woken although the other side is through. */
#include "sched/park.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/option.h"
#include "tests/harness.h"
#include "tests/ring/rig.h"

#define LONG_NS (2 * TD_NS_PER_S) /* passes only when a wake-up is lost, or the machine stands still */

static uint32_t started; /* workers, as a mask */
static bool start_fails;

static bool start(struct td_hand *hand)
{
    if (start_fails)
        return false;
    started |= 1u << hand->index;
    return true;
}

static struct td_sched sched;

/* `cpus` - 1 workers, and `callers` hands of callers. */
static void sched_setup(uint32_t cpus, uint32_t callers)
{
    REQUIRE_OK(td_sched_init(&sched, cpus, start));
    for (uint32_t i = 0; i < callers; i++) {
        struct td_hand *hand = aligned_alloc(TD_CACHELINE, sizeof *hand);
        REQUIRE(hand != NULL);
        memset(hand, 0, sizeof *hand);
        hand->index = cpus - 1 + i;
        td_atomic_store_relaxed(&sched.hands[hand->index], hand);
        td_atomic_store_release(&sched.hand_count, hand->index + 1);
    }
}

static struct td_hand *hand_at(uint32_t index)
{
    return td_hand_at(&sched, index);
}

static uint32_t state_of(uint32_t index)
{
    return td_atomic_load_seq(&hand_at(index)->state);
}

static void put(uint32_t index, uint64_t tag)
{
    const struct td_range range = {.last = 1, .tag = tag};
    CHECK(td_deque_stage(&hand_at(index)->deque, 0, &range));
    td_deque_publish(&hand_at(index)->deque, 1);
}

static bool pop(uint32_t index)
{
    struct td_range range;
    return td_deque_pop(&hand_at(index)->deque, &range);
}

static void publish(uint32_t index, uint64_t tag)
{
    put(index, tag);
    td_park_announce(&sched, tag);
}

/* A worker that has been woken comes to itself. */
static void come_to(uint32_t index)
{
    td_park_cancel(&sched, hand_at(index));
}

/* ---- Units ---- */

TD_TEST(one_worker_is_woken_at_a_time_and_none_while_one_searches)
{
    sched_setup(4, 1);
    const uint64_t tag = td_tag(3, 0, 0, 3);
    publish(3, tag);
    CHECK_EQ(started, 1u);
    CHECK_EQ(state_of(0), (uint32_t)TD_HAND_WOKEN);
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 2u);
    publish(3, tag);
    CHECK_EQ(started, 1u); /* that one is on its way */
    come_to(0);
    td_park_found(&sched); /* it takes one, and wakes another for what else is there */
    CHECK_EQ(started, 3u);
    come_to(1);
    CHECK(pop(3) && pop(3));
    td_park_found(&sched);
    CHECK_EQ(started, 3u); /* there is nothing more */
    td_sched_fini(&sched);
}

TD_TEST(a_worker_outside_of_the_loops_window_is_not_woken)
{
    sched_setup(5, 1);
    publish(4, td_tag(4, 0, 3, 2)); /* workers 3 and 0 */
    CHECK_EQ(started, 1u << 3);
    come_to(3);
    td_park_found(&sched);
    CHECK_EQ(started, 1u << 3 | 1u << 0);
    come_to(0);
    td_park_found(&sched);
    CHECK_EQ(started, 1u << 3 | 1u << 0);
    CHECK_EQ(td_tag_place(td_tag(4, 0, 3, 2), 3, 4), 0u);
    CHECK_EQ(td_tag_place(td_tag(4, 0, 3, 2), 0, 4), 1u);
    CHECK_EQ(td_tag_place(td_tag(4, 0, 3, 2), 2, 4), 3u);
    td_sched_fini(&sched);
}

TD_TEST(workers_make_room_for_callers)
{
    sched_setup(3, 2);
    td_atomic_store_relaxed(&sched.callers, 2);
    publish(2, td_tag(2, 0, 1, 2)); /* worker 1 would come first */
    CHECK_EQ(started, 1u << 0);
    CHECK(!td_may_take_free(&sched, hand_at(1), td_tag(2, 0, 1, 2)));
    come_to(0);
    td_park_found(&sched);
    td_atomic_store_relaxed(&sched.callers, 1);
    td_park_wake_for_any(&sched); /* as a caller that leaves does */
    CHECK_EQ(started, 3u);
    td_sched_fini(&sched);
}

TD_TEST(a_worker_that_cannot_be_started_is_left_alone)
{
    sched_setup(3, 1);
    const uint64_t tag = td_tag(2, 0, 0, 2);
    start_fails = true;
    publish(2, tag);
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 0u);
    CHECK_EQ(td_atomic_load_seq(&sched.searching), 0u);
    start_fails = false;
    publish(2, tag);
    CHECK_EQ(started, 0u);
    td_sched_fini(&sched);
}

TD_TEST(who_waits_for_a_loop_is_woken_for_what_is_nested_in_it)
{
    sched_setup(2, 2);
    td_atomic_store_seq(&hand_at(0)->state, TD_HAND_AWAKE); /* the worker works */
    td_atomic_store_seq(&sched.parked, 0);
    td_park_begin_wait(&sched, hand_at(1), td_tag(1, 1, 0, 1));
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 1u);
    publish(0, td_tag(1, 0, 0, 1)); /* not as deep */
    publish(0, td_tag(2, 1, 0, 1)); /* of another */
    CHECK_EQ(state_of(1), (uint32_t)TD_HAND_WAITING);
    publish(0, td_tag(1, 1, 0, 1));
    CHECK_EQ(state_of(1), (uint32_t)TD_HAND_WOKEN);
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 0u);
    CHECK_EQ(td_atomic_load_seq(&sched.searching), 0u);
    CHECK_OK(td_park_sleep_until(&sched, hand_at(1), TD_FOREVER)); /* it is awake */
    CHECK_EQ(state_of(1), (uint32_t)TD_HAND_AWAKE);
    td_park_wake(&sched, hand_at(1)); /* nobody sleeps */
    CHECK_EQ(state_of(1), (uint32_t)TD_HAND_AWAKE);
    td_sched_fini(&sched);
}

TD_TEST(the_counters_are_as_before_when_a_sleep_ends)
{
    sched_setup(2, 1);
    td_atomic_store_seq(&hand_at(0)->state, TD_HAND_AWAKE);
    hand_at(0)->started = true;
    td_atomic_store_seq(&sched.parked, 0);
    td_atomic_store_seq(&sched.searching, 1);
    CHECK(td_park_begin(&sched, hand_at(0)));
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 1u);
    CHECK_EQ(td_atomic_load_seq(&sched.searching), 0u);
    CHECK_STATUS(td_park_sleep_until(&sched, hand_at(0), 0), TD_ETIMEDOUT);
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 0u);
    CHECK_EQ(td_atomic_load_seq(&sched.searching), 1u);
    CHECK(td_park_begin(&sched, hand_at(0)));
    td_park_cancel(&sched, hand_at(0));
    CHECK_EQ(td_atomic_load_seq(&sched.searching), 1u);
    CHECK(td_park_begin(&sched, hand_at(0)));
    td_park_wake(&sched, hand_at(0)); /* it waits for no loop */
    CHECK_EQ(state_of(0), (uint32_t)TD_HAND_IDLE);
    publish(1, td_tag(1, 0, 0, 1));
    CHECK_EQ(state_of(0), (uint32_t)TD_HAND_WOKEN);
    CHECK_OK(td_park_sleep_until(&sched, hand_at(0), TD_FOREVER));
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 0u);
    CHECK_EQ(td_atomic_load_seq(&sched.searching), 1u);
    td_park_begin_wait(&sched, hand_at(0), 0);
    CHECK_STATUS(td_park_sleep_until(&sched, hand_at(0), 0), TD_ETIMEDOUT);
    CHECK_EQ(td_atomic_load_seq(&sched.searching), 1u); /* who waits for a loop does not search */
    td_sched_fini(&sched);
}

/* ---- Where ---- */

static cpu_set_t mask(void)
{
    cpu_set_t cpus;
    REQUIRE(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    return cpus;
}

TD_TEST(a_worker_keeps_off_its_wakers_cpu_while_it_sleeps_and_no_longer)
{
    const cpu_set_t all = mask();
    sched_setup(2, 1);
    struct td_hand *worker = hand_at(0);
    td_park_keep_off_waker(worker); /* nobody has woken it yet */
    cpu_set_t now = mask();
    CHECK(CPU_EQUAL(&now, &all));
    worker->started = true;
    worker->thread = CPU_COUNT(&all) > 1 ? gettid() : 0;
    worker->cpus = all;
    publish(1, td_tag(1, 0, 0, 1)); /* by ourselves */
    CHECK_EQ(state_of(0), (uint32_t)TD_HAND_WOKEN);
    now = mask();
    CHECK_EQ(CPU_COUNT(&now), CPU_COUNT(&all) - (worker->thread != 0));
    td_park_roam(worker);
    now = mask();
    CHECK(CPU_EQUAL(&now, &all));
    td_park_keep_off_waker(worker);
    now = mask();
    CHECK_EQ(CPU_COUNT(&now), CPU_COUNT(&all) - (worker->thread != 0));
    td_park_roam(worker);
    now = mask();
    CHECK(CPU_EQUAL(&now, &all));
    td_sched_fini(&sched);
}

/* ---- Spinning ---- */

static uint32_t turns_of_a_spin(void)
{
    struct td_spin spin = {0};
    uint32_t turns = 0;
    while (td_spin_turn(&sched, &spin))
        turns++;
    return turns;
}

TD_TEST(nobody_spins_where_that_is_switched_off_or_the_cpus_are_wanted)
{
    setenv("TREADLE_SPIN", "0", 1);
    REQUIRE_OK(td_options_reload());
    sched_setup(2, 0);
    CHECK_EQ(turns_of_a_spin(), 0u);
    td_sched_fini(&sched);
    setenv("TREADLE_SPIN", "1s", 1);
    REQUIRE_OK(td_options_reload());
    sched_setup(2, 0);
    CHECK_EQ(sched.spin_ns, 50 * TD_NS_PER_US); /* no longer, whatever is said */
    CHECK(turns_of_a_spin() > 0);
    td_atomic_store_relaxed(&sched.calm_until_ns, (uint64_t)TD_FOREVER);
    CHECK_LT(turns_of_a_spin(), 32u); /* up to the first look at the clock */
    td_sched_fini(&sched);
}

TD_TEST(a_hole_in_a_spin_makes_everybody_calm)
{
    sched_setup(2, 0);
    struct td_spin spin = {.turn = 31, .looked_ns = td_now_ns() - TD_NS_PER_S, .until_ns = TD_FOREVER};
    CHECK(!td_spin_turn(&sched, &spin));
    CHECK_LT(0u, td_atomic_load_relaxed(&sched.calm_until_ns));
    td_sched_fini(&sched);
}

/* ---- Duels ---- */

struct duel {
    struct rounds rounds;
    uint64_t round_count;
    td_atomic_u64
        done_ns; /* when the other side was through with the round, having woken nobody; 0: not that */
    td_atomic_u32 lost;
    td_atomic_u32 left;
};

static bool is_lost(const struct duel *duel)
{
    return td_atomic_load_relaxed(&duel->lost) != 0;
}

/* A sleeper's deadline has passed. That is a lost wake-up only if the other side was through long before. */
static void judge(struct duel *duel, uint64_t round)
{
    const int64_t done_ns = (int64_t)td_atomic_load_seq(&duel->done_ns);
    if (done_ns == 0 || td_now_ns() - done_ns < LONG_NS / 2)
        return;
    td_atomic_store_relaxed(&duel->lost, 1);
    test_fail(__FILE__, __LINE__, "asleep in round %ju, and nobody comes", (uintmax_t)round);
}

static void duel_setup(struct duel *duel, uint64_t rounds)
{
    memset(duel, 0, sizeof *duel);
    duel->round_count = test_rounds(rounds);
    sched_setup(3, 1);
    for (uint32_t worker = 0; worker < 2; worker++) {
        td_atomic_store_seq(&hand_at(worker)->state, TD_HAND_AWAKE);
        hand_at(worker)->started = true;
    }
    td_atomic_store_seq(&sched.parked, 0);
}

#define DUEL_TAG td_tag(2, 0, 0, 2)

static void *publish_each_round(void *argument)
{
    struct duel *duel = argument;
    uint64_t random = test_seed + 1;
    uint32_t mine = 0;
    for (uint64_t round = 0; round < duel->round_count && !is_lost(duel); round++) {
        td_atomic_store_seq(&duel->done_ns, 0);
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 256);
        publish(2, DUEL_TAG);
        if (state_of(0) != TD_HAND_WOKEN)
            td_atomic_store_seq(&duel->done_ns, (uint64_t)td_now_ns());
        rounds_meet(&duel->rounds, &mine);
        CHECK(pop(2));
        rounds_meet(&duel->rounds, &mine);
    }
    return NULL;
}

/* Edges S1 and S3. */
TD_TEST(a_range_published_while_its_worker_falls_asleep_is_found)
{
    struct duel duel;
    duel_setup(&duel, 20000);
    td_atomic_store_seq(&sched.searching, 1);
    uint64_t random = test_seed, place = 0;
    uint32_t mine = 0;
    struct td_range range;
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, publish_each_round, &duel), 0);
    for (uint64_t round = 0; round < duel.round_count && !is_lost(&duel); round++) {
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 256);
        while (!td_deque_peek(&hand_at(2)->deque, &range, &place) && !is_lost(&duel)) {
            td_park_begin(&sched, hand_at(0));
            if (td_deque_peek(&hand_at(2)->deque, &range, &place))
                td_park_cancel(&sched, hand_at(0));
            else if (td_park_sleep_until(&sched, hand_at(0), td_deadline_after(LONG_NS)) == TD_ETIMEDOUT)
                judge(&duel, round);
        }
        rounds_meet(&duel.rounds, &mine);
        rounds_meet(&duel.rounds, &mine);
    }
    pthread_join(thread, NULL);
    td_sched_fini(&sched);
}

static void *find_each_round(void *argument)
{
    struct duel *duel = argument;
    uint64_t random = test_seed + 1;
    uint32_t mine = 0;
    for (uint64_t round = 0; round < duel->round_count && !is_lost(duel); round++) {
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 64);
        td_park_found(&sched); /* it has found something else */
        rounds_meet(&duel->rounds, &mine);
        rounds_meet(&duel->rounds, &mine);
    }
    return NULL;
}

/* Edge W1: worker 0 searches, worker 1 sleeps. */
TD_TEST(a_range_published_while_the_last_searcher_finds_another_wakes_a_second)
{
    struct duel duel;
    duel_setup(&duel, 60000);
    uint64_t random = test_seed;
    uint32_t mine = 0;
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, find_each_round, &duel), 0);
    for (uint64_t round = 0; round < duel.round_count && !is_lost(&duel); round++) {
        td_atomic_store_seq(&sched.searching, 1);
        td_atomic_store_seq(&sched.parked, 1);
        td_atomic_store_seq(&hand_at(1)->state, TD_HAND_IDLE);
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 64);
        publish(2, DUEL_TAG);
        rounds_meet(&duel.rounds, &mine);
        if (state_of(1) != TD_HAND_WOKEN) {
            td_atomic_store_relaxed(&duel.lost, 1);
            test_fail(__FILE__, __LINE__, "a range waits in round %ju, and nobody was woken", (uintmax_t)round);
        }
        CHECK(pop(2));
        rounds_meet(&duel.rounds, &mine);
    }
    pthread_join(thread, NULL);
    td_sched_fini(&sched);
}

static void *finish_each_round(void *argument)
{
    struct duel *duel = argument;
    uint64_t random = test_seed + 1;
    uint32_t mine = 0;
    for (uint64_t round = 0; round < duel->round_count && !is_lost(duel); round++) {
        td_atomic_store_seq(&duel->left, 1);
        td_atomic_store_seq(&duel->done_ns, 0);
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 256);
        if (td_atomic_fetch_sub_seq(&duel->left, 1) == 1)
            td_park_wake(&sched, hand_at(2));
        if (state_of(2) != TD_HAND_WOKEN)
            td_atomic_store_seq(&duel->done_ns, (uint64_t)td_now_ns());
        rounds_meet(&duel->rounds, &mine);
    }
    return NULL;
}

/* Pair J. */
TD_TEST(a_loop_that_ends_while_its_caller_falls_asleep_is_heard_of)
{
    struct duel duel;
    duel_setup(&duel, 20000);
    uint64_t random = test_seed;
    uint32_t mine = 0;
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, finish_each_round, &duel), 0);
    for (uint64_t round = 0; round < duel.round_count && !is_lost(&duel); round++) {
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 256);
        while (td_atomic_load_seq(&duel.left) != 0 && !is_lost(&duel)) {
            td_park_begin_wait(&sched, hand_at(2), DUEL_TAG);
            if (td_atomic_load_seq(&duel.left) == 0)
                td_park_cancel(&sched, hand_at(2));
            else if (td_park_sleep_until(&sched, hand_at(2), td_deadline_after(LONG_NS)) == TD_ETIMEDOUT)
                judge(&duel, round);
        }
        rounds_meet(&duel.rounds, &mine);
    }
    pthread_join(thread, NULL);
    CHECK_EQ(td_atomic_load_seq(&sched.parked), 0u);
    td_sched_fini(&sched);
}

TD_TEST_MAIN
