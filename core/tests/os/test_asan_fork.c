/* tests/os/test_asan_fork.c: forks under AddressSanitizer wait until no other thread can be inside it. */
#include <pthread.h>
#include <sched.h>

#include "tests/harness.h"

void __asan_init(void) __attribute__((weak));

static void need_sanitizer(void)
{
    if (__asan_init == NULL)
        SKIP("this is no build with AddressSanitizer");
}

static td_atomic_u32 begun, ended;

static void *compute(void *unused)
{
    td_atomic_store_seq(&begun, 1);
    for (volatile uint32_t i = 0; i < 10000000; i++)
        continue;
    td_atomic_store_seq(&ended, 1);
    for (;;)
        pause();
    return unused;
}

TD_TEST(a_fork_waits_until_the_other_threads_sleep)
{
    pthread_t thread;
    need_sanitizer();
    td_atomic_init(&begun, 0);
    td_atomic_init(&ended, 0);
    REQUIRE_EQ(pthread_create(&thread, NULL, compute, NULL), 0);
    while (td_atomic_load_seq(&begun) == 0)
        sched_yield();
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0)
        _exit(td_atomic_load_seq(&ended) == 1 ? 0 : 1);
    CHECK_EQ(test_wait_child(child), 0);
    REQUIRE_EQ(pthread_cancel(thread), 0);
    REQUIRE_EQ(pthread_join(thread, NULL), 0);
}

static void *use_memory(void *unused)
{
    for (size_t i = 0; i < 1000; i++)
        free(malloc((size_t)16 << (i % 10)));
    return unused;
}

TD_TEST(a_child_of_a_process_whose_threads_end_has_memory)
{
    need_sanitizer();
    for (uint64_t round = 0; round < test_rounds(100); round++) {
        pthread_t thread;
        REQUIRE_EQ(pthread_create(&thread, NULL, use_memory, NULL), 0);
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            use_memory(NULL);
            _exit(0);
        }
        CHECK_EQ(test_wait_child(child), 0);
        REQUIRE_EQ(pthread_join(thread, NULL), 0);
    }
}

TD_TEST_MAIN
