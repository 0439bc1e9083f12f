/* memory/arena.h: shared memory where one process allocates blocks and others read, write and give them back.
 *
 * An arena is one memfd, sparse and huge, mapped whole and once in each process that knows it. So a block's
 * address is the mapping's base plus its offset, for good: nothing is ever re-mapped, and no descriptor travels
 * when it grows.
 *
 *   owner   allocates (any of its threads), shrinks, frees, lends. What is free and what is not stands in its
 *           heap, not in the shared pages: nothing that a peer writes, and no moment at which it dies, can harm
 *           the allocator.
 *   peer    has attached the arena; it looks blocks up (peek) and gives them back.
 *
 * A block is named by a `ref`, good in every process: the offset of its first byte in the low 40 bits, a
 * generation above. 0 is never a ref. A ref that was freed is told from the block that took its place (until
 * 2^24 allocations later), so that giving back twice is an error, not somebody else's block.
 *
 *        alloc            lend             give (anyone)       sweep (owner)
 *   free ------> owned ---------> lent -------------> given -----------------> free
 *                  '---------------- free (owner) -------------------------------^
 *
 * Freed blocks stay committed ("warm": a fresh page costs ten times a warm one) up to `warm_bytes`.
 * After fork() the child may keep reading and may unref; everything else is the parent's. */
#ifndef TD_MEMORY_ARENA_H
#define TD_MEMORY_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "os/budget.h"

typedef struct td_arena td_arena;

#define TD_BLOCK_ALIGN 64u /* of a block's first byte, and of its capacity */

static inline uint64_t td_ref_offset(uint64_t ref)
{
    return ref & ((UINT64_C(1) << 40) - 1);
}

/* What an arena asks of the machine; tests show a made-up one. `context` is handed through. */
typedef struct td_arena_backing {
    td_status (*commit)(void *context, int fd, uint64_t offset, uint64_t bytes);
    td_status (*release)(void *context, int fd, uint64_t offset, uint64_t bytes);
    uint64_t (*room)(void *context, uint64_t wanted); /* bytes that may be committed now */
    void *context;
} td_arena_backing;

#define TD_WARM_PARTS                                                                                          \
    16u /* freed blocks take a 16th of the memory at most in the parent, and one in all workers */

typedef struct td_arena_config {
    uint64_t cap_bytes;              /* most bytes in live blocks, headers included; 0: no cap */
    uint64_t warm_bytes;             /* most committed bytes kept in free blocks */
    const td_memory_budget *budget;  /* asked before pages are committed; NULL: not. Outlives the arena */
    const td_arena_backing *backing; /* NULL: the kernel and `budget`. Copied */
} td_arena_config;

/* A new, empty arena without an owner yet. `size` is that of the range, at most 1 TiB; 0 is four times the
 * machine's memory, 64 GiB at least, or what TREADLE_RANGE_BYTES says. It is halved until the system takes it;
 * *actual goes with the descriptor wherever that is sent. Each process that maps an arena has so much less of its 128
 * TiB of addresses: think of that with hundreds of arenas. `name` shows in /proc/PID/maps.
 *   TD_ENOROOM  no range of a useful size is to be had (RLIMIT_FSIZE, RLIMIT_AS), or no memory for one page
 *   TD_ENOFD, TD_ENOMEM, TD_EOS (errno) */
td_status td_arena_create(const char *name, uint64_t size, int *fd, uint64_t *actual);

/* Makes this process the owner: once in an arena's life. `fd` is the arena's on success. One reference.
 *   TD_EPROTO   not an arena of this version and size
 *   TD_ENOROOM  no address space, or no memory for one page
 *   TD_ENOMEM, TD_EINVAL (the size is no multiple of 2 MiB, or over 1 TiB) */
td_status td_arena_own(int fd, uint64_t size, const td_arena_config *config, td_arena **out);

/* Both at once. */
td_status td_arena_new(const char *name, uint64_t size, const td_arena_config *config, td_arena **out);

/* Maps somebody else's arena; one reference. `fd` stays the caller's and may be closed. Errors as above. */
td_status td_arena_attach(int fd, uint64_t size, td_arena **out);

/* The mapping goes with the last reference: hold one for each block whose bytes somebody still looks at. Peers'
 * mappings are their own: a block lives on there when the owner's is gone. Both calls: any thread. */
td_arena *td_arena_ref(td_arena *arena);
void td_arena_unref(td_arena *arena); /* NULL is fine */

/* For a peer whose owner is gone: gives the addresses from offset `end` on back, but for the rest of a page. No block
 * that reaches beyond may be looked at any more, by anybody. A dead worker's arena, of which a small result is still
 * held, would else keep gigabytes of addresses. */
void td_arena_cut(td_arena *arena, uint64_t end);

int td_arena_fd(const td_arena *arena); /* -1 in peers that keep none */
uint64_t td_arena_size(const td_arena *arena);
uint64_t td_arena_id(const td_arena *arena); /* as it was when this process mapped it; no other arena has it */
bool td_arena_is_owner(const td_arena *arena);

/* ---- The owner's side; from any of its threads ----------------------------------------------------------- */

