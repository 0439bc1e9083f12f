/* pool/crew.c: the worker processes and the zygote, as the parent sees them.
 *
 *   seat:    EMPTY --order--> ORDERED --BORN--> ALIVE --EXITED, or its pidfd--> (death.c) --> EMPTY
 *   zygote:  none --order--> started --READY--> serving --end of its channel--> none; another is started on need
 *
 * A worker's end is certain when its zygote has reaped it (EXITED), or, where there is no zygote to do so (a single worker,
 * or one whose zygote died), when its pidfd says so, or the lifeline where pidfds are refused. Orders are sent from any
 * thread under the pool's lock and never wait; news are read on the native thread.
 *
 * Crash  a zygote that dies takes nobody with it: its workers go on as orphans, whose exit codes nobody learns.
 * Tests  tests/pool/test_crew.c */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/option.h"
#include "base/trace.h"
#include "os/channel.h"
#include "os/memfd.h"
#include "os/pidfd.h"
#include "os/poller.h"
#include "os/process.h"
#include "pool/pool.h"
#include "pool/zygote.h"

#define CHANNEL_FD 3          /* the channel's number in a process that we start */
#define FAILED_STARTS_MOST 3u /* zygotes in a row that left before they were ready */

td_status td__crew_init(td_pool *pool)
{
    pool->members = calloc(pool->config.max_workers, sizeof *pool->members);
    pool->zygote = (struct td_zygote){.pidfd = -1, .channel = -1};
    return pool->members != NULL ? TD_OK : TD_ENOMEM;
}

void td__crew_fini(td_pool *pool)
{
    free(pool->members);
}

static void close_if(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- Signals --------------------------------------------------------------------------------------------------- */

static void send_signal(int pidfd, int32_t pid, int signal)
{
    if (pidfd >= 0)
        td_pidfd_signal(pidfd, signal);
    else if (pid > 0)
        kill(pid, signal); /* no pidfds here: its zygote has not reaped it as far as we know */
}

void td__crew_signal_locked(td_pool *pool, uint32_t worker, int signal)
{
    struct td_member *member = &pool->members[worker];
    if (member->state == TD_MEMBER_EMPTY)
        return;
    if (signal == SIGKILL || signal == SIGTERM)
        member->condemned = true;
    send_signal(member->pidfd, member->orphan ? 0 : member->pid, signal);
}

void td__crew_signal_all_locked(td_pool *pool, int signal)
{
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++)
        td__crew_signal_locked(pool, worker, signal);
}

/* ---- Starting processes ---------------------------------------------------------------------------------------- */

/* Starts argv with a channel to it. */
static td_status spawn(td_pool *pool, int32_t *pid, int *pidfd, int *channel)
{
    int ends[2];
    pid_t started;
    if (pool->argv == NULL)
        return TD_EINVAL;
    td_status status = td_channel_new(ends);
    if (status != TD_OK)
        return status;
    const td_fd_map map = {.source = ends[1], .destination = CHANNEL_FD};
    const td_spawn order = {
        .program = pool->argv[0],
        .argv = pool->argv,
        .envp = pool->envp,
        .fds = &map,
        .fd_count = 1,
    };
    status = td_process_spawn(&order, &started, pidfd);
    close(ends[1]);
    if (status != TD_OK) {
        close(ends[0]);
        return status;
    }
    *pid = started;
    *channel = ends[0];
    return TD_OK;
}

static td_status start_zygote_locked(td_pool *pool)
{
    struct td_zygote *zygote = &pool->zygote;
    if (zygote->channel >= 0)
        return TD_OK;
    if (pool->config.start == TD_START_ADOPTED)
        return TD_ECLOSED; /* only the caller could fork another one */
    const td_status status = spawn(pool, &zygote->pid, &zygote->pidfd, &zygote->channel);
    if (status != TD_OK)
        return status;
    zygote->ready = false;
    pool->stats.zygote_starts++;
    return td_native_watch(zygote->channel);
}

