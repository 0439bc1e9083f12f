/* pool/cancel.c: stopping work: queued, running, or for too long.
 *
 * Queued work is taken back with one compare-and-swap against the workers. Running work is *doomed*: its worker's seat
 * gets the task's position and the worker SIGURG, whose handler raises an exception in the task if it still runs that
 * position; after the grace time the worker is killed. Either way the task then ends as its doom says.
 *
 * One signal is not enough. When it comes between an interpreter's last look at its flag and a system call that waits
 * (a sleep, a read), the handler's exception waits as long as the call. And where the exception would be dropped (in a
 * finalizer) or do harm (in an import) the worker puts the position back (td_worker_interrupt_again). So as long as the
 * doomed task runs its seat is looked at, each time after twice the pause, and while the position is there the signal
 * is sent again.
 *
 * A kill takes time to arrive, and the worker may end the doomed task meanwhile: it must not have begun another one,
 * which would die with it. So its seat says `dismissed` before the last look at the task.
 * Ordering  K: dismissed -> look at done_tail; in the worker done_tail (completion.h) -> look at dismissed, before it
 *           claims. All of them are in one total order: the parent sees that the task has ended, or the worker that it
 *           may not take another one.
 *
 * Timeouts need no clock per task. A worker writes when it started; nobody is told. A task that is queued can't run out
 * before now + the shortest timeout of all, so the native thread looks at the running tasks (one per worker) then, and
 * at the exact time of each of those that run.
 * Tests  tests/pool/test_cancel.c */
#include <signal.h>

#include "base/trace.h"
#include "pool/pool.h"

#define FIRST_NUDGE_NS (5 * TD_NS_PER_MS)

/* The worker that runs the task, -1 when none does (any more). */
static int64_t runner_locked(const td_task *task)
{
    if (task->slot == TD_NO_SLOT)
        return -1;
    const uint64_t word = td_atomic_load_acquire(&task->pool->map.slots[task->slot].word);
    return td_word_state(word) == TD_SLOT_CLAIMED ? (int64_t)td_word_worker(word) : -1;
}

td_status td__task_doom_locked(td_task *task, enum td_doom doom)
{
    td_pool *pool = task->pool;
    const int64_t worker = runner_locked(task);
    if (worker < 0)
        return TD_EAGAIN;
    struct td_member *member = &pool->members[worker];
    task->doom = (uint8_t)doom;
    const uint64_t position = td_atomic_load_relaxed(&task->position);
    td_atomic_store_seq(&pool->map.seats[worker].interrupt, position);
    td__crew_signal_locked(pool, (uint32_t)worker, SIGURG);
    member->kill_position = position;
    member->kill_slot = task->slot;
    member->kill_at_ns = td_deadline_after(pool->config.grace_ns);
    member->nudge_at_ns = td_deadline_after(FIRST_NUDGE_NS);
    member->nudge_pause_ns = 2 * FIRST_NUDGE_NS;
    td_native_wake();
    TD_TRACE(CANCEL, task->slot, 1);
    return TD_OK;
}

/* Takes a task back that no worker has. */
static bool withdraw_locked(td_task *task)
{
    td_pool *pool = task->pool;
    if (task->in_overflow) {
        td_list_remove(&task->link);
        task->in_overflow = false;
        pool->overflow_count--;
        return true;
    }
    if (task->slot == TD_NO_SLOT ||
        !td_submission_cancel(&pool->map, task->slot, td_atomic_load_relaxed(&task->position)))
        return false;
    td__slot_free_locked(pool, task->slot);
    task->slot = TD_NO_SLOT;
    return true;
}

/* One part. TD_EINVAL: it is final. */
static td_status cancel_locked(td_task *task, bool force)
{
    td__member_drain_all_locked(task->pool);
    if (td_atomic_load_relaxed(&task->state) != TD_TASK_QUEUED)
        return TD_EINVAL;
    if (withdraw_locked(task)) {
        td__task_finish_locked(task, TD_TASK_CANCELLED);
        return TD_OK;
    }
    if (task->chunk && runner_locked(task) >= 0)
        td__chunk_cut_locked(task);
    if (!force)
        return TD_EAGAIN;
    return task->doom != TD_DOOM_NONE ? TD_OK : td__task_doom_locked(task, TD_DOOM_CANCEL);
}

