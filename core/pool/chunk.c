/* pool/chunk.c: a map's chunk comes back in parts.
 *
 * A chunk is one task of items [begin, end). It becomes several, linked by `rest` in the order of their items, when
 *   - a worker finds nothing to do while another has items left: the parent cuts the running chunk's `end` with a
 *     compare-and-swap (its owner takes items from `next` by the same means) and submits what it cut off;
 *   - the worker of a chunk dies: what it had published is a result, the item it ran is lost (or runs again), and the
 *     items after it are submitted anew;
 *   - it is cancelled while it runs: the items that nobody has taken yet are cut off, and that part is CANCELLED.
 * All parts share one block of arguments.
 *
 * Invariants  I1 the parts of a chunk cover its items, in order, without gap or overlap.
 *             I2 `rest` changes only while its task is not final.
 *             I3 only the parent cuts `end`, so it knows it: task->end. A worker's word is never believed.
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

/* Makes `part`, fresh from td__task_new, the items [begin, end) behind `task`. Its first reference, the engine's, is
 * the caller's to hand on; another is the chain's. */
static td_task *add_part_locked(td_task *task, td_task *part, uint32_t begin, uint32_t end)
{
    td_pool *pool = task->pool;
    part->begin = begin;
    part->end = end;
    part->chunk = true;
    part->fn = task->fn;
    td__intern_ref_locked(&pool->intern, task->fn);
    part->retries_left = task->retries_left;
    part->deaths = task->deaths;
    part->attempts = task->attempts;
    part->timeout_ns = task->timeout_ns;
    part->tag = task->tag;
    part->name = task->name != NULL ? strdup(task->name) : NULL; /* without memory it has none */
    part->timing.submitted_ns = task->timing.submitted_ns;
    part->args_bytes = task->args_bytes;
    part->args = task->args;
    if (part->args != NULL)
        part->args->users++;
    else
        memcpy(part->inline_bytes.args, task->inline_bytes.args, TD_INLINE_ARGS);
    part->rest = task->rest;
    task->rest = td_task_ref(part);
    td_atomic_fetch_add_seq(&pool->outstanding, 1);
    pool->chunks++;
    pool->stats.submitted++; /* a part is a task of its own in the books */
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

/* Cuts the items from some point on off a running chunk: from `next` on, or the later half. NULL: none is left, or no
 * memory. The task's word has not changed then. */
static td_task *cut_locked(td_task *task, bool half)
{
    td_atomic_u64 *word = &task->pool->map.slots[task->slot].range;
    td_task *part = td__task_new(task->pool);
    if (part == NULL)
        return NULL;
    uint64_t range = td_atomic_load_relaxed(word);
    uint32_t next, from;
    do {
        next = td_range_next(range);
        if (next >= task->end || td_range_end(range) != task->end) { /* only we write `end` */
            td_task_unref(part);
            return NULL;
        }
        from = half ? next + (task->end - next) / 2 : next;
    } while (!td_atomic_cas_weak_acqrel(word, &range, td_range(next, from)));
    add_part_locked(task, part, from, task->end);
    task->end = from;
    return part;
}

/* The running chunk that has most left to do; NULL: no chunk runs. */
static td_task *longest_locked(td_pool *pool, int64_t now, int64_t *left_ns)
{
    td_task *longest = NULL;
    *left_ns = -1;
    for (uint32_t w = 0; w < pool->config.max_workers; w++) {
        const uint32_t index = td_cell_slot(td_atomic_load_relaxed(&pool->map.seats[w].current));
        td_task *task = index < pool->map.slot_count ? pool->slot_tasks[index] : NULL;
        if (task == NULL || !task->chunk || task->doom != TD_DOOM_NONE)
            continue;
        const struct td_slot *slot = &pool->map.slots[index];
        const uint64_t word = td_atomic_load_acquire(&slot->word);
        if (td_word_state(word) != TD_SLOT_CLAIMED || td_word_worker(word) != w)
            continue;
        const int64_t left = estimate_left(slot, task, now);
        if (left > *left_ns) {
            *left_ns = left;
            longest = task;
        }
    }
    return longest;
}

/* Workers that find nothing to do. */
static uint64_t idle_hands(const td_pool *pool)
{
    uint64_t idle = 0;
    for (uint32_t w = 0; w < pool->config.max_workers; w++) {
        const uint32_t state = td_atomic_load_relaxed(&pool->map.states[w]);
        idle += state == TD_SEAT_SEARCHING || state == TD_SEAT_PARKED || state == TD_SEAT_WOKEN;
    }
    return idle;
}

void td__chunk_split_locked(td_pool *pool, int64_t now)
{
    const uint64_t idle = idle_hands(pool);
    bool later = false;
    pool->split_at_ns = TD_FOREVER;
    while (td_submission_waiting(&pool->map) + pool->overflow_count < idle) {
        int64_t left_ns;
        td_task *longest = longest_locked(pool, now, &left_ns);
        td_task *part = longest != NULL && left_ns / 2 >= WORTH_SPLITTING_NS ? cut_locked(longest, true) : NULL;
        later = longest != NULL;
        if (part == NULL)
            break;
        TD_TRACE(SPLIT, longest->slot, part->begin);
        td__task_requeue_locked(part, TD_LANE_AGAIN);
    }
    if (later) {
        pool->split_at_ns = now + LOOK_AGAIN_NS;
        td_native_wake();
    }
    td__pool_refill_locked(pool); /* says again that hungry workers should ring, or that they need not */
}

void td__chunk_expect_locked(td_pool *pool)
{
    if (pool->split_at_ns != TD_FOREVER ||
        td_submission_waiting(&pool->map) + pool->overflow_count >= idle_hands(pool))
        return;
    pool->split_at_ns = td_deadline_after(LOOK_AGAIN_NS);
    td_native_wake();
}

void td__chunk_cut_locked(td_task *task)
{
    td_task *part = cut_locked(task, false);
    if (part != NULL)
        td__task_finish_locked(part, TD_TASK_CANCELLED);
}

/* What the dead worker had published of the chunk becomes the task's result; how many items that are. */
static uint32_t take_published_locked(td_task *task, const struct td_slot *slot, struct td_member *member)
{
    const uint32_t done = td_atomic_load_acquire(&slot->partial_items); /* T */
    const uint64_t ref = td_atomic_load_acquire(&slot->partial_ref);    /* M */
    if (done == 0 || done > task->end - task->begin || ref == 0)
        return 0;
    /* The bytes and parcels may run beyond the items: they say how long they are. The worker, which is dead, has
     * written all that it counted. */
    const uint32_t parcels = td_atomic_load_relaxed(&slot->parcels);
    if (td__take_block_locked(task, member, ref, slot->result_bytes) != TD_OK)
        return 0;
    return parcels == 0 || td__parcels_take_locked(task, member, parcels) == TD_OK ? done : 0;
}

/* The items that the worker had taken, and lost. Takes the obituary over. */
static void settle_dead_part_locked(td_task *dead, uint64_t position, enum td_doom doom, enum td_lane lane,
                                    struct td_obituary *obituary)
{
    dead->attempts++;
    dead->deaths++;
    dead->timing.attempts = dead->attempts;
    dead->timing.worker_pid = obituary->death.pid;
    const enum td_task_state fate = td__death_fate_locked(dead, position, doom);
    if (fate == TD_TASK_DIED) {
        obituary->death.deaths = dead->deaths;
        obituary->death.quarantined = dead->deaths > 1;
        dead->obituary = obituary;
        td__task_finish_locked(dead, TD_TASK_DIED);
        return;
    }
    free(obituary);
    if (fate != TD_TASK_QUEUED) {
        td__task_finish_locked(dead, fate);
        return;
    }
    dead->retries_left--;
    dead->pool->stats.retried++;
    td__task_requeue_locked(dead, lane);
}

void td__chunk_lost_locked(td_task *task, struct td_slot *slot, struct td_member *member,
                           struct td_obituary *obituary)
{
    td_pool *pool = task->pool;
    const enum td_doom doom = (enum td_doom)task->doom;
    const uint64_t position = td_atomic_load_relaxed(&task->position);
    const uint32_t end = task->end;
    const uint64_t tasks_done = td_atomic_load_relaxed(&pool->map.seats[member - pool->members].tasks_done);
    td_task *after = td__task_new(pool), *dead = td__task_new(pool);
    if (after == NULL || dead == NULL) {
        td_task_unref(after);
        td_task_unref(dead);
        free(obituary);
        td__pool_break_locked(pool, "no memory to take a dead worker's chunk apart", SIGKILL);
        td__slot_free_locked(pool, (uint32_t)(slot - pool->map.slots));
        return;
    }
    uint32_t taken = td_range_next(td_atomic_load_relaxed(&slot->range));
    const uint32_t lost = task->begin + take_published_locked(task, slot, member);
    const enum td_lane lane = td__lane_after_death(tasks_done > 0 || lost > task->begin);
    taken = taken < lost ? lost : taken > end ? end : taken;
    /* Behind first, so that each goes right after `task`. */
    if (taken < end)
        add_part_locked(task, after, taken, end);
    if (lost < taken)
        add_part_locked(task, dead, lost, taken);
    task->end = lost;
    td__slot_free_locked(pool, task->slot);
    task->slot = TD_NO_SLOT;
    td__task_finish_locked(task, TD_TASK_RESULT); /* of what was published, be it nothing */
    /* First what comes first: if there is one slot only, it is the one that a reader of results waits for. */
    if (lost < taken) {
        settle_dead_part_locked(dead, position, doom, lane, obituary);
    } else {
        td_task_unref(dead);
        free(obituary);
    }
    if (taken >= end)
        td_task_unref(after);
    else if (doom == TD_DOOM_CANCEL)
        td__task_finish_locked(after, TD_TASK_CANCELLED);
    else
        td__task_requeue_locked(after, lane);
}