td_status td_pool_adopt_zygote(td_pool *pool, int32_t pid, int channel)
{
    pthread_mutex_lock(&pool->lock);
    td_status status = pool->zygote.channel >= 0 ? TD_EINVAL : td__pool_start_locked(pool);
    if (status == TD_OK) {
        pool->zygote = (struct td_zygote){.pid = pid, .pidfd = -1, .channel = channel};
        td_pidfd_open(pid, &pool->zygote.pidfd);
        pool->stats.zygote_starts++;
        status = td_native_watch(channel);
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

/* ---- Ordering workers ------------------------------------------------------------------------------------------ */

/* The parent's standard streams as they are now; -1 for a closed one. */
static int stream(int fd)
{
    return fcntl(fd, F_GETFD) >= 0 ? fd : -1;
}

/* What goes to the worker alone; our copies are closed once the order is sent. */
struct dowry {
    int arena_fd, lifeline_fd;
};

/* Its arena, which it will own while we only look at its blocks, its lifeline, a file for its last stack. */
static td_status equip(struct td_member *member, struct dowry *dowry)
{
    uint64_t size;
    td_status status = td_arena_create("treadle-results", 0, &dowry->arena_fd, &size);
    if (status != TD_OK)
        return status;
    status = td_arena_attach(dowry->arena_fd, size, &member->arena);
    if (status != TD_OK)
        goto no_arena;
    status = td_lifeline_new(&member->lifeline, &dowry->lifeline_fd);
    if (status != TD_OK)
        goto no_lifeline;
    member->stack_fd = memfd_create("treadle-stack", MFD_CLOEXEC); /* without one, deaths have no stack */
    return TD_OK;
no_lifeline:
    td_arena_unref(member->arena);
    member->arena = NULL;
no_arena:
    close(dowry->arena_fd);
    return status;
}

static td_status send_order(td_pool *pool, uint32_t worker, int channel, const struct dowry *dowry)
{
    const struct td_bell_map *bell = td_drain_bell();
    const struct td_birth_order order = {
        .worker = worker,
        .context_ref = pool->context_ref,
        .context_bytes = pool->context_bytes,
        .fds = {[TD_BIRTH_SEGMENT] = pool->map.fd,
                [TD_BIRTH_ARGS] = td_arena_fd(pool->args_arena),
                [TD_BIRTH_BELL] = bell->fd,
                [TD_BIRTH_EVENT] = bell->event_fd,
                [TD_BIRTH_ARENA] = dowry->arena_fd,
                [TD_BIRTH_LIFELINE] = dowry->lifeline_fd,
                [TD_BIRTH_STACK] = pool->members[worker].stack_fd,
                [TD_BIRTH_STDIN] = stream(0),
                [TD_BIRTH_STDOUT] = stream(1),
                [TD_BIRTH_STDERR] = stream(2)},
    };
    return td_zygote_send_birth(channel, &order);
}

static void reset_seat(td_pool *pool, uint32_t worker)
{
    struct td_seat *seat = &pool->map.seats[worker];
    td_atomic_store_relaxed(&seat->done_tail, 0);
    td_atomic_store_relaxed(&seat->tasks_done, 0);
    td_atomic_store_relaxed(&seat->busy_ns, 0);
    td_atomic_store_relaxed(&seat->pid, 0);
    td_atomic_store_relaxed(&seat->leaving, 0);
    td_atomic_store_relaxed(&seat->current, 0);
    td_atomic_store_relaxed(&seat->failure, 0);
    td_atomic_store_relaxed(&seat->interrupt, 0);
    td_atomic_store_relaxed(&seat->dismissed, 0);
    seat->max_tasks = pool->config.max_tasks_per_worker;
}

static td_status order_locked(td_pool *pool, uint32_t worker)
{
    struct td_member *member = &pool->members[worker];
    struct dowry dowry;
    *member = (struct td_member){
        .pidfd = -1, .lifeline = -1, .stack_fd = -1, .channel = -1, .kill_at_ns = TD_FOREVER};
    td_status status = equip(member, &dowry);
    if (status != TD_OK)
        return status;
    member->state = TD_MEMBER_ORDERED;
    member->ordered_ns = td_now_ns();
    pool->member_count++;
    reset_seat(pool, worker);
    td_atomic_store_seq(&pool->map.states[worker], TD_SEAT_STARTING);
    if (pool->config.start == TD_START_SINGLE) {
        status = spawn(pool, &member->pid, &member->pidfd, &member->channel);
        if (status == TD_OK) {
            member->state = TD_MEMBER_ALIVE;
            member->born_ns = td_now_ns();
            status = send_order(pool, worker, member->channel, &dowry);
        }
        if (status == TD_OK)
            status = td_native_watch(member->pidfd >= 0 ? member->pidfd : member->channel);
        member->watched = status == TD_OK;
    } else {
        status = send_order(pool, worker, pool->zygote.channel, &dowry);
    }
    close(dowry.arena_fd);
    close(dowry.lifeline_fd);
    if (status != TD_OK) {
        send_signal(member->pidfd, 0, SIGKILL);
        td__member_clear_locked(pool, worker);
        return status;
    }
    pool->stats.workers_started++;
    return TD_OK;
}

td_status td__crew_order_locked(td_pool *pool)
{
    if (pool->member_count >= pool->config.max_workers || td_atomic_load_relaxed(&pool->is_broken) != 0 ||
        (pool->closed && td_atomic_load_relaxed(&pool->outstanding) == 0))
        return TD_EAGAIN;
    if (pool->config.start != TD_START_SINGLE) {
        const td_status status = start_zygote_locked(pool);
        if (status != TD_OK)
            return status;
    }
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++)
        if (pool->members[worker].state == TD_MEMBER_EMPTY)
            return order_locked(pool, worker);
    return TD_EAGAIN;
}

void td__crew_grow_locked(td_pool *pool)
{
    if (pool->member_count >= pool->config.max_workers)
        return;
    uint64_t free_hands = 0;
    for (uint32_t w = 0; w < pool->config.max_workers; w++) {
        const uint32_t state = td_atomic_load_relaxed(&pool->map.states[w]);
        free_hands += state != TD_SEAT_EMPTY && state != TD_SEAT_BUSY && state != TD_SEAT_LEAVING;
    }
    const uint64_t waiting = td_submission_waiting(&pool->map) + pool->overflow_count;
    td_status status = TD_OK;
    while (free_hands < waiting && pool->member_count < pool->config.max_workers && status == TD_OK) {
        status = td__crew_order_locked(pool);
        free_hands++;
    }
    /* EAGAIN: the channel is full, and the answers that empty it come back here. */
    if (status != TD_OK && status != TD_EAGAIN && pool->member_count == 0) {
        char reason[256];
        snprintf(reason, sizeof reason, "no worker could be started: %s%s%s", td_status_text(status),
                 status == TD_EOS ? ": " : "", status == TD_EOS ? strerror(errno) : "");
        td__pool_break_locked(pool, reason, SIGTERM);
    }
}

td_status td_pool_prestart(td_pool *pool, uint32_t n)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    pthread_mutex_lock(&pool->lock);
    td_status status = pool->closed ? TD_ECLOSED : td__pool_start_locked(pool);
    while (status == TD_OK && pool->member_count < n && pool->member_count < pool->config.max_workers)
        status = td__crew_order_locked(pool);
    pthread_mutex_unlock(&pool->lock);
    return status == TD_EAGAIN ? TD_OK : status;
}

