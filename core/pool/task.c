/* pool/task.c: a task's life, from submit until nobody looks at its result any more.
 *
 *   QUEUED --(a worker claims it: read off the slot)--> RUNNING --+--> RESULT | ERROR
 *      '--------------------------------------------------------'--> CANCELLED | DIED | TIMED_OUT | BROKEN
 *
 * Invariants  I1 state changes once, under the pool's lock, to a final one; all else that a reader of a final task
 *                looks at was written before (edge F: release state -> acquire state) and never changes again.
 *             I2 a task holds a reference on its pool, so its arenas' mappings outlive it.
 *             I3 the engine holds one reference on a task until it is final, the submitter another.
 * Tests       tests/pool/test_submit.c, tests/pool/test_pool.c */
#include "pool/pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

td_task *td__task_new(td_pool *pool)
{
    td_task *task = malloc(sizeof *task);
    if (task == NULL)
        return NULL;
    memset(task, 0, offsetof(td_task, inline_bytes));
    td_atomic_init(&task->refs, 1);
    td_atomic_init(&task->state, TD_TASK_QUEUED);
    td_list_init(&task->link);
    td_list_init(&task->group_link);
    td_list_init(&task->observed_link);
    task->pool = td__pool_hold(pool);
    task->slot = TD_NO_SLOT;
    return task;
}

td_task *td_task_ref(td_task *task)
{
    td_atomic_fetch_add_relaxed(&task->refs, 1);
    return task;
}

void td_task_unref(td_task *task)
{
    while (task != NULL && td_atomic_fetch_sub_acqrel(&task->refs, 1) == 1) {
        td_task *rest = task->rest; /* in a loop: a chunk may have come in many parts */
        if (task->result_ref != 0 &&
            !td__pool_forked(task->pool)) { /* a child of fork only has a copy of the task */
            td_block_give(task->arena, task->result_ref);
            td_atomic_fetch_sub_relaxed(&task->pool->result_bytes, task->result_bytes);
        }
        if (task->parcels != NULL)
            td__parcels_drop(task->parcels);
        td_arena_unref(task->arena);
        td_pool *pool = task->pool;
        free(task->name);
        free(task->obituary);
        free(task);
        td__pool_drop(pool);
        task = rest;
    }
}

void td__args_free(struct td_args *args)
{
    if (args == NULL)
        return;
    for (uint32_t i = 0; i < args->hold_count; i++)
        td_hold_unref(args->holds[i]);
    free(args);
}

void td__task_drop_args_locked(td_task *task)
{
    struct td_args *args = task->args;
    if (args == NULL)
        return;
    task->args = NULL;
    if (--args->users > 0)
        return;
    if (args->ref != 0 && !args->kept) {
        td_arena_reclaim(task->pool->args_arena, args->ref);
        td__pool_stir_args(task->pool);
        td_atomic_fetch_add_seq(&task->pool->blocks_freed, 1);
    }
    if (args->stranded) {
        args->next = task->pool->stranded;
        task->pool->stranded = args;
    } else {
        td__args_free(args);
    }
}

static void count_locked(struct td_pool_stats *stats, enum td_task_state state)
{
    switch (state) {
    case TD_TASK_RESULT:
        stats->succeeded++;
        break;
    case TD_TASK_CANCELLED:
        stats->cancelled++;
        break;
    case TD_TASK_DIED:
        stats->died++;
        break;
    case TD_TASK_TIMED_OUT:
        stats->timed_out++;
        break;
    default:
        stats->failed++;
        break;
    }
}

void td__task_finish_locked(td_task *task, enum td_task_state state)
{
    td_pool *pool = task->pool;
    task->timing.completed_ns = td_now_ns();
    td__task_drop_args_locked(task);
    td__intern_unref_locked(&pool->intern, pool->args_arena, task->fn);
    count_locked(&pool->stats, state);
    if (task->chunk)
        pool->chunks--;
    if (task->timeout_ns > 0)
        pool->timed--;
    TD_TRACE(COMPLETE, td_atomic_load_relaxed(&task->position), state);
    TD_EDGE(task_F, td_atomic_store_release, td_atomic_store_relaxed)(&task->state, (uint32_t)state); /* F */
    td__completed_file(task);
    pool->news = true;
    td_atomic_fetch_sub_seq(&pool->outstanding, 1);
    td_task_unref(task);
}

/* ---- Reading a task ------------------------------------------------------------------------------------------ */

