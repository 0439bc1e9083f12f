/* tests/memory/test_sync_killed.c: processes that use a lock or a barrier are killed at any moment, and those left
 * never wait for them. A wait that never ends is found by the test's deadline. */
#include "tests/memory/peers.h"

static uint64_t below(uint64_t bound)
{
    static uint64_t state;
    if (state == 0)
        state = test_seed;
    return test_random_below(&state, bound);
}

static void some_time(void)
{
    for (uint64_t i = 0, n = below(3000); i < n; i++)
        td_pause();
    if (below(2) == 0)
        sched_yield();
}

/* ---- Locks -------------------------------------------------------------------------------------------------- */

/* Both numbers are the same whenever nobody holds the lock, unless its holder died. */
static int add_for_ever(td_hold *lock, struct board *board, uint32_t number)
{
    (void)number;
    while (td_atomic_load_relaxed(&board->word[0]) == 0) {
        const td_status status = td_lock_acquire_until(lock, TD_FOREVER);
        if (status == TD_EHOLDER)
            board->plain[0] = board->plain[1];
        else if (status != TD_OK)
            return 1;
        if (board->plain[0] != board->plain[1])
            return 2;
        board->plain[0]++;
        board->plain[1]++;
        if (td_lock_release(lock) != TD_OK)
            return 3;
        td_atomic_fetch_add_relaxed(&board->count, 1);
    }
    return 0;
}

TD_TEST(a_lock_outlives_every_holder_and_every_waiter)
{
    need_robust();
    td_hold *lock = NULL;
    REQUIRE_OK(td_lock_new(&lock));
    struct board *board = board_new();
    pid_t pids[PEERS];
    for (uint32_t i = 0; i < PEERS; i++)
        pids[i] = peer(add_for_ever, lock, board, i);
    for (uint64_t round = 0; round < test_rounds(400); round++) {
        const uint64_t before = td_atomic_load_relaxed(&board->count), victim = below(PEERS);
        some_time();
        kill(pids[victim], SIGKILL);
        CHECK_EQ(test_wait_child(pids[victim]), -SIGKILL);
        pids[victim] = peer(add_for_ever, lock, board, 0);
        while (td_atomic_load_relaxed(&board->count) < before + 2)
            sched_yield();
    }
    td_atomic_store_relaxed(&board->word[0], 1);
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK_EQ(test_wait_child(pids[i]), 0);
    board_free(board);
    td_hold_unref(lock);
    td_heap_trim();
}

/* ---- Exactly one is told ------------------------------------------------------------------------------------ */

static int hold(td_hold *lock, struct board *board, uint32_t number)
{
    (void)number;
    if (td_lock_acquire_until(lock, TD_FOREVER) != TD_OK)
        return 1;
    td_atomic_store_release(&board->word[0], 1);
    for (;;)
        pause();
}

static int be_told(td_hold *lock, struct board *board, uint32_t number)
{
    (void)number;
    td_atomic_fetch_add_relaxed(&board->word[1], 1);
    const td_status status = td_lock_acquire_until(lock, TD_FOREVER);
    if (status == TD_EHOLDER)
        td_atomic_fetch_add_relaxed(&board->word[2], 1);
    return (status == TD_OK || status == TD_EHOLDER) && td_lock_release(lock) == TD_OK ? 0 : 1;
}

TD_TEST(exactly_one_of_those_who_wait_is_told_of_the_holders_death)
{
    need_robust();
    for (uint64_t round = 0; round < test_rounds(30); round++) {
        td_hold *lock = NULL;
        REQUIRE_OK(td_lock_new(&lock));
        struct board *board = board_new();
        pid_t pids[PEERS];
        const pid_t holder = peer(hold, lock, board, 0);
        await_word(&board->word[0], 1);
        for (uint32_t i = 0; i < PEERS; i++)
            pids[i] = peer(be_told, lock, board, i);
        await_word(&board->word[1], PEERS);
        some_time();
        kill(holder, SIGKILL);
        CHECK_EQ(test_wait_child(holder), -SIGKILL);
        for (uint32_t i = 0; i < PEERS; i++)
            CHECK_EQ(test_wait_child(pids[i]), 0);
        CHECK_EQ(td_atomic_load_relaxed(&board->word[2]), 1u);
        CHECK_OK(td_lock_acquire_until(lock, 0));
        CHECK_OK(td_lock_release(lock));
        board_free(board);
        td_hold_unref(lock);
    }
    td_heap_trim();
}

/* ---- Barriers ----------------------------------------------------------------------------------------------- */

