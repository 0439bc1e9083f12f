/* tests/memory/test_lock.c: locks, between threads and between processes. */
#include <pthread.h>
#include <sys/time.h>

#include "memory/sync.h"
#include "tests/memory/peers.h"

static td_hold *made(void)
{
    need_robust();
    td_hold *lock = NULL;
    REQUIRE_OK(td_lock_new(&lock));
    return lock;
}

static void gone(td_hold *lock)
{
    td_hold_unref(lock);
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

TD_TEST(a_lock_is_held_by_one_thread_that_releases_it)
{
    td_hold *lock = made();
    CHECK(!td_lock_is_held(lock));
    CHECK_STATUS(td_lock_release(lock), TD_ENOTHELD);
    CHECK_OK(td_lock_acquire_until(lock, TD_FOREVER));
    CHECK(td_lock_is_held(lock));
    CHECK_STATUS(td_lock_acquire_until(lock, 0), TD_ETIMEDOUT);
    CHECK_STATUS(td_lock_acquire_until(lock, TD_FOREVER), TD_EDEADLOCK);
    CHECK_OK(td_lock_release(lock));
    CHECK(!td_lock_is_held(lock));
    gone(lock);
}

TD_TEST(another_block_is_no_lock)
{
    td_hold *counter = NULL, *small = NULL;
    REQUIRE_OK(td_counter_new(1, &counter));
    REQUIRE_OK(td_hold_new(8, true, &small));
    CHECK_STATUS(td_lock_acquire_until(counter, 0), TD_EPROTO);
    CHECK_STATUS(td_lock_release(counter), TD_EPROTO);
    CHECK_STATUS(td_lock_pass_on(small), TD_EPROTO);
    CHECK(!td_lock_is_held(small));
    td_hold_unref(small);
    gone(counter);
}

static void *acquire_and_end(void *lock)
{
    CHECK_OK(td_lock_acquire_until(lock, TD_FOREVER));
    return NULL;
}

TD_TEST(a_thread_that_ends_with_the_lock_is_reported_once)
{
    td_hold *lock = made();
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, acquire_and_end, lock), 0);
    pthread_join(thread, NULL);
    CHECK(!td_lock_is_held(lock));
    CHECK_STATUS(td_lock_acquire_until(lock, TD_FOREVER), TD_EHOLDER);
    CHECK_OK(td_lock_release(lock));
    CHECK_OK(td_lock_acquire_until(lock, TD_FOREVER));
    CHECK_OK(td_lock_release(lock));
    gone(lock);
}

TD_TEST(a_report_is_passed_on_until_someone_releases)
{
    td_hold *lock = made();
    CHECK_OK(td_lock_acquire_until(lock, 0));
    CHECK_OK(td_lock_pass_on(lock));
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(td_lock_acquire_until(lock, 0), TD_EHOLDER);
        CHECK_OK(td_lock_pass_on(lock));
    }
    CHECK_STATUS(td_lock_acquire_until(lock, 0), TD_EHOLDER);
    CHECK_OK(td_lock_release(lock));
    CHECK_OK(td_lock_acquire_until(lock, 0));
    CHECK_OK(td_lock_release(lock));
    gone(lock);
}

