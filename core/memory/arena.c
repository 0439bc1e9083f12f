/* memory/arena.c: making and mapping arenas, and what every process may do with a block: look it up, give back.
 *
 * Invariants  I1 an arena's size never changes, and every process maps all of it: any offset below it
 *                can be read. Once its owner is gone, a peer may cut its mapping down to the blocks that are held.
 *             I2 the mapping lives until the last td_arena_unref of that process.
 *             I3 only a block's holder gives it back, once; the compare-and-swap with the ref's generation
 *                turns a second time into an error even when the block lives again.
 * Ordering    G (arena_G): the holder's last access -> release word GIVEN -> acquire word in the owner's sweep
 *                -> the block's next user.
 *             R (arena_R): last access through the arena -> release in unref -> acquire by the last unref ->
 *                unmap.
 *             What makes a new block visible to a peer is the release of whatever carries its ref (ring/).
 * Crash       dying before G leaves the block lent, until the owner reclaims it. The pages go with the last
 *             mapping and descriptor.
 * Fork        nothing is locked here, and only blocks' words are written: a child may read on, and may unref.
 * Tests       tests/memory/test_arena.c, test_arena_peers.c, test_arena_threads.c */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/option.h"
#include "memory/owner.h"
#include "os/memfd.h"

#define ARENA_VERSION 1u
#define SIZE_MAX_BYTES (UINT64_C(1) << 40) /* what a ref can name */
#define SIZE_UNIT (UINT64_C(2) << 20)
#define SIZE_LEAST (UINT64_C(64) << 20) /* below this create gives up */
#define SIZE_USUAL_LEAST (UINT64_C(64) << 30)
#define SIZE_PER_MEMORY 4u /* room for blocks of all sizes to find a place, however the range is fragmented */

/* ---- Making ---------------------------------------------------------------------------------------------- */

static td_status write_header(int fd, uint64_t size)
{
    void *base;
    td_status status = td_memfd_commit(fd, 0, sizeof(td__arena_header));
    if (status != TD_OK)
        return status;
    status = td_map_shared(fd, size, true, &base); /* all of it: find out here whether there is address space */
    if (status != TD_OK)
        return status;
    td__arena_header *header = base;
    header->magic = TD__ARENA_MAGIC;
    header->version = ARENA_VERSION;
    header->granule_bytes = (uint32_t)TD__GRANULE;
    header->size = size;
    const bool random = getrandom(&header->id, sizeof header->id, 0) == (ssize_t)sizeof header->id;
    td_unmap(base, size);
    return random ? TD_OK : TD_EOS;
}

static uint64_t usual_size(void)
{
    const uint64_t option = (uint64_t)td_option_int(TD_OPT_RANGE_BYTES);
    if (option != 0)
        return option < SIZE_LEAST ? SIZE_LEAST : option;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t memory = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    uint64_t size = memory * SIZE_PER_MEMORY;
    return size > SIZE_USUAL_LEAST ? size : SIZE_USUAL_LEAST;
}

td_status td_arena_create(const char *name, uint64_t size, int *fd, uint64_t *actual)
{
    if (size == 0)
        size = usual_size();
    if (size > SIZE_MAX_BYTES)
        size = SIZE_MAX_BYTES;
    size = (size + SIZE_UNIT - 1) / SIZE_UNIT * SIZE_UNIT;
    for (;;) {
        td_memfd_kind kind;
        int file = -1;
        td_status status = td_memfd_new(name, size, &file, &kind);
        if (status == TD_OK) {
            status = write_header(file, size);
            if (status != TD_OK)
                close(file);
        }
        if (status == TD_OK) {
            *fd = file;
            *actual = size;
        }
        if (status != TD_ENOROOM || size / 2 < SIZE_LEAST)
            return status;
        size = size / 2 / SIZE_UNIT * SIZE_UNIT;
    }
}