/* ---- Ends ------------------------------------------------------------------------------------------------------- */

void td__member_clear_locked(td_pool *pool, uint32_t worker)
{
    struct td_member *member = &pool->members[worker];
    if (member->watched && member->pidfd >= 0)
        td_native_unwatch(member->pidfd);
    else if (member->watched)
        td_native_unwatch(member->channel >= 0 ? member->channel : member->lifeline);
    close_if(&member->pidfd);
    close_if(&member->lifeline);
    close_if(&member->stack_fd);
    close_if(&member->channel);
    td_arena_unref(member->arena);
    free(member->kept);
    *member = (struct td_member){.pidfd = -1, .lifeline = -1, .stack_fd = -1, .channel = -1};
    pool->member_count--;
    td_atomic_store_seq(&pool->map.states[worker], TD_SEAT_EMPTY);
}

/* Nobody is left to report on this worker: watch the process itself. */
static void orphan_locked(struct td_member *member)
{
    member->orphan = true;
    if (!member->watched)
        member->watched = td_native_watch(member->pidfd >= 0 ? member->pidfd : member->lifeline) == TD_OK;
}

static void lose_zygote_locked(td_pool *pool)
{
    struct td_zygote *zygote = &pool->zygote;
    int status;
    td_native_unwatch(zygote->channel);
    close_if(&zygote->channel);
    send_signal(zygote->pidfd, zygote->pid, SIGKILL); /* it may have closed its channel and live on */
    while (waitpid(zygote->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    close_if(&zygote->pidfd);
    pool->failed_starts = zygote->ready ? 0 : pool->failed_starts + 1;
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++)
        if (pool->members[worker].state != TD_MEMBER_EMPTY)
            orphan_locked(&pool->members[worker]);
    if (pool->failed_starts >= FAILED_STARTS_MOST)
        td__pool_break_locked(
            pool, "the zygote, which starts the workers, died three times before it was ready", SIGTERM);
    else if (pool->config.start == TD_START_ADOPTED && !zygote->leaving)
        td__pool_break_locked(pool, "the process forked from this one, which starts the workers, died",
                              SIGTERM);
}

/* ---- News ------------------------------------------------------------------------------------------------------- */

static void born_locked(td_pool *pool, struct td_zygote_news *news)
{
    struct td_member *member = &pool->members[news->worker];
    if (member->state != TD_MEMBER_ORDERED) {
        close_if(&news->pidfd);
        return;
    }
    member->state = TD_MEMBER_ALIVE;
    member->pid = news->pid;
    member->pidfd = news->pidfd;
    member->born_ns = td_now_ns();
    TD_TRACE(SPAWN, news->worker, news->pid);
    if (member->condemned) /* before there was a process to signal */
        td__crew_signal_locked(pool, news->worker, SIGKILL);
}

/* A worker that could not start says why; one is enough to know that none can. */
static void hear_failure_locked(td_pool *pool, uint32_t worker)
{
    const struct td_seat *seat = &pool->map.seats[worker];
    const uint64_t ref = td_atomic_load_acquire(&seat->failure);
    void *text;
    if (ref == 0 || td_atomic_load_relaxed(&pool->is_broken) != 0 ||
        td_arena_peek(pool->members[worker].arena, ref, seat->failure_bytes, &text) != TD_OK)
        return;
    char reason[sizeof pool->broken_reason];
    snprintf(reason, sizeof reason, "%.*s", (int)seat->failure_bytes, (const char *)text);
    td__pool_break_locked(pool, reason, SIGTERM);
}

static void hear_locked(td_pool *pool, struct td_zygote_news *news)
{
    char reason[256];
    const bool about_worker = news->event == TD_ZYGOTE_BORN || news->event == TD_ZYGOTE_FORK_FAILED ||
                              news->event == TD_ZYGOTE_EXITED;
    if (about_worker && news->worker >= pool->config.max_workers) {
        close_if(&news->pidfd);
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
        snprintf(reason, sizeof reason, "no worker could be forked: %s", strerror(news->error));
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
    struct td_member *member = &pool->members[worker];
    int status = -1;
    if (member->pidfd >= 0) {
        if (td_pidfd_wait_until(member->pidfd, 0) != TD_OK)
            return;
    } else if (!is_hung_up(member->channel >= 0 ? member->channel : member->lifeline)) {
        return;
    }
    if (!member->orphan) { /* our own child */
        pid_t reaped;
        while ((reaped = waitpid(member->pid, &status, 0)) < 0 && errno == EINTR)
            continue;
        if (reaped < 0)
            status = -1;
    }
    td__death_locked(pool, worker, status);
}

void td__crew_keep_locked(td_pool *pool)
{
    td_status status = TD_EAGAIN;
    while (pool->zygote.channel >= 0) {
        struct td_zygote_news news = {.pidfd = -1};
        status = td_zygote_receive(pool->zygote.channel, &news);
        if (status != TD_OK)
            break;
        hear_locked(pool, &news);
    }
    if (status == TD_ECLOSED || status == TD_EPROTO)
        lose_zygote_locked(pool);
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++) {
        struct td_member *member = &pool->members[worker];
        if (member->state == TD_MEMBER_EMPTY)
            continue;
        hear_failure_locked(pool, worker);
        if (member->orphan || member->channel >= 0)
            look_after_locked(pool, worker);
    }
    td__crew_grow_locked(pool);
}

void td__crew_dismiss_locked(td_pool *pool)
{
    if (td_atomic_load_relaxed(&pool->map.head->closing) == 0) {
        td_atomic_store_seq(&pool->map.head->closing, 1);
        for (uint32_t worker = 0; worker < pool->config.max_workers; worker++)
            td_doorbell_wake_worker(&pool->map, worker);
    }
    if (pool->member_count == 0 && pool->zygote.channel >= 0 && !pool->zygote.leaving) {
        pool->zygote.leaving = true;
        td_zygote_send_leave(pool->zygote.channel);
    }
}

bool td__crew_is_gone_locked(const td_pool *pool)
{
    return pool->member_count == 0 && pool->zygote.channel < 0;
}
