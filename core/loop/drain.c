/* loop/drain.c: see drain.h for the states, the invariants and the locks.
 * Tests  tests/loop/test_drain.c */
#include "loop/drain.h"

#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/futex.h"

/* A waiter spins at most as long as a wake-up costs. */
#define WAITER_SPIN_NS (20 * TD_NS_PER_US)

struct waiter {
    td_list link;
    td_condition *ready;
    void *context;
    td_atomic_u32 called; /* 1: look again (the token may be free, or the condition true) */
    bool looked;          /* its caller has just looked for signals, which is good for one sleep */
};

static td_atomic_u32 heedful;          /* td_heed_signals */
static _Thread_local bool just_looked; /* td_signals_heeded */

static struct {
    pthread_mutex_t lock;
    pthread_mutex_t sources_lock; /* over `sources`; taken before a source's own lock */
    td_list sources, waiters;
    struct waiter *holder; /* of the token; NULL: it is free */
    td_atomic_u32 waiting; /* threads in td_drain_wait_until beyond its fast path */
    struct td_bell_map bell;
    bool has_bell;
} drain = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .sources_lock = PTHREAD_MUTEX_INITIALIZER,
    .sources = {&drain.sources, &drain.sources},
    .waiters = {&drain.waiters, &drain.waiters},
};

/* Needs sources_lock. The bell stays for the life of the process. */
static td_status make_bell_locked(void)
{
    if (drain.has_bell)
        return TD_OK;
    const td_status status = td_bell_new(&drain.bell);
    drain.has_bell = status == TD_OK;
    return status;
}

td_status td_drain_make_bell(void)
{
    pthread_mutex_lock(&drain.sources_lock);
    const td_status status = make_bell_locked();
    pthread_mutex_unlock(&drain.sources_lock);
    return status;
}

td_status td_drain_add_source(struct td_source *source)
{
    pthread_mutex_lock(&drain.sources_lock);
    const td_status status = make_bell_locked();
    if (status == TD_OK)
        td_list_push_back(&drain.sources, &source->link);
    pthread_mutex_unlock(&drain.sources_lock);
    return status;
}

void td_drain_remove_source(struct td_source *source)
{
    pthread_mutex_lock(&drain.sources_lock);
    td_list_remove(&source->link);
    pthread_mutex_unlock(&drain.sources_lock);
}

struct td_bell_map *td_drain_bell(void)
{
    return &drain.bell;
}

bool td_drain_run(void)
{
    bool finished = false;
    pthread_mutex_lock(&drain.sources_lock);
    for (td_list *node = drain.sources.next; node != &drain.sources; node = node->next) {
        struct td_source *source = TD_LIST_ENTRY(node, struct td_source, link);
        finished |= source->drain(source);
    }
    pthread_mutex_unlock(&drain.sources_lock);
    return finished;
}

static bool any_waits(void)
{
    bool waits = false;
    pthread_mutex_lock(&drain.sources_lock);
    for (td_list *node = drain.sources.next; node != &drain.sources && !waits; node = node->next) {
        struct td_source *source = TD_LIST_ENTRY(node, struct td_source, link);
        waits = source->waits(source);
    }
    pthread_mutex_unlock(&drain.sources_lock);
    return waits;
}

/* Needs the lock. Wakes the waiters whose condition is true; with `token_free` the first other one too, to take it. */
static void call_waiters_locked(bool token_free)
{
    for (td_list *node = drain.waiters.next; node != &drain.waiters; node = node->next) {
        struct waiter *waiter = TD_LIST_ENTRY(node, struct waiter, link);
        const bool ready = waiter->ready(waiter->context);
        if (!ready && !token_free)
            continue;
        if (!ready)
            token_free = false;
        td_atomic_store_release(&waiter->called, 1);
        td_futex_wake(&waiter->called, 1, false);
    }
}

void td_drain_notify(void)
{
    pthread_mutex_lock(&drain.lock);
    call_waiters_locked(false);
    if (drain.holder != NULL && drain.holder->ready(drain.holder->context))
        td_bell_kick(&drain.bell);
    pthread_mutex_unlock(&drain.lock);
}

bool td_drain_has_waiter(void)
{
    return td_atomic_load_seq(&drain.waiting) != 0;
}

/* May this thread spin for a moment? Only where a CPU would idle otherwise. */
static bool may_spin(void)
{
    bool may = true;
    pthread_mutex_lock(&drain.sources_lock);
    for (td_list *node = drain.sources.next; node != &drain.sources && may; node = node->next) {
        struct td_source *source = TD_LIST_ENTRY(node, struct td_source, link);
        may = source->may_spin(source);
    }
    pthread_mutex_unlock(&drain.sources_lock);
    return may;
}

bool td_drain_poll(void)
{
    const bool finished = td_drain_run();
    if (finished && td_drain_has_waiter())
        td_drain_notify();
    return finished;
}

