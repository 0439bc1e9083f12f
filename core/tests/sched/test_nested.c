/* tests/sched/test_nested.c: loops in chunks of loops: they share the threads that are there, and nobody waits in a
 * circle. */
#include <pthread.h>
#include <stdlib.h>

#include "sched/hand.h"
#include "tests/sched/gather.h"

#define THREADS 4u

/* Those that the scheduler has started, by their name: sanitizers have threads of their own. */
static unsigned workers_of_process(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/task");
    REQUIRE(folder != NULL);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "re");
        if (file == NULL)
            continue;
        count += fgets(name, sizeof name, file) != NULL && strcmp(name, "treadle-loop\n") == 0;
        fclose(file);
    }
    closedir(folder);
    return count;
}

/* ---- Nests are shared ---- */

static td_status gather_inside(int64_t begin, int64_t end, void *context)
{
    struct gathering *gathering = context;
    for (int64_t i = begin; i < end; i++)
        CHECK_OK(td_parallel_for(0, gathering->wanted / 2, 1, gather_in_chunk, gathering));
    return TD_OK;
}

TD_TEST(chunks_of_nested_loops_run_on_all_threads)
{
    count_on(THREADS);
    for (uint64_t round = test_rounds(1000); round > 0; round--) {
        struct gathering gathering = {.wanted = THREADS};
        CHECK_OK(td_parallel_for(0, 2, 1, gather_inside, &gathering));
    }
    CHECK_EQ(workers_of_process(), THREADS - 1);
}

struct one_long {
    struct gathering begun, inside;
};

static td_status nest_in_the_second(int64_t begin, int64_t end, void *context)
{
    struct one_long *loop = context;
    (void)end;
    CHECK(gather(&loop->begun)); /* one thread for each */
    if (begin == 0)
        return TD_OK;
    return td_parallel_for(0, 2, 1, gather_in_chunk, &loop->inside);
}

TD_TEST(who_waits_for_a_loop_takes_part_in_what_is_nested_in_it)
{
    count_on(2);
    for (uint64_t round = test_rounds(1000); round > 0; round--) {
        struct one_long loop = {.begun = {.wanted = 2}, .inside = {.wanted = 2}};
        CHECK_OK(td_parallel_for(0, 2, 1, nest_in_the_second, &loop));
    }
}

/* ---- Trees of loops ---- */

struct tree {
    uint64_t seed;
    unsigned depth;
    td_atomic_u64 sum;
    td_atomic_u32 *running;
};

static uint64_t serial_sum(uint64_t seed, unsigned depth)
{
    uint64_t random = seed, sum = 0;
    const uint64_t n = 1 + test_random_below(&random, 7);
    for (uint64_t i = 0; i < n; i++)
        sum += depth == 0 ? seed + i : serial_sum(seed * 7 + i, depth - 1);
    return sum;
}

static void grow(struct tree *tree);

static td_status branch(int64_t begin, int64_t end, void *context)
{
    struct tree *tree = context;
    for (int64_t i = begin; i < end; i++) {
        if (tree->depth == 0) {
            CHECK_LE(td_atomic_fetch_add_seq(tree->running, 1), THREADS - 1);
            td_atomic_fetch_add_relaxed(&tree->sum, tree->seed + (uint64_t)i);
            td_atomic_fetch_sub_seq(tree->running, 1);
        } else {
            struct tree inner = {
                .seed = tree->seed * 7 + (uint64_t)i, .depth = tree->depth - 1, .running = tree->running};
            grow(&inner);
            td_atomic_fetch_add_relaxed(&tree->sum, td_atomic_load_relaxed(&inner.sum));
        }
    }
    return TD_OK;
}

static void grow(struct tree *tree)
{
    uint64_t random = tree->seed;
    const uint64_t n = 1 + test_random_below(&random, 7);
    CHECK_OK(td_parallel_for(0, (int64_t)n, (int64_t)(tree->seed % 3), branch, tree));
}

