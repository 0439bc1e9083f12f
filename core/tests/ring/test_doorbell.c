/* tests/ring/test_doorbell.c: sleeping and waking: units; for each pair of accesses that must not be reordered (D, W,
 * B) two threads that run into each other at all offsets; and a stress in which everybody sleeps.
 *
 * A lost wake-up shows as a sleeper whose deadline passes although the other side has finished and woken nobody. */
#include "ring/doorbell.h"

#include <pthread.h>

#include "base/clock.h"
#include "os/event.h"
#include "os/placement.h"
#include "tests/ring/rig.h"

#define LONG_NS (2 * TD_NS_PER_S) /* passes only when a wake-up is lost, or the machine stands still */

static bool is_event_rung(int fd)
{
    uint64_t rings;
    CHECK_OK(td_event_drain(fd, &rings));
    return rings > 0;
}

static bool is_rung(const struct td_bell_map *bell)
{
    return is_event_rung(bell->event_fd);
}

static uint32_t state_of(const struct rig *rig, uint32_t worker)
{
    return td_atomic_load_seq(&rig->map.states[worker]);
}

static void set_state(struct rig *rig, uint32_t worker, enum td_seat_state state)
{
    td_atomic_store_seq(&rig->map.states[worker], state);
}

/* ---- Workers: units ---- */

TD_TEST(a_worker_does_not_sleep_on_work_or_an_order_to_leave)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    uint64_t position;
    const uint64_t seen[TD_LANES] = {td_atomic_load_relaxed(&rig.map.head->tails[TD_LANE_NEW]),
                                     td_atomic_load_relaxed(&rig.map.head->tails[TD_LANE_AGAIN])};
    CHECK_STATUS(td_doorbell_park_until(&rig.map, 0, seen, 0), TD_ETIMEDOUT);
    CHECK_EQ(state_of(&rig, 0), (uint32_t)TD_SEAT_SEARCHING);
    td_atomic_u32 *const orders[] = {&rig.map.head->closing, &rig.map.seats[0].dismissed,
                                     &rig.map.seats[0].leaving};
    for (size_t i = 0; i < 3; i++) {
        td_atomic_store_relaxed(orders[i], 1);
        CHECK_OK(td_doorbell_park_until(&rig.map, 0, seen, 0));
        td_atomic_store_relaxed(orders[i], 0);
    }
    REQUIRE_OK(rig_push(&rig, 1, &position));
    CHECK_OK(td_doorbell_park_until(&rig.map, 0, seen, 0));
    rig_fini(&rig);
    rig_init(&rig, 4, 1);
    REQUIRE_OK(rig_push_in(&rig, TD_LANE_AGAIN, 1, &position));
    CHECK_OK(td_doorbell_park_until(&rig.map, 0, seen, 0));
    rig_fini(&rig);
}

TD_TEST(only_as_many_are_woken_as_tasks_lack_a_worker_and_the_most_recent_first)
{
    struct rig rig;
    rig_init(&rig, 8, 4);
    uint64_t position;
    for (uint32_t worker = 0; worker < 4; worker++) {
        set_state(&rig, worker, TD_SEAT_PARKED);
        td_atomic_store_relaxed(&rig.map.seats[worker].park_stamp, worker == 2 ? 9 : worker);
    }
    CHECK_EQ(td_doorbell_wake_workers(&rig.map), 0u);
    REQUIRE_OK(rig_push(&rig, 1, &position));
    CHECK_EQ(td_doorbell_wake_workers(&rig.map), 1u);
    CHECK_EQ(state_of(&rig, 2), (uint32_t)TD_SEAT_WOKEN);
    CHECK_EQ(td_doorbell_wake_workers(&rig.map), 0u); /* that one is on its way */
    REQUIRE_OK(rig_push(&rig, 2, &position));
    REQUIRE_OK(rig_push(&rig, 3, &position));
    set_state(&rig, 0, TD_SEAT_SEARCHING);
    CHECK_EQ(td_doorbell_wake_workers(&rig.map), 1u);
    CHECK_EQ(state_of(&rig, 3), (uint32_t)TD_SEAT_WOKEN);
    CHECK_EQ(state_of(&rig, 1), (uint32_t)TD_SEAT_PARKED);
    set_state(&rig, 0, TD_SEAT_BUSY);
    CHECK_EQ(td_doorbell_wake_workers(&rig.map), 1u);
    CHECK_EQ(td_doorbell_wake_workers(&rig.map), 0u); /* nobody is left */
    rig_fini(&rig);
}

