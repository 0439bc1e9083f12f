/* tests/sched/test_loop.c: what td_parallel_for promises: each iteration once, chunks as said, what a chunk wrote can
 * be read afterwards, ends early, numbers and counts of threads. */
#include <pthread.h>
#include <stdlib.h>

#include "tests/sched/gather.h"

#define THREADS 4u

/* ---- Iterations and chunks ---- */

struct marks {
    uint8_t *of;
    int64_t first;
    int64_t begin, end, grain;
};

static td_status mark(int64_t begin, int64_t end, void *context)
{
    struct marks *marks = context;
    CHECK_LT(begin, end);
    CHECK(begin >= marks->begin && end <= marks->end);
    if (marks->grain > 0) {
        CHECK_EQ((begin - marks->begin) % marks->grain, 0);
        CHECK(end - begin == marks->grain || (end == marks->end && end - begin < marks->grain));
    }
    for (int64_t i = begin; i < end; i++)
        marks->of[i - marks->first]++; /* not atomic: ThreadSanitizer watches it, here and where it is read */
    return TD_OK;
}

/* Edge J. */
TD_TEST(each_iteration_runs_once_and_what_it_wrote_can_be_read)
{
    enum { MOST = 5000 };
    static uint8_t counts[MOST];
    uint64_t random = test_seed;
    count_on(THREADS);
    for (uint64_t round = test_rounds(4000); round > 0; round--) {
        const int64_t n = (int64_t)test_random_below(&random, round % 2 ? MOST : 40);
        const int64_t begin = (int64_t)test_random_below(&random, 2000) - 1000;
        const int64_t grain = (int64_t)test_random_below(&random, round % 3 ? 20 : 3000);
        struct marks marks = {.of = counts, .first = begin, .begin = begin, .end = begin + n, .grain = grain};
        memset(counts, 0, sizeof counts);
        CHECK_OK(td_parallel_for(begin, begin + n, grain, mark, &marks));
        for (int64_t i = 0; i < MOST; i++)
            REQUIRE_EQ(counts[i], i < n);
    }
}

static td_status count_iterations(int64_t begin, int64_t end, void *context)
{
    CHECK_LT(begin, end);
    td_atomic_fetch_add_relaxed((td_atomic_u64 *)context, (uint64_t)end - (uint64_t)begin);
    return TD_OK;
}

TD_TEST(the_widest_ranges_are_loops_too)
{
    td_atomic_u64 sum;
    count_on(THREADS);
    td_atomic_init(&sum, 0);
    CHECK_OK(td_parallel_for(INT64_MIN, INT64_MAX, INT64_MAX / 3, count_iterations, &sum));
    CHECK_EQ(td_atomic_load_relaxed(&sum), UINT64_MAX);
    td_atomic_init(&sum, 0);
    CHECK_OK(td_parallel_for(INT64_MAX - 1000, INT64_MAX, 0, count_iterations, &sum));
    CHECK_EQ(td_atomic_load_relaxed(&sum), 1000u);
    td_atomic_init(&sum, 0);
    CHECK_OK(td_parallel_for(INT64_MIN, INT64_MIN + 1001, 10, count_iterations, &sum));
    CHECK_EQ(td_atomic_load_relaxed(&sum), 1001u);
    td_atomic_init(&sum, 0);
    CHECK_OK(td_parallel_for(0, 7, INT64_MAX, count_iterations, &sum));
    CHECK_EQ(td_atomic_load_relaxed(&sum), 7u);
}

static td_status fail(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    (void)context;
    return TD_EBROKEN;
}

TD_TEST(an_empty_loop_calls_nothing_and_bad_arguments_are_refused)
{
    count_on(THREADS);
    CHECK_OK(td_parallel_for(3, 3, 1, fail, NULL));
    CHECK_OK(td_parallel_for(4, 3, 0, fail, NULL));
    CHECK_OK(td_parallel_for(INT64_MAX, INT64_MIN, 0, fail, NULL));
    CHECK_STATUS(td_parallel_for(0, 3, -1, fail, NULL), TD_EINVAL);
    CHECK_STATUS(td_parallel_for(0, 3, 1, NULL, NULL), TD_EINVAL);
    CHECK_STATUS(td_parallel_for(0, 3, 1, fail, NULL), TD_EBROKEN);
}

/* ---- Threads ---- */

