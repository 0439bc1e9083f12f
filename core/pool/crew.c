/* pool/crew.c: the worker processes and the zygote, as the parent sees them.
 *
 *   seat:    EMPTY --order--> ORDERED --BORN--> ALIVE --EXITED, or its pidfd--> (death.c) --> EMPTY
 *   zygote:  none --order--> started --READY--> serving --end of its channel--> none; another is started on need
 *
 * Orders are sent from any thread under the pool's lock and never wait; what becomes of them is news.c's affair.
 * Tests  tests/pool/test_death.c, tests/pool/test_pool.c */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
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

#define CHANNEL_FD 3 /* the channel's number in a process that we start */
#define OWN_WORKER 0 /* the seat of the worker that the caller forks */

int td__reap(int pidfd, int32_t pid)
{
    int status = -1;
    pid_t reaped;
    if (pidfd >= 0 && td_pidfd_reap(pidfd, &status) != TD_ENOSYS)
        return status;
    while ((reaped = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
        continue;
    return reaped == pid ? status : -1;
}

void td__kill_and_reap(int pidfd, int32_t pid)
{
    td__send_signal(pidfd, pid, SIGKILL);
    (void)td__reap(pidfd, pid);
}

static void end_zygote(struct td_zygote *zygote)
{
    td__kill_and_reap(zygote->pidfd, zygote->pid);
    td__close_fd(&zygote->pidfd);
    td__close_fd(&zygote->channel);
}

static void end_own_worker(td_pool *pool)
{
    const struct td_member *member = &pool->members[OWN_WORKER];
    if (member->pid > 0)
        td__kill_and_reap(member->pidfd, member->pid);
    td__member_clear_locked(pool, OWN_WORKER);
}

td_status td__crew_init(td_pool *pool)
{
    pool->members = calloc(pool->config.max_workers, sizeof *pool->members);
    pool->completed = calloc(pool->config.max_workers, sizeof *pool->completed);
    pool->zygote = (struct td_zygote){.pidfd = -1, .channel = -1, .kill_at_ns = TD_FOREVER};
    return pool->members != NULL && pool->completed != NULL ? TD_OK : TD_ENOMEM;
}

void td__crew_fini(td_pool *pool)
{
    /* Of a pool that never started: */
    if (pool->zygote.channel >= 0)
        end_zygote(&pool->zygote);
    if (pool->member_count > 0)
        end_own_worker(pool);
    free(pool->members);
    free(pool->completed);
}

void td__close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- Signals --------------------------------------------------------------------------------------------------- */

void td__send_signal(int pidfd, int32_t pid, int signal)
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
    if (signal == SIGKILL || (signal == SIGTERM && member->condemned == 0))
        member->condemned = signal;
    if (member->orphan && member->pidfd < 0) {
        if (signal == SIGKILL) /* its pid may be another's by now, but the lifeline is its own: this ends it */
            shutdown(member->lifeline, SHUT_WR);
        return;
    }
    td__send_signal(member->pidfd, member->pid, signal);
}

void td__crew_end_all_locked(td_pool *pool, int signal)
{
    const int64_t kill_at_ns = signal == SIGKILL ? td_now_ns() : td_deadline_after(pool->config.grace_ns);
    for (uint32_t worker = 0; worker < pool->config.max_workers; worker++) {
        struct td_member *member = &pool->members[worker];
        if (member->state == TD_MEMBER_EMPTY)
            continue;
        td__crew_signal_locked(pool, worker, signal);
        member->kill_position = 0;
        member->nudge_at_ns = TD_FOREVER;
        member->kill_at_ns = kill_at_ns;
    }
    /* It may be deep in an import, and then it hears nothing. */
    if (pool->zygote.channel >= 0 && kill_at_ns < pool->zygote.kill_at_ns)
        pool->zygote.kill_at_ns = kill_at_ns;
    td_native_wake();
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
        .held = SIGINT, /* Ctrl-C is for us; what we start unblocks it once it does nothing there */
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

td_status td__crew_boot_zygote_locked(td_pool *pool)
{
    if (pool->zygote.channel >= 0)
        return TD_OK;
    if (pool->config.start == TD_START_ADOPTED)
        return TD_ECLOSED; /* only the caller could fork another one */
    struct td_zygote started = {.pidfd = -1, .channel = -1, .kill_at_ns = TD_FOREVER};
    const td_status status = spawn(pool, &started.pid, &started.pidfd, &started.channel);
    if (status != TD_OK)
        return status;
    pool->zygote = started;
    pool->stats.zygote_starts++;
    return TD_OK;
}

td_status td__crew_start_zygote_locked(td_pool *pool)
{
    struct td_zygote *zygote = &pool->zygote;
    td_status status = td__crew_boot_zygote_locked(pool);
    if (status != TD_OK || zygote->watched)
        return status;
    status = td_native_watch(zygote->channel);
    if (status == TD_OK)
        zygote->watched = true;
    else
        end_zygote(zygote);
    return status;
}

static void watch_own_worker_locked(td_pool *pool)
{
    struct td_member *member = &pool->members[OWN_WORKER];
    if (member->state == TD_MEMBER_ALIVE && !member->watched)
        member->watched = td_native_watch(td__watch_fd(member)) == TD_OK;
}

td_status td_pool_adopt_zygote(td_pool *pool, int32_t pid, int channel)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    td_status status = td__pool_start(pool);
    if (status != TD_OK)
        return status;
    pthread_mutex_lock(&pool->lock);
    watch_own_worker_locked(pool); /* in any case: a pool that is closed meanwhile waits for its end */
    status = pool->zygote.channel >= 0 ? TD_EINVAL : pool->closed ? TD_ECLOSED : TD_OK;
    if (status == TD_OK)
        status = td_native_watch(channel);
    if (status == TD_OK) {
        pool->zygote = (struct td_zygote){
            .pid = pid, .pidfd = -1, .channel = channel, .watched = true, .kill_at_ns = TD_FOREVER};
        td_pidfd_open(pid, &pool->zygote.pidfd);
        pool->stats.zygote_starts++;
        td_native_wake(); /* what it said before it was watched */
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
    const struct td_context *context = pool->members[worker].context;
    const struct td_birth_order order = {
        .worker = worker,
        .context_ref = context != NULL ? context->ref : 0,
        .context_bytes = context != NULL ? context->bytes : 0,
        .fds = {[TD_BIRTH_SEGMENT] = pool->map.fd,
                [TD_BIRTH_ARGS] = td_arena_fd(pool->args_arena),
                [TD_BIRTH_BELL] = bell->fd,
                [TD_BIRTH_EVENT] = bell->event_fd,
                [TD_BIRTH_LOOP] = bell->loop_fd,
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
    td_atomic_store_relaxed(&pool->completed[worker], 0);
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

/* A worker of its own process from the start. */
static td_status start_single_locked(td_pool *pool, uint32_t worker, const struct dowry *dowry)
{
    struct td_member *member = &pool->members[worker];
    td_status status = spawn(pool, &member->pid, &member->pidfd, &member->channel);
    if (status != TD_OK)
        return status;
    status = send_order(pool, worker, member->channel, dowry);
    if (status == TD_ECLOSED) /* it has ended already: its last words are read when that is seen */
        status = TD_OK;
    if (status == TD_OK)
        status = td_native_watch(td__watch_fd(member));
    if (status != TD_OK) {
        td__kill_and_reap(member->pidfd, member->pid);
        return status;
    }
    member->watched = true;
    member->state = TD_MEMBER_ALIVE;
    member->born_ns = td_now_ns();
    TD_TRACE(SPAWN, worker, member->pid);
    return TD_OK;
}

/* A process that the caller forked, and that waits for its birth. */
struct own_worker {
    int32_t pid;
    int channel;
};

static td_status take_own_locked(td_pool *pool, uint32_t worker, const struct own_worker *own,
                                 const struct dowry *dowry)
{
    struct td_member *member = &pool->members[worker];
    const td_status status = send_order(pool, worker, own->channel, dowry);
    if (status != TD_OK && status != TD_ECLOSED) /* as with start_single_locked */
        return status;
    member->channel = own->channel;
    member->pid = own->pid;
    td_pidfd_open(own->pid, &member->pidfd);
    member->state = TD_MEMBER_ALIVE;
    member->born_ns = td_now_ns();
    TD_TRACE(SPAWN, worker, own->pid);
    return TD_OK;
}

/* own: the process that is to be the worker; NULL: another makes it. */
static td_status order_locked(td_pool *pool, uint32_t worker, const struct own_worker *own)
{
    struct td_member *member = &pool->members[worker];
    struct dowry dowry;
    *member = (struct td_member){
        .pidfd = -1,
        .lifeline = -1,
        .stack_fd = -1,
        .channel = -1,
        .kill_at_ns = TD_FOREVER,
        .nudge_at_ns = TD_FOREVER,
    };
    td_status status = equip(member, &dowry);
    if (status != TD_OK)
        return status;
    member->state = TD_MEMBER_ORDERED;
    member->ordered_ns = td_now_ns();
    member->context = pool->context;
    if (member->context != NULL)
        member->context->users++;
    pool->member_count++;
    reset_seat(pool, worker);
    td_atomic_store_seq(&pool->map.states[worker], TD_SEAT_STARTING);
    if (own != NULL)
        status = take_own_locked(pool, worker, own, &dowry);
    else if (pool->config.start == TD_START_SINGLE)
        status = start_single_locked(pool, worker, &dowry);
    else
        status = send_order(pool, worker, pool->zygote.channel, &dowry);
    if (status == TD_ECLOSED) /* the zygote is gone: once that is heard, another is started */
        status = TD_EAGAIN;
    close(dowry.arena_fd);
    close(dowry.lifeline_fd);
    if (status != TD_OK)
        td__member_clear_locked(pool, worker);
    else
        pool->stats.workers_started++;
    return status;
}

td_status td__crew_order_locked(td_pool *pool)
{
    if (pool->member_count >= pool->config.max_workers || td_atomic_load_relaxed(&pool->is_broken) != 0 ||
        (pool->closed && td_atomic_load_relaxed(&pool->outstanding) == 0))
        return TD_EAGAIN;
    if (pool->order_again_ns != 0 && pool->member_count > 0 && td_now_ns() < pool->order_again_ns)
        return TD_EAGAIN;
    pool->order_again_ns = 0;
    td_status status = pool->config.start != TD_START_SINGLE ? td__crew_start_zygote_locked(pool) : TD_OK;
    uint32_t worker = 0;
    while (pool->members[worker].state != TD_MEMBER_EMPTY)
        worker++;
    if (status == TD_OK)
        status = order_locked(pool, worker, NULL);
    if (status != TD_OK && status != TD_EAGAIN)
        pool->order_again_ns = td_deadline_after(TD__ORDER_AGAIN_NS);
    return status;
}

td_status td_pool_adopt_worker(td_pool *pool, int32_t pid, int channel)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    td_status status = td_drain_make_bell();
    if (status != TD_OK)
        return status;
    const struct own_worker own = {pid, channel};
    pthread_mutex_lock(&pool->lock);
    if (pool->config.start != TD_START_ADOPTED || pool->member_count > 0 || pool->zygote.channel >= 0)
        status = TD_EINVAL;
    else
        status = order_locked(pool, OWN_WORKER, &own);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

/* Is it there, or on its way, and stays? */
static bool has_hands(const td_pool *pool, uint32_t worker)
{
    const struct td_seat *seat = &pool->map.seats[worker];
    const uint32_t state = td_atomic_load_relaxed(&pool->map.states[worker]);
    const bool did_its_last =
        seat->max_tasks != 0 && td_atomic_load_relaxed(&seat->tasks_done) >= seat->max_tasks;
    return state != TD_SEAT_EMPTY && state != TD_SEAT_LEAVING && !did_its_last;
}

uint32_t td__crew_free_hands(const td_pool *pool)
{
    uint32_t free_hands = 0;
    for (uint32_t w = 0; w < pool->config.max_workers; w++)
        free_hands += has_hands(pool, w) && td_atomic_load_relaxed(&pool->map.states[w]) != TD_SEAT_BUSY;
    return free_hands;
}

static uint64_t count_hands(const td_pool *pool)
{
    uint64_t hands = 0;
    for (uint32_t w = 0; w < pool->config.max_workers; w++)
        hands += has_hands(pool, w);
    return hands;
}

/* The tasks that wait or run: those not drained, less those reported. States tell no more than how it was: one that has
 * claimed a task may still say that it searches, and one that has just replied that it is busy. */
static uint64_t unfinished(const td_pool *pool)
{
    uint64_t reported = 0;
    for (uint32_t w = 0; w < pool->config.max_workers; w++) {
        const uint64_t head = td_atomic_load_relaxed(&pool->completed[w]);
        if (!td_completion_is_damaged(&pool->map, w, head))
            reported += td_atomic_load_relaxed(&pool->map.seats[w].done_tail) - head;
    }
    const uint64_t outstanding = td_atomic_load_relaxed(&pool->outstanding);
    return outstanding > reported ? outstanding - reported : 0;
}

/* Without the lock: a hint, for whoever would like to freshen the context before a worker is born with it. */
bool td_pool_is_short_handed(td_pool *pool)
{
    const uint64_t hands = count_hands(pool);
    return hands < pool->config.max_workers && hands <= unfinished(pool);
}

void td__crew_grow_locked(td_pool *pool)
{
    if (pool->member_count >= pool->config.max_workers)
        return;
    uint64_t hands = count_hands(pool);
    const uint64_t wanted = unfinished(pool);
    td_status status = TD_OK;
    while (hands < wanted && pool->member_count < pool->config.max_workers && status == TD_OK) {
        status = td__crew_order_locked(pool);
        hands++;
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
    td_status status = td__pool_start(pool);
    if (status != TD_OK)
        return status;
    pthread_mutex_lock(&pool->lock);
    status = pool->closed ? TD_ECLOSED : TD_OK;
    while (status == TD_OK && pool->member_count < n && pool->member_count < pool->config.max_workers)
        status = td__crew_order_locked(pool);
    pthread_mutex_unlock(&pool->lock);
    return status == TD_EAGAIN ? TD_OK : status;
}

/* ---- Ends ------------------------------------------------------------------------------------------------------- */

void td__member_clear_locked(td_pool *pool, uint32_t worker)
{
    struct td_member *member = &pool->members[worker];
    struct td_seat *seat = &pool->map.seats[worker];
    if (member->watched)
        td_native_unwatch(td__watch_fd(member));
    td__close_fd(&member->pidfd);
    td__close_fd(&member->lifeline);
    td__close_fd(&member->stack_fd);
    td__close_fd(&member->channel);
    td_arena_unref(member->arena);
    free(member->kept);
    td__held_bury_locked(member);
    td__context_drop_locked(pool, member->context);
    *member = (struct td_member){.pidfd = -1, .lifeline = -1, .stack_fd = -1, .channel = -1};
    pool->member_count--;
    /* Nobody looks as if it had something to report, or a task. */
    td_atomic_store_relaxed(&pool->completed[worker], td_atomic_load_relaxed(&seat->done_tail));
    td_atomic_store_relaxed(&seat->current, 0);
    td_atomic_store_seq(&pool->map.states[worker], TD_SEAT_EMPTY);
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
        if (td_zygote_send_leave(pool->zygote.channel) != TD_OK)
            shutdown(pool->zygote.channel, SHUT_WR); /* the end of its orders says the same */
    }
}

bool td__crew_is_gone_locked(const td_pool *pool)
{
    return pool->member_count == 0 && pool->zygote.channel < 0;
}