/* Maps an arena whose header says what the caller was told. */
static td_status map_arena(int fd, uint64_t size, td_arena **out)
{
    uint64_t file_size;
    if (size == 0 || size > SIZE_MAX_BYTES || size % SIZE_UNIT != 0)
        return TD_EINVAL;
    td_status status = td_memfd_size(fd, &file_size);
    if (status != TD_OK)
        return status;
    if (file_size != size) /* looked at before anything is read: no SIGBUS */
        return TD_EPROTO;
    td_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL)
        return TD_ENOMEM;
    void *base = NULL;
    status = td_map_shared(fd, size, true, &base);
    if (status != TD_OK) {
        free(arena);
        return status;
    }
    const td__arena_header *header = base;
    if (header->magic != TD__ARENA_MAGIC || header->version != ARENA_VERSION ||
        header->granule_bytes != TD__GRANULE || header->size != size) {
        td_unmap(base, size);
        free(arena);
        return TD_EPROTO;
    }
    arena->base = base;
    arena->size = size;
    arena->id = header->id;
    td_atomic_init(&arena->mapped, size);
    arena->fd = -1;
    td_atomic_init(&arena->refs, 1);
    *out = arena;
    return TD_OK;
}

td_status td_arena_attach(int fd, uint64_t size, td_arena **out)
{
    return map_arena(fd, size, out);
}

td_status td_arena_own(int fd, uint64_t size, const td_arena_config *config, td_arena **out)
{
    static const td_arena_config plain;
    td_arena *arena;
    td_status status = map_arena(fd, size, &arena);
    if (status != TD_OK)
        return status;
    td__arena_header *header = (td__arena_header *)(void *)arena->base;
    if (td_atomic_exchange_relaxed(&header->owned, 1) != 0) {
        td_arena_unref(arena);
        return TD_EPROTO;
    }
    status = td__owner_new(fd, size, config != NULL ? config : &plain, &arena->owner);
    if (status != TD_OK) {
        td_atomic_store_relaxed(&header->owned, 0);
        td_arena_unref(arena);
        return status;
    }
    arena->fd = fd;
    *out = arena;
    return TD_OK;
}

td_status td_arena_new(const char *name, uint64_t size, const td_arena_config *config, td_arena **out)
{
    int fd = -1;
    uint64_t actual = 0;
    td_status status = td_arena_create(name, size, &fd, &actual);
    if (status != TD_OK)
        return status;
    status = td_arena_own(fd, actual, config, out);
    if (status != TD_OK)
        close(fd);
    return status;
}

/* ---- References ------------------------------------------------------------------------------------------ */

td_arena *td_arena_ref(td_arena *arena)
{
    td_atomic_fetch_add_relaxed(&arena->refs, 1);
    return arena;
}

/* Takes no lock: in a forked child another thread of the parent may have held it. */
void td_arena_unref(td_arena *arena)
{
    if (arena == NULL ||
        TD_EDGE(arena_R, td_atomic_fetch_sub_acqrel, td_atomic_fetch_sub_relaxed)(&arena->refs, 1) != 1)
        return;
    td_unmap(arena->base, td_atomic_load_relaxed(&arena->mapped));
    if (arena->owner != NULL)
        td__owner_free(arena->owner);
    if (arena->fd >= 0)
        close(arena->fd);
    free(arena);
}

void td_arena_cut(td_arena *arena, uint64_t end)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), mapped = td_atomic_load_relaxed(&arena->mapped);
    end = end < TD__GRANULE ? TD__GRANULE : (end + page - 1) / page * page;
    if (arena->owner != NULL || end >= mapped)
        return;
    td_atomic_store_relaxed(&arena->mapped, end);
    td_unmap(arena->base + end, mapped - end);
}

int td_arena_fd(const td_arena *arena)
{
    return arena->fd;
}

uint64_t td_arena_size(const td_arena *arena)
{
    return arena->size;
}

uint64_t td_arena_id(const td_arena *arena)
{
    return arena->id;
}

