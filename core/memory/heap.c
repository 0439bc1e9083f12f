/* memory/heap.c: shared blocks, and who holds them.
 *
 * A process's heap is an arena of its own, made at first use. A hold stands for one block in one process, its own or
 * another's: there is one for each block, counted, and found by any address inside it. A foreign heap is opened
 * through /proc/PID/fd of the process that named the block, where the kernel lets in who has the same user; its mapping
 * stays while blocks of it are held.
 *
 *   own block       td_hold_new ... last unref: the arena takes it back
 *   foreign block   td_share_open ... last unref: the list that we tell (td_heap_list) is one shorter
 *
 * A block can't go away under a foreign hold, because the holds in the owner, and in whoever passed the name on, form a
 * chain: a task holds what its arguments name until it is final, and by then its worker has told what it still holds.
 *
 * Invariants  I1 a hold is in the index from its first reference to its last; both happen under the lock, and so does
 *                each reference that is found by address or name. Others only copy a reference that somebody has.
 *             I2 a heap is unmapped only when no hold is in it, and no block of a hold is on its way back to it.
 *             I3 what another process says of a block is checked (arena.c) before an address is made of it.
 *             I4 a block's bytes are marked, or cleared, before anybody writes to them: so fresh pages are zeros.
 * Ordering    H: last access -> release in unref -> acquire by the last unref -> free.
 * Fork        The child sees the parent's blocks through the holds it was born with, as long as the parent keeps them:
 *             they stay in the index, lest their addresses be taken for somebody else's, but are not counted, found or
 *             told of. What it is given from then on is opened anew.
 * Crash       the owner's: the pages live on in other processes' mappings. A holder's: whoever is told of it drops
 *             what that process held, once none of its family sees it (kin.h): until then it is mourned.
 * Locking     one mutex; the arena's own is taken under it. No other is.   Tests  tests/memory/test_heap.c */
#include "memory/heap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/list.h"
#include "base/option.h"
#include "memory/arena.h"
#include "memory/index.h"
#include "memory/kin.h"
#include "memory/rest.h"

struct heap {
    td_list link; /* in state.foreign; the own one stands alone */
    td_arena *arena;
    int fd; /* by which others open it */
    uint64_t hold_count;
};

struct td_hold {
    td_atomic_u32 refs;
    uint32_t generation; /* of processes: state.generation where it was made */
    struct heap *heap;
    uint64_t ref;
    td_list link; /* in state.foreign_holds, where it is */
    struct td__range range;
};

/* What a dead worker's family may still see. */
struct mourned {
    td_list link; /* in state.mourned */
    int32_t pid;
    uint64_t count;
    td_hold *holds[];
};

static struct {
    pthread_mutex_t lock;
    bool ready;
    int32_t pid;         /* kept, since asking for it takes longer than to name a block otherwise */
    uint32_t generation; /* one more in each forked child */
    struct heap *own;    /* NULL: not made yet */
    td_list foreign, foreign_holds;
    struct td__index index;
    td_atomic_u64 foreign_sum; /* of the foreign blocks that are held: another set has another sum */
    td_list mourned;
    td_atomic_u32 mourned_count;
    td_memory_budget budget; /* of the own heap */
    td_rest rest;            /* likewise */
    void (*wake)(void);      /* its keeper; NULL: it has none */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_foreign(const struct heap *heap)
{
    return heap != state.own;
}

/* ---- Fork -------------------------------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&state.lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&state.lock);
}

void td_heap_after_fork_child(void)
{
    pthread_mutex_init(&state.lock, NULL); /* whoever held it is not here */
    state.pid = (int32_t)getpid();
    state.generation++;
    state.own = NULL;
    state.rest = (td_rest){0};
    td_list_init(&state.foreign);
    td_list_init(&state.foreign_holds);
    td_list_init(&state.mourned);
    td_atomic_store_relaxed(&state.foreign_sum, 0);
    td_atomic_store_relaxed(&state.mourned_count, 0);
}

static void lock(void)
{
    pthread_mutex_lock(&state.lock);
    if (state.ready)
        return;
    td_list_init(&state.foreign);
    td_list_init(&state.foreign_holds);
    td_list_init(&state.mourned);
    pthread_atfork(before_fork, after_fork_in_parent, td_heap_after_fork_child);
    state.pid = (int32_t)getpid();
    state.ready = true;
}

