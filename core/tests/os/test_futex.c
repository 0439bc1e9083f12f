/* tests/os/test_futex.c: sleeping and waking, between threads and between processes. */
#include "os/futex.h"

#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "tests/harness.h"

TD_TEST(a_changed_word_does_not_sleep)
{
    td_atomic_u32 word;
    td_atomic_init(&word, 1);
    CHECK_STATUS(td_futex_wait_until(&word, 0, TD_FOREVER, false), TD_EAGAIN);
}

TD_TEST(a_passed_deadline_ends_the_wait)
{
    td_atomic_u32 word;
    td_atomic_init(&word, 0);
    CHECK_STATUS(td_futex_wait_until(&word, 0, 0, false), TD_ETIMEDOUT);
    CHECK_STATUS(td_futex_wait_until(&word, 0, -5, true), TD_ETIMEDOUT);
    CHECK_STATUS(td_futex_wait_until(&word, 0, td_deadline_after(TD_NS_PER_MS), false), TD_ETIMEDOUT);
}

TD_TEST(the_deadline_is_not_early)
{
    td_atomic_u32 word;
    td_atomic_init(&word, 0);
    int64_t deadline = td_deadline_after(2 * TD_NS_PER_MS);
    CHECK_STATUS(td_futex_wait_until(&word, 0, deadline, false), TD_ETIMEDOUT);
    CHECK_LE(deadline, td_now_ns());
}

TD_TEST(waking_nobody_is_harmless)
{
    td_atomic_u32 word;
    td_atomic_init(&word, 0);
    CHECK_EQ(td_futex_wake(&word, INT_MAX, false), 0);
    CHECK_EQ(td_futex_wake(&word, 1, true), 0);
}

static void on_signal(int number)
{
    (void)number;
}

TD_TEST(a_signal_ends_the_wait)
{
    td_atomic_u32 word;
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval often = {{0, 1000}, {0, 1000}};
    td_atomic_init(&word, 0);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL); /* again and again, so that one falls into the wait */
    CHECK_STATUS(td_futex_wait_until(&word, 0, TD_FOREVER, false), TD_EINTR);
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &never, NULL);
}

/* Ping-pong: each side waits for its turn and gives it to the other. A lost wake-up hangs until the deadline. */
typedef struct game {
    td_atomic_u32 turn;
} game;

static void play(game *g, uint32_t me, uint32_t rounds, bool shared)
{
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t mine = 2 * round + me;
        for (uint32_t now = td_atomic_load_acquire(&g->turn); now != mine;
             now = td_atomic_load_acquire(&g->turn))
            td_futex_wait_until(&g->turn, now, TD_FOREVER, shared);
        td_atomic_store_release(&g->turn, mine + 1);
        td_futex_wake(&g->turn, 1, shared);
    }
}

static void *play_second(void *g)
{
    play(g, 1, 2000, false);
    return NULL;
}

TD_TEST(threads_take_turns)
{
    game g = {0};
    pthread_t other;
    REQUIRE_EQ(pthread_create(&other, NULL, play_second, &g), 0);
    play(&g, 0, 2000, false);
    pthread_join(other, NULL);
    CHECK_EQ(td_atomic_load_relaxed(&g.turn), 4000);
}

TD_TEST(processes_take_turns)
{
    game *g = mmap(NULL, sizeof *g, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(g != MAP_FAILED);
    pid_t pid = fork();
    if (pid == 0) {
        play(g, 1, 2000, true);
        _exit(0);
    }
    play(g, 0, 2000, true);
    CHECK_EQ(test_wait_child(pid), 0);
    CHECK_EQ(td_atomic_load_relaxed(&g->turn), 4000);
    munmap(g, sizeof *g);
}

TD_TEST_MAIN