static int meet_for_ever(td_hold *barrier, struct board *board, uint32_t number)
{
    (void)number;
    for (;;) {
        uint32_t index;
        const td_status status = td_barrier_wait_until(barrier, TD_FOREVER, &index);
        if (status == TD_EBARRIER)
            return 2;
        if (status != TD_OK)
            return 1;
        td_atomic_fetch_add_relaxed(&board->count, 1);
    }
}

/* Have they gone on meeting since, or all been told? One killed between two meetings has only not come, and its
 * successor does. */
static bool go_on(struct board *board, uint64_t since, pid_t *pids)
{
    while (td_atomic_load_relaxed(&board->count) < since + 3 * (uint64_t)PEERS) {
        int status;
        const pid_t pid = waitpid(-1, &status, WNOHANG);
        for (uint32_t i = 0; pid > 0 && i < PEERS; i++)
            if (pids[i] == pid) {
                CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 2);
                pids[i] = 0;
                return false;
            }
        sched_yield();
    }
    return true;
}

static void all_were_told(const pid_t *pids)
{
    for (uint32_t i = 0; i < PEERS; i++)
        if (pids[i] != 0)
            CHECK_EQ(test_wait_child(pids[i]), 2);
}

TD_TEST(parties_killed_at_any_moment_leave_nobody_waiting)
{
    need_robust();
    td_hold *barrier = NULL;
    REQUIRE_OK(td_barrier_new(PEERS, &barrier));
    struct board *board = board_new();
    pid_t pids[PEERS] = {0};
    uint64_t told = 0;
    bool running = false;
    for (uint64_t round = 0; round < test_rounds(150); round++) {
        for (uint32_t i = 0; i < PEERS && !running; i++)
            pids[i] = peer(meet_for_ever, barrier, board, i);
        const uint64_t victim = below(PEERS);
        some_time();
        kill(pids[victim], SIGKILL);
        CHECK_EQ(test_wait_child(pids[victim]), -SIGKILL);
        const uint64_t since = td_atomic_load_relaxed(&board->count);
        pids[victim] = peer(meet_for_ever, barrier, board, 0);
        running = go_on(board, since, pids);
        if (running)
            continue;
        told++;
        all_were_told(pids);
        CHECK_OK(td_barrier_reset(barrier));
    }
    CHECK_OK(td_barrier_abort(barrier));
    if (running)
        all_were_told(pids);
    CHECK_LT(0u, told);
    board_free(board);
    td_hold_unref(barrier);
    td_heap_trim();
}

static int break_for_ever(td_hold *barrier, struct board *board, uint32_t number)
{
    while (td_atomic_load_relaxed(&board->word[0]) == 0) {
        if (number % 2 == 0)
            (void)td_barrier_abort(barrier);
        (void)td_barrier_reset(barrier);
        td_atomic_fetch_add_relaxed(&board->count, 1);
    }
    return 0;
}

static int try_to_meet(td_hold *barrier, struct board *board, uint32_t number)
{
    uint32_t index;
    (void)number;
    while (td_atomic_load_relaxed(&board->word[0]) == 0) {
        const td_status status = td_barrier_wait_until(barrier, TD_FOREVER, &index);
        if (status != TD_OK && status != TD_EBARRIER)
            return 1;
        td_atomic_fetch_add_relaxed(&board->count, 1);
    }
    return 0;
}

TD_TEST(those_who_abort_and_reset_are_killed_and_leave_nobody_waiting)
{
    need_robust();
    td_hold *barrier = NULL;
    REQUIRE_OK(td_barrier_new(3, &barrier));
    struct board *board = board_new();
    pid_t pids[PEERS];
    for (uint32_t i = 0; i < PEERS; i++)
        pids[i] = peer(i < 3 ? break_for_ever : try_to_meet, barrier, board, i);
    for (uint64_t round = 0; round < test_rounds(300); round++) {
        const uint32_t victim = (uint32_t)below(PEERS);
        const uint64_t before = td_atomic_load_relaxed(&board->count);
        some_time();
        kill(pids[victim], SIGKILL);
        CHECK_EQ(test_wait_child(pids[victim]), -SIGKILL);
        pids[victim] = peer(victim < 3 ? break_for_ever : try_to_meet, barrier, board, victim);
        while (td_atomic_load_relaxed(&board->count) < before + 2)
            sched_yield();
    }
    td_atomic_store_relaxed(&board->word[0], 1);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(test_wait_child(pids[i]), 0);
    CHECK_OK(td_barrier_abort(barrier));
    for (uint32_t i = 3; i < PEERS; i++)
        CHECK_EQ(test_wait_child(pids[i]), 0);
    board_free(board);
    td_hold_unref(barrier);
    td_heap_trim();
}

TD_TEST_MAIN