TD_TEST(a_held_lock_keeps_its_block)
{
    td_hold *lock = made();
    CHECK_OK(td_lock_acquire_until(lock, 0));
    td_hold_unref(lock);
    CHECK_EQ(live_blocks(), 1u);
    CHECK_OK(td_lock_release(lock));
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

static int hold_for_ever(td_hold *lock, struct board *board, uint32_t number)
{
    const td_status status = td_lock_acquire_until(lock, TD_FOREVER);
    td_atomic_store_release(&board->word[number], 1);
    if (status != TD_OK)
        return 1;
    for (;;)
        pause();
}

static void on_signal(int number)
{
    (void)number;
}

TD_TEST(a_wait_ends_at_its_deadline_and_with_signals)
{
    td_hold *lock = made();
    struct board *board = board_new();
    const pid_t holder = peer(hold_for_ever, lock, board, 0);
    await_word(&board->word[0], 1);
    const int64_t deadline = td_deadline_after(3 * TD_NS_PER_MS);
    CHECK_STATUS(td_lock_acquire_until(lock, deadline), TD_ETIMEDOUT);
    CHECK_LE(deadline, td_now_ns());
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    CHECK_STATUS(td_lock_acquire_until(lock, TD_FOREVER), TD_EINTR);
    setitimer(ITIMER_REAL, &never, NULL);
    kill(holder, SIGKILL);
    CHECK_STATUS(td_lock_acquire_until(lock, TD_FOREVER), TD_EHOLDER);
    CHECK_OK(td_lock_release(lock));
    CHECK_EQ(test_wait_child(holder), -SIGKILL);
    board_free(board);
    gone(lock);
}

static int release_by_another(td_hold *lock, struct board *board, uint32_t number)
{
    (void)board;
    (void)number;
    return td_lock_release(lock) == TD_ENOTHELD && td_lock_is_held(lock) ? 0 : 1;
}

TD_TEST(a_forked_child_does_not_hold_what_its_parent_does)
{
    td_hold *lock = made();
    CHECK_OK(td_lock_acquire_until(lock, 0));
    CHECK_EQ(test_wait_child(peer(release_by_another, lock, NULL, 0)), 0);
    CHECK_OK(td_lock_release(lock));
    gone(lock);
}

/* What it opened by name is the same lock, and belongs to it as to any other. */
static struct td_share name;

static int hold_by_name(td_hold *inherited, struct board *board, uint32_t number)
{
    td_hold *lock = NULL;
    (void)inherited;
    if (td_share_open(&name, &lock) != TD_OK || td_lock_acquire_until(lock, TD_FOREVER) != TD_OK)
        return 1;
    td_atomic_store_release(&board->word[number], 1);
    return 0; /* with the lock */
}

TD_TEST(a_process_that_ends_with_the_lock_is_reported)
{
    td_hold *lock = made();
    struct board *board = board_new();
    td_hold_share(lock, &name);
    const pid_t pid = peer(hold_by_name, lock, board, 0);
    await_word(&board->word[0], 1);
    CHECK_STATUS(td_lock_acquire_until(lock, TD_FOREVER), TD_EHOLDER);
    CHECK_OK(td_lock_release(lock));
    CHECK_EQ(test_wait_child(pid), 0);
    board_free(board);
    gone(lock);
}

static int hold_and_release_by_name(td_hold *inherited, struct board *board, uint32_t number)
{
    td_hold *lock = NULL;
    (void)inherited;
    (void)board;
    (void)number;
    return td_share_open(&name, &lock) == TD_OK && td_lock_acquire_until(lock, TD_FOREVER) == TD_EHOLDER &&
                   td_lock_release(lock) == TD_OK
               ? 0
               : 1;
}

TD_TEST(a_thread_that_ends_with_the_lock_keeps_no_block_whoever_comes_next)
{
    td_hold *lock = made();
    td_hold_share(lock, &name);
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        REQUIRE_EQ(pthread_create(&thread, NULL, acquire_and_end, lock), 0);
        pthread_join(thread, NULL);
        CHECK_EQ(test_wait_child(peer(hold_and_release_by_name, lock, NULL, 0)), 0);
    }
    gone(lock);
}

static void *acquire_all_and_end(void *context)
{
    td_hold **locks = context;
    for (int i = 0; i < 9; i++)
        CHECK_OK(td_lock_acquire_until(locks[i], TD_FOREVER));
    for (int i = 1; i < 9; i += 3)
        CHECK_OK(td_lock_release(locks[i]));
    return NULL;
}

TD_TEST(a_thread_that_ends_with_many_locks_keeps_none)
{
    td_hold *locks[9];
    pthread_t thread;
    for (int i = 0; i < 9; i++)
        locks[i] = made();
    REQUIRE_EQ(pthread_create(&thread, NULL, acquire_all_and_end, locks), 0);
    pthread_join(thread, NULL);
    for (int i = 0; i < 9; i++) {
        CHECK_STATUS(td_lock_acquire_until(locks[i], 0), i % 3 == 1 ? TD_OK : TD_EHOLDER);
        CHECK_OK(td_lock_release(locks[i]));
        td_hold_unref(locks[i]);
    }
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

TD_TEST_MAIN
