/* tests/base/test_atomic.c: the operations, and the switch that weakens an edge.. */
#define TD_WEAKEN_test_W 1
#include "base/atomic.h"

#include <pthread.h>

#include "tests/harness.h"

#define THREADS 4
#define ROUNDS 20000

TD_TEST(read_modify_write_gives_back_the_value_before)
{
    td_atomic_u32 word;
    td_atomic_init(&word, 6);
    CHECK_EQ(td_atomic_fetch_add_acqrel(&word, 4), 6);
    CHECK_EQ(td_atomic_fetch_sub_seq(&word, 2), 10);
    CHECK_EQ(td_atomic_fetch_or_acqrel(&word, 3), 8);
    CHECK_EQ(td_atomic_fetch_and_acqrel(&word, 9), 11);
    CHECK_EQ(td_atomic_exchange_acqrel(&word, 77), 9);
    CHECK_EQ(td_atomic_load_seq(&word), 77);
}

TD_TEST(counters_wrap)
{
    td_atomic_u32 word;
    td_atomic_init(&word, UINT32_MAX);
    td_atomic_fetch_add_relaxed(&word, 1);
    CHECK_EQ(td_atomic_load_relaxed(&word), 0);
}

TD_TEST(failed_cas_tells_the_value_found)
{
    td_atomic_u64 word;
    td_atomic_init(&word, UINT64_C(1) << 40);
    uint64_t expected = 7;
    CHECK(!td_atomic_cas_strong_acqrel(&word, &expected, 9));
    CHECK_EQ(expected, UINT64_C(1) << 40);
    CHECK(td_atomic_cas_strong_acqrel(&word, &expected, 9));
    CHECK_EQ(td_atomic_load_acquire(&word), 9);
}

TD_TEST(pointers_travel)
{
    int target = 0;
    td_atomic_ptr word;
    td_atomic_init(&word, NULL);
    td_atomic_store_release(&word, &target);
    CHECK_EQ(td_atomic_load_acquire(&word), (void *)&target);
}

static int strong(void)
{
    return 1;
}

static int weak(void)
{
    return 2;
}

TD_TEST(an_edge_is_strong_unless_the_build_weakens_it)
{
    CHECK_EQ(TD_EDGE(test_S, strong, weak)(), 1);
    CHECK_EQ(TD_EDGE(test_W, weak, strong)(), 1);
    CHECK_EQ(TD_EDGE(test_W, strong, weak)(), 2);
}

static td_atomic_u64 shared_count;

static void *count_up(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t seen = td_atomic_load_relaxed(&shared_count);
        while (!td_atomic_cas_weak_relaxed(&shared_count, &seen, seen + 1))
            td_pause();
    }
    return unused;
}

TD_TEST(no_increment_is_lost_between_threads)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, count_up, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(td_atomic_load_relaxed(&shared_count), (uint64_t)THREADS * ROUNDS);
}

TD_TEST_MAIN
