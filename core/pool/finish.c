/* pool/finish.c: what workers report becomes final tasks, and slots become free.
 *
 * Everything a worker wrote is checked before it is used: an entry of its ring must name a slot that this worker holds
 * DONE under that position, and a result must be a block of its arena. What fails the check costs the task, which ends
 * BROKEN with a reason, and the worker, which is killed: a process that writes wrong words is not to be trusted.
 * Tests  tests/pool/test_finish.c */
#include "pool/pool.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void td__slot_free_locked(td_pool *pool, uint32_t slot)
{
    td_atomic_store_relaxed(&pool->map.slots[slot].word, td_word(0, 0, TD_SLOT_FREE));
    pool->slot_tasks[slot] = NULL;
    pool->free_slots[pool->free_count++] = slot;
}

/* Remembers that the worker holds on to the arguments' block, so that its death frees it. */
static void keep_args_locked(td_pool *pool, struct td_member *member, td_task *task)
{
    struct td_args *args = task->args;
    if (args == NULL || args->ref == 0 || args->users > 1)
        return;
    args->kept = true;
    if (member->kept_count == member->kept_capacity) {
        uint32_t live = 0;
        void *data;
        for (uint32_t i = 0; i < member->kept_count; i++)
            if (td_arena_peek(pool->args_arena, member->kept[i], 0, &data) == TD_OK)
                member->kept[live++] = member->kept[i];
        member->kept_count = live;
        if (live * 2 >= member->kept_capacity) {
            const uint32_t capacity = member->kept_capacity == 0 ? 16 : member->kept_capacity * 2;
            uint64_t *kept = realloc(member->kept, capacity * sizeof *kept);
            if (kept == NULL)
                return; /* the worker gives the block back itself, unless it dies first */
            member->kept = kept;
            member->kept_capacity = capacity;
        }
    }
    member->kept[member->kept_count++] = args->ref;
}

td_status td__take_block_locked(td_task *task, struct td_member *member, uint64_t ref, uint64_t bytes)
{
    void *data;
    const td_status status = td_arena_peek(member->arena, ref, bytes, &data);
    if (status != TD_OK)
        return status;
    const uint64_t end = td_ref_offset(ref) + bytes;
    if (end > member->results_end)
        member->results_end = end;
    task->result_ref = ref;
    task->result_bytes = bytes;
    task->arena = td_arena_ref(member->arena);
    td_atomic_fetch_add_relaxed(&task->pool->result_bytes, bytes);
    return TD_OK;
}

/* Takes the reply over. TD_EPROTO when the worker's words don't hold. */
static td_status take_result_locked(td_task *task, const struct td_slot *slot, struct td_member *member)
{
    const uint64_t bytes = slot->result_bytes;
    if (slot->result_ref != 0) {
        const uint32_t parcels = td_atomic_load_relaxed(&slot->parcels);
        const td_status status = td__take_block_locked(task, member, slot->result_ref, bytes);
        return status == TD_OK && parcels != 0 ? td__parcels_take_locked(task, member, parcels) : status;
    }
    if (bytes > TD_INLINE_RESULT)
        return TD_EPROTO;
    memcpy(task->inline_bytes.result, slot->result, bytes);
    task->result_bytes = bytes;
    return TD_OK;
}

static enum td_task_state verdict(const td_task *task, const struct td_slot *slot)
{
    const bool error = (slot->reply_flags & TD_SLOT_ERROR) != 0;
    if (task->doom == TD_DOOM_CANCEL)
        return TD_TASK_CANCELLED;
    if (task->doom == TD_DOOM_TIMEOUT && error)
        return TD_TASK_TIMED_OUT;
    return error ? TD_TASK_ERROR : TD_TASK_RESULT;
}

