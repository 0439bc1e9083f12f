/* pool/submit.c: a call becomes a task, and a task gets a slot.
 *
 * Submitting never waits for a slot: what finds none stands in `overflow`, in order, and moves up as slots are freed,
 * by whoever drains. A worker that sees few tasks left rings for that (TD_WANT_LOW). What may wait is room for
 * arguments: td_pool_block_until blocks while the cap on their bytes is reached and tasks are under way that will free
 * some. Tests  tests/pool/test_submit.c */
#include "pool/pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

#define AHEAD_PARTS 8u

/* ---- Blocks for arguments ------------------------------------------------------------------------------------ */

/* Is it the machine that has no room, and not the cap? Then the pool's other processes may have some to spare. */
static bool may_be_relieved(td_pool *pool, uint64_t bytes)
{
    return bytes < td_memory_budget_bytes(&pool->memory) && !td_arena_is_full(pool->args_arena, bytes);
}

struct room {
    td_pool *pool;
    uint64_t freed_before;
};

/* Is nothing under way that could free a block? A block goes from its caller's hand to a task's, so hands are looked at
 * first: it is missed in neither. */
static bool is_idle(const td_pool *pool)
{
    return td_atomic_load_seq(&pool->blocks_in_hand) == 0 && td_atomic_load_seq(&pool->outstanding) == 0;
}

static bool may_have_room(void *context)
{
    const struct room *room = context;
    return td_atomic_load_seq(&room->pool->blocks_freed) != room->freed_before || is_idle(room->pool);
}

/* The block leaves the hand of its caller: for a task, or for good. */
static void let_go(td_pool *pool)
{
    td_atomic_fetch_add_seq(&pool->blocks_in_hand, UINT64_MAX);
}

td_status td_pool_block_until(td_pool *pool, uint64_t bytes, int64_t deadline_ns, struct td_block *out)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    for (bool asked = false;;) {
        struct room room = {pool, td_atomic_load_seq(&pool->blocks_freed)};
        const bool idle = is_idle(pool);
        td_atomic_fetch_add_seq(&pool->blocks_in_hand, 1);
        td_status status = td_arena_alloc(pool->args_arena, bytes, out);
        if (status == TD_OK) {
            td__pool_stir_args(pool);
            return TD_OK;
        }
        let_go(pool);
        td_drain_notify(); /* it may have kept others from seeing that nothing is under way */
        if (status != TD_EAGAIN && status != TD_ENOROOM)
            return status;
        if (!asked && may_be_relieved(pool, bytes)) {
            if (deadline_ns == 0)
                return TD_ETIMEDOUT;
            const int64_t until_ns = td_deadline_after(TD_RELIEF_NS);
            td_heap_trim();
            td_relief_ask_until(&pool->map, td_drain_bell(), TD_RELIEF_PARENT,
                                until_ns < deadline_ns ? until_ns : deadline_ns);
            asked = true;
            continue;
        }
        if (status == TD_ENOROOM)
            return status;
        /* Nothing was under way, then and now, and nothing came back meanwhile: what takes the room stays. */
        if (idle && may_have_room(&room) && td_atomic_load_seq(&pool->blocks_freed) == room.freed_before)
            return TD_ENOROOM;
        status = td_drain_wait_until(may_have_room, &room, deadline_ns);
        if (status != TD_OK)
            return status;
    }
}

void td_pool_block_drop(td_pool *pool, struct td_block *block)
{
    if (block->ref != 0 && !td__pool_forked(pool)) {
        td_arena_free(pool->args_arena, block->ref);
        td_atomic_fetch_add_seq(&pool->blocks_freed, 1);
        let_go(pool);
        td_drain_notify();
    }
    block->ref = 0;
}

void td_pool_block_fill(td_pool *pool, void *to, const void *from, uint64_t bytes)
{
    td_arena_fill(pool->args_arena, to, from, bytes);
}

uint64_t td_pool_ahead_bytes(const td_pool *pool)
{
    return td_memory_share(&pool->memory, AHEAD_PARTS, TD_AHEAD_BYTES);
}

/* ---- Slots ---------------------------------------------------------------------------------------------------- */

/* 0: the arguments are inline. */
static uint64_t args_ref(const td_task *task)
{
    return task->args != NULL ? task->args->ref : 0;
}

/* A chunk of a single item, whose block no other part has, is like a plain task. */
static bool is_sole_reader(const td_task *task)
{
    if (args_ref(task) == 0 || task->retries_left > 0)
        return false;
    return !task->chunk || (task->end - task->begin == 1 && task->args->users == 1);
}

