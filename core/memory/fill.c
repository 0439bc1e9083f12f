/* memory/fill.c: copying into an arena's block.
 *
 * The first time that a page is written to, the kernel clears it, and maps it, with a page fault each. write(2) into
 * the file does without both: it fills a fresh page at once. Pages that were filled before are warm, and td_copy is
 * faster.
 * Ordering    write(2) stores with the CPU's plain stores, in this thread: the caller's release covers them.
 * Crash       half a block is filled, and nobody was told of it.   Tests  tests/memory/test_fill.c */
#include <unistd.h>

#include "memory/copy.h"
#include "memory/owner.h"

#define LEAST_BYTES (UINT64_C(32) << 10) /* below, system calls cost as much as the faults */

static bool is_mostly_fresh(td_arena *arena, uint64_t offset, uint64_t bytes)
{
    td__owner *owner = arena->owner;
    const uint32_t first = (uint32_t)(offset >> TD__GRANULE_SHIFT),
                   count = (uint32_t)((offset + bytes - 1) >> TD__GRANULE_SHIFT) + 1 - first;
    pthread_mutex_lock(&owner->lock);
    const uint32_t fresh = td__span_fill(&owner->spans, first, count);
    pthread_mutex_unlock(&owner->lock);
    return fresh * 2 > count;
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
        const uint64_t offset = (uint64_t)((unsigned char *)to - arena->base);
        if (is_mostly_fresh(arena, offset, bytes))
            done = write_file(arena, offset, from, bytes);
    }
    td_copy((unsigned char *)to + done, (const unsigned char *)from + done, bytes - done);
}
