/* benchmarks/c/futex_ping_pong.c: what waking costs. Two processes take turns on a word in shared memory and sleep on
 * it in between: the least that a call to a sleeping worker and back can cost.
 *
 * Each has a CPU of its own where there are two: on one CPU a turn is a switch, and costs a tenth.
 *
 * Prints the median and the 99th percentile of a round trip, in microseconds: "p50 p99". Argument: the round trips. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "os/futex.h"

enum { PARENT = 0, CHILD = 1 };

static void pass(td_atomic_u32 *turn, uint32_t to)
{
    td_atomic_store_release(turn, to);
    td_futex_wake(turn, 1, true);
}

static void await(td_atomic_u32 *turn, uint32_t mine)
{
    while (td_atomic_load_acquire(turn) != mine)
        td_futex_wait_until(turn, 1 - mine, TD_FOREVER, true);
}

/* Keeps the calling process on the n-th CPU that it may use, if there are so many. */
static void stay_on(int n)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof all, &all) != 0 || n >= CPU_COUNT(&all))
        return;
    unsigned cpu = 0;
    for (int seen = 0; seen <= n; cpu++)
        seen += CPU_ISSET(cpu, &all) != 0;
    CPU_SET(cpu - 1, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static int by_size(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

int main(int argc, char **argv)
{
    long trips = argc > 1 ? strtol(argv[1], NULL, 10) : 20000;
    if (trips < 1)
        return 2;
    td_atomic_u32 *turn = mmap(NULL, sizeof *turn, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int64_t *times_ns = calloc((size_t)trips, sizeof *times_ns);
    if (turn == MAP_FAILED || !times_ns)
        exit(1);
    pid_t child = fork();
    if (child < 0)
        exit(1);
    stay_on(child == 0 ? CHILD : PARENT);
    if (child == 0) {
        for (long i = 0; i < trips; i++) {
            await(turn, CHILD);
            pass(turn, PARENT);
        }
        _exit(0);
    }
    for (long i = 0; i < trips; i++) {
        int64_t start = td_now_ns();
        pass(turn, CHILD);
        await(turn, PARENT);
        times_ns[i] = td_now_ns() - start;
    }
    waitpid(child, NULL, 0);
    qsort(times_ns, (size_t)trips, sizeof *times_ns, by_size);
    printf("%.3f %.3f\n", (double)times_ns[trips / 2] / 1e3, (double)times_ns[trips * 99 / 100] / 1e3);
    free(times_ns);
    return 0;
}
