/* benchmarks/c/loop_bench.h: what a parallel loop costs beside the work in it: the same for each library, which gives
 *
 *      static void loop(void (*chunk)(long turns), long turns);     chunk(turns) twice, on two threads if they come
 *
 * Prints four medians, in microseconds:
 *      tight        an empty loop after the other, at once: the mean of each thousand
 *      apart        an empty loop, 200 us of something else after the one before, in which threads may fall asleep
 *      work         a loop of two chunks of 20 us each, one after the other
 *      work apart   the same, 200 us apart */
#ifndef LOOP_BENCH_H
#define LOOP_BENCH_H

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

enum { BATCHES = 50, BATCH = 1000, SAMPLES = 500 };
#define APART_NS (200 * TD_NS_PER_US)
#define WORK_NS (20 * TD_NS_PER_US)

static void loop(void (*chunk)(long turns), long turns);

/* Takes time in proportion to `turns`, and touches no memory. */
__attribute__((noinline)) static void chunk(long turns)
{
    for (long i = 0; i < turns; i++)
        __asm__ __volatile__("" ::"r"(i));
}

static int by_size(const void *a, const void *b)
{
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median_us(double *times_ns, size_t count)
{
    qsort(times_ns, count, sizeof *times_ns, by_size);
    return times_ns[count / 2] / 1e3;
}

/* How many turns take WORK_NS here: the best of several tries. */
static long turns_of_work(void)
{
    const long tried = 200000;
    int64_t best_ns = INT64_MAX;
    for (int i = 0; i < 50; i++) {
        const int64_t start = td_now_ns();
        chunk(tried);
        const int64_t took = td_now_ns() - start;
        best_ns = took < best_ns ? took : best_ns;
    }
    return (long)((double)tried * (double)WORK_NS / (double)best_ns);
}

static double tight_us(void)
{
    double times_ns[BATCHES];
    for (int batch = 0; batch < BATCHES; batch++) {
        const int64_t start = td_now_ns();
        for (int i = 0; i < BATCH; i++)
            loop(chunk, 0);
        times_ns[batch] = (double)(td_now_ns() - start) / BATCH;
    }
    return median_us(times_ns, BATCHES);
}

static double each_us(long turns, int64_t apart_ns)
{
    static double times_ns[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        const int64_t begin = td_now_ns() + apart_ns;
        while (td_now_ns() < begin)
            continue;
        const int64_t start = td_now_ns();
        loop(chunk, turns);
        times_ns[i] = (double)(td_now_ns() - start);
    }
    return median_us(times_ns, SAMPLES);
}

static int loop_bench(void)
{
    const long turns = turns_of_work();
    loop(chunk, turns); /* the threads start */
    const double tight = tight_us(), apart = each_us(0, APART_NS);
    const double work = each_us(turns, 0), work_apart = each_us(turns, APART_NS);
    printf("%.3f %.3f %.3f %.3f\n", tight, apart, work, work_apart);
    return 0;
}

#endif
