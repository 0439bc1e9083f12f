/* benchmarks/c/copy_bench.c: from which size on does which way of copying win? (core/memory/copy.c)
 *
 * The destination is shared memory in small pages, as an arena is, its pages mapped ("warm") or only committed
 * ("cold"); the source has huge pages, as large arrays of NumPy have, and starts 16 bytes behind the start of a line.
 * Before each copy the caches are filled with something else, and in one mode with the source again. The ways take
 * their turn in each round; after each a thread on another CPU reads a word of each line of the copy.
 *
 * Prints for each mode, size and way the median of the rounds: milliseconds of the copy, and of the reading after it.
 * Arguments: the rounds; whether to keep a CPU busy meanwhile (0 or 1). */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "memory/copy.h"

#define MB (UINT64_C(1) << 20)
#define MOST_BYTES (256 * MB)
#define FILLER_BYTES (128 * MB)
#define HUGE_PAGE (2 * MB)
#define ROUNDS_MOST 1000

enum mode { WARM, WARM_CACHED, COLD, MODES };

static const char *const mode_texts[MODES] = {"warm, source not in cache", "warm, source in cache", "cold"};
static const uint64_t sizes[] = {MB / 4, MB, 4 * MB, 16 * MB, 64 * MB, 100 * MB, 256 * MB};
static const char *const way_texts[] = {"memcpy", "streaming", "two, memcpy", "two, streaming", "td_copy"};
#define SIZES (sizeof sizes / sizeof sizes[0])
#define COLUMNS (sizeof way_texts / sizeof way_texts[0])

static volatile uint64_t sink;
static td_atomic_u32 leave;

static void copy(size_t column, void *to, const void *from, size_t bytes)
{
    const bool streaming = column % 2 == 1;
    if (column == 4)
        td_copy(to, from, bytes);
    else if (column >= 2)
        td__copy_by_two(streaming, to, from, bytes);
    else
        td__copy_alone(streaming, to, from, bytes);
}

static void touch(const unsigned char *at, size_t bytes)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i += 64)
        sum += at[i];
    sink += sum;
}

/* Keeps the calling thread on the last CPU that it may use. */
static void stay_last(void)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof all, &all) != 0)
        return;
    unsigned last = 0;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all))
            last = cpu;
    CPU_SET(last, &one);
    sched_setaffinity(0, sizeof one, &one);
}

struct reading {
    const unsigned char *at;
    size_t bytes;
    int64_t taken_ns;
};

static void *read_elsewhere(void *context)
{
    struct reading *reading = context;
    stay_last();
    const int64_t start = td_now_ns();
    touch(reading->at, reading->bytes);
    reading->taken_ns = td_now_ns() - start;
    return NULL;
}

static void *keep_busy(void *unused)
{
    stay_last();
    while (!td_atomic_load_relaxed(&leave))
        ;
    return unused;
}

static int by_size(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static double median_ms(int64_t *times_ns, long count)
{
    qsort(times_ns, (size_t)count, sizeof *times_ns, by_size);
    return (double)times_ns[count / 2] / 1e6;
}

static unsigned char *map_or_exit(size_t bytes, int flags, int fd)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED)
        exit(1);
    return at;
}

struct places {
    int fd;
    unsigned char *to;
    unsigned char *from, *filler;
};

static struct places make_places(void)
{
    struct places p = {.fd = memfd_create("copy_bench", 0)};
    if (p.fd < 0 || ftruncate(p.fd, MOST_BYTES) != 0 || fallocate(p.fd, 0, 0, MOST_BYTES) != 0)
        exit(1);
    p.to = map_or_exit(MOST_BYTES, MAP_SHARED, p.fd);
    memset(p.to, 1, MOST_BYTES);
    unsigned char *from = map_or_exit(MOST_BYTES + 2 * HUGE_PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    from += -(uintptr_t)from & (HUGE_PAGE - 1);
    madvise(from, MOST_BYTES + HUGE_PAGE, MADV_HUGEPAGE);
    memset(from, 2, MOST_BYTES + HUGE_PAGE);
    p.from = from + 16;
    p.filler = map_or_exit(FILLER_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    memset(p.filler, 3, FILLER_BYTES);
    return p;
}

static void prepare(struct places *p, enum mode mode, size_t bytes)
{
    touch(p->filler, FILLER_BYTES);
    if (mode == WARM_CACHED)
        touch(p->from, bytes);
    if (mode == COLD) {
        munmap(p->to, MOST_BYTES);
        p->to = map_or_exit(MOST_BYTES, MAP_SHARED, p->fd);
    }
}

static void measure(struct places *p, enum mode mode, size_t bytes, long rounds)
{
    static int64_t copying[COLUMNS][ROUNDS_MOST], reading[COLUMNS][ROUNDS_MOST];
    for (long round = 0; round < rounds; round++)
        for (size_t column = 0; column < COLUMNS; column++) {
            struct reading job = {.bytes = bytes};
            pthread_t reader;
            prepare(p, mode, bytes);
            const int64_t start = td_now_ns();
            copy(column, p->to, p->from, bytes);
            copying[column][round] = td_now_ns() - start;
            job.at = p->to;
            if (pthread_create(&reader, NULL, read_elsewhere, &job) != 0)
                exit(1);
            pthread_join(reader, NULL);
            reading[column][round] = job.taken_ns;
        }
    printf("%7.3f", (double)bytes / (double)MB);
    for (size_t column = 0; column < COLUMNS; column++)
        printf("  %8.3f %7.3f", median_ms(copying[column], rounds), median_ms(reading[column], rounds));
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 15;
    const bool busy = argc > 2 && strcmp(argv[2], "1") == 0;
    if (rounds < 1 || rounds > ROUNDS_MOST || !td__copy_streams())
        return 2;
    struct places places = make_places();
    pthread_t burner;
    if (busy && pthread_create(&burner, NULL, keep_busy, NULL) != 0)
        return 1;
    for (enum mode mode = 0; mode < MODES; mode++) {
        printf("%s\n%7s", mode_texts[mode], "MB");
        for (size_t column = 0; column < COLUMNS; column++)
            printf("  %16s", way_texts[column]);
        printf("\n");
        for (size_t i = 0; i < SIZES; i++)
            measure(&places, mode, sizes[i], sizes[i] < 64 * MB ? rounds : (rounds + 2) / 3);
    }
    td_atomic_store_relaxed(&leave, 1);
    return 0;
}
