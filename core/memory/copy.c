/* memory/copy.c: see copy.h.
 *
 * Stores that go around the cache (non-temporal ones) spare the reading of each line that they fill, and leave in the
 * cache what was there. The C library's memcpy does that from a size on that it derives from the machine's caches, on
 * large servers hundreds of megabytes.
 *
 * A second thread helps where a CPU has nothing to do. Both take pieces off one counter, so that neither waits for
 * more than one piece of the other's, however late that was started.
 * Invariants  I1 the helper has all signals blocked, and has ended when td_copy returns.
 *             I2 each thread that stored around the cache ends with a store fence: those stores are ordered by
 *                nothing else, not even by a release.
 * Ordering    the helper's stores -> its end -> pthread_join -> whatever the caller releases.
 * Fork        nothing is locked; a child has the thread that forked, which is neither of the two.
 * Crash       what was copied so far is there.   Tests  tests/memory/test_copy.c */
#include "memory/copy.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/atomic.h"
#include "os/budget.h"

#define PIECE_BYTES (UINT64_C(2) << 20)
#define HELPER_STACK_BYTES (UINT64_C(256) << 10)
#define LINE_BYTES 64u
#define AROUND_BYTES                                                                                           \
    (UINT64_C(64) << 10) /* what Linux maps around a page that is read, unless told otherwise */

/* ---- Ways ------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
#include <immintrin.h>

/* Whole pairs of lines, `to` at the start of one. */
__attribute__((target("avx2"))) static void stream(unsigned char *to, const unsigned char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 2 * LINE_BYTES) {
        const __m256i *source = (const __m256i *)(const void *)(from + i);
        __m256i *target = (__m256i *)(void *)(to + i);
        const __m256i a = _mm256_loadu_si256(source), b = _mm256_loadu_si256(source + 1);
        const __m256i c = _mm256_loadu_si256(source + 2), d = _mm256_loadu_si256(source + 3);
        _mm256_stream_si256(target, a);
        _mm256_stream_si256(target + 1, b);
        _mm256_stream_si256(target + 2, c);
        _mm256_stream_si256(target + 3, d);
    }
    _mm_sfence();
}

bool td__copy_streams(void)
{
    return __builtin_cpu_supports("avx2");
}

void td__copy_alone(bool streaming, void *to, const void *from, size_t bytes)
{
    unsigned char *target = to;
    const unsigned char *source = from;
    const size_t head = -(uintptr_t)target & (LINE_BYTES - 1);
    if (!streaming || bytes < head + 2 * LINE_BYTES) {
        memcpy(to, from, bytes);
        return;
    }
    const size_t middle = (bytes - head) / (2 * LINE_BYTES) * (2 * LINE_BYTES);
    memcpy(target, source, head);
    stream(target + head, source + head, middle);
    memcpy(target + head + middle, source + head + middle, bytes - head - middle);
}

#else

bool td__copy_streams(void)
{
    return false;
}

void td__copy_alone(bool streaming, void *to, const void *from, size_t bytes)
{
    (void)streaming;
    memcpy(to, from, bytes);
}

#endif

/* ---- Two threads ----------------------------------------------------------------------------------------- */

struct job {
    bool streaming;
    unsigned char *to;
    const unsigned char *from;
    uint64_t bytes;
    td_atomic_u64 taken; /* from the start; beyond the end when nothing is left */
};

static void *take_pieces(void *context)
{
    struct job *job = context;
    uint64_t at;
    while ((at = td_atomic_fetch_add_relaxed(&job->taken, PIECE_BYTES)) < job->bytes) {
        const uint64_t left = job->bytes - at;
        td__copy_alone(job->streaming, job->to + at, job->from + at, left < PIECE_BYTES ? left : PIECE_BYTES);
    }
    return NULL;
}

static bool start_helper(struct job *job, pthread_t *helper)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setstacksize(&attributes, HELPER_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool started = pthread_create(helper, &attributes, take_pieces, job) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

void td__copy_by_two(bool streaming, void *to, const void *from, size_t bytes)
{
    struct job job = {.streaming = streaming, .to = to, .from = from, .bytes = bytes};
    pthread_t helper;
    td_atomic_init(&job.taken, 0);
    const bool helped = start_helper(&job, &helper);
    (void)take_pieces(&job);
    if (helped)
        (void)pthread_join(helper, NULL);
}

/* The budget as it was when it was first needed: reading it opens a file in each cgroup above us. */
static td_cpu_budget budget;
static pthread_once_t budget_read = PTHREAD_ONCE_INIT;

static void read_budget(void)
{
    td_cpu_budget_read("", &budget);
}

static bool has_idle_cpu(void)
{
    (void)pthread_once(&budget_read, read_budget);
    return td_cpu_is_idle("", &budget);
}

/* Reading a page of a file maps those around it as well, which writing does not: so each is read first. */
static void map_around(const volatile unsigned char *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += AROUND_BYTES)
        (void)to[i];
}

void td_copy(void *to, const void *from, size_t bytes)
{
    if (bytes >= AROUND_BYTES)
        map_around(to, bytes);
    if (bytes < TD__COPY_STREAM_BYTES)
        memcpy(to, from, bytes);
    else if (bytes < TD__COPY_SHARE_BYTES || !has_idle_cpu())
        td__copy_alone(td__copy_streams(), to, from, bytes);
    else
        td__copy_by_two(td__copy_streams(), to, from, bytes);
}