static void fill_slot(struct td_slot *slot, const td_task *task, uint64_t fn_ref, uint64_t fn_bytes,
                      bool fn_holds)
{
    td_atomic_store_relaxed(&slot->range, td_range(task->begin, task->end));
    slot->fn = task->fn;
    slot->attempt = task->attempts;
    slot->fn_ref = fn_ref;
    slot->fn_bytes = fn_bytes;
    slot->args_ref = args_ref(task);
    slot->args_bytes = task->args_bytes;
    td_atomic_store_relaxed(&slot->partial_items, 0);
    td_atomic_store_relaxed(&slot->partial_ref, 0);
    slot->request_flags = (is_sole_reader(task) ? TD_SLOT_SOLE_ARGS : 0) | (fn_holds ? TD_SLOT_FN_HOLDS : 0);
    slot->reply_flags = 0;
    td_atomic_store_relaxed(&slot->started_ns, 0);
    if (slot->args_ref == 0)
        memcpy(slot->args, task->inline_bytes.args, task->args_bytes);
}

/* Announces the task; TD_EAGAIN when there is no slot, or the ring is full. */
static td_status place_locked(td_task *task)
{
    td_pool *pool = task->pool;
    if (pool->free_count == 0)
        return TD_EAGAIN;
    const uint32_t index = pool->free_slots[pool->free_count - 1];
    struct td_slot *slot = &pool->map.slots[index];
    uint64_t fn_ref, fn_bytes, position;
    if (!td__intern_find_locked(&pool->intern, task->fn, &fn_ref, &fn_bytes))
        return TD_EINVAL;
    uint32_t fn_holds;
    (void)td__intern_holds_locked(&pool->intern, task->fn, &fn_holds);
    fill_slot(slot, task, fn_ref, fn_bytes, fn_holds > 0);
    pool->slot_tasks[index] =
        task; /* before the word: a completion may be drained by the next holder of the lock */
    task->slot = index;
    const td_status status = td_submission_push(&pool->map, task->lane, index, &position);
    if (status != TD_OK) {
        pool->slot_tasks[index] = NULL;
        task->slot = TD_NO_SLOT;
        return status;
    }
    pool->free_count--;
    td_atomic_store_relaxed(&task->position, position);
    TD_TRACE(SUBMIT, index, position);
    return TD_OK;
}

/* Says what workers should ring for. True when it asks for TD_WANT_LOW anew. */
static bool set_wants_locked(td_pool *pool)
{
    const uint32_t wants = (pool->overflow_count > 0 ? TD_WANT_LOW : 0u) |
                           (pool->chunks > 0 && pool->split_at_ns == TD_FOREVER ? TD_WANT_HUNGRY : 0u);
    const uint32_t before = td_atomic_load_relaxed(&pool->map.head->wants);
    if (before != wants)
        td_atomic_store_seq(&pool->map.head->wants, wants);
    return (wants & ~before & TD_WANT_LOW) != 0;
}

static void enqueue_locked(td_task *task, bool front)
{
    td_pool *pool = task->pool;
    task->in_overflow = true;
    td_atomic_store_relaxed(&task->position, 0);
    if (front)
        td_list_push_front(&pool->overflow, &task->link);
    else
        td_list_push_back(&pool->overflow, &task->link);
    pool->overflow_count++;
}

bool td__pool_refill_locked(td_pool *pool)
{
    bool pushed = false;
    while (!td_list_empty(&pool->overflow)) {
        td_task *task = TD_LIST_ENTRY(pool->overflow.next, td_task, link);
        if (place_locked(task) != TD_OK)
            break;
        td_list_remove(&task->link);
        task->in_overflow = false;
        pool->overflow_count--;
        pushed = true;
    }
    const bool anew = set_wants_locked(pool);
    if (pushed) {
        td_doorbell_wake_workers(&pool->map);
        td__crew_grow_locked(pool);
    }
    return anew;
}

void td__task_requeue_locked(td_task *task, enum td_lane lane)
{
    task->lane = lane;
    enqueue_locked(task, true);
    td__pool_refill_locked(task->pool);
}

/* ---- Submitting ----------------------------------------------------------------------------------------------- */

