/* pool/parcel.c: blocks that come with a result, beside the one that it is in: arrays that a worker hands over as they
 * are.
 *
 * The worker lends them before it reports, and writes a table of them at the end of the result's block, the first one
 * last. The parent copies the table when it takes the result over, and believes it from then on, each block having been
 * looked at. Every parcel is given back by itself, when the last who holds it lets go: the task, until its result was
 * read, and whoever views its bytes.
 *
 * Invariants  I1 a parcel is given back once, when its holds are gone; the table goes with the last parcel and the
 *                task.
 *             I2 the table has a reference on arena and pool, so that views outlive worker, task and executor.
 * Ordering    H (parcel_H): the holder's last access -> release in unref -> acquire by the last unref -> the block is
 *                given.
 *             U (parcel_U): a user's last look at the table -> release in leave -> acquire by the last -> it is freed.
 * Crash       a worker that dies before it reports takes what it lent along: nobody in the parent knew of it. After,
 *             its arena lives on as long as a parcel of it does.
 * Fork        in a child nothing is given back.
 * Tests       tests/pool/test_parcel.c */
#include <stdlib.h>
#include <string.h>

#include "pool/parcel.h"
#include "pool/pool.h"

struct td_parcel_ref {
    struct td_parcels *all;
    td_atomic_u32 refs;
    uint64_t ref, bytes;
};

struct td_parcels {
    td_atomic_u32 users; /* the task, and each parcel that is held */
    td_atomic_u32 dropped;
    td_pool *pool;
    td_arena *arena;
    uint64_t bytes; /* of all of them */
    uint32_t count;
    struct td_parcel_ref at[];
};

/* ---- The worker's side ----------------------------------------------------------------------------------------- */

td_status td__parcels_lend(td_arena *arena, const struct td_block *block, uint32_t before,
                           const struct td_parcel *parcels, uint32_t count)
{
    struct td_parcel *table = td__parcel_table(block, before + count);
    for (uint32_t i = 0; i < count; i++) {
        const td_status status = td_arena_lend(arena, parcels[i].ref);
        if (status == TD_OK)
            continue;
        while (i-- > 0)
            td_arena_reclaim(arena, parcels[i].ref);
        return status;
    }
    for (uint32_t i = 0; i < count; i++)
        table[count - 1 - i] = parcels[i];
    return TD_OK;
}

void td__parcels_reclaim(td_arena *arena, const struct td_block *block, uint32_t count)
{
    const struct td_parcel *table = td__parcel_table(block, count);
    for (uint32_t i = 0; i < count; i++)
        td_arena_reclaim(arena, table[i].ref);
}

/* ---- The parent's side ----------------------------------------------------------------------------------------- */

static void leave(struct td_parcels *all)
{
    if (TD_EDGE(parcel_U, td_atomic_fetch_sub_acqrel, td_atomic_fetch_sub_relaxed)(&all->users, 1) != 1) /* U */
        return;
    td_pool *pool = all->pool;
    td_arena_unref(all->arena);
    free(all);
    td__pool_drop(pool);
}

void td_parcel_unref(td_parcel_ref *hold)
{
    struct td_parcels *all = hold->all;
    if (TD_EDGE(parcel_H, td_atomic_fetch_sub_acqrel, td_atomic_fetch_sub_relaxed)(&hold->refs, 1) != 1) /* H */
        return;
    if (!td__pool_forked(all->pool)) {
        td_block_give(all->arena, hold->ref);
        td_atomic_fetch_sub_relaxed(&all->pool->result_bytes, hold->bytes);
    }
    leave(all);
}

static void drop_holds(struct td_parcels *all)
{
    if (td_atomic_exchange_acqrel(&all->dropped, 1) != 0)
        return;
    for (uint32_t i = 0; i < all->count; i++)
        td_parcel_unref(&all->at[i]);
}

void td__parcels_drop(struct td_parcels *parcels)
{
    drop_holds(parcels);
    leave(parcels);
}

