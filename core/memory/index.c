/* memory/index.c: a skip list of address ranges.
 * Invariants  I1 level 0 has every range, in order of `start`; a range is in levels 0 .. levels-1.
 *             I2 ranges don't overlap, so the last one that starts at an address or before is the only candidate.
 * Tests       tests/memory/test_index.c */
#include "memory/index.h"

#include <stddef.h>

/* Where the links that lead past `start` are, for each level. */
static void seek(struct td__index *index, uintptr_t start, struct td__range **links[TD__INDEX_LEVELS])
{
    struct td__range **nexts = index->heads;
    for (uint32_t level = TD__INDEX_LEVELS; level-- > 0;) {
        while (nexts[level] != NULL && nexts[level]->start < start)
            nexts = nexts[level]->next;
        links[level] = &nexts[level];
    }
}

static uint32_t throw_dice(struct td__index *index)
{
    uint32_t levels = 1, dice = index->dice * 747796405u + 2891336453u;
    index->dice = dice;
    for (dice >>= 8; levels < TD__INDEX_LEVELS && (dice & 3u) == 0; dice >>= 2)
        levels++;
    return levels;
}

void td__index_add(struct td__index *index, struct td__range *range)
{
    struct td__range **links[TD__INDEX_LEVELS];
    seek(index, range->start, links);
    range->levels = throw_dice(index);
    for (uint32_t level = 0; level < range->levels; level++) {
        range->next[level] = *links[level];
        *links[level] = range;
    }
}

void td__index_remove(struct td__index *index, struct td__range *range)
{
    struct td__range **links[TD__INDEX_LEVELS];
    seek(index, range->start, links);
    for (uint32_t level = 0; level < range->levels; level++)
        *links[level] = range->next[level];
}

/* The last one that starts at the address or before; NULL. */
static struct td__range *last_until(struct td__index *index, uintptr_t address)
{
    struct td__range *last = NULL;
    struct td__range *const *nexts = index->heads;
    for (uint32_t level = TD__INDEX_LEVELS; level-- > 0;)
        while (nexts[level] != NULL && nexts[level]->start <= address) {
            last = nexts[level];
            nexts = last->next;
        }
    return last;
}

struct td__range *td__index_meets(struct td__index *index, uintptr_t address, uint64_t bytes)
{
    struct td__range *last = last_until(index, address + (bytes - 1));
    if (last == NULL || (last->start < address && address - last->start >= last->bytes))
        return NULL;
    return last;
}

struct td__range *td__index_find(struct td__index *index, uintptr_t address, uint64_t bytes)
{
    struct td__range *last = last_until(index, address);
    if (last == NULL || bytes > last->bytes || address - last->start > last->bytes - bytes)
        return NULL;
    return last;
}