TD_TEST(random_trees_of_loops_add_up_on_no_more_threads_than_there_are_cpus)
{
    td_atomic_u32 running;
    td_atomic_init(&running, 0);
    count_on(THREADS);
    uint64_t random = test_seed;
    for (uint64_t round = test_rounds(400); round > 0; round--) {
        struct tree tree = {.seed = test_random(&random) >> 8,
                            .depth = (unsigned)test_random_below(&random, 4),
                            .running = &running};
        grow(&tree);
        REQUIRE_EQ(td_atomic_load_relaxed(&tree.sum), serial_sum(tree.seed, tree.depth));
    }
    CHECK_LE(workers_of_process(), THREADS - 1);
}

static td_status go_down(int64_t begin, int64_t end, void *context)
{
    uint32_t deeper = *(const uint32_t *)context + 1;
    (void)end;
    if (begin == 0 && deeper < TD_DEPTH_MOST + 100)
        return td_parallel_for(0, 3, 1, go_down, &deeper);
    return TD_OK;
}

TD_TEST(nests_may_be_deeper_than_what_is_shared)
{
    uint32_t depth = 0;
    count_on(THREADS);
    CHECK_OK(td_parallel_for(0, 3, 1, go_down, &depth));
}

/* ---- Numbers and counts ---- */

static td_status check_two(int64_t begin, int64_t end, void *context)
{
    td_atomic_u32 *taken = context;
    const uint32_t number = td_thread_number();
    (void)begin;
    (void)end;
    CHECK_EQ(td_threads(), 2u);
    CHECK_LT(number, THREADS);
    CHECK_EQ(td_atomic_exchange_seq(&taken[number], 1), 0u);
    td_atomic_store_seq(&taken[number], 0);
    return TD_OK;
}

static td_status nest_with_two(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    CHECK_EQ(td_threads(), 3u);
    const uint32_t before = td_threads_enter(2);
    CHECK_EQ(before, 0u);
    CHECK_OK(td_parallel_for(0, 20, 1, check_two, context));
    td_threads_leave(before);
    CHECK_EQ(td_threads(), 3u);
    return TD_OK;
}

TD_TEST(numbers_are_of_the_outermost_loop_and_counts_of_each)
{
    static td_atomic_u32 taken[THREADS];
    count_on(THREADS);
    td_threads_enter(3);
    for (uint64_t round = test_rounds(300); round > 0; round--)
        CHECK_OK(td_parallel_for(0, 8, 1, nest_with_two, taken));
}

/* ---- Ending early ---- */

static td_status fail_inside(int64_t begin, int64_t end, void *context)
{
    (void)end;
    (void)context;
    return begin == 5 ? TD_EDIED : TD_OK;
}

static td_status pass_on(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    return td_parallel_for(0, 10, 1, fail_inside, context);
}

static td_status ignore(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    CHECK_STATUS(td_parallel_for(0, 10, 1, fail_inside, context), TD_EDIED);
    return TD_OK;
}

TD_TEST(a_nested_loop_fails_alone_unless_its_chunk_passes_it_on)
{
    count_on(THREADS);
    for (uint64_t round = test_rounds(300); round > 0; round--) {
        CHECK_STATUS(td_parallel_for(0, 10, 1, pass_on, NULL), TD_EDIED);
        CHECK_OK(td_parallel_for(0, 10, 1, ignore, NULL));
    }
}

static td_status nest_endlessly(int64_t begin, int64_t end, void *context)
{
    (void)end;
    if (context != NULL)
        return TD_OK;
    if (begin == 1)
        return TD_EBROKEN;
    int inside;
    return td_parallel_for(0, INT64_MAX, 1, nest_endlessly, &inside);
}

TD_TEST(a_loop_that_ends_early_ends_those_nested_in_it)
{
    count_on(THREADS);
    CHECK_STATUS(td_parallel_for(0, 2, 1, nest_endlessly, NULL), TD_EBROKEN);
}

TD_TEST_MAIN
