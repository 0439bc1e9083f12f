/* memory/nursery.c: see nursery.h.
 *
 * Invariants  I1 the entries are sorted by offset; each is a block that the arena has as OWNED, so none overlap.
 *             I2 a claimed block is not freed before its claim ends, whoever gives it.
 *             I3 in a forked child `forked` is set before anything else runs there, and from then on nothing here
 *                touches the arena.
 *             I4 a block is a run of granules, never a slab's slot: a child has pages, and no less, for itself.
 * Crash       all of it goes with the owner and its arena.
 * Locking     one mutex for each nursery, outside of its arena's; `registry_lock`, outside of all, for the list of
 *             nurseries that a fork goes through.
 * Fork        before it, the live blocks are copied to private memory; in the child the copies take the place of the
 *             blocks, in the parent they are dropped. The threads that write to a block meanwhile do so in the parent
 *             alone, and nothing that they write is lost. Where there is no memory for a copy, the child's pages become
 *             private one by one, as they are written to.
 * Tests       tests/memory/test_nursery.c */
#include "memory/nursery.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/list.h"
#include "memory/owner.h"
#include "os/memfd.h"

#define ENTRIES_FIRST 32u

enum state { LIVE, CLAIMED, DROPPED };

struct entry {
    uint64_t ref;
    uint64_t capacity; /* bytes, from the offset in `ref` on */
    enum state state;
    void *copy; /* of header and bytes, for the child of the fork that is under way */
};

struct td_nursery {
    pthread_mutex_t lock;
    td_arena *arena;
    uint64_t most_bytes;
    struct entry *entries;
    uint32_t count, room;
    uint64_t live_bytes;
    uint64_t missed; /* bytes of fresh pages that may be taken */
    bool look;
    td_atomic_u32 stirred;
    td_atomic_u32 forked; /* this is a child's copy */
    td_list place;
};

/* ---- Entries --------------------------------------------------------------------------------------------------- */

