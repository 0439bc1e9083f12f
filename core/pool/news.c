/* pool/news.c: what becomes of the processes that the crew has ordered (crew.c), as the native thread hears of it.
 *
 * A worker's end is certain when its zygote has reaped it (EXITED), or, where there is no zygote to do so (a worker of
 * its own, or an *orphan*, whose zygote died), when its pidfd says so, or the lifeline where pidfds are refused.
 *
 * Crash  a zygote that dies takes nobody with it: its workers go on as orphans, whose exit codes nobody learns. One
 *        that was forked, but not reported, has a lifeline like any other: it serves, and its seat says which process
 *        it is.
 * Tests  tests/pool/test_death.c, tests/pool/test_pool.c */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/trace.h"
#include "os/pidfd.h"
#include "pool/pool.h"
#include "pool/zygote.h"

#define FAILED_STARTS_MOST 3u /* zygotes in a row that ended before a worker was born */

/* Nobody is left to report on this worker: watch the process itself. */
static void orphan_locked(td_pool *pool, uint32_t worker)
{
    struct td_member *member = &pool->members[worker];
    member->orphan = true;
    if (!member->watched)
        member->watched = td_native_watch(td__watch_fd(member)) == TD_OK;
    if (member->condemned != 0) /* before there was a way to reach it */
        td__crew_signal_locked(pool, worker, SIGKILL);
}

static void lose_zygote_locked(td_pool *pool)
{
    struct td_zygote *zygote = &pool->zygote;
    td_native_unwatch(zygote->channel);
    td__close_fd(&zygote->channel);
    td__kill_and_reap(zygote->pidfd, zygote->pid); /* it may have closed its channel and live on */
    td__close_fd(&zygote->pidfd);
    pool->failed_starts++;
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++)
        if (pool->members[worker].state != TD_MEMBER_EMPTY && pool->members[worker].channel < 0)
            orphan_locked(pool, worker);
    if (pool->failed_starts >= FAILED_STARTS_MOST)
        td__pool_break_locked(
            pool, "the zygote, which starts the workers, died three times before a worker was born", SIGTERM);
    else if (pool->config.start == TD_START_ADOPTED && !zygote->leaving)
        td__pool_break_locked(pool, "the process forked from this one, which starts the workers, died",
                              SIGTERM);
}

/* ---- What the zygote says --------------------------------------------------------------------------------------- */

static void born_locked(td_pool *pool, struct td_zygote_news *news)
{
    struct td_member *member = &pool->members[news->worker];
    if (member->state != TD_MEMBER_ORDERED) {
        td__close_fd(&news->pidfd);
        return;
    }
    member->state = TD_MEMBER_ALIVE;
    member->pid = news->pid;
    member->pidfd = news->pidfd;
    member->born_ns = td_now_ns();
    td__context_drop_locked(pool, member->context); /* the zygote has read it */
    member->context = NULL;
    pool->failed_starts = 0;
    TD_TRACE(SPAWN, news->worker, news->pid);
    /* What was meant for it before there was a process to signal. */
    if (member->condemned != 0)
        td__crew_signal_locked(pool, news->worker, member->condemned);
    else if (member->kill_at_ns != TD_FOREVER)
        td__crew_signal_locked(pool, news->worker, SIGURG);
}

/* A worker that could not start says why; one is enough to know that none can. */
static void hear_failure_locked(td_pool *pool, uint32_t worker)
{
    const struct td_seat *seat = &pool->map.seats[worker];
    const uint64_t ref = td_atomic_load_acquire(&seat->failure);
    void *text;
    char reason[sizeof pool->broken_reason];
    if (ref == 0 || td_atomic_load_relaxed(&pool->is_broken) != 0)
        return;
    uint64_t bytes = seat->failure_bytes;
    if (td_arena_peek(pool->members[worker].arena, ref, bytes, &text) != TD_OK)
        return;
    if (bytes > sizeof reason - 1)
        bytes = sizeof reason - 1;
    memcpy(reason, text, bytes);
    reason[bytes] = '\0';
    td__pool_break_locked(pool, reason, SIGTERM);
}

/* fork's errors that a limit causes are said with the way out. */
static const char *why_no_fork(int error)
{
    return error == EMFILE || error == ENFILE ? td_status_text(TD_ENOFD)
           : error == EAGAIN ? "ulimit -u or the cgroup's pids.max allows no more processes: raise it"
                             : strerror(error);
}