TD_TEST(who_stops_searching_wakes_another_for_what_waits)
{
    struct rig rig;
    rig_init(&rig, 8, 2);
    uint64_t position, from[TD_LANES] = {0};
    uint32_t slot;
    set_state(&rig, 0, TD_SEAT_SEARCHING);
    set_state(&rig, 1, TD_SEAT_PARKED);
    REQUIRE_OK(rig_push(&rig, 1, &position));
    CHECK_EQ(td_doorbell_wake_workers(&rig.map), 0u);
    REQUIRE_OK(td_submission_claim(&rig.map, 0, from, &slot, &position));
    td_doorbell_stop_searching(&rig.map, 0, TD_SEAT_BUSY);
    CHECK_EQ(state_of(&rig, 0), (uint32_t)TD_SEAT_BUSY);
    CHECK_EQ(state_of(&rig, 1), (uint32_t)TD_SEAT_PARKED);
    set_state(&rig, 0, TD_SEAT_SEARCHING);
    REQUIRE_OK(rig_push(&rig, 2, &position));
    td_doorbell_stop_searching(&rig.map, 0, TD_SEAT_LEAVING);
    CHECK_EQ(state_of(&rig, 1), (uint32_t)TD_SEAT_WOKEN);
    rig_fini(&rig);
}

static cpu_set_t cpus_allowed(void)
{
    cpu_set_t cpus;
    REQUIRE(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    return cpus;
}

TD_TEST(spinning_is_for_free_cpus)
{
    struct rig rig;
    rig_init(&rig, 4, 3); /* the budget is 2, and the parent counts unless it sleeps */
    set_state(&rig, 0, TD_SEAT_SEARCHING);
    CHECK(!td_doorbell_may_spin(&rig.map, &rig.bell));
    rig.map.head->spin_ns = 100;
    CHECK(td_doorbell_may_spin(&rig.map, &rig.bell));
    set_state(&rig, 1, TD_SEAT_BUSY);
    CHECK(!td_doorbell_may_spin(&rig.map, &rig.bell));
    td_atomic_store_relaxed(&rig.bell.bell->asleep, 1);
    CHECK(td_doorbell_may_spin(&rig.map, &rig.bell));
    set_state(&rig, 2, TD_SEAT_WOKEN); /* it does not run yet */
    CHECK(td_doorbell_may_spin(&rig.map, &rig.bell));
    set_state(&rig, 2, TD_SEAT_SEARCHING);
    CHECK(!td_doorbell_may_spin(&rig.map, &rig.bell));
    set_state(&rig, 1, TD_SEAT_PARKED);
    CHECK(td_doorbell_may_spin(&rig.map, &rig.bell));
    rig_fini(&rig);
}

TD_TEST(a_cpu_is_shared_only_with_a_waiter_who_was_seen_on_it)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    CHECK(!td_bell_shares_cpu(&rig.bell)); /* nobody has waited yet */
    const cpu_set_t before = cpus_allowed();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((unsigned)td_cpu_current(), &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    td_bell_show_cpu(&rig.bell);
    CHECK(td_bell_shares_cpu(&rig.bell));
    td_atomic_store_relaxed(&rig.bell.bell->cpu, td_atomic_load_relaxed(&rig.bell.bell->cpu) + 1);
    CHECK(!td_bell_shares_cpu(&rig.bell));
    REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0);
    rig_fini(&rig);
}

static struct rig *handlers_rig;

static void stay_awake(int signal)
{
    (void)signal;
    td_atomic_store_seq(&handlers_rig->map.seats[0].leaving, 1);
    td_doorbell_stay_awake(&handlers_rig->map, 0);
}

