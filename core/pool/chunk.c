/* pool/chunk.c: a map's chunk comes back in parts.
 *
 * A chunk is one task of items [begin, end). It becomes several, linked by `rest` in the order of their items, when
 *   - a worker finds nothing to do while another has items left: the parent cuts the running chunk's `end` with a
 *     compare-and-swap (its owner takes items from `next` by the same means) and submits what it cut off;
 *   - the worker of a chunk dies: what it had published is a result, the item it ran is lost (or runs again), and the
 *     items after it are submitted anew.
 * All parts share one block of arguments.
 *
 * Invariants  I1 the parts of a chunk cover its items, in order, without gap or overlap.
 *             I2 `rest` changes only while its task is not final.
 * Splitting pays when the rest would take longer than waking a worker: an estimate from the items done so far decides.
 * Tests       tests/pool/test_chunk.c */
#include "pool/pool.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

/* What is cut off should take at least this long, or it isn't worth a wake-up. */
#define WORTH_SPLITTING_NS (50 * TD_NS_PER_US)
/* When no chunk is worth splitting yet, an idle worker has it looked at again after this time. */
#define LOOK_AGAIN_NS (250 * TD_NS_PER_US)

/* A new part [begin, end) behind `task`; the engine's reference is the caller's to hand on. NULL: no memory. */
static td_task *new_part(td_task *task, uint32_t begin, uint32_t end)
{
    td_pool *pool = task->pool;
    td_task *part = td__task_new(pool);
    if (part == NULL)
        return NULL;
    part->begin = begin;
    part->end = end;
    part->chunk = true;
    part->fn = task->fn;
    td__intern_ref_locked(&pool->intern, task->fn);
    part->retries_left = task->retries_left;
    part->deaths = task->deaths;
    part->timeout_ns = task->timeout_ns;
    part->tag = task->tag;
    part->name = task->name != NULL ? strdup(task->name) : NULL;
    part->timing.submitted_ns = task->timing.submitted_ns;
    part->args_bytes = task->args_bytes;
    part->args = task->args;
    if (part->args != NULL)
        part->args->users++;
    else
        memcpy(part->inline_bytes.args, task->inline_bytes.args, TD_INLINE_ARGS);
    part->rest = task->rest;
    task->rest = td_task_ref(part); /* one for the chain; the first is the engine's */
    td_atomic_fetch_add_seq(&pool->outstanding, 1);
    pool->chunks++;
    pool->timed += part->timeout_ns > 0;
    return part;
}

/* How long the items not yet taken will run, by those done. */
static int64_t estimate_left(const struct td_slot *slot, const td_task *task, int64_t now)
{
    const uint64_t range = td_atomic_load_relaxed(&slot->range);
    const uint32_t next = td_range_next(range), end = td_range_end(range);
    const int64_t started_ns = (int64_t)td_atomic_load_relaxed(&slot->started_ns);
    if (started_ns == 0 || next <= task->begin || next >= end)
        return 0;
    return (now - started_ns) / (int64_t)(next - task->begin) * (int64_t)(end - next);
}

/* Cuts the later half off a running chunk. */
static void split_locked(td_pool *pool, uint32_t index)
{
    struct td_slot *slot = &pool->map.slots[index];
    td_task *task = pool->slot_tasks[index];
    uint64_t range = td_atomic_load_relaxed(&slot->range);
    uint32_t next, middle, end;
    do {
        next = td_range_next(range);
        end = td_range_end(range);
        if (next >= end)
            return;
        middle = next + (end - next) / 2;
    } while (!td_atomic_cas_weak_acqrel(&slot->range, &range, td_range(next, middle)));
    td_task *part = new_part(task, middle, end);
    if (part == NULL) { /* give the items back: only the parent writes `end` */
        range = td_atomic_load_relaxed(&slot->range);
        while (!td_atomic_cas_weak_acqrel(&slot->range, &range, td_range(td_range_next(range), end)))
            continue;
        return;
    }
    task->end = middle;
    TD_TRACE(SPLIT, index, middle);
    td__task_requeue_locked(part);
}