/* How many entries start at this offset or before. */
static uint32_t count_upto(const td_nursery *nursery, uint64_t offset)
{
    uint32_t low = 0, high = nursery->count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (td_ref_offset(nursery->entries[middle].ref) <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint64_t offset_of(const td_nursery *nursery, const void *data)
{
    return (uint64_t)((const unsigned char *)data - nursery->arena->base);
}

/* The entry whose block has the byte at this offset; NULL: none has. */
static struct entry *find_around(td_nursery *nursery, uint64_t offset)
{
    const uint32_t upto = count_upto(nursery, offset);
    if (upto == 0)
        return NULL;
    struct entry *entry = &nursery->entries[upto - 1];
    return offset - td_ref_offset(entry->ref) < entry->capacity ? entry : NULL;
}

/* The entry whose block starts there; NULL: none does. */
static struct entry *find_at(td_nursery *nursery, uint64_t offset)
{
    struct entry *entry = find_around(nursery, offset);
    return entry != NULL && td_ref_offset(entry->ref) == offset ? entry : NULL;
}

static bool reserve_locked(td_nursery *nursery)
{
    if (nursery->count < nursery->room)
        return true;
    const uint32_t room = nursery->room == 0 ? ENTRIES_FIRST : nursery->room * 2;
    struct entry *entries = realloc(nursery->entries, room * sizeof *entries);
    if (entries == NULL)
        return false;
    nursery->entries = entries;
    nursery->room = room;
    return true;
}

static void insert_locked(td_nursery *nursery, const struct td_block *block)
{
    const uint32_t at = count_upto(nursery, td_ref_offset(block->ref));
    struct entry *entry = &nursery->entries[at];
    memmove(entry + 1, entry, (nursery->count - at) * sizeof *entry);
    *entry = (struct entry){.ref = block->ref, .capacity = block->capacity, .state = LIVE};
    nursery->count++;
    nursery->live_bytes += block->capacity;
}

static void remove_locked(td_nursery *nursery, struct entry *entry)
{
    nursery->live_bytes -= entry->capacity;
    nursery->count--;
    memmove(entry, entry + 1, (size_t)(nursery->entries + nursery->count - entry) * sizeof *entry);
}

static void release_locked(td_nursery *nursery, struct entry *entry)
{
    td_arena_free(nursery->arena, entry->ref);
    remove_locked(nursery, entry);
}

static bool is_forked(const td_nursery *nursery)
{
    return td_atomic_load_relaxed(&nursery->forked) != 0;
}

/* ---- Taking and giving ----------------------------------------------------------------------------------------- */

/* A block of fresh pages, for what was missed, as long as freeing it would not send others back to the kernel. */
static td_status alloc_missed_locked(td_nursery *nursery, uint64_t bytes, struct td_block *out)
{
    td_arena_stats stats;
    if (bytes > nursery->missed)
        return TD_EAGAIN;
    td_arena_stats_read(nursery->arena, &stats);
    if (bytes > nursery->most_bytes || nursery->live_bytes + stats.warm_bytes > nursery->most_bytes - bytes)
        return TD_EAGAIN;
    const td_status status = td_arena_alloc(nursery->arena, bytes, out);
    nursery->missed = status == TD_OK ? nursery->missed - bytes : 0;
    return status;
}

void *td_nursery_take(td_nursery *nursery, uint64_t bytes)
{
    struct td_block block;
    if (is_forked(nursery) || bytes <= TD__SLOT_MAX) /* I4 */
        return NULL;
    td_status status = TD_ENOMEM;
    pthread_mutex_lock(&nursery->lock);
    if (reserve_locked(nursery)) {
        status = td_arena_alloc_warm(nursery->arena, bytes, nursery->look, &block);
        nursery->look = false;
        if (status == TD_EAGAIN)
            status = alloc_missed_locked(nursery, bytes, &block);
    }
    if (status == TD_OK)
        insert_locked(nursery, &block);
    pthread_mutex_unlock(&nursery->lock);
    if (status != TD_OK)
        return NULL;
    td_atomic_store_relaxed(&nursery->stirred, 1);
    return block.data;
}

bool td_nursery_owns(const td_nursery *nursery, const void *data)
{
    return (uintptr_t)data - (uintptr_t)nursery->arena->base < nursery->arena->size;
}

void td_nursery_give(td_nursery *nursery, void *data)
{
    if (is_forked(nursery))
        return;
    pthread_mutex_lock(&nursery->lock);
    struct entry *entry = find_at(nursery, offset_of(nursery, data));
    if (entry != NULL && entry->state == LIVE)
        release_locked(nursery, entry);
    else if (entry != NULL)
        entry->state = DROPPED;
    pthread_mutex_unlock(&nursery->lock);
    td_atomic_store_relaxed(&nursery->stirred, 1);
}

uint64_t td_nursery_capacity(td_nursery *nursery, const void *data)
{
    pthread_mutex_lock(&nursery->lock);
    const struct entry *entry = find_at(nursery, offset_of(nursery, data));
    const uint64_t capacity = entry != NULL ? entry->capacity : 0;
    pthread_mutex_unlock(&nursery->lock);
    return capacity;
}

/* ---- Sending --------------------------------------------------------------------------------------------------- */

bool td_nursery_claim(td_nursery *nursery, const void *data, uint64_t bytes, struct td_claim *out)
{
    if (bytes == 0 || !td_nursery_owns(nursery, data) || is_forked(nursery))
        return false;
    const uint64_t offset = offset_of(nursery, data);
    pthread_mutex_lock(&nursery->lock);
    struct entry *entry = find_around(nursery, offset);
    const uint64_t inside = entry != NULL ? offset - td_ref_offset(entry->ref) : 0;
    const bool fits = entry != NULL && entry->state == LIVE && bytes <= entry->capacity - inside &&
                      bytes >= entry->capacity / 2;
    if (fits) {
        entry->state = CLAIMED;
        *out = (struct td_claim){.ref = entry->ref, .offset = inside};
    }
    pthread_mutex_unlock(&nursery->lock);
    return fits;
}

bool td_nursery_adopt(td_nursery *nursery, uint64_t ref)
{
    pthread_mutex_lock(&nursery->lock);
    struct entry *entry = find_at(nursery, td_ref_offset(ref));
    const bool dropped = entry != NULL && entry->ref == ref && entry->state == DROPPED && !is_forked(nursery);
    if (dropped)
        remove_locked(nursery, entry);
    pthread_mutex_unlock(&nursery->lock);
    return dropped;
}

void td_nursery_unclaim(td_nursery *nursery, uint64_t ref)
{
    if (is_forked(nursery))
        return;
    pthread_mutex_lock(&nursery->lock);
    struct entry *entry = find_at(nursery, td_ref_offset(ref));
    if (entry != NULL && entry->ref == ref) {
        if (entry->state == DROPPED)
            release_locked(nursery, entry);
        else
            entry->state = LIVE;
    }
    pthread_mutex_unlock(&nursery->lock);
}

void td_nursery_miss(td_nursery *nursery, uint64_t bytes)
{
    pthread_mutex_lock(&nursery->lock);
    nursery->missed += bytes;
    if (nursery->missed > nursery->most_bytes)
        nursery->missed = nursery->most_bytes;
    pthread_mutex_unlock(&nursery->lock);
}

void td_nursery_look(td_nursery *nursery)
{
    pthread_mutex_lock(&nursery->lock);
    nursery->look = true;
    pthread_mutex_unlock(&nursery->lock);
}

bool td_nursery_stirred(td_nursery *nursery)
{
    return td_atomic_exchange_relaxed(&nursery->stirred, 0) != 0;
}

/* ---- Fork ------------------------------------------------------------------------------------------------------ */

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static td_list registry = {&registry, &registry};
static pthread_once_t registry_once = PTHREAD_ONCE_INIT;

/* Where a block's pages start, and how many bytes they are: its header's, too. */
static unsigned char *pages_of(const td_nursery *nursery, const struct entry *entry, uint64_t *bytes)
{
    *bytes = entry->capacity + TD__BLOCK_HEADER;
    return nursery->arena->base + td_ref_offset(entry->ref) - TD__BLOCK_HEADER;
}

static void before_fork(void)
{
    pthread_mutex_lock(&registry_lock);
    TD_LIST_EACH(place, &registry)
    {
        td_nursery *nursery = TD_LIST_ENTRY(place, td_nursery, place);
        pthread_mutex_lock(&nursery->lock);
        for (uint32_t i = 0; i < nursery->count && !is_forked(nursery); i++) {
            uint64_t bytes;
            const unsigned char *pages = pages_of(nursery, &nursery->entries[i], &bytes);
            const uint64_t offset = (uint64_t)(pages - nursery->arena->base);
            if (td_map_copy(nursery->arena->fd, offset, bytes, &nursery->entries[i].copy) != TD_OK)
                nursery->entries[i].copy = NULL;
        }
    }
}

static void after_fork_in_parent(void)
{
    TD_LIST_EACH(place, &registry)
    {
        td_nursery *nursery = TD_LIST_ENTRY(place, td_nursery, place);
        for (uint32_t i = 0; i < nursery->count; i++) {
            uint64_t bytes;
            (void)pages_of(nursery, &nursery->entries[i], &bytes);
            if (nursery->entries[i].copy != NULL)
                td_unmap(nursery->entries[i].copy, bytes);
            nursery->entries[i].copy = NULL;
        }
        pthread_mutex_unlock(&nursery->lock);
    }
    pthread_mutex_unlock(&registry_lock);
}

static void detach_blocks(td_nursery *nursery)
{
    for (uint32_t i = 0; i < nursery->count; i++) {
        struct entry *entry = &nursery->entries[i];
        uint64_t bytes;
        unsigned char *pages = pages_of(nursery, entry, &bytes);
        if (entry->copy == NULL || td_map_move(entry->copy, pages, bytes) != TD_OK)
            (void)td_map_detach(nursery->arena->fd, (uint64_t)(pages - nursery->arena->base), pages, bytes);
        entry->copy = NULL;
    }
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&registry_lock, NULL);
    TD_LIST_EACH(place, &registry)
    {
        td_nursery *nursery = TD_LIST_ENTRY(place, td_nursery, place);
        if (td_atomic_exchange_relaxed(&nursery->forked, 1) == 0)
            detach_blocks(nursery);
        pthread_mutex_init(&nursery->lock, NULL);
    }
}

static void install_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- Life ------------------------------------------------------------------------------------------------------ */

td_status td_nursery_new(td_arena *arena, uint64_t most_bytes, td_nursery **out)
{
    const long page = sysconf(_SC_PAGESIZE);
    if (arena->owner == NULL)
        return TD_EINVAL;
    if (page <= 0 || TD__GRANULE % (uint64_t)page != 0)
        return TD_ENOSYS;
    td_nursery *nursery = calloc(1, sizeof *nursery);
    if (nursery == NULL)
        return TD_ENOMEM;
    pthread_once(&registry_once, install_fork_handlers);
    pthread_mutex_init(&nursery->lock, NULL);
    nursery->arena = td_arena_ref(arena);
    nursery->most_bytes = most_bytes;
    nursery->look = true;
    pthread_mutex_lock(&registry_lock);
    td_list_push_back(&registry, &nursery->place);
    pthread_mutex_unlock(&registry_lock);
    *out = nursery;
    return TD_OK;
}

void td_nursery_free(td_nursery *nursery)
{
    if (nursery == NULL)
        return;
    pthread_mutex_lock(&registry_lock);
    td_list_remove(&nursery->place);
    pthread_mutex_unlock(&registry_lock);
    while (nursery->count > 0 && !is_forked(nursery))
        release_locked(nursery, &nursery->entries[nursery->count - 1]);
    td_arena_unref(nursery->arena);
    free(nursery->entries);
    free(nursery);
}
