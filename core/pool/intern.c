/* pool/intern.c: functions by number.
 *
 * The bytes from which a worker makes a callable are put into the parent's arena once, and tasks name them by a number:
 * {generation:16, index:16}. The same bytes get the same number while anybody holds it, and for as long after as there
 * is room among the idle: a loop that submits one lambda after another holds a bounded number of them. A worker keeps
 * the callables that it made by number; an index is used again as late as possible, under another generation.
 *
 * Invariants  I1 an entry is held (users > 0) or in `idle`, oldest first; only idle ones are dropped.
 *                Those with holds are dropped at once instead.
 *             I2 every entry is in by_index and in the bucket of its content's hash.
 * Tests       tests/pool/test_intern.c */
#include <stdlib.h>
#include <string.h>

#include "pool/pool.h"

#define INDEX_BITS 16u
#define INDEX_MASK ((1u << INDEX_BITS) - 1)
#define BUCKETS 1024u
#define IDLE_MOST 256u
#define IDLE_BYTES (UINT64_C(64) << 20)

struct td_function {
    struct td_function *next; /* in its bucket */
    td_list idle_link;
    uint64_t hash, ref, len;
    const void *bytes; /* in the arena; a worker that overwrites them hurts only workers */
    uint32_t number, users;
    uint32_t hold_count;
    int32_t stranded; /* as td_args has it */
    td_hold *holds[];
};

/* FNV-1a over eight bytes at a time: only has to spread; equality is decided by comparing. */
static uint64_t hash_bytes(const void *bytes, uint64_t len)
{
    uint64_t hash = UINT64_C(14695981039346656037) ^ len;
    const uint8_t *at = bytes;
    for (; len >= 8; len -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        hash = (hash ^ word) * UINT64_C(1099511628211);
        hash ^= hash >> 29;
    }
    for (; len > 0; len--, at++)
        hash = (hash ^ *at) * UINT64_C(1099511628211);
    return hash ^ hash >> 32;
}

td_status td__intern_init(struct td_intern *intern)
{
    *intern = (struct td_intern){.bucket_count = BUCKETS};
    td_list_init(&intern->idle);
    intern->buckets = calloc(BUCKETS, sizeof *intern->buckets);
    return intern->buckets != NULL ? TD_OK : TD_ENOMEM;
}

static struct td_function *find(const struct td_intern *intern, uint32_t number)
{
    const uint32_t index = number & INDEX_MASK;
    struct td_function *fn = index < intern->count ? intern->by_index[index] : NULL;
    return fn != NULL && fn->number == number ? fn : NULL;
}

static void drop(struct td_intern *intern, td_arena *arena, struct td_function *fn)
{
    struct td_function **link = &intern->buckets[fn->hash % intern->bucket_count];
    while (*link != fn)
        link = &(*link)->next;
    *link = fn->next;
    const uint32_t index = fn->number & INDEX_MASK;
    intern->by_index[index] = NULL;
    if (++intern->generations[index] == 0)
        intern->generations[index] = 1; /* no function has number 0 */
    intern->free_indexes[(intern->free_head + intern->free_count++) & INDEX_MASK] = index;
    td_arena_free(arena, fn->ref);
    for (uint32_t i = 0; i < fn->hold_count; i++)
        td_hold_unref(fn->holds[i]);
    free(fn);
}

static void drop_idle(struct td_intern *intern, td_arena *arena)
{
    while (intern->idle_count > IDLE_MOST || intern->idle_bytes > IDLE_BYTES) {
        struct td_function *fn =
            TD_LIST_ENTRY(td_list_take_front(&intern->idle), struct td_function, idle_link);
        intern->idle_count--;
        intern->idle_bytes -= fn->len;
        drop(intern, arena, fn);
    }
}

void td__intern_fini(struct td_intern *intern, td_arena *arena)
{
    for (uint32_t i = 0; i < intern->count; i++)
        if (intern->by_index[i] != NULL) {
            struct td_function *fn = intern->by_index[i];
            if (fn->stranded != 0)
                td_heap_mourn(fn->stranded, fn->holds, fn->hold_count);
            drop(intern, arena, fn);
        }
    free(intern->by_index);
    free(intern->generations);
    free(intern->free_indexes);
    free(intern->buckets);
}

static void hold(struct td_intern *intern, struct td_function *fn)
{
    if (fn->users++ == 0 && !td_list_empty(&fn->idle_link)) {
        td_list_remove(&fn->idle_link);
        intern->idle_count--;
        intern->idle_bytes -= fn->len;
    }
}