bool td_arena_is_owner(const td_arena *arena)
{
    return arena->owner != NULL;
}

/* ---- Blocks, from any side ------------------------------------------------------------------------------- */

/* The header of a ref that anybody may have made up; NULL when there can be none. Reading one where no block is
 * finds zeros, or other blocks' bytes, and the magic tells. */
static td__block_header *checked_header(const td_arena *arena, uint64_t ref)
{
    uint64_t offset = td_ref_offset(ref);
    if (offset < TD__GRANULE + TD__BLOCK_HEADER || offset >= td_atomic_load_relaxed(&arena->mapped) ||
        offset % TD_BLOCK_ALIGN != 0)
        return NULL;
    td__block_header *header = td__header_at(arena, offset);
    return td_atomic_load_relaxed(&header->magic) == (TD__BLOCK_MAGIC ^ offset) ? header : NULL;
}

void td_arena_keep_fd(td_arena *arena, int fd)
{
    arena->fd = fd;
}

td_status td_arena_map_private(td_arena *arena, const void *data, uint64_t bytes, struct td_private *out)
{
    const uintptr_t start = (uintptr_t)arena->base, at = (uintptr_t)data;
    if (at < start || at - start > arena->size || bytes > arena->size - (at - start) || arena->fd < 0)
        return TD_EINVAL;
    const uint64_t into_page = (at - start) % (uint64_t)sysconf(_SC_PAGESIZE);
    void *base;
    const td_status status = td_map_private(arena->fd, at - start - into_page, into_page + bytes, &base);
    if (status == TD_OK)
        *out = (struct td_private){(char *)base + into_page, base, into_page + bytes};
    return status;
}

void td_private_unmap(const struct td_private *mapping)
{
    td_unmap(mapping->base, mapping->mapped_bytes);
}

/* The header of a block that somebody holds, however large it says it is; NULL: there is none. */
static td__block_header *live_header(const td_arena *arena, uint64_t ref)
{
    td__block_header *header = checked_header(arena, ref);
    if (header == NULL)
        return NULL;
    const uint32_t word = td_atomic_load_relaxed(&header->word);
    return word == td__word(ref, TD__STATE_LENT) || word == td__word(ref, TD__STATE_OWNED) ? header : NULL;
}

td_status td_arena_peek_all(td_arena *arena, uint64_t ref, struct td_block *out)
{
    td__block_header *header = live_header(arena, ref);
    if (header == NULL)
        return TD_EPROTO;
    const uint64_t offset = td_ref_offset(ref), capacity = td_atomic_load_relaxed(&header->capacity);
    if (capacity > td_atomic_load_relaxed(&arena->mapped) - offset)
        return TD_EPROTO;
    *out = (struct td_block){.ref = ref, .data = arena->base + offset, .capacity = capacity};
    return TD_OK;
}

td_status td_arena_peek(td_arena *arena, uint64_t ref, uint64_t bytes, void **data)
{
    td__block_header *header = live_header(arena, ref);
    if (header == NULL)
        return TD_EPROTO;
    const uint64_t offset = td_ref_offset(ref), capacity = td_atomic_load_relaxed(&header->capacity);
    if (bytes > capacity || bytes > td_atomic_load_relaxed(&arena->mapped) - offset)
        return TD_EPROTO;
    *data = arena->base + offset;
    return TD_OK;
}

td_status td_block_give(td_arena *arena, uint64_t ref)
{
    td__block_header *header = checked_header(arena, ref);
    if (header == NULL)
        return TD_EPROTO;
    uint32_t lent = td__word(ref, TD__STATE_LENT);
    bool swapped = TD_EDGE(arena_G, td_atomic_cas_strong_acqrel, td_atomic_cas_strong_relaxed)(
        &header->word, &lent, td__word(ref, TD__STATE_GIVEN)); /* G */
    return swapped ? TD_OK : TD_EPROTO;
}