static void unlock(void)
{
    pthread_mutex_unlock(&state.lock);
}

void td_heap_init(void (*wake)(void))
{
    lock();
    state.wake = wake;
    unlock();
}

static void stir(void)
{
    if (td_rest_stir(&state.rest) && state.wake != NULL)
        state.wake();
}

/* ---- Heaps ------------------------------------------------------------------------------------------------- */

static td_status make_own_locked(void)
{
    if (state.own != NULL)
        return TD_OK;
    struct heap *heap = calloc(1, sizeof *heap);
    if (heap == NULL)
        return TD_ENOMEM;
    td_memory_budget_init(&state.budget, "");
    const td_arena_config config = {
        .warm_bytes = td_memory_share(&state.budget, TD_WARM_PARTS, (uint64_t)td_option_int(TD_OPT_WARM_BYTES)),
        .budget = &state.budget,
    };
    const td_status status = td_arena_new("treadle-shared", 0, &config, &heap->arena);
    if (status != TD_OK) {
        td_memory_budget_fini(&state.budget);
        free(heap);
        return status;
    }
    heap->fd = td_arena_fd(heap->arena);
    td_list_init(&heap->link);
    state.own = heap;
    return TD_OK;
}

static struct heap *find_heap_locked(uint64_t id)
{
    if (state.own != NULL && td_arena_id(state.own->arena) == id)
        return state.own;
    TD_LIST_EACH(node, &state.foreign)
    {
        struct heap *heap = TD_LIST_ENTRY(node, struct heap, link);
        if (td_arena_id(heap->arena) == id)
            return heap;
    }
    return NULL;
}

static void close_heap(struct heap *heap)
{
    td_list_remove(&heap->link);
    td_arena_unref(heap->arena);
    close(heap->fd);
    free(heap);
}

/* Others may have it mapped for long after its last block: they shall keep no memory of it. */
static void close_own_locked(void)
{
    td_arena_trim(state.own->arena, 0);
    td_arena_unref(state.own->arena); /* with its descriptor */
    td_memory_budget_fini(&state.budget);
    free(state.own);
    state.own = NULL;
}

/* Those of which nothing is held, lest a process that sees many owners come and go keeps them all. */
static void close_unused_locked(void)
{
    TD_LIST_EACH(node, &state.foreign)
    {
        struct heap *heap = TD_LIST_ENTRY(node, struct heap, link);
        if (heap->hold_count == 0)
            close_heap(heap);
    }
}

/* Does that descriptor still name this file? Then whoever named the heap has not ended yet, so that those who ask what
 * its family sees will ask later. */
static bool is_still_there(const char *path, int fd)
{
    struct stat here, there;
    return fstat(fd, &here) == 0 && stat(path, &there) == 0 && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
}

static td_status open_heap_locked(const struct td_share *share, struct heap **out)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", share->pid, share->fd);
    struct heap *heap = calloc(1, sizeof *heap);
    if (heap == NULL)
        return TD_ENOMEM;
    td_status status = TD_EOS;
    heap->fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* whatever it is by now */
    if (heap->fd < 0) {
        status = errno == ENOENT ? TD_EPROTO : errno == EMFILE || errno == ENFILE ? TD_ENOFD : TD_EOS;
        goto no_file;
    }
    status = td_arena_attach(heap->fd, share->heap_bytes, &heap->arena);
    if (status != TD_OK)
        goto no_arena;
    status = TD_EPROTO; /* another file came to stand under that number */
    if (td_arena_id(heap->arena) != share->heap)
        goto another;
    td_kin_sign(heap->fd);
    if (!is_still_there(path, heap->fd))
        goto another;
    close_unused_locked();
    td_list_push_back(&state.foreign, &heap->link);
    *out = heap;
    return TD_OK;
another:
    td_arena_unref(heap->arena);
no_arena:
    close(heap->fd);
no_file:
    free(heap);
    return status;
}

/* ---- Holds ------------------------------------------------------------------------------------------------- */

static void visit_mourned(void);