void td__finish_slot_locked(td_pool *pool, uint32_t worker, uint32_t index)
{
    struct td_member *member = &pool->members[worker];
    struct td_slot *slot = &pool->map.slots[index];
    td_task *task = pool->slot_tasks[index];
    task->timing.started_ns = (int64_t)td_atomic_load_relaxed(&slot->started_ns);
    task->timing.ended_ns = slot->ended_ns;
    task->timing.worker_pid = member->pid;
    task->timing.attempts = task->attempts + 1;
    if ((slot->reply_flags & TD_SLOT_KEEP_ARGS) != 0)
        keep_args_locked(pool, member, task);
    td__held_hear_locked(pool, member, task, slot);
    enum td_task_state state = verdict(task, slot);
    const td_status taken = take_result_locked(task, slot, member);
    if (taken == TD_ENOMEM) {
        state = TD_TASK_BROKEN;
        snprintf(pool->broken_reason, sizeof pool->broken_reason, "no memory to take a result over");
    } else if (taken != TD_OK) {
        state = TD_TASK_BROKEN;
        snprintf(pool->broken_reason, sizeof pool->broken_reason,
                 "worker %d sent a result that failed its checks; it was killed", member->pid);
        td__crew_signal_locked(pool, worker, SIGKILL);
    }
    pool->stats.bytes_copied += task->result_ref != 0 ? task->result_bytes : 0;
    pool->barren_deaths = 0;
    task->slot = TD_NO_SLOT;
    td__slot_free_locked(pool, index);
    td__task_finish_locked(task, state);
}

void td__member_drain_locked(td_pool *pool, uint32_t worker)
{
    struct td_segment_map *map = &pool->map;
    uint64_t entry, head = td_atomic_load_relaxed(&pool->completed[worker]);
    while (td_completion_pop(map, worker, &head, &entry)) {
        td_atomic_store_relaxed(&pool->completed[worker], head);
        const uint32_t slot = td_cell_slot(entry);
        if (slot < map->slot_count && pool->slot_tasks[slot] != NULL &&
            td_atomic_load_acquire(&map->slots[slot].word) == /* R */
                td_word(td_cell_position(entry), worker, TD_SLOT_DONE))
            td__finish_slot_locked(pool, worker, slot);
    }
    if (td_completion_waits(map, worker, head) && td_completion_is_damaged(map, worker, head)) {
        td_atomic_store_relaxed(&pool->completed[worker],
                                td_atomic_load_relaxed(&map->seats[worker].done_tail));
        td__crew_signal_locked(pool, worker, SIGKILL);
    }
}

void td__member_drain_all_locked(td_pool *pool)
{
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++)
        if (pool->members[worker].state != TD_MEMBER_EMPTY)
            td__member_drain_locked(pool, worker);
}

bool td__pool_waits(const td_pool *pool)
{
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++)
        if (td_completion_waits(&pool->map, worker, td_atomic_load_relaxed(&pool->completed[worker])))
            return true;
    return false;
}

/* Another process of the pool lacks room: what the parent keeps for later goes back to the kernel. */
static void relieve_locked(td_pool *pool)
{
    if (!td_relief_is_due(&pool->map, TD_RELIEF_PARENT))
        return;
    const uint32_t asked = td_relief_begin(&pool->map);
    td_arena_trim(pool->args_arena, 0);
    td_heap_trim();
    td_relief_answer(&pool->map, TD_RELIEF_PARENT, asked);
}

void td__pool_drain_locked(td_pool *pool)
{
    relieve_locked(pool);
    td__member_drain_all_locked(pool);
    /* A worker that reported before it could see that tasks wait here has not rung: look again. */
    while (pool->overflow_count > 0 && td__pool_refill_locked(pool) && td__pool_waits(pool))
        td__member_drain_all_locked(pool);
    if (pool->chunks > 0 && pool->split_at_ns == TD_FOREVER &&
        (td_atomic_load_relaxed(&pool->map.head->wants) & TD_WANT_HUNGRY) == 0)
        td__chunk_split_locked(pool, td_now_ns());
    if (pool->closed && td_atomic_load_relaxed(&pool->outstanding) == 0)
        td__crew_dismiss_locked(pool);
}