void td__chunk_split_locked(td_pool *pool, int64_t now)
{
    int64_t most = 0, worst = -1;
    bool running = false;
    pool->split_at_ns = TD_FOREVER;
    if (td_submission_waiting(&pool->map) == 0) {
        for (uint32_t w = 0; w < pool->config.max_workers; w++) {
            const uint32_t index = td_cell_slot(td_atomic_load_relaxed(&pool->map.seats[w].current));
            if (index >= pool->map.slot_count || pool->slot_tasks[index] == NULL ||
                !pool->slot_tasks[index]->chunk)
                continue;
            const uint64_t word = td_atomic_load_acquire(&pool->map.slots[index].word);
            if (td_word_state(word) != TD_SLOT_CLAIMED || td_word_worker(word) != w)
                continue;
            running = true;
            const int64_t left = estimate_left(&pool->map.slots[index], pool->slot_tasks[index], now);
            if (left > most) {
                most = left;
                worst = index;
            }
        }
    }
    if (most / 2 >= WORTH_SPLITTING_NS) {
        split_locked(pool, (uint32_t)worst);
    } else if (running) {
        pool->split_at_ns = now + LOOK_AGAIN_NS;
        td_native_wake();
        return;
    }
    td__pool_refill_locked(pool); /* says again that hungry workers should ring */
}

void td__chunk_cut_locked(td_task *task)
{
    for (td_task *part = task; part != NULL; part = part->rest) {
        if (part->slot == TD_NO_SLOT)
            continue;
        td_atomic_u64 *word = &part->pool->map.slots[part->slot].range;
        uint64_t range = td_atomic_load_relaxed(word);
        while (td_range_next(range) < td_range_end(range) &&
               !td_atomic_cas_weak_acqrel(word, &range, td_range(td_range_next(range), td_range_next(range))))
            continue;
    }
}

/* What the dead worker had published of the chunk becomes the task's result; how many items that are. */
static uint32_t take_published(td_task *task, struct td_slot *slot, td_arena *arena)
{
    const uint32_t done = td_atomic_load_acquire(&slot->partial_items); /* T */
    const uint64_t ref = td_atomic_load_relaxed(&slot->partial_ref);
    void *data;
    if (done == 0 || done > task->end - task->begin || ref == 0 ||
        td_arena_peek(arena, ref, slot->result_bytes, &data) != TD_OK)
        return 0;
    task->result_ref = ref;
    task->result_bytes = slot->result_bytes; /* may run beyond the items: they say how long they are */
    task->arena = td_arena_ref(arena);
    return done;
}

void td__chunk_lost_locked(td_task *task, struct td_slot *slot, td_arena *arena, struct td_obituary *obituary)
{
    td_pool *pool = task->pool;
    const uint32_t end = task->end;
    uint32_t taken = td_range_next(td_atomic_load_relaxed(&slot->range));
    const uint32_t lost = task->begin + take_published(task, slot, arena);
    taken = taken < lost ? lost : taken > end ? end : taken;
    /* Behind first, so that each goes right after `task`. */
    td_task *after = taken < end ? new_part(task, taken, end) : NULL;
    td_task *dead = lost < taken ? new_part(task, lost, taken) : NULL;
    if ((taken < end && after == NULL) || (lost < taken && dead == NULL)) {
        td__pool_break_locked(pool, "no memory to take a dead worker's chunk apart", SIGKILL);
        free(obituary);
        return;
    }
    const enum td_doom doom = (enum td_doom)task->doom;
    const uint32_t attempts = task->attempts + 1;
    task->end = lost;
    td__slot_free_locked(pool, task->slot);
    task->slot = TD_NO_SLOT;
    td__task_finish_locked(task, TD_TASK_RESULT);
    if (after != NULL && doom == TD_DOOM_CANCEL)
        td__task_finish_locked(after, TD_TASK_CANCELLED);
    else if (after != NULL)
        td__task_requeue_locked(after);
    if (dead == NULL) {
        free(obituary);
    } else if (doom != TD_DOOM_NONE) {
        free(obituary);
        td__task_finish_locked(dead, doom == TD_DOOM_CANCEL ? TD_TASK_CANCELLED : TD_TASK_TIMED_OUT);
    } else if (dead->retries_left > 0) {
        dead->retries_left--;
        dead->deaths++;
        dead->attempts = attempts;
        pool->stats.retried++;
        free(obituary);
        td__task_requeue_locked(dead);
    } else {
        obituary->death.deaths = dead->deaths + 1;
        obituary->death.quarantined = dead->deaths > 0;
        dead->obituary = obituary;
        td__task_finish_locked(dead, TD_TASK_DIED);
    }
}