TD_TEST(a_signal_ends_a_sleep_and_prevents_one)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    handlers_rig = &rig;
    const uint64_t seen[TD_LANES] = {4, td_lane_position(TD_LANE_AGAIN, 4)};
    signal(SIGUSR1, stay_awake);
    set_state(&rig, 0, TD_SEAT_PARKED);
    raise(SIGUSR1);
    CHECK_EQ(state_of(&rig, 0), (uint32_t)TD_SEAT_WOKEN);
    CHECK_OK(td_doorbell_park_until(&rig.map, 0, seen, TD_FOREVER));
    td_atomic_store_seq(&rig.map.seats[0].leaving, 0);
    const pid_t child = fork();
    if (child == 0) {
        const pid_t parent = getppid();
        while (state_of(&rig, 0) != TD_SEAT_PARKED)
            sched_yield();
        kill(parent, SIGUSR1);
        _exit(0);
    }
    const td_status status = td_doorbell_park_until(&rig.map, 0, seen, TD_FOREVER);
    CHECK(status == TD_EINTR || status == TD_OK); /* OK: the signal came just before the sleep */
    CHECK_EQ(state_of(&rig, 0), (uint32_t)TD_SEAT_SEARCHING);
    CHECK_EQ(test_wait_child(child), 0);
    rig_fini(&rig);
}

struct sleeper {
    struct rig *rig;
    td_atomic_u32 tid;
    td_status status;
};

static void *sleep_on(void *argument)
{
    struct sleeper *sleeper = argument;
    const uint64_t seen[TD_LANES] = {4, td_lane_position(TD_LANE_AGAIN, 4)};
    td_atomic_store_seq(&sleeper->tid, (uint32_t)gettid());
    sleeper->status = td_doorbell_park_until(&sleeper->rig->map, 0, seen, TD_FOREVER);
    return NULL;
}

/* As the kernel sees it: the letter behind the name in the thread's stat. */
static bool is_asleep(uint32_t tid)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%u/stat", tid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    const bool read = fgets(text, sizeof text, file) != NULL;
    fclose(file);
    const char *name_end = strrchr(text, ')');
    return read && name_end != NULL && strncmp(name_end, ") S", 3) == 0;
}

TD_TEST(a_signal_that_another_thread_takes_ends_the_sleep_too)
{
    struct rig rig;
    pthread_t thread;
    rig_init(&rig, 4, 1);
    handlers_rig = &rig;
    struct sleeper sleeper = {.rig = &rig};
    REQUIRE_EQ(pthread_create(&thread, NULL, sleep_on, &sleeper), 0);
    while (state_of(&rig, 0) != TD_SEAT_PARKED || !is_asleep(td_atomic_load_seq(&sleeper.tid)))
        sched_yield();
    stay_awake(SIGUSR1);
    pthread_join(thread, NULL);
    CHECK_OK(sleeper.status);
    rig_fini(&rig);
}

/* ---- The bell: units ---- */

TD_TEST(a_bell_without_listeners_is_silent)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    const uint32_t before = td_atomic_load_relaxed(&rig.bell.bell->rings);
    td_bell_ring(&rig.bell);
    CHECK_EQ(td_atomic_load_relaxed(&rig.bell.bell->rings), before);
    CHECK(!is_rung(&rig.bell));
    rig_fini(&rig);
}

TD_TEST(a_ring_reaches_the_waiter_else_the_event_and_each_once)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    td_atomic_store_relaxed(&rig.bell.bell->listen, TD_LISTEN_EVENT);
    uint32_t seen = td_bell_listen(&rig.bell);
    CHECK_STATUS(td_bell_sleep_until(&rig.bell, seen, 0), TD_ETIMEDOUT);
    td_bell_ring(&rig.bell);
    CHECK_OK(td_bell_sleep_until(&rig.bell, seen, 0));
    CHECK(!is_rung(&rig.bell));
    CHECK_EQ(td_atomic_load_relaxed(&rig.bell.bell->listen), TD_LISTEN_EVENT);
    td_bell_ring(&rig.bell);
    CHECK(is_rung(&rig.bell));
    td_bell_ring(&rig.bell);
    CHECK(!is_rung(&rig.bell));
    seen = td_bell_listen(&rig.bell);
    td_bell_unlisten(&rig.bell);
    CHECK_EQ(td_atomic_load_relaxed(&rig.bell.bell->listen), 0u);
    td_bell_ring(&rig.bell);
    CHECK_STATUS(td_bell_sleep_until(&rig.bell, seen, 0), TD_ETIMEDOUT);
    td_bell_kick(&rig.bell);
    CHECK_OK(td_bell_sleep_until(&rig.bell, seen, 0));
    rig_fini(&rig);
}

TD_TEST(a_loud_ring_always_reaches_somebody)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    td_bell_ring_loud(&rig.bell);
    CHECK(is_rung(&rig.bell));
    const uint32_t seen = td_bell_listen(&rig.bell);
    td_bell_ring_loud(&rig.bell);
    CHECK_OK(td_bell_sleep_until(&rig.bell, seen, 0));
    CHECK(!is_rung(&rig.bell));
    rig_fini(&rig);
}

