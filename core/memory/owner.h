/* memory/owner.h: what the files of memory/ share: the layout of an arena, and its owner's tables. Internal.
 *
 *   arena   | header | block | block | ...        a block  | header, 64 bytes | payload, a multiple of 64 |
 */
#ifndef TD_MEMORY_OWNER_H
#define TD_MEMORY_OWNER_H

#include <pthread.h>
#include <stdint.h>

#include "base/atomic.h"
#include "memory/arena.h"
#include "memory/slab.h"
#include "memory/span.h"

#define TD__ARENA_MAGIC UINT64_C(0x316e657261645400) /* "\0Tdaren1" in memory order */
#define TD__BLOCK_MAGIC UINT64_C(0x6b636f6c62645400) /* mixed with the block's offset */
#define TD__BLOCK_HEADER 64u

/* At offset 0. Written before anybody maps the arena; later only `owned` changes. */
typedef struct td__arena_header {
    uint64_t magic;
    uint32_t version;
    uint32_t granule_bytes;
    uint64_t size;
    td_atomic_u32 owned; /* 1 once a process has made itself the owner */
    uint32_t unused;
    uint64_t id; /* random: no other arena's */
    uint32_t unused2[6];
} td__arena_header;

/* Before each payload. Peers may write nonsense here, so all is atomic, and the owner believes only `word`, and
 * of a lent block only whether it says "given". */
typedef struct td__block_header {
    td_atomic_u64 magic;    /* TD__BLOCK_MAGIC ^ offset of the payload */
    td_atomic_u64 capacity; /* bytes of payload */
    td_atomic_u32 word;     /* generation << TD__STATE_BITS | state */
    uint32_t unused[11];
} td__block_header;

_Static_assert(sizeof(td__arena_header) == 64 && sizeof(td__block_header) == TD__BLOCK_HEADER,
               "the layout is fixed");

typedef enum td__state { TD__STATE_FREE, TD__STATE_OWNED, TD__STATE_LENT, TD__STATE_GIVEN } td__state;
#define TD__STATE_BITS 2u
#define TD__GENERATIONS (1u << 24)

static inline uint32_t td__word(uint64_t ref, td__state state)
{
    return (uint32_t)(ref >> 40) << TD__STATE_BITS | (uint32_t)state;
}

static inline td__state td__word_state(uint32_t word)
{
    return (td__state)(word & ((1u << TD__STATE_BITS) - 1));
}

typedef struct td__owner {
    pthread_mutex_t lock; /* covers everything below; nothing else is locked while it is held */
    td__spans spans;
    td__slabs slabs;
    uint64_t cap_bytes;     /* UINT64_MAX: none */
    uint64_t warm_granules; /* most to keep */
    uint64_t live_blocks, live_bytes;
    uint32_t generation; /* of the block allocated last */
    /* Refs of lent blocks, the one looked at longest ago first: a ring with room for every live block. */
    uint64_t *lent;
    uint64_t lent_head, lent_count, lent_room;
    uint64_t lends; /* since the last sweep that had the time for it */
} td__owner;

struct td_arena {
    unsigned char *base;
    uint64_t size;
    uint64_t id;
    td_atomic_u64 mapped; /* bytes from `base` on: all of it until the arena is cut */
    td_atomic_u32 refs;
    int fd;           /* -1 in peers that keep none */
    td__owner *owner; /* NULL in peers */
};

td_status td__owner_new(int fd, uint64_t size, const td_arena_config *config, td__owner **out);
void td__owner_free(td__owner *owner);

/* The header of a block at an offset that has been checked, or that the owner's tables hold. */
static inline td__block_header *td__header_at(const td_arena *arena, uint64_t offset)
{
    return (td__block_header *)(void *)(arena->base + offset - TD__BLOCK_HEADER);
}

/* Where the owner's tables have a block: exactly one of `slab` (with `slot`) and `run` is set. */
typedef struct td__place {
    td__slab *slab;
    td__granule *run;
    uint32_t slot;
    uint32_t start;  /* run: first granule */
    uint32_t *word;  /* generation and state: FREE, OWNED or LENT; GIVEN stands only in the shared header */
    uint64_t offset; /* of the payload */
    uint64_t bytes;  /* header and payload */
} td__place;

/* TD_EINVAL unless `ref` names a live block of this generation. The caller holds the lock. */
td_status td__place_find(td__owner *owner, uint64_t ref, td__place *place);

#endif
