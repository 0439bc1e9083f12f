/* tests/sched/test_fork.c: a child has threads of its own, whatever its parent's were doing. */
#include <pthread.h>
#include <stdlib.h>

#include "sched/hand.h"
#include "tests/sched/gather.h"

#define THREADS 4u

const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}

static void fork_with(uint32_t threads)
{
    if (test_is_emulated())
        SKIP("the emulator does not survive a fork while threads run");
    count_on(threads);
}

/* What a child does, and leaves with. */
static int loops_in_child(void)
{
    gather_in_loop(THREADS);
    gather_in_loop(2);
    return td_atomic_load_relaxed(&test_failures) != 0;
}

static void fork_and_loop(void)
{
    const pid_t child = fork();
    if (child == 0)
        _exit(loops_in_child());
    REQUIRE(child > 0);
    CHECK_EQ(test_wait_child(child), 0);
}

TD_TEST(a_child_starts_afresh_when_loops_have_ended)
{
    fork_with(THREADS);
    gather_in_loop(THREADS);
    for (uint32_t i = 0; i < 10; i++) {
        fork_and_loop();
        gather_in_loop(THREADS);
    }
}

TD_TEST(a_child_of_one_that_had_no_loops_yet_has_its_own)
{
    fork_with(THREADS);
    fork_and_loop();
    td_sched_get();
    fork_and_loop();
    gather_in_loop(THREADS);
}

static td_status fork_in_chunk(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    CHECK(gather(context));
    fork_and_loop();
    return TD_OK;
}

TD_TEST(a_chunk_may_fork_a_child_that_has_loops)
{
    fork_with(THREADS);
    for (uint32_t i = 0; i < 5; i++) {
        struct gathering gathering = {.wanted = 2};
        CHECK_OK(td_parallel_for(0, 2, 1, fork_in_chunk, &gathering));
    }
}

struct returning {
    struct gathering gathering;
    pthread_t forker;
    pid_t child;
};

static td_status fork_and_return(int64_t begin, int64_t end, void *context)
{
    struct returning *returning = context;
    (void)end;
    CHECK(gather(&returning->gathering));
    if (begin != 0) /* the caller has the first one */
        return TD_OK;
    CHECK(pthread_equal(pthread_self(), returning->forker));
    returning->child = fork();
    return TD_OK;
}

static td_status nest_and_return(int64_t begin, int64_t end, void *context)
{
    const td_status status = td_parallel_for(0, 2, 1, fork_and_return, context);
    CHECK(status == TD_OK || status == TD_EFORKED);
    (void)begin;
    (void)end;
    return status;
}

/* With or without a loop around the one that is forked in. */
static void return_in_child(td_range_fn *fn, int64_t n)
{
    struct returning returning = {.gathering = {.wanted = 2}, .forker = pthread_self()};
    const td_status status = td_parallel_for(0, n, 1, fn, &returning);
    if (returning.child == 0) {
        CHECK_STATUS(status, TD_EFORKED);
        _exit(loops_in_child());
    }
    CHECK_OK(status);
    CHECK_EQ(test_wait_child(returning.child), 0);
    gather_in_loop(THREADS);
}

TD_TEST(a_loop_that_was_forked_out_of_says_so_and_others_can_follow)
{
    fork_with(THREADS);
    for (uint32_t i = 0; i < 5; i++) {
        return_in_child(fork_and_return, 2);
        return_in_child(nest_and_return, 1);
    }
}

static td_status fork_on_a_worker(int64_t begin, int64_t end, void *context)
{
    struct returning *returning = context;
    (void)begin;
    (void)end;
    CHECK(gather(&returning->gathering));
    if (!pthread_equal(pthread_self(), returning->forker))
        returning->child = fork();
    return TD_OK;
}

TD_TEST(a_child_of_a_workers_chunk_ends_with_the_chunk)
{
    fork_with(2);
    struct returning returning = {.gathering = {.wanted = 2}, .forker = pthread_self()};
    CHECK_OK(td_parallel_for(0, 2, 1, fork_on_a_worker, &returning));
    REQUIRE(returning.child > 0);
    CHECK_EQ(test_wait_child(returning.child), 0);
    gather_in_loop(2);
}

/* ---- Beside loops of other threads ---- */

struct storm {
    td_atomic_u32 over;
};

static td_status nothing(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    (void)context;
    return TD_OK;
}

static void *loop_on(void *argument)
{
    struct storm *storm = argument;
    while (td_atomic_load_seq(&storm->over) == 0) {
        CHECK_OK(td_parallel_for(0, 50, 1, nothing, NULL));
        sched_yield();
    }
    return NULL;
}

TD_TEST(a_child_forked_beside_loops_of_other_threads_has_its_own)
{
#ifdef __SANITIZE_ADDRESS__
    SKIP("a fork waits until other threads sleep (asan_fork.c), and these hardly ever do");
#endif
    struct storm storm = {0};
    pthread_t threads[2];
    fork_with(THREADS);
    for (uint32_t i = 0; i < 2; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, loop_on, &storm), 0);
    for (uint64_t round = test_rounds(12); round > 0; round--)
        fork_and_loop();
    td_atomic_store_seq(&storm.over, 1);
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

TD_TEST_MAIN
