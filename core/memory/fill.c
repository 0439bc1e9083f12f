/* memory/fill.c: copying into an arena's block, and clearing one.
 *
 * The first time that a page is written to, the kernel clears it, and maps it, with a page fault each. write(2) into
 * the file does without both: it fills a fresh page at once. Pages that were filled before are warm, and td_copy is
 * faster.
 * Ordering    write(2) stores with the CPU's plain stores, in this thread: the caller's release covers them.
 * Crash       half a block is filled, and nobody was told of it.   Tests  tests/memory/test_fill.c */
#include <string.h>
#include <unistd.h>

#include "memory/copy.h"
#include "memory/owner.h"

#define LEAST_BYTES (UINT64_C(32) << 10) /* below, system calls cost as much as the faults */

/* The granules that have the bytes of a block, of which there is one at least. */
struct granules {
    uint32_t first, end;
};

static uint64_t offset_of(const td_arena *arena, const void *data)
{
    return (uint64_t)((const unsigned char *)data - arena->base);
}

static struct granules granules_of(const td_arena *arena, const void *data, uint64_t bytes)
{
    const uint64_t offset = offset_of(arena, data);
    return (struct granules){(uint32_t)(offset >> TD__GRANULE_SHIFT),
                             (uint32_t)((offset + bytes - 1) >> TD__GRANULE_SHIFT) + 1};
}

/* How many of them were fresh. */
static uint32_t fill_granules(td_arena *arena, struct granules granules)
{
    td__owner *owner = arena->owner;
    pthread_mutex_lock(&owner->lock);
    const uint32_t fresh = td__span_fill(&owner->spans, granules.first, granules.end - granules.first);
    pthread_mutex_unlock(&owner->lock);
    return fresh;
}

static bool is_mostly_fresh(td_arena *arena, const void *data, uint64_t bytes)
{
    const struct granules granules = granules_of(arena, data, bytes);
    return fill_granules(arena, granules) * 2 > granules.end - granules.first;
}

/* How much of it the kernel took: less than all where a limit of file sizes was lowered since, or the source faults. */
static uint64_t write_file(const td_arena *arena, uint64_t offset, const unsigned char *from, uint64_t bytes)
{
    uint64_t done = 0;
    while (done < bytes) {
        const ssize_t wrote = pwrite(arena->fd, from + done, bytes - done, (off_t)(offset + done));
        if (wrote <= 0)
            break;
        done += (uint64_t)wrote;
    }
    return done;
}

void td_arena_fill(td_arena *arena, void *to, const void *from, uint64_t bytes)
{
    uint64_t done = 0;
    if (bytes >= LEAST_BYTES) {
        if (is_mostly_fresh(arena, to, bytes))
            done = write_file(arena, offset_of(arena, to), from, bytes);
    }
    td_copy((unsigned char *)to + done, (const unsigned char *)from + done, bytes - done);
}

void td_arena_mark(td_arena *arena, const void *data, uint64_t bytes)
{
    if (bytes > 0)
        (void)fill_granules(arena, granules_of(arena, data, bytes));
}

/* The next of the granules that were filled before; the block is the caller's, so they stay so. */
static bool find_filled(td_arena *arena, struct granules *left, uint32_t *stop)
{
    td__owner *owner = arena->owner;
    pthread_mutex_lock(&owner->lock);
    const bool found = td__span_find_filled(&owner->spans, &left->first, left->end, stop);
    pthread_mutex_unlock(&owner->lock);
    return found;
}

void td_arena_clear(td_arena *arena, void *data, uint64_t bytes)
{
    const uint64_t start = offset_of(arena, data), end = start + bytes;
    if (bytes == 0)
        return;
    struct granules left = granules_of(arena, data, bytes);
    const bool exact =
        TD__GRANULE % (uint64_t)sysconf(_SC_PAGESIZE) == 0; /* else what was released may be there yet */
    for (uint32_t stop; exact && find_filled(arena, &left, &stop); left.first = stop) {
        const uint64_t from = (uint64_t)left.first << TD__GRANULE_SHIFT,
                       to = (uint64_t)stop << TD__GRANULE_SHIFT;
        const uint64_t first = from > start ? from : start;
        memset(arena->base + first, 0, (to < end ? to : end) - first);
    }
    if (!exact)
        memset(data, 0, bytes);
    td_arena_mark(arena, data, bytes);
}
