/* pool/death.c: what a dead worker leaves, and who pays for it.
 *
 * Called once its process is known to be gone, so nothing changes under our eyes any more. In this order:
 *   1. what it reported is drained; what it finished without reporting (its slot is DONE) is finished now;
 *   2. the one task it had claimed is lost: it runs again if it has retries left, else it ends DIED, with the obituary;
 *   3. the blocks of arguments that it held on to are freed; its arena lives on as long as results in it are read;
 *   4. its seat is free, and a replacement is ordered if there is work, or unless it left by itself.
 * A death that we did not bring about counts as a crash, and crashes may break the pool. Each is kept in the log, with
 * what ran on it: the record is begun before that is settled, and counts once it is.
 * Tests  tests/pool/test_death.c */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/trace.h"
#include "pool/pool.h"

#define STACK_BYTES_MOST (64u << 10)
#define HOW_BYTES 400u

/* Did the kernel end processes of our cgroup for want of memory since the last death? */
static bool oom_killed_locked(td_pool *pool)
{
    const uint64_t before = pool->oom_kills;
    pool->oom_kills = td_memory_oom_kills(&pool->memory);
    return pool->oom_kills > before;
}

/* How it died, and the last Python stack if faulthandler wrote one. NULL: no memory. */
static struct td_obituary *write_obituary_locked(td_pool *pool, const struct td_member *member, int status)
{
    struct stat info;
    const bool oom_killed = oom_killed_locked(pool);
    size_t bytes = 0;
    if (member->stack_fd >= 0 && fstat(member->stack_fd, &info) == 0 && info.st_size > 0)
        bytes = (size_t)info.st_size < STACK_BYTES_MOST ? (size_t)info.st_size : STACK_BYTES_MOST;
    struct td_obituary *obituary = calloc(1, sizeof *obituary + bytes + 1);
    if (obituary == NULL)
        return NULL;
    const ssize_t got = bytes > 0 ? pread(member->stack_fd, obituary->stack, bytes, 0) : 0;
    obituary->stack[got > 0 ? got : 0] = '\0';
    struct td_death *death = &obituary->death;
    death->pid = member->pid;
    death->exit_code = -1;
    if (status >= 0 && WIFSIGNALED(status))
        death->signal = WTERMSIG(status);
    else if (status >= 0)
        death->exit_code = WEXITSTATUS(status);
    death->oom_suspected = oom_killed && death->signal == SIGKILL && member->condemned == 0;
    return obituary;
}

/* ---- The log --------------------------------------------------------------------------------------------------- */

/* The one that is being written; NULL: no memory for a log. */
static struct td_death_record *current_record(const td_pool *pool)
{
    return pool->deaths != NULL ? &pool->deaths[pool->death_count % TD_DEATHS_KEPT] : NULL;
}

static bool begin_record_locked(td_pool *pool, uint32_t worker, const struct td_death *death)
{
    if (pool->deaths == NULL)
        pool->deaths = calloc(TD_DEATHS_KEPT, sizeof *pool->deaths);
    struct td_death_record *record = current_record(pool);
    if (record != NULL)
        *record = (struct td_death_record){.number = pool->death_count + 1,
                                           .worker = worker,
                                           .pid = death->pid,
                                           .signal = death->signal,
                                           .exit_code = death->exit_code};
    return record != NULL;
}

enum td_task_state td__death_fate_locked(const td_task *task, uint64_t position, enum td_doom doom)
{
    const enum td_task_state fate = doom == TD_DOOM_CANCEL    ? TD_TASK_CANCELLED
                                    : doom == TD_DOOM_TIMEOUT ? TD_TASK_TIMED_OUT
                                    : task->retries_left > 0  ? TD_TASK_QUEUED
                                                              : TD_TASK_DIED;
    struct td_death_record *record = current_record(task->pool);
    if (record == NULL)
        return fate;
    record->lost = true;
    record->fate = (uint32_t)fate;
    record->attempt = task->attempts;
    record->fn = task->fn;
    record->begin = task->begin;
    record->end = task->end;
    record->tag = task->tag;
    record->position = position;
    snprintf(record->name, sizeof record->name, "%s", task->name != NULL ? task->name : "");
    return fate;
}

