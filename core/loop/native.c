/* loop/native.c: see native.h.
 * Ordering  W: make the poller and its bell -> release has_poller -> acquire has_poller -> ring the bell, without the
 *           lock.
 * Tests     tests/loop/test_native.c */
#include "loop/native.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "os/event.h"
#include "os/poller.h"

/* In the tag of a descriptor, beside its number: an event, which the thread empties. */
#define TAG_EVENT (UINT64_C(1) << 32)

static struct {
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    td_list keepers; /* joined by any thread under the lock, left on the native thread */
    bool running;
    td_atomic_u32 has_poller;
    int poller;
    int wake_fd;
} native = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .stopped = PTHREAD_COND_INITIALIZER,
    .keepers = {&native.keepers, &native.keepers},
};

/* Needs the lock. The poller and its bell stay for the life of the process. */
static td_status open_poller_locked(void)
{
    if (td_atomic_load_relaxed(&native.has_poller) != 0)
        return TD_OK;
    td_status status = td_poller_new(&native.poller);
    if (status != TD_OK)
        return status;
    status = td_event_new(&native.wake_fd);
    if (status != TD_OK)
        goto no_event;
    status = td_poller_add(native.poller, native.wake_fd, TD_POLL_IN, TAG_EVENT | (uint32_t)native.wake_fd);
    if (status != TD_OK)
        goto no_watch;
    TD_EDGE(native_W, td_atomic_store_release, td_atomic_store_relaxed)(&native.has_poller, 1); /* W */
    return TD_OK;
no_watch:
    close(native.wake_fd);
no_event:
    close(native.poller);
    return status;
}

/* Asks every keeper; the earliest deadline. Holds the lock only between two of them. */
static int64_t ask_keepers(void)
{
    int64_t next = TD_FOREVER;
    pthread_mutex_lock(&native.lock);
    for (td_list *node = native.keepers.next; node != &native.keepers;) {
        struct td_keeper *keeper = TD_LIST_ENTRY(node, struct td_keeper, link);
        pthread_mutex_unlock(&native.lock);
        const int64_t deadline = keeper->keep(keeper);
        pthread_mutex_lock(&native.lock);
        node = node->next;
        if (deadline == TD_KEEP_END) {
            td_list_remove(&keeper->link);
            pthread_mutex_unlock(&native.lock);
            keeper->ended(keeper);
            pthread_mutex_lock(&native.lock);
            node = native.keepers.next; /* the list may have changed: ask again from the start */
        } else if (deadline < next) {
            next = deadline;
        }
    }
    if (td_list_empty(&native.keepers)) {
        native.running = false;
        pthread_cond_broadcast(&native.stopped);
        next = TD_KEEP_END;
    }
    pthread_mutex_unlock(&native.lock);
    return next;
}

static void *run(void *unused)
{
    (void)unused;
    pthread_setname_np(pthread_self(), "treadle");
    for (;;) {
        td_poll_event events[16];
        size_t count = 0;
        uint64_t rings;
        const int64_t next = ask_keepers();
        if (next == TD_KEEP_END)
            return NULL;
        (void)td_poller_wait_until(native.poller, events, 16, &count, next);
        for (size_t i = 0; i < count; i++)
            if ((events[i].tag & TAG_EVENT) != 0)
                td_event_drain((int)(uint32_t)events[i].tag, &rings);
    }
}

td_status td_native_add(struct td_keeper *keeper)
{
    pthread_mutex_lock(&native.lock);
    td_status status = open_poller_locked();
    if (status == TD_OK && !native.running) {
        sigset_t all, before;
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        td_list_push_back(&native.keepers, &keeper->link); /* before it looks, or it would end at once */
        if (pthread_create(&thread, &attributes, run, NULL) == 0) {
            native.running = true;
        } else {
            td_list_remove(&keeper->link);
            status = TD_ETHREAD;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    } else if (status == TD_OK) {
        td_list_push_back(&native.keepers, &keeper->link);
        td_event_ring(native.wake_fd);
    }
    pthread_mutex_unlock(&native.lock);
    return status;
}

td_status td_native_watch(int fd)
{
    return td_poller_add(native.poller, fd, TD_POLL_IN, (uint64_t)fd);
}

td_status td_native_watch_event(int fd)
{
    return td_poller_add(native.poller, fd, TD_POLL_IN, TAG_EVENT | (uint32_t)fd);
}

void td_native_unwatch(int fd)
{
    td_poller_remove(native.poller, fd);
}

void td_native_wake(void)
{
    if (td_atomic_load_acquire(&native.has_poller) != 0) /* W */
        td_event_ring(native.wake_fd);
}

static void close_poller(void)
{
    if (td_atomic_load_relaxed(&native.has_poller) != 0) {
        close(native.poller);
        close(native.wake_fd);
    }
    td_atomic_store_relaxed(&native.has_poller, 0);
}

void td_native_end(void)
{
    pthread_mutex_lock(&native.lock);
    while (native.running)
        pthread_cond_wait(&native.stopped, &native.lock);
    close_poller();
    pthread_mutex_unlock(&native.lock);
}

void td_native_forget(void)
{
    pthread_mutex_init(&native.lock, NULL);
    pthread_cond_init(&native.stopped, NULL);
    td_list_init(&native.keepers);
    native.running = false;
    close_poller();
}