/* After withdrawals: only what can run counts as waiting, and what stood behind moves up. */
static void settle_line_locked(td_pool *pool)
{
    td_submission_skip(&pool->map);
    if (pool->overflow_count > 0)
        td__pool_refill_locked(pool);
}

td_status td_task_cancel(td_task *task, bool force)
{
    if (td__pool_forked(task->pool))
        return TD_EFORKED;
    td_pool *pool = task->pool; /* which the caller's reference on the task holds */
    pthread_mutex_lock(&pool->lock);
    const td_status status = cancel_locked(task, force);
    for (td_task *part = task->rest; part != NULL; part = part->rest)
        cancel_locked(part, force);
    settle_line_locked(pool);
    td__pool_unlock(pool);
    return status;
}

/* Ends every task that no worker has, but for those in a slot whose rank is below `spared`. */
static void withdraw_all_locked(td_pool *pool, enum td_task_state state, uint64_t spared)
{
    while (!td_list_empty(&pool->overflow)) {
        td_task *task = TD_LIST_ENTRY(pool->overflow.next, td_task, link);
        withdraw_locked(task);
        td__task_finish_locked(task, state);
    }
    for (uint32_t slot = 0; slot < pool->map.slot_count; slot++) {
        td_task *task = pool->slot_tasks[slot];
        if (task == NULL || td_position_rank(td_atomic_load_relaxed(&task->position)) < spared)
            continue;
        if (withdraw_locked(task))
            td__task_finish_locked(task, state);
    }
}

/* The rank behind the tasks that free hands are about to take: one each, the oldest that wait, first those of AGAIN. */
static uint64_t behind_begun_locked(const td_pool *pool)
{
    uint64_t oldest[TD_LANES] = {UINT64_MAX, UINT64_MAX};
    uint32_t again = 0;
    for (uint32_t slot = 0; slot < pool->map.slot_count; slot++) {
        const td_task *task = pool->slot_tasks[slot];
        if (task == NULL || td_word_state(td_atomic_load_acquire(&pool->map.slots[slot].word)) != TD_SLOT_READY)
            continue;
        const uint64_t rank = td_position_rank(td_atomic_load_relaxed(&task->position));
        oldest[task->lane] = rank < oldest[task->lane] ? rank : oldest[task->lane];
        again += task->lane == TD_LANE_AGAIN;
    }
    const uint32_t hands = td__crew_free_hands(pool);
    if (hands <= again)
        return hands == 0 ? 0 : oldest[TD_LANE_AGAIN] + hands;
    return oldest[TD_LANE_NEW] == UINT64_MAX ? TD_POSITION_LANE : oldest[TD_LANE_NEW] + hands - again;
}

void td__cancel_queued_locked(td_pool *pool, bool all)
{
    td__member_drain_all_locked(pool);
    withdraw_all_locked(pool, TD_TASK_CANCELLED, all ? 0 : behind_begun_locked(pool));
    settle_line_locked(pool);
}

void td__cancel_running_locked(td_pool *pool)
{
    for (uint32_t slot = 0; slot < pool->map.slot_count; slot++) {
        td_task *task = pool->slot_tasks[slot];
        if (task == NULL || task->doom != TD_DOOM_NONE || runner_locked(task) < 0)
            continue;
        if (task->chunk)
            td__chunk_cut_locked(task);
        (void)td__task_doom_locked(task, TD_DOOM_CANCEL); /* TD_EAGAIN: it has just ended */
    }
}

void td__fail_all_locked(td_pool *pool)
{
    withdraw_all_locked(pool, TD_TASK_BROKEN, 0);
    for (uint32_t slot = 0; slot < pool->map.slot_count; slot++) {
        td_task *task = pool->slot_tasks[slot];
        if (task == NULL)
            continue;
        pool->slot_tasks[slot] =
            NULL; /* the slot stays its worker's until that is gone; and so do the arguments */
        task->slot = TD_NO_SLOT;
        if (task->args != NULL)
            task->args->kept = true;
        const uint32_t worker = td_word_worker(td_atomic_load_relaxed(&pool->map.slots[slot].word));
        td__held_strand_locked(pool, &pool->members[worker], task);
        td__task_finish_locked(task, TD_TASK_BROKEN);
    }
}