/* Its share of the sum: never 0, and as good as random. */
static uint64_t mark_of(const td_hold *hold)
{
    uint64_t mark = (td_arena_id(hold->heap->arena) ^ hold->ref) * UINT64_C(0x9e3779b97f4a7c15);
    mark = (mark ^ mark >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return (mark ^ mark >> 32) | 1;
}

/* With one reference. */
static void enter_locked(td_hold *hold, struct heap *heap, uint64_t ref, void *data, uint64_t bytes)
{
    td_atomic_init(&hold->refs, 1);
    hold->generation = state.generation;
    hold->heap = heap;
    hold->ref = ref;
    hold->range = (struct td__range){.start = (uintptr_t)data, .bytes = bytes};
    td__index_add(&state.index, &hold->range);
    td_list_init(&hold->link);
    heap->hold_count++;
    if (is_foreign(heap)) {
        td_list_push_back(&state.foreign_holds, &hold->link);
        td_atomic_fetch_add_relaxed(&state.foreign_sum, mark_of(hold));
    }
}

/* Was it made by this process, not by the one that this was forked from? */
static bool is_ours(const td_hold *hold)
{
    return hold->generation == state.generation;
}

/* Without a reference, whosever it is; NULL. */
static td_hold *hold_of(struct td__range *range)
{
    return range != NULL ? (td_hold *)(void *)((char *)range - offsetof(td_hold, range)) : NULL;
}

static td_hold *hold_at_locked(const void *address, uint64_t bytes)
{
    td_hold *hold = hold_of(td__index_find(&state.index, (uintptr_t)address, bytes));
    return hold != NULL && is_ours(hold) ? td_hold_ref(hold) : NULL;
}

/* A block that could not be had. */
static void give_up(struct heap *heap)
{
    lock();
    if (heap != NULL)
        heap->hold_count--;
    unlock();
}

td_status td_hold_new(uint64_t bytes, bool zeros, td_hold **out)
{
    td_hold *hold = malloc(sizeof *hold);
    if (hold == NULL)
        return TD_ENOMEM;
    struct td_block block;
    visit_mourned();
    lock();
    td_status status = make_own_locked();
    struct heap *heap = state.own;
    if (status == TD_OK)
        heap->hold_count++; /* so that it stays meanwhile */
    unlock();
    if (status == TD_OK) /* takes its time when pages are fresh */
        status = td_arena_alloc(heap->arena, bytes, &block);
    if (status != TD_OK) {
        give_up(heap);
        free(hold);
        return status == TD_EAGAIN ? TD_ENOROOM : status;
    }
    bytes = bytes > 0 ? bytes : 1;
    if (zeros)
        td_arena_clear(heap->arena, block.data, bytes);
    else
        td_arena_mark(heap->arena, block.data, bytes);
    lock();
    enter_locked(hold, heap, block.ref, block.data, bytes);
    heap->hold_count--; /* its own counts now */
    unlock();
    stir();
    *out = hold;
    return TD_OK;
}

td_hold *td_hold_ref(td_hold *hold)
{
    td_atomic_fetch_add_relaxed(&hold->refs, 1);
    return hold;
}

/* True: its block is to be given back, and its heap counts it until that is done. */
static bool leave_locked(td_hold *hold)
{
    td__index_remove(&state.index, &hold->range);
    if (!is_ours(hold))
        return false;
    td_list_remove(&hold->link);
    if (!is_foreign(hold->heap))
        return true;
    hold->heap->hold_count--;
    td_atomic_fetch_sub_relaxed(&state.foreign_sum, mark_of(hold));
    return false;
}

static void free_own(struct heap *heap, uint64_t ref)
{
    (void)td_arena_free(heap->arena, ref); /* may take its time */
    lock();
    heap->hold_count--;
    unlock();
    stir();
}

void td_hold_unref(td_hold *hold)
{
    if (hold == NULL)
        return;
    uint32_t refs = td_atomic_load_relaxed(&hold->refs);
    while (refs > 1)
        if (TD_EDGE(heap_H, td_atomic_cas_weak_acqrel, td_atomic_cas_weak_relaxed)(&hold->refs, &refs,
                                                                                   refs - 1)) /* H */
            return;
    lock();
    const bool last = td_atomic_fetch_sub_acqrel(&hold->refs, 1) == 1; /* H */
    const bool owned = last && leave_locked(hold);
    unlock();
    if (owned)
        free_own(hold->heap, hold->ref);
    if (last)
        free(hold);
}

void *td_hold_data(const td_hold *hold)
{
    return (void *)hold->range.start; /* NOLINT(performance-no-int-to-ptr) */
}

uint64_t td_hold_bytes(const td_hold *hold)
{
    return hold->range.bytes;
}

td_hold *td_hold_find(const void *address, uint64_t bytes)
{
    lock();
    td_hold *hold = hold_at_locked(address, bytes);
    unlock();
    return hold;
}

/* ---- As an allocator's memory ------------------------------------------------------------------------------ */

/* Borrowed. */
static td_hold *taken_locked(const void *data)
{
    td_hold *hold = hold_of(td__index_find(&state.index, (uintptr_t)data, 1));
    return hold != NULL && td_hold_data(hold) == data ? hold : NULL;
}

void *td_heap_take(uint64_t bytes, bool zeros)
{
    td_hold *hold;
    return td_hold_new(bytes, zeros, &hold) == TD_OK ? td_hold_data(hold) : NULL;
}

uint64_t td_heap_capacity(const void *data)
{
    lock();
    const td_hold *hold = taken_locked(data);
    const uint64_t bytes = hold != NULL ? hold->range.bytes : 0;
    unlock();
    return bytes;
}

void td_heap_give(void *data)
{
    lock();
    td_hold *hold = taken_locked(data);
    unlock();
    td_hold_unref(hold);
}

/* ---- Names ------------------------------------------------------------------------------------------------- */

void td_hold_share(const td_hold *hold, struct td_share *out)
{
    const struct heap *heap = hold->heap;
    *out = (struct td_share){
        .heap = td_arena_id(heap->arena),
        .heap_bytes = td_arena_size(heap->arena),
        .ref = hold->ref,
        .bytes = hold->range.bytes,
        .pid = state.pid,
        .fd = heap->fd,
    };
}

/* The hold on a block, if there is one already. TD_EPROTO, too, where another block is held there, of which not all
 * was given back, or where this one is held as a shorter one. */
static td_hold *known_locked(struct heap *heap, uint64_t ref, uint64_t bytes, void **data, td_status *status)
{
    *status = td_arena_peek(heap->arena, ref, bytes, data);
    if (*status != TD_OK)
        return NULL;
    td_hold *hold = hold_of(td__index_meets(&state.index, (uintptr_t)*data, bytes));
    if (hold == NULL)
        return NULL;
    if (hold->heap == heap && hold->ref == ref && bytes <= hold->range.bytes)
        return td_hold_ref(hold);
    *status = TD_EPROTO;
    return NULL;
}

static td_status open_locked(const struct td_share *share, td_hold *fresh, td_hold **out)
{
    struct heap *heap = find_heap_locked(share->heap);
    td_status status = TD_OK;
    void *data;
    if (heap == NULL)
        status = open_heap_locked(share, &heap);
    if (status != TD_OK)
        return status;
    *out = known_locked(heap, share->ref, share->bytes, &data, &status);
    if (*out != NULL || status != TD_OK)
        return status;
    if (!is_foreign(heap)) /* our own, and nobody holds it: it is gone */
        return TD_EPROTO;
    enter_locked(fresh, heap, share->ref, data, share->bytes);
    *out = fresh;
    return TD_OK;
}

td_status td_share_open(const struct td_share *share, td_hold **out)
{
    td_hold *fresh = malloc(sizeof *fresh), *hold = NULL;
    if (fresh == NULL)
        return TD_ENOMEM;
    lock();
    const td_status status = share->bytes == 0 ? TD_EPROTO : open_locked(share, fresh, &hold);
    unlock();
    if (hold != fresh)
        free(fresh);
    if (status == TD_OK)
        *out = hold;
    return status;
}

/* ---- Families ---------------------------------------------------------------------------------------------- */

/* Of these, those that the family sees go to the front; how many. */
static uint64_t pick_seen(int32_t pid, td_hold **holds, uint64_t count)
{
    const struct heap *asked = NULL;
    bool seen = false;
    uint64_t kept = 0;
    for (uint64_t i = 0; i < count; i++) {
        td_hold *hold = holds[i];
        if (hold->heap != asked) {
            asked = hold->heap;
            seen = td_kin_sees(asked->fd, pid);
        }
        if (!seen)
            continue;
        holds[i] = holds[kept];
        holds[kept++] = hold;
    }
    return kept;
}

static void mourn(struct mourned *mourned)
{
    lock();
    td_list_push_back(&state.mourned, &mourned->link);
    td_atomic_fetch_add_relaxed(&state.mourned_count, 1);
    unlock();
}

/* Keeps what is still seen, and is freed where there is none of it. Takes it over. */
static void settle_mourned(struct mourned *mourned)
{
    const uint64_t kept = pick_seen(mourned->pid, mourned->holds, mourned->count);
    while (mourned->count > kept)
        td_hold_unref(mourned->holds[--mourned->count]);
    if (kept > 0)
        mourn(mourned);
    else
        free(mourned);
}

/* Lets go of what nobody sees any more. */
static void visit_mourned(void)
{
    const uint32_t count = td_atomic_load_relaxed(&state.mourned_count);
    for (uint32_t i = 0; i < count; i++) {
        lock();
        td_list *first = td_list_take_front(&state.mourned);
        if (first != NULL)
            td_atomic_fetch_sub_relaxed(&state.mourned_count, 1);
        unlock();
        if (first != NULL)
            settle_mourned(TD_LIST_ENTRY(first, struct mourned, link));
    }
}

void td_heap_mourn(int32_t pid, td_hold *const *holds, uint64_t count)
{
    visit_mourned();
    if (count == 0)
        return;
    struct mourned *mourned = malloc(sizeof *mourned + count * sizeof *holds);
    if (mourned == NULL)
        return; /* without memory there is nothing to note it in: as if it had no family */
    mourned->pid = pid;
    mourned->count = count;
    for (uint64_t i = 0; i < count; i++)
        mourned->holds[i] = td_hold_ref(holds[i]);
    settle_mourned(mourned);
}

/* ---- Telling, and being told ------------------------------------------------------------------------------- */

uint64_t td_heap_foreign_sum(void)
{
    visit_mourned();
    return td_atomic_load_relaxed(&state.foreign_sum);
}

uint64_t td_heap_list(struct td_held *out, uint64_t cap, uint64_t *sum)
{
    uint64_t count = 0;
    lock();
    *sum = td_atomic_load_relaxed(&state.foreign_sum);
    TD_LIST_EACH(node, &state.foreign_holds)
    {
        const td_hold *hold = TD_LIST_ENTRY(node, td_hold, link);
        if (count < cap)
            out[count] = (struct td_held){.heap = td_arena_id(hold->heap->arena), .ref = hold->ref};
        count++;
    }
    unlock();
    return count;
}

td_hold *td_heap_find(const struct td_held *held)
{
    td_hold *hold = NULL;
    td_status status;
    void *data;
    lock();
    struct heap *heap = find_heap_locked(held->heap);
    if (heap != NULL)
        hold = known_locked(heap, held->ref, 1, &data, &status);
    unlock();
    return hold;
}

/* ---- Looking ----------------------------------------------------------------------------------------------- */

void td_heap_get_info(struct td_heap_info *out)
{
    visit_mourned();
    *out = (struct td_heap_info){0};
    lock();
    if (state.own != NULL) {
        td_arena_stats stats;
        struct stat file;
        td_arena_stats_read(state.own->arena, &stats);
        out->blocks = stats.live_blocks;
        out->bytes = stats.live_bytes;
        out->committed_bytes = stats.committed_bytes;
        if (fstat(state.own->fd, &file) == 0) {
            out->device = file.st_dev;
            out->inode = file.st_ino;
        }
    }
    TD_LIST_EACH(node, &state.foreign_holds)
    {
        out->foreign_blocks++;
        out->foreign_bytes += TD_LIST_ENTRY(node, td_hold, link)->range.bytes;
    }
    TD_LIST_EACH(node, &state.foreign)
    out->foreign_heaps++;
    unlock();
}

void td_heap_trim(void)
{
    visit_mourned();
    lock();
    if (state.own != NULL && state.own->hold_count == 0)
        close_own_locked();
    else if (state.own != NULL)
        td_arena_trim(state.own->arena, 0);
    close_unused_locked();
    unlock();
}

int64_t td_heap_keep(int64_t now_ns)
{
    int64_t next;
    visit_mourned();
    lock();
    const bool due = td_rest_keep(&state.rest, now_ns, &next);
    unlock();
    if (due)
        td_heap_trim();
    if (td_atomic_load_relaxed(&state.mourned_count) != 0 && now_ns + TD_REST_AFTER_NS < next)
        next = now_ns + TD_REST_AFTER_NS;
    return next;
}