TD_TEST(who_cleans_up_after_a_worker_wakes_whom_it_may_have_answered)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    td_bell_expect(&rig.bell, TD_LISTEN_LOOP);
    const uint32_t seen = td_bell_listen(&rig.bell);
    td_atomic_store_seq(&rig.bell.bell->listen, 0); /* answered, by one that died before it woke them */
    td_doorbell_succeed(&rig.map, &rig.bell);
    CHECK_OK(td_bell_sleep_until(&rig.bell, seen, 0));
    CHECK(is_event_rung(rig.bell.loop_fd));
    CHECK(!is_rung(&rig.bell)); /* the native thread is awake: it is the one that cleans up */
    rig_fini(&rig);
}

TD_TEST(a_bell_is_attached_by_its_mark)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    struct td_bell_map other;
    REQUIRE_OK(td_bell_attach(&other, dup(rig.bell.fd), dup(rig.bell.event_fd), dup(rig.bell.loop_fd)));
    const uint32_t seen = td_bell_listen(&rig.bell);
    td_bell_ring(&other);
    CHECK_OK(td_bell_sleep_until(&rig.bell, seen, 0));
    td_bell_fini(&other);
    CHECK_STATUS(td_bell_attach(&other, rig.map.fd, rig.bell.event_fd, rig.bell.loop_fd), TD_EPROTO);
    rig_fini(&rig);
}

/* ---- Duels: two threads run into each other, round by round ---- */

struct duel {
    struct rig rig;
    struct rounds rounds;
    uint64_t round_count;
    td_atomic_u64
        rung_ns; /* when the ringing side was through with the round, having woken nobody; 0: not that */
    td_atomic_u32 lost;
};

static void duel_init(struct duel *duel, uint32_t slots, uint32_t workers, uint64_t round_count)
{
    memset(duel, 0, sizeof *duel);
    rig_init(&duel->rig, slots, workers);
    duel->round_count = test_rounds(round_count);
}

static bool is_lost(const struct duel *duel)
{
    return td_atomic_load_relaxed(&duel->lost) != 0;
}

/* A sleeper's deadline has passed. That is a lost wake-up only if the other side was through long before. */
static void judge(struct duel *duel, uint64_t round)
{
    const int64_t rung_ns = (int64_t)td_atomic_load_seq(&duel->rung_ns);
    if (rung_ns == 0 || td_now_ns() - rung_ns < LONG_NS / 2)
        return;
    td_atomic_store_relaxed(&duel->lost, 1);
    test_fail(__FILE__, __LINE__, "asleep in round %ju, and nobody comes", (uintmax_t)round);
}

/* ---- D: a worker parks while a task is announced ---- */

static void *park_each_round(void *argument)
{
    struct duel *duel = argument;
    struct td_segment_map *map = &duel->rig.map;
    uint64_t from[TD_LANES] = {0}, position, random = test_seed + 1;
    uint32_t mine = 0, slot;
    for (uint64_t round = 0; round < duel->round_count && !is_lost(duel); round++) {
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 64);
        while (td_submission_claim(map, 0, from, &slot, &position) != TD_OK)
            if (td_doorbell_park_until(map, 0, from, td_deadline_after(LONG_NS)) == TD_ETIMEDOUT)
                judge(duel, round);
        td_completion_push(map, 0, slot, position);
        rounds_meet(&duel->rounds, &mine);
    }
    return NULL;
}

/* Edges D1 and D3. */
TD_TEST(a_task_announced_while_its_worker_falls_asleep_is_found)
{
    struct duel duel;
    duel_init(&duel, 4, 1, 20000);
    set_state(&duel.rig, 0, TD_SEAT_SEARCHING);
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, park_each_round, &duel), 0);
    uint64_t head = 0, position, entry, random = test_seed;
    uint32_t mine = 0;
    for (uint64_t round = 0; round < duel.round_count && !is_lost(&duel); round++) {
        td_atomic_store_seq(&duel.rung_ns, 0);
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 512);
        REQUIRE_OK(rig_push_in(&duel.rig, (enum td_lane)(round % TD_LANES), (uint32_t)round, &position));
        if (td_doorbell_wake_workers(&duel.rig.map) == 0)
            td_atomic_store_seq(&duel.rung_ns, (uint64_t)td_now_ns());
        rounds_meet(&duel.rounds, &mine);
        REQUIRE(td_completion_pop(&duel.rig.map, 0, &head, &entry));
        rig_free_slot(&duel.rig, td_cell_slot(entry));
    }
    pthread_join(thread, NULL);
    rig_fini(&duel.rig);
}