TD_TEST(chunks_run_side_by_side_each_time)
{
    count_on(THREADS);
    for (uint64_t round = test_rounds(2000); round > 0; round--)
        gather_in_loop(2 + (uint32_t)(round % (THREADS - 1)));
}

TD_TEST(chunks_run_side_by_side_without_spinning)
{
    setenv("TREADLE_SPIN", "0", 1);
    count_on(THREADS);
    for (uint64_t round = test_rounds(2000); round > 0; round--)
        gather_in_loop(2 + (uint32_t)(round % (THREADS - 1)));
}

/* A part is cut again and again while others have nothing to do: the last chunks of all gather. */
static td_status gather_late(int64_t begin, int64_t end, void *context)
{
    struct gathering *gathering = context;
    for (int64_t i = begin; i < end; i++)
        if (i < (int64_t)gathering->wanted)
            CHECK(gather(gathering));
    return TD_OK;
}

TD_TEST(a_part_that_is_behind_is_cut_for_those_who_are_through)
{
    count_on(THREADS);
    for (uint64_t round = test_rounds(300); round > 0; round--) {
        struct gathering gathering = {.wanted = THREADS}; /* all in the first of the parts that are dealt */
        CHECK_OK(td_parallel_for(0, THREADS * THREADS * 2, 1, gather_late, &gathering));
        CHECK_EQ(td_atomic_load_relaxed(&gathering.there), THREADS);
    }
}

struct seats {
    td_atomic_u32 taken[THREADS];
    td_atomic_u32 most;
};

static td_status take_seat(int64_t begin, int64_t end, void *context)
{
    struct seats *seats = context;
    const uint32_t number = td_thread_number();
    (void)begin;
    (void)end;
    CHECK_LT(number, td_threads());
    if (number < THREADS) {
        CHECK_EQ(td_atomic_exchange_seq(&seats->taken[number], 1), 0u);
        for (uint32_t turns = 0; turns < 50; turns++)
            td_pause();
        td_atomic_store_seq(&seats->taken[number], 0);
    }
    return TD_OK;
}

TD_TEST(no_two_chunks_that_run_have_the_same_thread_number)
{
    static struct seats seats;
    count_on(THREADS);
    CHECK_EQ(td_thread_number(), 0u);
    for (uint64_t round = test_rounds(1000); round > 0; round--) {
        td_threads_set(1 + (uint32_t)(round % THREADS));
        CHECK_OK(td_parallel_for(0, 64, (int64_t)(round % 3), take_seat, &seats));
    }
}

struct ids {
    pthread_t caller;
    uint32_t threads;
};

static td_status check_caller(int64_t begin, int64_t end, void *context)
{
    const struct ids *ids = context;
    (void)begin;
    (void)end;
    CHECK(pthread_equal(pthread_self(), ids->caller));
    CHECK_EQ(td_threads(), 1u);
    return TD_OK;
}

TD_TEST(one_thread_is_the_callers_own)
{
    const struct ids ids = {.caller = pthread_self()};
    count_on(THREADS);
    const uint32_t before = td_threads_enter(1);
    CHECK_EQ(before, 0u);
    CHECK_EQ(td_threads(), 1u);
    CHECK_OK(td_parallel_for(0, 1000, 1, check_caller, (void *)&ids));
    td_threads_leave(before);
    CHECK_EQ(td_threads(), THREADS);
    td_threads_set(1);
    CHECK_OK(td_parallel_for(0, 1000, 0, check_caller, (void *)&ids));
}

static td_status check_threads(int64_t begin, int64_t end, void *context)
{
    const struct ids *ids = context;
    (void)begin;
    (void)end;
    CHECK_EQ(td_threads(), ids->threads);
    CHECK_LT(td_thread_number(), ids->threads);
    td_threads_enter(1); /* ends with the chunk */
    return TD_OK;
}

TD_TEST(a_scope_holds_for_its_threads_loops_and_never_adds_threads)
{
    const struct ids three = {.threads = 3}, two = {.threads = 2};
    count_on(THREADS);
    CHECK_EQ(td_threads(), THREADS);
    td_threads_set(3);
    CHECK_EQ(td_threads(), 3u);
    const uint32_t before = td_threads_enter(2);
    CHECK_EQ(td_threads(), 2u);
    CHECK_OK(td_parallel_for(0, 200, 1, check_threads, (void *)&two));
    const uint32_t inner = td_threads_enter(9);
    CHECK_EQ(td_threads(), 3u); /* of the process: more is not to be had */
    CHECK_OK(td_parallel_for(0, 200, 1, check_threads, (void *)&three));
    td_threads_leave(inner);
    CHECK_EQ(td_threads(), 2u);
    td_threads_leave(before);
    td_threads_set(1000);
    CHECK_EQ(td_threads(), THREADS);
    td_threads_set(0);
    CHECK_EQ(td_threads(), THREADS);
}