/* A block of at least `bytes` (0 is fine), its pages committed: writing to it can't raise SIGBUS.
 *   TD_EAGAIN   over the cap or the machine's room now, but fits once live blocks are freed: wait and retry
 *   TD_ENOROOM  will not fit: over the cap by itself, over the machine's room, or over the address range
 *   TD_ENOMEM   no heap memory for the allocator's own tables */
td_status td_arena_alloc(td_arena *arena, uint64_t bytes, struct td_block *out);

/* Likewise, whatever the cap: for the few blocks that stay. They count as live bytes all the same. Never TD_EAGAIN. */
td_status td_arena_alloc_uncapped(td_arena *arena, uint64_t bytes, struct td_block *out);

/* Likewise, but only if all of its pages are committed already. `look`: what was given back is freed first, as far as
 * that takes little time. TD_EAGAIN: there is no such block, or only in one far larger. */
td_status td_arena_alloc_warm(td_arena *arena, uint64_t bytes, bool look, struct td_block *out);

/* Would a block of so many bytes be over the cap now? */
bool td_arena_is_full(td_arena *arena, uint64_t bytes);

/* Cuts the block down to the `bytes` that are used; may keep more than asked. It stays where it is. TD_EINVAL:
 * not a block that the owner holds, or longer than its capacity. */
td_status td_arena_shrink(td_arena *arena, uint64_t ref, uint64_t bytes);

/* Copies into a block of the owner's, or one that it has lent and nobody reads yet, by the way that is fastest for its
 * pages: see memory/fill.c. May take milliseconds. */
void td_arena_fill(td_arena *arena, void *to, const void *from, uint64_t bytes);

/* These bytes of a block of the owner's may be written to from now on, by other ways than td_arena_fill. */
void td_arena_mark(td_arena *arena, const void *data, uint64_t bytes);

/* They are zeros, and may be written to from now on. Fresh pages are zeros: they are left alone, so in this arena all
 * that is written to must have been marked, or cleared, or filled before. May take milliseconds. */
void td_arena_clear(td_arena *arena, void *data, uint64_t bytes);

/* Frees a block that the owner holds. TD_EINVAL: it doesn't (never allocated, freed before, or lent). */
td_status td_arena_free(td_arena *arena, uint64_t ref);

/* From now on others hold the block, and it comes back by td_block_give. Call it before the ref is published.
 * TD_EINVAL as for free. Needs no memory: never fails for a block just allocated. */
td_status td_arena_lend(td_arena *arena, uint64_t ref);

/* Gives a lent block back in its holder's place, whatever that did to the header. Only when the holder is
 * confirmed dead, or the ref was never published. TD_EINVAL: not lent, or swept already: nothing to be done. */
td_status td_arena_reclaim(td_arena *arena, uint64_t ref);

/* Frees every lent block that has been given back by now; their number. Allocating does this by itself, a few
 * at a time, and all of them before it fails. */
uint64_t td_arena_sweep(td_arena *arena);

/* Sweeps, and gives committed pages of free blocks back to the kernel until at most `keep_bytes` are left of
 * those; the bytes given back. For when the pool is idle. */
uint64_t td_arena_trim(td_arena *arena, uint64_t keep_bytes);

typedef struct td_arena_stats {
    uint64_t live_blocks;     /* owned, lent, and given back but not swept yet */
    uint64_t lent_blocks;     /* of those, lent or given back */
    uint64_t live_bytes;      /* in live blocks, headers and rounding included */
    uint64_t committed_bytes; /* pages held; live, warm, and the allocator's spare slots */
    uint64_t warm_bytes;      /* of those, in free ranges that trim could give back */
    uint64_t high_water;      /* most committed bytes so far */
    uint64_t range_bytes;     /* of the address range, what has ever been touched */
} td_arena_stats;

void td_arena_stats_read(td_arena *arena, td_arena_stats *out);

/* Walks all of the allocator's tables; TD_EINVAL where two of them disagree (a bug, or stray writes into this
 * heap). For tests: takes time in proportion to the blocks and the range. */
td_status td_arena_validate(td_arena *arena);

/* ---- Any side -------------------------------------------------------------------------------------------- */

/* The address of a block's bytes, for a ref that another process sent: bounds, alignment, header, generation
 * and that `bytes` are within its capacity are checked. TD_EPROTO when one fails. */
td_status td_arena_peek(td_arena *arena, uint64_t ref, uint64_t bytes, void **data);

/* A peer's: takes the arena's descriptor over, for private mappings. */
void td_arena_keep_fd(td_arena *arena, int fd);
/* Bytes of a block that is held, as in td_worker_map_private (treadle.h); td_private_unmap ends it. */
td_status td_arena_map_private(td_arena *arena, const void *data, uint64_t bytes, struct td_private *out);

/* Likewise, of all the bytes that the block says it has. */
td_status td_arena_peek_all(td_arena *arena, uint64_t ref, struct td_block *out);

/* Gives a lent block back: the caller, and everybody it holds the block for, is done with its bytes (arena_G).
 * TD_EPROTO: not a lent block, or given back before. Async-signal-safe. */
td_status td_block_give(td_arena *arena, uint64_t ref);

#endif