/* ---- W: a worker that is counted on takes another task ---- */

static void *take_each_round(void *argument)
{
    struct duel *duel = argument;
    struct td_segment_map *map = &duel->rig.map;
    uint64_t from[TD_LANES] = {0}, position, random = test_seed + 1;
    uint32_t mine = 0, slot;
    for (uint64_t round = 0; round < duel->round_count && !is_lost(duel); round++) {
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 64);
        CHECK_OK(td_submission_claim(map, 0, from, &slot, &position));
        td_doorbell_stop_searching(map, 0, TD_SEAT_BUSY);
        rounds_meet(&duel->rounds, &mine);
        rounds_meet(&duel->rounds, &mine); /* the other looks what came of it */
    }
    return NULL;
}

/* Edge W1. Worker 1 is a word only: what counts is that somebody wakes it. */
TD_TEST(a_task_announced_while_its_worker_takes_another_wakes_a_third)
{
    struct duel duel;
    duel_init(&duel, 2, 2, 20000);
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, take_each_round, &duel), 0);
    uint64_t from[TD_LANES] = {0}, position, random = test_seed;
    uint32_t mine = 0, slot;
    for (uint64_t round = 0; round < duel.round_count && !is_lost(&duel); round++) {
        set_state(&duel.rig, 0, TD_SEAT_SEARCHING);
        set_state(&duel.rig, 1, TD_SEAT_PARKED);
        REQUIRE_OK(rig_push(&duel.rig, 1, &position));
        CHECK_EQ(td_doorbell_wake_workers(&duel.rig.map), 0u);
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 64);
        REQUIRE_OK(rig_push(&duel.rig, 2, &position));
        td_doorbell_wake_workers(&duel.rig.map);
        rounds_meet(&duel.rounds, &mine);
        if (state_of(&duel.rig, 1) != TD_SEAT_WOKEN) {
            td_atomic_store_relaxed(&duel.lost, 1);
            test_fail(__FILE__, __LINE__, "a task waits in round %ju, and nobody was woken", (uintmax_t)round);
        }
        REQUIRE_OK(td_submission_claim(&duel.rig.map, 1, from, &slot, &position));
        rig_free_slot(&duel.rig, slot);
        rig_free_slot(&duel.rig, 1 - slot);
        rounds_meet(&duel.rounds, &mine);
    }
    pthread_join(thread, NULL);
    rig_fini(&duel.rig);
}

/* ---- B: the parent falls asleep while a worker finishes ---- */

static void *finish_each_round(void *argument)
{
    struct duel *duel = argument;
    struct td_segment_map *map = &duel->rig.map;
    uint64_t from[TD_LANES] = {0}, position, random = test_seed + 1;
    uint32_t mine = 0, slot;
    for (uint64_t round = 0; round < duel->round_count && !is_lost(duel); round++) {
        CHECK_OK(td_submission_claim(map, 0, from, &slot, &position));
        const uint32_t before = td_atomic_load_relaxed(&duel->rig.bell.bell->rings);
        td_atomic_store_seq(&duel->rung_ns, 0);
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 512);
        td_completion_push(map, 0, slot, position);
        td_bell_ring(&duel->rig.bell);
        if (td_atomic_load_relaxed(&duel->rig.bell.bell->rings) == before)
            td_atomic_store_seq(&duel->rung_ns, (uint64_t)td_now_ns());
        rounds_meet(&duel->rounds, &mine);
        rounds_meet(&duel->rounds, &mine); /* the next task is announced */
    }
    return NULL;
}

