/* tests/sched/test_callers.c: loops of several threads at once, and what is left of threads that have ended. */
#include <pthread.h>
#include <stdlib.h>

#include "sched/hand.h"
#include "tests/sched/gather.h"

#define CALLERS 4u

static td_atomic_u32 running, most_running;

static td_status add(int64_t begin, int64_t end, void *context)
{
    const uint32_t now = td_atomic_fetch_add_seq(&running, 1) + 1;
    for (uint32_t most = td_atomic_load_relaxed(&most_running);
         most < now && !td_atomic_cas_weak_relaxed(&most_running, &most, now);)
        continue;
    uint64_t sum = 0;
    for (int64_t i = begin; i < end; i++)
        sum += (uint64_t)i;
    td_atomic_fetch_add_relaxed((td_atomic_u64 *)context, sum);
    td_atomic_fetch_sub_seq(&running, 1);
    return TD_OK;
}

static void *add_up(void *argument)
{
    uint64_t random = test_seed + (uint64_t)(uintptr_t)argument;
    for (uint64_t round = test_rounds(1000); round > 0; round--) {
        const uint64_t n = test_random_below(&random, 2000);
        td_atomic_u64 sum;
        td_atomic_init(&sum, 0);
        CHECK_OK(td_parallel_for(0, (int64_t)n, (int64_t)test_random_below(&random, 100), add, &sum));
        CHECK_EQ(td_atomic_load_relaxed(&sum), n == 0 ? 0 : n * (n - 1) / 2);
    }
    return NULL;
}

TD_TEST(loops_of_several_threads_do_not_disturb_each_other)
{
    pthread_t threads[CALLERS];
    count_on(3);
    for (uintptr_t i = 0; i < CALLERS; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, add_up, (void *)i), 0);
    for (uint32_t i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    CHECK_LE(td_atomic_load_relaxed(&most_running), CALLERS + 2);
    CHECK_EQ(td_atomic_load_seq(&td_sched_get()->callers), 0u);
}

/* The worker works for the one that is left, as soon as there is one CPU for each. */
static void *one_loop(void *argument)
{
    CHECK_OK(td_parallel_for(0, 2, 1, gather_in_chunk, argument));
    return NULL;
}

TD_TEST(a_worker_that_made_room_for_callers_comes_when_one_has_left)
{
    pthread_t threads[2];
    count_on(2);
    for (uint64_t round = test_rounds(500); round > 0; round--) {
        struct gathering gatherings[2] = {{.wanted = 2}, {.wanted = 2}};
        for (uint32_t i = 0; i < 2; i++)
            REQUIRE_EQ(pthread_create(&threads[i], NULL, one_loop, &gatherings[i]), 0);
        td_atomic_fetch_add_seq(&gatherings[round % 2].there, 1); /* one needs no other thread to end */
        for (uint32_t i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
    }
}

static void *one_caller(void *argument)
{
    add_up(argument);
    return NULL;
}

TD_TEST(threads_that_have_ended_leave_their_places_to_others)
{
    count_on(2);
    setenv("TREADLE_TEST_FACTOR", "0.001", 1);
    for (uint32_t i = 0; i < 200; i++) {
        pthread_t thread;
        REQUIRE_EQ(pthread_create(&thread, NULL, one_caller, NULL), 0);
        pthread_join(thread, NULL);
    }
    CHECK_EQ(td_atomic_load_relaxed(&td_sched_get()->hand_count),
             2u); /* the worker's, and one for all of them */
}

static td_status note_scope(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    CHECK_EQ(td_threads(), *(const uint32_t *)context);
    return TD_OK;
}

static void *in_a_scope_of_two(void *unused)
{
    uint32_t two = 2;
    td_threads_enter(two);
    for (uint64_t round = test_rounds(500); round > 0; round--)
        CHECK_OK(td_parallel_for(0, 50, 1, note_scope, &two));
    return unused;
}

TD_TEST(a_scope_is_its_threads_own)
{
    pthread_t thread;
    uint32_t four = 4;
    count_on(4);
    REQUIRE_EQ(pthread_create(&thread, NULL, in_a_scope_of_two, NULL), 0);
    for (uint64_t round = test_rounds(500); round > 0; round--)
        CHECK_OK(td_parallel_for(0, 50, 1, note_scope, &four));
    pthread_join(thread, NULL);
}

/* ---- Without a hand ---- */

static _Thread_local bool no_memory;
void *aligned_alloc(size_t alignment, size_t bytes)
{
    void *block = NULL;
    return no_memory || posix_memalign(&block, alignment, bytes) != 0 ? NULL : block;
}

struct chunks {
    int64_t begin, next, end, grain;
};

static td_status check_chunk(int64_t begin, int64_t end, void *context)
{
    struct chunks *chunks = context;
    const int64_t rest = chunks->end - begin;
    CHECK_EQ(begin, chunks->next);
    CHECK_EQ(end - begin, chunks->grain < rest ? chunks->grain : rest);
    chunks->next = end;
    return begin == chunks->begin + 30 ? TD_EINVAL : TD_OK;
}

static void *loop_without_hand(void *unused)
{
    (void)unused;
    no_memory = true;
    struct chunks chunks = {7, 7, 30, 10}, failing = {7, 7, 70, 10};
    CHECK_OK(td_parallel_for(7, 30, 10, check_chunk, &chunks));
    CHECK_EQ(chunks.next, 30);
    CHECK_STATUS(td_parallel_for(7, 70, 10, check_chunk, &failing), TD_EINVAL);
    CHECK_EQ(failing.next, 47);
    return NULL;
}

TD_TEST(a_thread_that_can_have_no_hand_runs_the_same_chunks)
{
    pthread_t thread;
    count_on(3);
    (void)td_sched_get();
    REQUIRE_EQ(pthread_create(&thread, NULL, loop_without_hand, NULL), 0);
    pthread_join(thread, NULL);
}

TD_TEST_MAIN