/* A free index: fresh while there are fresh ones, so that old ones rest; TD_ENOMEM when 65,536 functions are held. */
static td_status take_index(struct td_intern *intern, uint32_t *index)
{
    if (intern->free_indexes == NULL) {
        intern->free_indexes = malloc((INDEX_MASK + 1) * sizeof *intern->free_indexes);
        if (intern->free_indexes == NULL)
            return TD_ENOMEM;
    }
    if (intern->count == intern->capacity && intern->capacity <= INDEX_MASK) {
        const uint32_t capacity = intern->capacity == 0 ? 64 : intern->capacity * 2;
        struct td_function **by_index = realloc(intern->by_index, capacity * sizeof *by_index);
        if (by_index == NULL)
            return TD_ENOMEM;
        intern->by_index = by_index;
        uint16_t *generations = realloc(intern->generations, capacity * sizeof *generations);
        if (generations == NULL)
            return TD_ENOMEM;
        intern->generations = generations;
        intern->capacity = capacity;
    }
    if (intern->free_count > IDLE_MOST || (intern->count == intern->capacity && intern->free_count > 0)) {
        *index = intern->free_indexes[intern->free_head];
        intern->free_head = (intern->free_head + 1) & INDEX_MASK;
        intern->free_count--;
        return TD_OK;
    }
    if (intern->count == intern->capacity)
        return TD_ENOMEM;
    *index = intern->count++;
    intern->generations[*index] = 1;
    intern->by_index[*index] = NULL;
    return TD_OK;
}

td_status td__intern_add_locked(struct td_intern *intern, td_arena *arena, const void *bytes, uint64_t len,
                                td_hold *const *holds, uint32_t hold_count, uint32_t *fn_out)
{
    const uint64_t hash = hash_bytes(bytes, len);
    struct td_function **bucket = &intern->buckets[hash % intern->bucket_count];
    for (struct td_function *fn = *bucket; fn != NULL; fn = fn->next) {
        if (fn->hash == hash && fn->len == len && memcmp(fn->bytes, bytes, len) == 0) {
            hold(intern, fn);
            *fn_out = fn->number;
            return TD_OK;
        }
    }
    struct td_function *fn = malloc(sizeof *fn + hold_count * sizeof *fn->holds);
    td_block block;
    uint32_t index;
    if (fn == NULL)
        return TD_ENOMEM;
    td_status status = td_arena_alloc_uncapped(arena, len, &block);
    if (status != TD_OK)
        goto no_block;
    status = take_index(intern, &index);
    if (status != TD_OK)
        goto no_index;
    memcpy(block.data, bytes, len);
    const uint32_t number = (uint32_t)intern->generations[index] << INDEX_BITS | index;
    *fn = (struct td_function){.next = *bucket,
                               .hash = hash,
                               .ref = block.ref,
                               .len = len,
                               .bytes = block.data,
                               .number = number,
                               .users = 1,
                               .hold_count = hold_count};
    for (uint32_t i = 0; i < hold_count; i++)
        fn->holds[i] = td_hold_ref(holds[i]);
    td_list_init(&fn->idle_link);
    *bucket = fn;
    intern->by_index[index] = fn;
    *fn_out = number;
    return TD_OK;
no_index:
    td_arena_free(arena, block.ref);
no_block:
    free(fn);
    return status;
}

bool td__intern_ref_locked(struct td_intern *intern, uint32_t number)
{
    struct td_function *fn = find(intern, number);
    if (fn != NULL)
        hold(intern, fn);
    return fn != NULL;
}

td_hold *const *td__intern_holds_locked(const struct td_intern *intern, uint32_t number, uint32_t *count)
{
    const struct td_function *fn = find(intern, number);
    *count = fn != NULL ? fn->hold_count : 0;
    return fn != NULL ? fn->holds : NULL;
}

void td__intern_strand_locked(struct td_intern *intern, uint32_t number, int32_t pid)
{
    struct td_function *fn = find(intern, number);
    if (fn == NULL)
        return;
    fn->stranded = td__strand(fn->stranded, pid);
    hold(intern, fn);
}

bool td__intern_find_locked(struct td_intern *intern, uint32_t number, uint64_t *ref, uint64_t *len)
{
    const struct td_function *fn = find(intern, number);
    if (fn == NULL)
        return false;
    *ref = fn->ref;
    *len = fn->len;
    return true;
}

void td__intern_unref_locked(struct td_intern *intern, td_arena *arena, uint32_t number)
{
    struct td_function *fn = find(intern, number);
    if (fn == NULL || fn->users == 0 || --fn->users > 0)
        return;
    if (fn->hold_count > 0) { /* kept for later, it would keep what may be large */
        drop(intern, arena, fn);
        return;
    }
    td_list_push_back(&intern->idle, &fn->idle_link);
    intern->idle_count++;
    intern->idle_bytes += fn->len;
    drop_idle(intern, arena);
}