/* The table at the end of the result's block; TD_EPROTO: it is not all in there, or in the result. */
static td_status find_table(const td_task *task, uint32_t count, const struct td_parcel **out)
{
    struct td_block block;
    const td_status status = td_arena_peek_all(task->arena, task->result_ref, &block);
    if (status != TD_OK)
        return status;
    if (block.capacity % TD_BLOCK_ALIGN != 0 || block.capacity < task->result_bytes ||
        block.capacity - task->result_bytes < td__parcel_table_bytes(count))
        return TD_EPROTO;
    *out = td__parcel_table(&block, count);
    return TD_OK;
}

/* The worker that is alive could change its table: each entry is read once. */
static td_status check_parcel(td_arena *arena, const struct td_parcel *parcel)
{
    void *data;
    return parcel->ref == 0 ? TD_EPROTO : td_arena_peek(arena, parcel->ref, parcel->bytes, &data);
}

static void give_all(td_arena *arena, const struct td_parcel *table, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct td_parcel parcel = table[i];
        if (check_parcel(arena, &parcel) == TD_OK)
            td_block_give(arena, parcel.ref);
    }
}

td_status td__parcels_take_locked(td_task *task, struct td_member *member, uint32_t count)
{
    td_pool *pool = task->pool;
    const struct td_parcel *table;
    td_status status = find_table(task, count, &table);
    if (status != TD_OK)
        return status;
    struct td_parcels *all = calloc(1, sizeof *all + count * sizeof *all->at);
    if (all == NULL) {
        give_all(member->arena, table, count);
        return TD_ENOMEM;
    }
    td_atomic_init(&all->users, 1);
    all->pool = td__pool_hold(pool);
    all->arena = td_arena_ref(member->arena);
    for (uint32_t i = 0; i < count && status == TD_OK; i++) {
        struct td_parcel parcel;
        memcpy(&parcel, &table[count - 1 - i], sizeof parcel);
        status = check_parcel(member->arena, &parcel);
        if (status != TD_OK)
            break;
        const uint64_t end = td_ref_offset(parcel.ref) + parcel.bytes;
        if (end > member->results_end)
            member->results_end = end;
        all->at[i].all = all;
        all->at[i].ref = parcel.ref;
        all->at[i].bytes = parcel.bytes;
        td_atomic_init(&all->at[i].refs, 1);
        td_atomic_fetch_add_relaxed(&all->users, 1);
        td_atomic_fetch_add_relaxed(&pool->result_bytes, parcel.bytes);
        *(parcel.copied != 0 ? &pool->stats.bytes_copied : &pool->stats.bytes_moved) += parcel.bytes;
        all->bytes += parcel.bytes;
        all->count++;
    }
    task->parcels = all;
    return status;
}

uint32_t td_task_parcels(const td_task *task)
{
    return td_task_state(task) == TD_TASK_RESULT && task->parcels != NULL ? task->parcels->count : 0;
}

td_status td_task_parcel(td_task *task, uint32_t i, td_parcel_ref **out, struct td_view *view)
{
    void *data;
    if (i >= td_task_parcels(task))
        return TD_EINVAL;
    struct td_parcel_ref *hold = &task->parcels->at[i];
    uint32_t refs = td_atomic_load_relaxed(&hold->refs);
    do
        if (refs == 0)
            return TD_EINVAL;
    while (!td_atomic_cas_weak_relaxed(&hold->refs, &refs, refs + 1));
    const td_status status = td_arena_peek(task->parcels->arena, hold->ref, hold->bytes, &data);
    if (status != TD_OK) {
        td_parcel_unref(hold);
        return status;
    }
    *out = hold;
    *view = (struct td_view){.data = data, .bytes = hold->bytes, .ref = hold->ref};
    return TD_OK;
}

uint64_t td_task_result_bytes(const td_task *task)
{
    struct td_view view;
    if (td_task_result(task, &view) != TD_OK)
        return 0;
    return view.bytes + (td_task_parcels(task) != 0 ? task->parcels->bytes : 0);
}

void td_task_drop_parcels(td_task *task)
{
    if (td_task_parcels(task) != 0)
        drop_holds(task->parcels);
}
