/* tests/memory/test_barrier.c: barriers, between threads and between processes. */
#include <pthread.h>
#include <sys/time.h>

#include "tests/memory/peers.h"

static td_hold *made(uint32_t parties)
{
    need_robust();
    td_hold *barrier = NULL;
    REQUIRE_OK(td_barrier_new(parties, &barrier));
    return barrier;
}

static void gone(td_hold *barrier)
{
    td_hold_unref(barrier);
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

static struct td_barrier_info info(td_hold *barrier)
{
    struct td_barrier_info now = {0};
    CHECK_OK(td_barrier_get_info(barrier, &now));
    return now;
}

static void await_waiting(td_hold *barrier, uint32_t count)
{
    while (info(barrier).waiting != count)
        sched_yield();
}

TD_TEST(a_party_of_one_never_waits)
{
    td_hold *barrier = made(1);
    for (int i = 0; i < 5; i++) {
        uint32_t index = 99;
        CHECK_OK(td_barrier_wait_until(barrier, 0, &index));
        CHECK_EQ(index, 0u);
    }
    CHECK_EQ(info(barrier).parties, 1u);
    CHECK_EQ(info(barrier).waiting, 0u);
    gone(barrier);
}

TD_TEST(a_barrier_has_parties_and_not_too_many)
{
    td_hold *barrier = NULL;
    CHECK_STATUS(td_barrier_new(0, &barrier), TD_EINVAL);
    CHECK_STATUS(td_barrier_new(TD_MAX_PARTIES + 1, &barrier), TD_EINVAL);
    CHECK(barrier == NULL);
    gone(made(TD_MAX_PARTIES));
}

TD_TEST(another_block_is_no_barrier)
{
    td_hold *counter = NULL;
    struct td_barrier_info out;
    uint32_t index;
    REQUIRE_OK(td_hold_new(4096, true, &counter));
    CHECK_STATUS(td_barrier_wait_until(counter, 0, &index), TD_EPROTO);
    CHECK_STATUS(td_barrier_abort(counter), TD_EPROTO);
    CHECK_STATUS(td_barrier_reset(counter), TD_EPROTO);
    CHECK_STATUS(td_barrier_get_info(counter, &out), TD_EPROTO);
    gone(counter);
}

TD_TEST(a_passed_deadline_breaks_it_until_it_is_reset)
{
    td_hold *barrier = made(2);
    uint32_t index = 99;
    CHECK_STATUS(td_barrier_wait_until(barrier, td_deadline_after(1000), &index), TD_EBARRIER);
    CHECK(info(barrier).broken);
    CHECK_STATUS(td_barrier_wait_until(barrier, TD_FOREVER, &index), TD_EBARRIER);
    CHECK_OK(td_barrier_reset(barrier));
    CHECK(!info(barrier).broken);
    CHECK_STATUS(td_barrier_wait_until(barrier, 0, &index), TD_EBARRIER);
    CHECK_OK(td_barrier_reset(barrier));
    CHECK_OK(td_barrier_abort(barrier));
    CHECK(info(barrier).broken);
    CHECK_STATUS(td_barrier_wait_until(barrier, TD_FOREVER, &index), TD_EBARRIER);
    CHECK_EQ(index, 99u);
    gone(barrier);
}

static void on_signal(int number)
{
    (void)number;
}

TD_TEST(a_signal_ends_the_wait_and_nothing_is_broken)
{
    td_hold *barrier = made(2);
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    uint32_t index;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    CHECK_STATUS(td_barrier_wait_until(barrier, TD_FOREVER, &index), TD_EINTR);
    setitimer(ITIMER_REAL, &never, NULL);
    CHECK(!info(barrier).broken);
    CHECK_EQ(info(barrier).waiting, 0u);
    gone(barrier);
}

/* ---- Threads ------------------------------------------------------------------------------------------------ */

enum { THREADS = 4 };

struct team {
    td_hold *barrier;
    uint64_t marks[THREADS];
    td_atomic_u32 indices; /* a bit for each, of this turn */
    uint32_t number;
};

struct member {
    struct team *team;
    uint32_t number;
};

static void meet(td_hold *barrier, uint32_t *index)
{
    td_status status;
    do
        status = td_barrier_wait_until(barrier, TD_FOREVER, index);
    while (status == TD_EINTR);
    CHECK_OK(status);
}

static void *take_turns(void *context)
{
    const struct member *member = context;
    struct team *team = member->team;
    for (uint64_t turn = 1; turn <= test_rounds(500); turn++) {
        uint32_t index = 0;
        team->marks[member->number] = turn;
        meet(team->barrier, &index);
        for (int i = 0; i < THREADS; i++)
            CHECK_EQ(team->marks[i], turn);
        td_atomic_fetch_or_relaxed(&team->indices, 1u << index);
        meet(team->barrier, &index);
        if (index == 0)
            CHECK_EQ(td_atomic_exchange_relaxed(&team->indices, 0), (1u << THREADS) - 1);
        meet(team->barrier, &index);
    }
    return NULL;
}

TD_TEST(those_who_pass_see_what_all_did_before) /* barrier_S */
{
    struct team team = {.barrier = made(THREADS)};
    struct member members[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        members[i] = (struct member){.team = &team, .number = i};
        REQUIRE_EQ(pthread_create(&threads[i], NULL, take_turns, &members[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    gone(team.barrier);
}

/* More threads than parties: as many pass at a time as there are parties, until it is broken. */
struct crowd {
    td_hold *barrier;
    td_atomic_u64 passed;
};

static void *pass_until_it_breaks(void *context)
{
    struct crowd *crowd = context;
    uint32_t index;
    td_status status;
    while ((status = td_barrier_wait_until(crowd->barrier, TD_FOREVER, &index)) == TD_OK)
        td_atomic_fetch_add_relaxed(&crowd->passed, 1);
    CHECK_STATUS(status, TD_EBARRIER);
    return NULL;
}

TD_TEST(more_threads_than_parties_pass_in_turn)
{
    struct crowd crowd = {.barrier = made(2)};
    pthread_t threads[7];
    for (int i = 0; i < 7; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, pass_until_it_breaks, &crowd), 0);
    while (td_atomic_load_relaxed(&crowd.passed) < test_rounds(5000))
        sched_yield();
    CHECK_OK(td_barrier_abort(crowd.barrier));
    for (int i = 0; i < 7; i++)
        pthread_join(threads[i], NULL);
    gone(crowd.barrier);
}

/* ---- Processes ---------------------------------------------------------------------------------------------- */

/* Leaves with 0: passed, 2: broken. */
static int wait_there(td_hold *barrier, struct board *board, uint32_t number)
{
    uint32_t index;
    (void)board;
    (void)number;
    const td_status status = td_barrier_wait_until(barrier, TD_FOREVER, &index);
    return status == TD_OK ? 0 : status == TD_EBARRIER ? 2 : 1;
}

TD_TEST(processes_pass_together)
{
    td_hold *barrier = made(PEERS + 1);
    pid_t pids[PEERS];
    uint32_t index;
    for (uint32_t i = 0; i < PEERS; i++)
        pids[i] = peer(wait_there, barrier, NULL, i);
    await_waiting(barrier, PEERS);
    meet(barrier, &index);
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK_EQ(test_wait_child(pids[i]), 0);
    gone(barrier);
}

static void everybody_is_told(td_status (*end)(td_hold *barrier), bool broken)
{
    td_hold *barrier = made(PEERS + 1);
    pid_t pids[PEERS];
    for (uint32_t i = 0; i < PEERS; i++)
        pids[i] = peer(wait_there, barrier, NULL, i);
    await_waiting(barrier, PEERS);
    CHECK_OK(end(barrier));
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK_EQ(test_wait_child(pids[i]), 2);
    CHECK_EQ(info(barrier).broken, broken);
    CHECK_EQ(info(barrier).waiting, 0u);
    gone(barrier);
}

TD_TEST(abort_and_reset_are_told_to_all_who_wait)
{
    everybody_is_told(td_barrier_abort, true);
    everybody_is_told(td_barrier_reset, false);
}

TD_TEST(the_death_of_some_who_wait_is_told_to_all_the_others)
{
    for (uint64_t round = 0; round < test_rounds(30); round++) {
        uint64_t random = test_seed + round;
        td_hold *barrier = made(PEERS + 1);
        pid_t pids[PEERS];
        bool killed[PEERS] = {false};
        for (uint32_t i = 0; i < PEERS; i++)
            pids[i] = peer(wait_there, barrier, NULL, i);
        await_waiting(barrier, PEERS);
        for (uint64_t i = 0, n = 1 + test_random_below(&random, PEERS - 1); i < n; i++)
            killed[test_random_below(&random, PEERS)] = true;
        for (uint32_t i = 0; i < PEERS; i++)
            if (killed[i])
                kill(pids[i], SIGKILL);
        for (uint32_t i = 0; i < PEERS; i++) {
            const int code = test_wait_child(pids[i]);
            CHECK(code == 2 || (killed[i] && code == -SIGKILL));
        }
        CHECK(info(barrier).broken);
        CHECK_OK(td_barrier_reset(barrier));
        CHECK_EQ(info(barrier).waiting, 0u);
        gone(barrier);
    }
}

TD_TEST_MAIN