/* Does the worker still run what it is to be killed for? The word says it, for the seat's `current` may lag behind. */
static bool deserves_kill(const td_pool *pool, const struct td_member *member, uint32_t worker)
{
    return member->kill_position == 0 || td_atomic_load_relaxed(&pool->map.slots[member->kill_slot].word) ==
                                             td_word(member->kill_position, worker, TD_SLOT_CLAIMED);
}

/* From here on the worker begins nothing else, if it still runs what it is to be killed for; else all is as before. */
static bool hold_for_kill(td_pool *pool, const struct td_member *member, uint32_t worker)
{
    struct td_seat *seat = &pool->map.seats[worker];
    td_atomic_store_seq(&seat->dismissed, 1);   /* K */
    (void)td_atomic_load_seq(&seat->done_tail); /* K */
    if (deserves_kill(pool, member, worker))
        return true;
    td_atomic_store_seq(&seat->dismissed, 0); /* a worker that saw it leaves, and another takes its place */
    return false;
}

/* Has the worker not taken notice of the exception signal yet, or lost the exception? */
static bool unheard(const td_pool *pool, const struct td_member *member, uint32_t worker)
{
    return td_atomic_load_acquire(&pool->map.seats[worker].interrupt) == member->kill_position;
}

/* Signals again, or kills, whom its doom does not reach. Returns when to look again. */
static int64_t keep_doomed_locked(td_pool *pool, uint32_t worker, int64_t now)
{
    struct td_member *member = &pool->members[worker];
    if ((member->kill_at_ns != TD_FOREVER || member->nudge_at_ns != TD_FOREVER) &&
        !deserves_kill(pool, member, worker)) {
        member->kill_at_ns = TD_FOREVER; /* the exception was enough */
        member->nudge_at_ns = TD_FOREVER;
    }
    if (member->kill_at_ns <= now) {
        if (hold_for_kill(pool, member, worker))
            td__crew_signal_locked(pool, worker, SIGKILL);
        member->kill_at_ns = TD_FOREVER;
        member->nudge_at_ns = TD_FOREVER;
    }
    if (member->nudge_at_ns <= now) {
        if (unheard(pool, member, worker))
            td__crew_signal_locked(pool, worker, SIGURG);
        member->nudge_at_ns = td_deadline_from(now, member->nudge_pause_ns);
        member->nudge_pause_ns *= 2;
    }
    return member->nudge_at_ns < member->kill_at_ns ? member->nudge_at_ns : member->kill_at_ns;
}

/* Sees to one worker's task: timed out? to be stopped? Returns when to look again. */
static int64_t keep_member_locked(td_pool *pool, uint32_t worker, int64_t now)
{
    int64_t expires_ns = TD_FOREVER;
    const uint64_t current = td_atomic_load_relaxed(&pool->map.seats[worker].current);
    td_task *task =
        td_cell_slot(current) < pool->map.slot_count ? pool->slot_tasks[td_cell_slot(current)] : NULL;
    const bool runs = task != NULL && runner_locked(task) == (int64_t)worker;
    if (runs && task->timeout_ns > 0 && task->doom == TD_DOOM_NONE) {
        const int64_t started_ns = (int64_t)td_atomic_load_relaxed(&pool->map.slots[task->slot].started_ns);
        expires_ns = td_deadline_from(started_ns == 0 ? now : started_ns, task->timeout_ns);
        if (expires_ns <= now && td__task_doom_locked(task, TD_DOOM_TIMEOUT) == TD_OK)
            expires_ns = TD_FOREVER;
    }
    const int64_t force_ns = keep_doomed_locked(pool, worker, now);
    return expires_ns < force_ns ? expires_ns : force_ns;
}

int64_t td__timeouts_keep_locked(td_pool *pool, int64_t now)
{
    int64_t next = TD_FOREVER;
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++) {
        if (pool->members[worker].state == TD_MEMBER_EMPTY)
            continue;
        const int64_t deadline = keep_member_locked(pool, worker, now);
        next = deadline < next ? deadline : next;
    }
    if (pool->timed == 0) {
        pool->shortest_timeout_ns = TD_FOREVER;
        pool->timeouts_at_ns = TD_FOREVER;
        return next;
    }
    pool->timeouts_at_ns = td_deadline_from(now, pool->shortest_timeout_ns);
    if (next < pool->timeouts_at_ns)
        pool->timeouts_at_ns = next;
    return pool->timeouts_at_ns;
}