bool td_drain_spin(td_condition *ready, void *context, int64_t spin_ns)
{
    if (!may_spin())
        return ready(context);
    td_bell_show_cpu(&drain.bell);
    for (const int64_t end = td_now_ns() + spin_ns; !ready(context) && td_now_ns() < end;) {
        for (uint32_t turn = 0; turn < 64 && !any_waits(); turn++)
            td_pause();
        (void)td_drain_poll();
    }
    return ready(context);
}

void td_heed_signals(bool heed)
{
    td_atomic_store_relaxed(&heedful, heed);
}

void td_signals_heeded(void)
{
    just_looked = true;
}

/* May the thread sleep? TD_EINTR: its caller must look for signals first. TD_ETIMEDOUT: it only came to drain. */
static td_status before_sleep(struct waiter *self, int64_t deadline_ns)
{
    const bool looked = self->looked;
    self->looked = false;
    if (deadline_ns == 0)
        return TD_ETIMEDOUT;
    return !looked && td_atomic_load_relaxed(&heedful) != 0 && gettid() == getpid() ? TD_EINTR : TD_OK;
}

/* Holds the token until ready, deadline or signal. Whatever ended its sleep, it drains once more: the ring that it
 * heard was meant for whoever drains. */
static td_status hold(struct waiter *self, int64_t deadline_ns)
{
    td_bell_show_cpu(&drain.bell);
    const int64_t spin_end = td_now_ns() + WAITER_SPIN_NS;
    bool spin = !self->looked && spin_end < deadline_ns && may_spin();
    for (td_status status = TD_OK;;) {
        if (td_drain_run()) {
            pthread_mutex_lock(&drain.lock);
            call_waiters_locked(false);
            pthread_mutex_unlock(&drain.lock);
        }
        if (self->ready(self->context))
            return TD_OK;
        if (status != TD_OK)
            return status;
        if (spin) {
            for (uint32_t turn = 0; turn < 64 && !any_waits(); turn++)
                td_pause();
            spin = td_now_ns() < spin_end;
            continue;
        }
        status = before_sleep(self, deadline_ns);
        if (status != TD_OK)
            return status;
        const uint32_t seen = td_bell_listen(&drain.bell);
        if (!any_waits() && !self->ready(self->context))
            status = td_bell_sleep_until(&drain.bell, seen, deadline_ns);
        td_bell_unlisten(&drain.bell);
    }
}

/* Needs the lock, gives it up while it sleeps: until called, deadline or signal. */
static td_status sleep_locked(struct waiter *self, int64_t deadline_ns)
{
    td_atomic_store_relaxed(&self->called, 0);
    td_list_push_back(&drain.waiters, &self->link);
    pthread_mutex_unlock(&drain.lock);
    td_status status = TD_OK;
    while (td_atomic_load_acquire(&self->called) == 0 && status == TD_OK) {
        status = td_futex_wait_until(&self->called, 0, deadline_ns, false);
        if (status == TD_EAGAIN)
            status = TD_OK;
    }
    pthread_mutex_lock(&drain.lock);
    td_list_remove(&self->link);
    return status;
}

td_status td_drain_wait_until(td_condition *ready, void *context, int64_t deadline_ns)
{
    if (ready(context))
        return TD_OK;
    struct waiter self = {.ready = ready, .context = context, .looked = just_looked};
    just_looked = false;
    td_status status = td_drain_make_bell();
    td_atomic_fetch_add_seq(&drain.waiting, 1);
    pthread_mutex_lock(&drain.lock);
    while (status == TD_OK && !ready(context)) {
        if (drain.holder == NULL) {
            drain.holder = &self;
            pthread_mutex_unlock(&drain.lock);
            status = hold(&self, deadline_ns);
            pthread_mutex_lock(&drain.lock);
            drain.holder = NULL;
            break;
        }
        status = before_sleep(&self, deadline_ns);
        if (status == TD_OK)
            status = sleep_locked(&self, deadline_ns);
    }
    /* A call that offered the token may have come while this thread gave up: pass it on. */
    if (drain.holder == NULL)
        call_waiters_locked(true);
    pthread_mutex_unlock(&drain.lock);
    td_atomic_fetch_sub_seq(&drain.waiting, 1);
    return status != TD_OK && ready(context) ? TD_OK : status;
}

void td_drain_forget(void)
{
    pthread_mutex_init(&drain.lock, NULL);
    pthread_mutex_init(&drain.sources_lock, NULL);
    td_list_init(&drain.sources);
    td_list_init(&drain.waiters);
    drain.holder = NULL;
    td_atomic_store_relaxed(&drain.waiting, 0);
    if (drain.has_bell)
        td_bell_fini(&drain.bell);
    drain.has_bell = false;
}