static void hear_locked(td_pool *pool, struct td_zygote_news *news)
{
    char reason[256];
    const bool about_worker = news->event == TD_ZYGOTE_BORN || news->event == TD_ZYGOTE_FORK_FAILED ||
                              news->event == TD_ZYGOTE_EXITED;
    if (about_worker && news->worker >= pool->config.max_workers) {
        td__close_fd(&news->pidfd);
        return;
    }
    switch (news->event) {
    case TD_ZYGOTE_READY:
        pool->zygote.ready = true;
        break;
    case TD_ZYGOTE_BORN:
        born_locked(pool, news);
        break;
    case TD_ZYGOTE_FORK_FAILED:
        if (pool->members[news->worker].state != TD_MEMBER_ORDERED)
            break;
        td__member_clear_locked(pool, news->worker);
        pool->order_again_ns = td_deadline_after(TD__ORDER_AGAIN_NS);
        snprintf(reason, sizeof reason, "no worker could be forked: %s", why_no_fork(news->error));
        if (pool->member_count == 0)
            td__pool_break_locked(pool, reason, SIGTERM);
        break;
    case TD_ZYGOTE_EXITED:
        if (pool->members[news->worker].state == TD_MEMBER_ALIVE &&
            pool->members[news->worker].pid == news->pid) {
            hear_failure_locked(pool, news->worker);
            td__death_locked(pool, news->worker, news->status);
        }
        break;
    case TD_ZYGOTE_FAILED:
        td__pool_break_locked(pool, news->reason, SIGTERM);
        break;
    }
}

static bool is_hung_up(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN | POLLRDHUP};
    return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* A single worker, or one without a zygote: has its process ended? */
static void look_after_locked(td_pool *pool, uint32_t worker)
{
    const struct td_member *member = &pool->members[worker];
    struct td_zygote_news news = {.pidfd = -1};
    if (member->channel >= 0 && td_zygote_receive(member->channel, &news) == TD_OK) {
        td__close_fd(&news.pidfd);
        if (news.event == TD_ZYGOTE_FAILED) /* before it could become a worker */
            td__pool_break_locked(pool, news.reason, SIGTERM);
    }
    if (member->pidfd >= 0 ? td_pidfd_wait_until(member->pidfd, 0) != TD_OK : !is_hung_up(member->lifeline))
        return;
    if (member->pidfd < 0 && !member->orphan)
        kill(member->pid, SIGKILL); /* it may have closed its lifeline, and live on; it is ours, not reaped */
    hear_failure_locked(pool, worker);
    td__death_locked(pool, worker, member->orphan ? -1 : td__reap(member->pidfd, member->pid));
}

/* What the zygote says, and its end. */
static void hear_zygote_locked(td_pool *pool, int64_t now)
{
    if (pool->zygote.kill_at_ns <= now) {
        td__send_signal(pool->zygote.pidfd, pool->zygote.pid, SIGKILL);
        pool->zygote.kill_at_ns = TD_FOREVER;
    }
    for (;;) {
        struct td_zygote_news news = {.pidfd = -1};
        const td_status status = td_zygote_receive(pool->zygote.channel, &news);
        if (status == TD_OK)
            hear_locked(pool, &news);
        else if (status == TD_EAGAIN)
            return;
        else
            break;
    }
    lose_zygote_locked(pool);
}

td_status td_pool_restart_zygote(td_pool *pool)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    pthread_mutex_lock(&pool->lock);
    if (pool->zygote.channel >= 0 && pool->config.start == TD_START_SHARED)
        hear_zygote_locked(pool, 0); /* whom it has borne and buried; it may have ended by itself */
    if (pool->zygote.channel >= 0 && pool->config.start == TD_START_SHARED) {
        lose_zygote_locked(pool);
        pool->failed_starts = 0;
    }
    td__pool_unlock(pool);
    return TD_OK;
}

int64_t td__crew_keep_locked(td_pool *pool, int64_t now)
{
    if (pool->zygote.channel >= 0)
        hear_zygote_locked(pool, now);
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++) {
        struct td_member *member = &pool->members[worker];
        if (member->state == TD_MEMBER_EMPTY)
            continue;
        hear_failure_locked(pool, worker);
        if (member->orphan || member->channel >= 0)
            look_after_locked(pool, worker);
    }
    td__crew_grow_locked(pool);
    int64_t next = pool->zygote.channel >= 0 ? pool->zygote.kill_at_ns : TD_FOREVER;
    if (pool->order_again_ns > now && pool->order_again_ns < next)
        next = pool->order_again_ns;
    return next;
}
