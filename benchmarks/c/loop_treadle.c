/* benchmarks/c/loop_treadle.c: loop_bench.h with td_parallel_for. */
#include "loop_bench.h"
#include "treadle.h"

struct call {
    void (*chunk)(long turns);
    long turns;
};

static td_status run(int64_t begin, int64_t end, void *context)
{
    const struct call *call = context;
    for (int64_t i = begin; i < end; i++)
        call->chunk(call->turns);
    return TD_OK;
}

static void loop(void (*chunk_of)(long turns), long turns)
{
    struct call call = {chunk_of, turns};
    (void)td_parallel_for(0, 2, 1, run, &call);
}

int main(void)
{
    (void)td_threads_enter(2);
    return loop_bench();
}
