/* benchmarks/c/loop_openmp.c: loop_bench.h with the compiler's OpenMP (gcc: libgomp). */
#include <omp.h>

#include "loop_bench.h"

static void loop(void (*chunk_of)(long turns), long turns)
{
#pragma omp parallel for schedule(static)
    for (int i = 0; i < 2; i++)
        chunk_of(turns);
}

int main(void)
{
    omp_set_num_threads(2);
    return loop_bench();
}