/* Edges B1 and B3. */
TD_TEST(a_task_finished_while_the_parent_falls_asleep_is_heard_of)
{
    struct duel duel;
    duel_init(&duel, 4, 1, 20000);
    uint64_t head = 0, position, entry, random = test_seed;
    uint32_t mine = 0;
    REQUIRE_OK(rig_push(&duel.rig, 0, &position));
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, finish_each_round, &duel), 0);
    for (uint64_t round = 0; round < duel.round_count && !is_lost(&duel); round++) {
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 512);
        for (;;) {
            const uint32_t seen = td_bell_listen(&duel.rig.bell);
            if (td_completion_waits(&duel.rig.map, 0, head))
                break;
            if (td_bell_sleep_until(&duel.rig.bell, seen, td_deadline_after(LONG_NS)) == TD_ETIMEDOUT)
                judge(&duel, round);
        }
        td_bell_unlisten(&duel.rig.bell);
        REQUIRE(td_completion_pop(&duel.rig.map, 0, &head, &entry));
        rig_free_slot(&duel.rig, td_cell_slot(entry));
        rounds_meet(&duel.rounds, &mine);
        REQUIRE_OK(rig_push(&duel.rig, 0, &position));
        rounds_meet(&duel.rounds, &mine);
    }
    pthread_join(thread, NULL);
    rig_fini(&duel.rig);
}

/* ---- Stress: more workers than CPUs, all of them sleepy ---- */

#define SLEEPY_WORKERS 3u

struct sleepy {
    struct rig *rig;
    uint32_t worker;
    pthread_t thread;
};

static void *work_sleepily(void *argument)
{
    const struct sleepy *sleepy = argument;
    struct td_segment_map *map = &sleepy->rig->map;
    uint64_t from[TD_LANES] = {0}, position;
    uint32_t slot;
    bool searching = false;
    for (;;) {
        if (td_submission_claim(map, sleepy->worker, from, &slot, &position) == TD_OK) {
            if (searching)
                td_doorbell_stop_searching(map, sleepy->worker, TD_SEAT_BUSY);
            searching = false;
            td_completion_push(map, sleepy->worker, slot, position);
            td_bell_ring(&sleepy->rig->bell);
        } else if (!searching) {
            td_atomic_store_seq(&map->states[sleepy->worker], TD_SEAT_SEARCHING);
            searching = true;
        } else if (td_atomic_load_seq(&map->head->closing) != 0) {
            return NULL;
        } else {
            td_doorbell_park_until(map, sleepy->worker, from, TD_FOREVER);
        }
    }
}

static uint32_t drain(struct rig *rig, uint64_t *heads)
{
    uint32_t drained = 0;
    uint64_t entry;
    for (uint32_t worker = 0; worker < SLEEPY_WORKERS; worker++)
        while (td_completion_pop(&rig->map, worker, &heads[worker], &entry)) {
            rig_free_slot(rig, td_cell_slot(entry));
            drained++;
        }
    return drained;
}

/* Waits for `count` completions in sleep. */
static void await(struct rig *rig, uint64_t *heads, uint32_t count)
{
    while (count > 0) {
        const uint32_t seen = td_bell_listen(&rig->bell);
        const uint32_t drained = drain(rig, heads);
        count -= drained;
        if (drained == 0) {
            REQUIRE_OK(td_bell_sleep_until(&rig->bell, seen, td_deadline_after(test_patience_ns())));
        }
    }
    td_bell_unlisten(&rig->bell);
}

TD_TEST(nobody_oversleeps_when_everybody_sleeps)
{
    struct rig rig;
    rig_init(&rig, 8, SLEEPY_WORKERS);
    struct sleepy workers[SLEEPY_WORKERS];
    for (uint32_t i = 0; i < SLEEPY_WORKERS; i++) {
        workers[i] = (struct sleepy){.rig = &rig, .worker = i};
        REQUIRE_EQ(pthread_create(&workers[i].thread, NULL, work_sleepily, &workers[i]), 0);
    }
    uint64_t heads[SLEEPY_WORKERS] = {0}, random = test_seed, position;
    for (uint64_t round = test_rounds(20000); round > 0; round--) {
        const uint32_t batch = 1 + (uint32_t)test_random_below(&random, 5);
        for (uint32_t i = 0; i < batch; i++) {
            const enum td_lane lane = (enum td_lane)test_random_below(&random, TD_LANES);
            REQUIRE_OK(rig_push_in(&rig, lane, i, &position));
            td_doorbell_wake_workers(&rig.map);
        }
        await(&rig, heads, batch);
    }
    td_atomic_store_seq(&rig.map.head->closing, 1);
    for (uint32_t i = 0; i < SLEEPY_WORKERS; i++)
        td_doorbell_wake_worker(&rig.map, i);
    for (uint32_t i = 0; i < SLEEPY_WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    rig_fini(&rig);
}

TD_TEST_MAIN
