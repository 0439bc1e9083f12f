/* memory/span.h: which granules of an arena's range are free, and which have pages. Internal to memory/.
 * Everything here stands in the owner's heap; the caller holds the arena's lock. */
#ifndef TD_MEMORY_SPAN_H
#define TD_MEMORY_SPAN_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/arena.h"

#define TD__GRANULE_SHIFT 14u /* 16 KiB: what runs are counted in, and pages committed in */
#define TD__GRANULE (UINT64_C(1) << TD__GRANULE_SHIFT)
#define TD__SEGMENT_SHIFT 8u /* tables come in pieces for 4 MiB, by which the range grows */
#define TD__SEGMENT (1u << TD__SEGMENT_SHIFT)
#define TD__ORDERS 27u /* 2^26 granules are 1 TiB */
#define TD__NO_GRANULE UINT32_MAX

struct td__slab;

typedef enum td__kind {
    TD__INSIDE, /* not the first granule of anything */
    TD__FREE,   /* first granule of a free block of 2^order granules, aligned to its size */
    TD__RUN,    /* first granule of a run handed out, of `count` granules */
    TD__SLAB,   /* any granule of a slab */
} td__kind;

typedef struct td__granule {
    union {
        struct {
            uint32_t next, prev; /* free: circular list of its order and warmth */
        } link;
        uint32_t word;         /* run: the block's generation and state (arena.c) */
        struct td__slab *slab; /* slab */
    } as;
    uint32_t count; /* free: how many of its granules are committed; run: its length */
    uint8_t order;  /* free */
    uint8_t kind;
} td__granule;

typedef struct td__segment {
    uint64_t committed[TD__SEGMENT / 64];
    uint64_t filled[TD__SEGMENT / 64]; /* of those, what td__span_fill was told of since */
    td__granule granules[TD__SEGMENT];
} td__segment;

typedef struct td__spans {
    td__segment **segments;
    uint32_t segment_count;
    uint32_t top;                         /* granules from here on were never touched and have no tables */
    uint32_t limit;                       /* granules in the range */
    uint32_t heads[2][TD__ORDERS];        /* [cold, warm][order]: the most recently freed first */
    uint32_t filled[2];                   /* bit `order` is set when that list has a member */
    uint64_t committed, warm, high_water; /* granules: committed; of those, in free blocks; most committed */
    uint32_t step;                        /* granules committed at once when growing in small pieces */
    uint64_t room_credit;                 /* bytes that may be committed before asking for the room again */
    int fd;
    td_arena_backing backing;
} td__spans;

void td__spans_init(td__spans *spans, int fd, uint64_t size, const td_arena_backing *backing);
void td__spans_fini(td__spans *spans);

/* A run of `count` granules, all committed, starting at a multiple of the next power of two. `thrifty`: rather
 * break up a large warm block than commit fresh pages.   TD_ENOROOM, TD_ENOMEM: nothing has changed. */
td_status td__span_take(td__spans *spans, uint32_t count, bool thrifty, uint32_t *start);

/* Likewise, of granules that are all committed already. TD_EAGAIN: there is no such run, or only in one far larger. */
td_status td__span_take_warm(td__spans *spans, uint32_t count, uint32_t *start);

/* True when td__span_take would need no fresh page. */
bool td__span_ready(const td__spans *spans, uint32_t count);

/* Takes a run, or the end of one, back; its granules are committed. */
void td__span_give(td__spans *spans, uint32_t start, uint32_t count);

/* Releases pages of free blocks, least recently freed of the largest first, until `keep` granules of those are
 * committed; the granules released. */
uint64_t td__span_trim(td__spans *spans, uint64_t keep);

/* Committed granules in [start, start + count) are about to be filled: how many of them were not before. */
uint32_t td__span_fill(td__spans *spans, uint32_t start, uint32_t count);

/* The first of the granules in [*start, end) that were filled: from *start to *stop. False: there is none. */
bool td__span_find_filled(const td__spans *spans, uint32_t *start, uint32_t end, uint32_t *stop);

/* Committed granules in [start, start + count). */
uint32_t td__span_committed(const td__spans *spans, uint32_t start, uint32_t count);

static inline td__granule *td__granule_at(const td__spans *spans, uint32_t index)
{
    return &spans->segments[index >> TD__SEGMENT_SHIFT]->granules[index & (TD__SEGMENT - 1)];
}

/* The smallest order whose blocks have `count` granules. */
static inline uint32_t td__order_of(uint32_t count)
{
    return count <= 1 ? 0 : 32u - (uint32_t)__builtin_clz(count - 1);
}

#endif