TD_TEST(without_other_threads_the_caller_does_it_all)
{
    count_on(1);
    CHECK_EQ(td_threads(), 1u);
    const struct ids ids = {.caller = pthread_self()};
    CHECK_OK(td_parallel_for(0, 1000, 1, check_caller, (void *)&ids));
    CHECK_OK(td_parallel_for(0, 1000, 0, check_caller, (void *)&ids));
}

/* ---- Ending early ---- */

struct failing {
    int64_t at;
    td_atomic_u64 calls, failed;
};

static td_status fail_at(int64_t begin, int64_t end, void *context)
{
    struct failing *failing = context;
    td_atomic_fetch_add_relaxed(&failing->calls, 1);
    /* What begins after the failing chunk has ended, and its end was heard of, is its thread's doing at most. */
    if (begin <= failing->at && failing->at < end) {
        td_atomic_store_relaxed(&failing->failed, 1);
        return TD_EBROKEN;
    }
    return TD_OK;
}

TD_TEST(the_first_status_ends_the_loop_and_is_returned)
{
    uint64_t random = test_seed;
    count_on(THREADS);
    for (uint64_t round = test_rounds(1000); round > 0; round--) {
        struct failing failing = {.at = (int64_t)test_random_below(&random, 3000)};
        CHECK_STATUS(td_parallel_for(0, 3000, (int64_t)(round % 4), fail_at, &failing), TD_EBROKEN);
        CHECK_EQ(td_atomic_load_relaxed(&failing.failed), 1u);
    }
    struct failing endless = {.at = 100};
    CHECK_STATUS(td_parallel_for(0, INT64_MAX, 1, fail_at, &endless), TD_EBROKEN);
}

/* ---- The interrupt hook ---- */

static td_atomic_u32 interrupted, asked;

static td_status hook(void)
{
    td_atomic_fetch_add_relaxed(&asked, 1);
    return td_atomic_load_relaxed(&interrupted) != 0 ? TD_EINTR : TD_OK;
}

/* Large chunks take so long that none grows to be the whole loop. */
static td_status interrupt_from(int64_t begin, int64_t end, void *context)
{
    for (int64_t i = begin; i < end && i < begin + 100000; i++)
        td_pause();
    if (begin >= *(const int64_t *)context)
        td_atomic_store_relaxed(&interrupted, 1);
    return TD_OK;
}

TD_TEST(the_hook_ends_a_loop_between_chunks)
{
    count_on(2);
    td_set_interrupt_hook(hook);
    for (int64_t grain = 0; grain <= 2; grain++) {
        const int64_t from = 100;
        td_atomic_store_relaxed(&interrupted, 0);
        CHECK_STATUS(td_parallel_for(0, INT64_MAX, grain, interrupt_from, (void *)&from), TD_EINTR);
    }
    td_set_interrupt_hook(NULL);
    const int64_t from = 0;
    const uint32_t before = td_atomic_load_relaxed(&asked);
    CHECK_OK(td_parallel_for(0, 100000, 1, interrupt_from, (void *)&from));
    CHECK_EQ(td_atomic_load_relaxed(&asked), before);
}

/* The caller has the first chunk, and nothing to do after that. */
static td_status wait_for_the_hook(int64_t begin, int64_t end, void *context)
{
    const uint32_t before = td_atomic_load_seq(&asked);
    (void)end;
    CHECK(gather(context));
    if (begin == 0)
        return TD_OK;
    td_atomic_store_seq(&interrupted, 1);
    while (td_atomic_load_seq(&asked) == before)
        sched_yield();
    return TD_OK;
}

TD_TEST(the_hook_is_asked_while_the_caller_waits)
{
    struct gathering gathering = {.wanted = 2};
    count_on(2);
    td_set_interrupt_hook(hook);
    CHECK_STATUS(td_parallel_for(0, 2, 1, wait_for_the_hook, &gathering), TD_EINTR);
}

TD_TEST_MAIN
