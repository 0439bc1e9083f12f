/* pool/stats.c: what a pool tells about itself.   Tests  tests/pool/test_pool.c */
#include <stdio.h>
#include <unistd.h>

#include "pool/pool.h"

void td_pool_get_stats(td_pool *pool, struct td_pool_stats *out)
{
    const bool forked = td__pool_forked(pool);
    td_arena_stats args = {0};
    pthread_mutex_lock(&pool->lock);
    if (td_atomic_load_acquire(&pool->started) != 0 && !forked)
        td__pool_drain_locked(pool); /* so that what has ended counts as ended */
    *out = pool->stats;
    if (!forked) /* another thread of the parent may have held the arena's lock */
        td_arena_stats_read(pool->args_arena, &args);
    const uint64_t outstanding = td_atomic_load_relaxed(&pool->outstanding);
    out->running = 0;
    for (uint32_t w = 0; w < pool->config.max_workers; w++) {
        const uint32_t state = td_atomic_load_relaxed(&pool->map.states[w]);
        out->workers_alive += state != TD_SEAT_EMPTY;
        out->workers_idle += state == TD_SEAT_SEARCHING || state == TD_SEAT_PARKED || state == TD_SEAT_WOKEN;
        out->running += td_atomic_load_relaxed(&pool->map.seats[w].current) != 0;
    }
    if (out->running > outstanding)
        out->running = outstanding;
    out->queued = outstanding - out->running;
    out->argument_bytes_live = args.live_bytes;
    out->result_bytes_live = td_atomic_load_relaxed(&pool->result_bytes);
    out->barren_deaths = pool->barren_deaths;
    out->zygote_pid = pool->zygote.channel >= 0 ? pool->zygote.pid : 0;
    td__pool_unlock(pool);
}

static uint64_t resident_bytes(int32_t pid)
{
    char path[64];
    unsigned long long size, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static enum td_worker_state worker_state(const td_pool *pool, uint32_t worker)
{
    switch (td_atomic_load_relaxed(&pool->map.states[worker])) {
    case TD_SEAT_EMPTY:
        return TD_WORKER_ABSENT;
    case TD_SEAT_STARTING:
        return TD_WORKER_STARTING;
    case TD_SEAT_BUSY:
        return TD_WORKER_BUSY;
    case TD_SEAT_LEAVING:
        return TD_WORKER_LEAVING;
    default:
        return TD_WORKER_IDLE;
    }
}

uint32_t td_pool_get_workers(td_pool *pool, struct td_worker_info *out, uint32_t cap)
{
    uint32_t count = 0;
    pthread_mutex_lock(&pool->lock);
    for (uint32_t w = 0; w < pool->config.max_workers; w++) {
        const struct td_member *member = &pool->members[w];
        if (member->state == TD_MEMBER_EMPTY)
            continue;
        if (count < cap)
            out[count] = (struct td_worker_info){
                .pid = member->pid,
                .state = worker_state(pool, w),
                .tasks_done = td_atomic_load_relaxed(&pool->map.seats[w].tasks_done),
                .busy_ns = td_atomic_load_relaxed(&pool->map.seats[w].busy_ns),
                .started_ns = member->born_ns,
            };
        count++;
    }
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < count && i < cap; i++)
        out[i].rss_bytes = out[i].pid > 0 ? resident_bytes(out[i].pid) : 0;
    return count;
}
