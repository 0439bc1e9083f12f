/* tests/sched/gather.h: loops whose chunks run at the same time, because each waits for the others: where one of them
 * finds no thread, the test ends with a word about it. */
#ifndef TD_TESTS_SCHED_GATHER_H
#define TD_TESTS_SCHED_GATHER_H

#include <sched.h>

#include "base/clock.h"
#include "tests/harness.h"
#include "treadle.h"

/* How many CPUs the scheduler is to count on; before the process's first loop. */
TEST_UNUSED static void count_on(unsigned cpus)
{
    char text[16];
    snprintf(text, sizeof text, "%u", cpus);
    setenv("TREADLE_THREADS", text, 1);
}

struct gathering {
    td_atomic_u32 there;
    uint32_t wanted;
};

/* Waits until as many have come as are wanted; false: they have not. */
TEST_UNUSED static bool gather(struct gathering *gathering)
{
    const int64_t deadline_ns = td_deadline_after(test_patience_ns());
    td_atomic_fetch_add_seq(&gathering->there, 1);
    while (td_atomic_load_seq(&gathering->there) < gathering->wanted) {
        if (td_now_ns() > deadline_ns)
            return false;
        sched_yield();
    }
    return true;
}

TEST_UNUSED static td_status gather_in_chunk(int64_t begin, int64_t end, void *context)
{
    CHECK_EQ(end - begin, 1);
    CHECK(gather(context));
    return TD_OK;
}

/* A loop of that many chunks, none of which ends before all have begun. */
TEST_UNUSED static void gather_in_loop(uint32_t threads)
{
    struct gathering gathering = {.wanted = threads};
    CHECK_OK(td_parallel_for(0, threads, 1, gather_in_chunk, &gathering));
    CHECK_EQ(td_atomic_load_relaxed(&gathering.there), threads);
}

#endif