enum td_task_state td_task_state(const td_task *task)
{
    const uint32_t state = td_atomic_load_acquire(&task->state); /* F */
    if (state != TD_TASK_QUEUED)
        return (enum td_task_state)state;
    const uint64_t position = td_atomic_load_relaxed(&task->position);
    if (position == 0)
        return TD_TASK_QUEUED;
    /* The cell of a position names its slot until the ring comes round, and then it is another position's. */
    const struct td_segment_map *map = &task->pool->map;
    const uint64_t cell = td_atomic_load_relaxed(td_submission_cell(map, td_position_lane(position), position));
    if (td_cell_position(cell) != position)
        return TD_TASK_RUNNING; /* lapped, so it was claimed (submission.h, I1) */
    const uint64_t word = td_atomic_load_relaxed(&map->slots[td_cell_slot(cell) & (map->slot_count - 1)].word);
    return word == td_word(position, 0, TD_SLOT_READY) ? TD_TASK_QUEUED : TD_TASK_RUNNING;
}

uint64_t td_task_tag(const td_task *task)
{
    return task->tag;
}

static bool is_final(void *task)
{
    return td_atomic_load_acquire(&((td_task *)task)->state) != TD_TASK_QUEUED;
}

td_status td_task_wait_until(td_task *task, int64_t deadline_ns)
{
    if (is_final(task))
        return TD_OK;
    if (td__pool_forked(task->pool))
        return TD_EFORKED;
    return td_drain_wait_until(is_final, task, deadline_ns);
}

bool td_task_poll(td_task *task)
{
    if (is_final(task))
        return true;
    if (td__pool_forked(task->pool))
        return false;
    if (pthread_mutex_trylock(&task->pool->lock) != 0)
        return false;
    td__pool_drain_locked(task->pool);
    td__pool_unlock(task->pool);
    return is_final(task);
}

bool td_task_spin(td_task *task, int64_t spin_ns)
{
    return td_task_poll(task) || (!td__pool_forked(task->pool) && td_drain_spin(is_final, task, spin_ns));
}

td_status td_task_result(const td_task *task, struct td_view *out)
{
    const enum td_task_state state = td_task_state(task);
    if (state != TD_TASK_RESULT && state != TD_TASK_ERROR)
        return TD_EINVAL;
    if (task->result_ref == 0) {
        *out = (struct td_view){.data = task->inline_bytes.result, .bytes = task->result_bytes};
        return TD_OK;
    }
    void *data;
    const td_status status = td_arena_peek(task->arena, task->result_ref, task->result_bytes, &data);
    if (status == TD_OK)
        *out = (struct td_view){.data = data, .bytes = task->result_bytes, .ref = task->result_ref};
    return status;
}

td_status td_task_args(const td_task *task, struct td_view *out)
{
    td_status status = TD_OK;
    if (td__pool_forked(task->pool))
        return TD_EFORKED;
    pthread_mutex_lock(&task->pool->lock);
    if (td_atomic_load_relaxed(&task->state) != TD_TASK_QUEUED) {
        status = TD_EINVAL;
    } else if (task->args == NULL || task->args->ref == 0) {
        *out = (struct td_view){.data = task->inline_bytes.args, .bytes = task->args_bytes};
    } else {
        void *data;
        status = td_arena_peek(task->pool->args_arena, task->args->ref, task->args_bytes, &data);
        if (status == TD_OK)
            *out = (struct td_view){.data = data, .bytes = task->args_bytes, .ref = task->args->ref};
    }
    pthread_mutex_unlock(&task->pool->lock);
    return status;
}

void td_task_timing(const td_task *task, struct td_timing *out)
{
    *out = (struct td_timing){.submitted_ns = task->timing.submitted_ns};
    if (td_atomic_load_acquire(&task->state) != TD_TASK_QUEUED) /* F */
        *out = task->timing;
}

td_status td_task_death(const td_task *task, struct td_death *out)
{
    if (td_task_state(task) <= TD_TASK_RUNNING || task->obituary == NULL)
        return TD_EINVAL;
    *out = task->obituary->death;
    return TD_OK;
}

const char *td_task_death_stack(const td_task *task)
{
    return td_task_state(task) > TD_TASK_RUNNING && task->obituary != NULL ? task->obituary->stack : "";
}

void td_task_range(const td_task *task, uint32_t *begin, uint32_t *end)
{
    *begin = task->begin;
    *end = task->end;
}

td_task *td_task_rest(const td_task *task)
{
    return task->rest;
}