static td_status take_args(td_task *task, const struct td_call *call)
{
    task->args_bytes = call->args_bytes;
    if (call->block.ref == 0 && call->args_bytes > 0)
        memcpy(task->inline_bytes.args, call->args, call->args_bytes);
    if (call->block.ref == 0 && call->hold_count == 0)
        return TD_OK;
    task->args = malloc(sizeof *task->args + call->hold_count * sizeof *task->args->holds);
    if (task->args == NULL)
        return TD_ENOMEM;
    *task->args = (struct td_args){.users = 1, .ref = call->block.ref, .hold_count = call->hold_count};
    for (uint32_t i = 0; i < call->hold_count; i++)
        task->args->holds[i] = td_hold_ref(call->holds[i]);
    return TD_OK;
}

static bool is_sound(const struct td_call *call)
{
    if (call->block.ref != 0)
        return call->args_bytes <= call->block.capacity;
    return call->args_bytes <= TD_INLINE_ARGS && (call->args != NULL || call->args_bytes == 0);
}

static td_status accepts_locked(const td_pool *pool)
{
    if (td_atomic_load_relaxed(&pool->is_broken) != 0)
        return TD_EBROKEN;
    return pool->closed ? TD_ECLOSED : TD_OK;
}

static td_status new_task(td_pool *pool, const struct td_call *call, td_task **out)
{
    td_task *task = td__task_new(pool);
    if (task == NULL)
        return TD_ENOMEM;
    if (call->name != NULL) {
        task->name = strdup(call->name);
        if (task->name == NULL)
            goto no_memory;
    }
    if (take_args(task, call) != TD_OK)
        goto no_memory;
    task->fn = call->fn;
    task->end = call->items;
    task->chunk = call->items > 0;
    task->timeout_ns = call->timeout_ns;
    task->retries_left = call->retries;
    task->tag = call->tag;
    task->timing.submitted_ns = td_now_ns();
    *out = task;
    return TD_OK;
no_memory:
    td_task_unref(task);
    return TD_ENOMEM;
}

static void account_locked(td_pool *pool, const td_task *task)
{
    td_atomic_fetch_add_seq(&pool->outstanding, 1);
    pool->stats.submitted++;
    if (args_ref(task) != 0)
        pool->stats.bytes_copied += task->args_bytes;
    if (task->chunk)
        pool->chunks++;
    if (task->timeout_ns > 0) {
        pool->timed++;
        if (task->timeout_ns < pool->shortest_timeout_ns)
            pool->shortest_timeout_ns = task->timeout_ns;
        const int64_t check = td_deadline_after(task->timeout_ns);
        if (check < pool->timeouts_at_ns) {
            pool->timeouts_at_ns = check;
            td_native_wake();
        }
    }
}

/* Puts a task in line: directly when nothing waits before it. Drains when slots run out, which is what frees them. */
static void line_up_locked(td_task *task)
{
    td_pool *pool = task->pool;
    if (pool->free_count == 0 && !td__pool_make_slots_locked(pool))
        td__pool_drain_locked(pool);
    if (td_list_empty(&pool->overflow) && place_locked(task) == TD_OK) {
        td_doorbell_wake_workers(&pool->map);
        td__crew_grow_locked(pool);
        if (task->chunk) {
            td__chunk_expect_locked(pool);
            set_wants_locked(pool);
        }
        return;
    }
    enqueue_locked(task, false);
    if (set_wants_locked(pool)) /* what was reported before that rang for nobody */
        td__pool_drain_locked(pool);
}

td_status td_pool_submit(td_pool *pool, const struct td_call *call, td_task **out)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    if (!is_sound(call))
        return TD_EINVAL;
    td_task *task;
    td_status status = new_task(pool, call, &task);
    if (status != TD_OK)
        return status;
    const td_status started = td__pool_start(pool);
    pthread_mutex_lock(&pool->lock);
    status = accepts_locked(pool);
    if (status == TD_OK)
        status = started;
    if (status == TD_OK && !td__intern_ref_locked(&pool->intern, call->fn))
        status = TD_EINVAL;
    if (status != TD_OK) {
        pthread_mutex_unlock(&pool->lock);
        td__args_free(task->args); /* the block stays the caller's */
        task->args = NULL;
        td_task_unref(task);
        return status;
    }
    const uint64_t ref = args_ref(task);
    if (ref != 0)
        td_arena_lend(pool->args_arena, ref); /* the worker may give it back, so before it can know it */
    td_task_ref(task);
    account_locked(pool, task);
    if ((call->flags & TD_CALL_OBSERVED) != 0)
        (void)td_task_observe(task);
    if (ref != 0)
        let_go(pool);
    line_up_locked(task);
    td__pool_unlock(pool);
    *out = task;
    return TD_OK;
}
