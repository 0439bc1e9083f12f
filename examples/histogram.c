/* examples/histogram.c: how often each byte occurs in a file, counted by all CPUs: Treadle's loops from C.
 *
 *     meson setup -Dextension=false build/c && ninja -C build/c core/libtreadle.a
 *     cc -std=c11 -O2 -I core/include examples/histogram.c build/c/core/libtreadle.a -pthread -o histogram
 *     ./histogram /usr/lib/x86_64-linux-gnu/libc.so.6
 *
 * It counts twice, by all threads and by one, and fails if the two disagree. */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "treadle.h"

#define CHUNK_BYTES 65536 /* takes about 20 us to count */

/* One for each thread, and no two on one cache line: chunks that run at the same time have different thread numbers, so
 * nobody else writes here meanwhile. */
struct table {
    uint64_t counts[256];
};

struct job {
    const unsigned char *bytes;
    struct table *tables;
};

/* One chunk: the bytes [begin, end). Another status than TD_OK would end the loop, and be returned by it. */
static td_status count(int64_t begin, int64_t end, void *context)
{
    const struct job *job = context;
    uint64_t *counts = job->tables[td_thread_number()].counts;
    for (int64_t i = begin; i < end; i++)
        counts[job->bytes[i]]++;
    return TD_OK;
}

/* Counts by all threads that a loop may have here, and adds up. */
static td_status histogram(const unsigned char *bytes, int64_t size, struct table *sum)
{
    const uint32_t threads = td_threads();
    struct job job = {.bytes = bytes, .tables = calloc(threads, sizeof *job.tables)};
    if (job.tables == NULL)
        return TD_ENOMEM;
    const td_status status = td_parallel_for(0, size, CHUNK_BYTES, count, &job);
    memset(sum, 0, sizeof *sum);
    for (uint32_t thread = 0; thread < threads; thread++)
        for (int byte = 0; byte < 256; byte++)
            sum->counts[byte] += job.tables[thread].counts[byte];
    free(job.tables);
    return status;
}

static td_status timed(const char *who, const unsigned char *bytes, int64_t size, struct table *sum)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    const td_status status = histogram(bytes, size, sum);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (status == TD_OK)
        printf("%-12s %8.3f ms\n", who,
               (double)(end.tv_sec - start.tv_sec) * 1e3 + (double)(end.tv_nsec - start.tv_nsec) / 1e6);
    else
        fprintf(stderr, "%s: %s\n", who, td_status_text(status));
    return status;
}

static int count_file(const unsigned char *bytes, int64_t size)
{
    struct table all, one;
    char who[32];
    snprintf(who, sizeof who, "%u threads", td_threads());
    if (timed(who, bytes, size, &all) != TD_OK)
        return 1;
    const uint32_t before = td_threads_enter(1); /* for loops that this thread begins, until it leaves */
    const td_status status = timed("one thread", bytes, size, &one);
    td_threads_leave(before);
    if (status != TD_OK || memcmp(&all, &one, sizeof all) != 0)
        return 1;
    int most = 0;
    for (int byte = 1; byte < 256; byte++)
        most = all.counts[byte] > all.counts[most] ? byte : most;
    printf("of %lld bytes, %llu are 0x%02x\n", (long long)size, (unsigned long long)all.counts[most],
           (unsigned)most);
    return 0;
}

/* The whole file, and its size; NULL: it can't be read. */
static unsigned char *read_file(const char *path, int64_t *size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    *size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : 0;
    rewind(file);
    unsigned char *bytes = *size > 0 ? malloc((size_t)*size) : NULL;
    if (bytes != NULL && fread(bytes, 1, (size_t)*size, file) != (size_t)*size) {
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    return bytes;
}

int main(int argc, char **argv)
{
    int64_t size = 0;
    const char *path = argc > 1 ? argv[1] : argv[0];
    unsigned char *bytes = read_file(path, &size);
    if (bytes == NULL) {
        fprintf(stderr, "%s: can't be read, or is empty\n", path);
        return 2;
    }
    const int status = count_file(bytes, size);
    free(bytes);
    return status;
}