uint32_t td_pool_get_deaths(td_pool *pool, struct td_death_record *out, uint32_t cap)
{
    uint32_t filled = 0;
    pthread_mutex_lock(&pool->lock);
    if (pool->deaths != NULL) {
        uint64_t kept = pool->death_count < TD_DEATHS_KEPT ? pool->death_count : TD_DEATHS_KEPT;
        kept = kept < cap ? kept : cap;
        while (filled < kept) {
            out[filled] = pool->deaths[(pool->death_count - kept + filled) % TD_DEATHS_KEPT];
            filled++;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return filled;
}

/* ---- What it leaves -------------------------------------------------------------------------------------------- */

static enum td_lane lane_locked(const td_pool *pool, uint32_t worker)
{
    return td__lane_after_death(td_atomic_load_relaxed(&pool->map.seats[worker].tasks_done) > 0);
}

/* The task that it ran. */
static void lose_locked(td_pool *pool, uint32_t worker, uint32_t index, struct td_obituary *obituary)
{
    td_task *task = pool->slot_tasks[index];
    td__held_mourn_locked(pool, &pool->members[worker], task);
    task->timing.worker_pid = obituary->death.pid;
    task->timing.started_ns = (int64_t)td_atomic_load_relaxed(&pool->map.slots[index].started_ns);
    if (task->chunk) {
        td__chunk_lost_locked(task, &pool->map.slots[index], &pool->members[worker], obituary);
        return;
    }
    const uint64_t position = td_atomic_load_relaxed(&task->position);
    td__slot_free_locked(pool, index);
    task->slot = TD_NO_SLOT;
    task->attempts++;
    task->deaths++;
    task->timing.attempts = task->attempts;
    const enum td_task_state fate = td__death_fate_locked(task, position, (enum td_doom)task->doom);
    if (fate == TD_TASK_CANCELLED || fate == TD_TASK_TIMED_OUT) {
        free(obituary);
        td__task_finish_locked(task, fate);
    } else if (fate == TD_TASK_QUEUED) {
        free(obituary);
        task->retries_left--;
        pool->stats.retried++;
        td__task_requeue_locked(task, lane_locked(pool, worker));
    } else {
        obituary->death.deaths = task->deaths;
        obituary->death.quarantined = task->deaths > 1;
        task->obituary = obituary;
        td__task_finish_locked(task, TD_TASK_DIED);
    }
}

/* Finishes or loses what the worker had; was anything lost? Takes the obituary over. */
static bool settle_locked(td_pool *pool, uint32_t worker, struct td_obituary *obituary)
{
    struct td_segment_map *map = &pool->map;
    bool lost = false;
    td__member_drain_locked(pool, worker);
    const bool broken = td_atomic_load_relaxed(&pool->is_broken) != 0;
    for (uint32_t index = 0; index < map->slot_count; index++) {
        if (pool->slot_tasks[index] == NULL && !broken)
            continue;
        const uint64_t word = td_atomic_load_acquire(&map->slots[index].word); /* R */
        const enum td_slot_state state = td_word_state(word);
        if (state < TD_SLOT_CLAIMED || td_word_worker(word) != worker)
            continue;
        if (pool->slot_tasks[index] == NULL) {
            td__slot_free_locked(pool, index); /* its task ended when the pool broke */
        } else if (state == TD_SLOT_DONE) {
            td__finish_slot_locked(pool, worker, index);
        } else if (!lost) {
            lost = true;
            lose_locked(pool, worker, index, obituary);
        } else { /* it claimed two, which no sound worker does: the other one never ran */
            td_task *task = pool->slot_tasks[index];
            td__slot_free_locked(pool, index);
            task->slot = TD_NO_SLOT;
            td__task_requeue_locked(task, lane_locked(pool, worker));
        }
    }
    if (!lost)
        free(obituary);
    return lost;
}

static void describe(char *text, size_t bytes, const struct td_member *member, int status)
{
    if (status < 0)
        snprintf(text, bytes, "worker %d died", member->pid);
    else if (WIFSIGNALED(status))
        snprintf(text, bytes, "worker %d was ended by signal %d (%s)", member->pid, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(text, bytes, "worker %d exited with code %d", member->pid, WEXITSTATUS(status));
    if (status >= 0 && WIFEXITED(status) && member->stack_fd >= 0) { /* where one that can't start says why */
        const size_t used = strlen(text) + 2;
        const ssize_t got = pread(member->stack_fd, text + used, bytes - used - 1, 0);
        if (got > 0) {
            memcpy(text + used - 2, ": ", 2);
            text[used + (size_t)got] = '\0';
        }
    }
}

/* A crash may break the pool: when it was asked to, or when replacements keep dying before they finish a task. */
static void count_crash_locked(td_pool *pool, const char *how, bool barren, bool lost)
{
    char reason[HOW_BYTES + 160];
    pool->stats.restarts++;
    pool->barren_deaths = barren ? pool->barren_deaths + 1 : 0;
    if (pool->config.break_on_death && (lost || pool->stats.submitted > 0)) {
        snprintf(reason, sizeof reason, "%s; this pool breaks on the first death (on_worker_death=\"break\")",
                 how);
        td__pool_break_locked(pool, reason, SIGTERM);
    } else if (pool->barren_deaths >= pool->config.max_barren_deaths) {
        snprintf(reason, sizeof reason, "%u workers in a row died before they finished a task; the last: %s",
                 pool->barren_deaths, how);
        td__pool_break_locked(pool, reason, SIGTERM);
    }
}

static void free_kept_locked(td_pool *pool, struct td_member *member)
{
    for (uint32_t i = 0; i < member->kept_count; i++)
        td_arena_reclaim(pool->args_arena, member->kept[i]);
    td_atomic_fetch_add_seq(&pool->blocks_freed, 1);
}

void td__death_locked(td_pool *pool, uint32_t worker, int status)
{
    struct td_member *member = &pool->members[worker];
    struct td_seat *seat = &pool->map.seats[worker];
    if (member->pid == 0)
        member->pid = (int32_t)td_atomic_load_relaxed(&seat->pid);
    TD_TRACE(EXIT, worker, status);
    const bool barren = td_atomic_load_relaxed(&seat->tasks_done) == 0;
    const bool left = status <= 0 && td_atomic_load_relaxed(&pool->map.states[worker]) == TD_SEAT_LEAVING;
    /* Not its own doing: it left when it had to, or was told to, or never came to be because its zygote died. */
    const bool excused = left || member->condemned != 0 || member->state == TD_MEMBER_ORDERED;
    struct td_obituary *obituary = write_obituary_locked(pool, member, status);
    if (obituary == NULL) /* every task ends BROKEN, so that there is none left to have one */
        td__pool_break_locked(pool, "no memory to note a worker's death", SIGKILL);
    const bool noted = obituary != NULL && begin_record_locked(pool, worker, &obituary->death);
    const bool lost = settle_locked(pool, worker, obituary);
    pool->death_count += noted && (lost || (!left && member->pid > 0));
    free_kept_locked(pool, member);
    td_arena_cut(member->arena, member->results_end);
    char how[HOW_BYTES];
    describe(how, sizeof how, member, status);
    td__member_clear_locked(pool, worker);
    td_doorbell_succeed(&pool->map, td_drain_bell()); /* in what it may have been about to do */
    const bool needed = !pool->closed || td_atomic_load_relaxed(&pool->outstanding) != 0;
    if (!excused && (lost || needed) && td_atomic_load_relaxed(&pool->is_broken) == 0)
        count_crash_locked(pool, how, barren, lost);
    if (!left)
        td__crew_order_locked(pool);
    td__crew_grow_locked(pool);
}
