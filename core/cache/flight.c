/* cache/flight.c: one computation for each key.
 *
 * Threads find each other in a table of flights; the key's lock keeps other processes out. A thread that finds the
 * lock taken has another one ask for it, which sleeps in the kernel, and itself waits as for a thread of this process:
 * so its wait has a deadline and ends on a signal, which a wait for a lock has not. The asking thread goes on when
 * nobody waits any more, and gives the lock back when it gets it.
 *
 *                 ┌───────────────── leave: nobody waits ─────────────────┐
 *                 ▼                                                       │
 *     (none) ── enter ──▶ lock is free ──▶ is the entry there? ── no ──▶ led ── leave ──▶ locked, unled
 *                   │                            │ yes: LANDED            ▲                │ a waiter looks
 *                   └──▶ lock is held ─▶ asked for ──granted──▶ locked, unled ──────────────┘
 *
 * Invariants  L1 who leads has looked for the entry under the lock: nobody can have put it since. So a key is computed
 *                once, however the threads of all processes are scheduled.
 *             L2 a flight is in the table while somebody leads, waits or asks for the lock; it has the lock only then.
 *             L3 whoever changes what waiters look at changes `turn` under the folder's lock, and wakes all of them.
 *             L4 nobody waits for himself, nor for somebody who waits for him, in whatever process (wait.c).
 * Ordering    none of its own: all is under the folder's lock.
 * Crash       of a leader: the kernel ends its lock, and the next one who asks gets it, finds no entry and leads.
 * Not covered a leader that waits for something else than a key of this store, which in turn waits for the key.
 * Tests       tests/cache/test_flight.c, tests/cache/test_flight_processes.c */
#include "cache/flight.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "os/futex.h"

#define ASKER_STACK_BYTES ((size_t)64 << 10)

static int64_t lock_of(uint64_t hash)
{
    return TD_LOCK_KEYS + (int64_t)(hash >> 3);
}

/* Who asks, where nobody else is named: the thread. */
static uint64_t this_thread(void)
{
    static _Thread_local char place;
    return (uint64_t)(uintptr_t)&place;
}

/* ---- The table ----------------------------------------------------------------------------------------- */

static td_list *bucket_of(struct td_folder *folder, uint64_t hash)
{
    return &folder->flights[hash % TD_FLIGHT_BUCKETS];
}

struct td_flight *td__flight_find_locked(struct td_folder *folder, uint64_t hash)
{
    TD_LIST_EACH(node, bucket_of(folder, hash))
    {
        struct td_flight *flight = TD_LIST_ENTRY(node, struct td_flight, link);
        if (flight->hash == hash)
            return flight;
    }
    return NULL;
}

static struct td_flight *find_or_make_locked(struct td_folder *folder, const struct td_key *key)
{
    const uint64_t hash = td__key_hash(key);
    struct td_flight *flight = td__flight_find_locked(folder, hash);
    if (flight != NULL)
        return flight;
    flight = calloc(1, sizeof *flight);
    if (flight == NULL)
        return NULL;
    flight->key = *key;
    flight->hash = hash;
    td_list_push_front(bucket_of(folder, hash), &flight->link);
    return flight;
}

static void wake_all_locked(struct td_flight *flight)
{
    td_atomic_fetch_add_relaxed(&flight->turn, 1);
    if (flight->waiters > 0)
        (void)td_futex_wake(&flight->turn, INT_MAX, false);
}

static void unlock_locked(struct td_folder *folder, struct td_flight *flight)
{
    if (flight->locked && folder->state_fd >= 0)
        td__lock_end(folder->state_fd, lock_of(flight->hash));
    flight->locked = false;
}

/* L2. */
static void settle_locked(struct td_folder *folder, struct td_flight *flight)
{
    if (flight->owner != 0 || flight->waiters > 0)
        return;
    unlock_locked(folder, flight);
    if (flight->asking)
        return;
    td_list_remove(&flight->link);
    free(flight);
}

/* Those of other threads, in a forked child, are not there. */
uint32_t td__flights_forget_locked(struct td_folder *folder)
{
    uint32_t asking = 0;
    for (size_t i = 0; i < TD_FLIGHT_BUCKETS; i++)
        for (td_list *node; (node = td_list_take_front(&folder->flights[i])) != NULL;) {
            struct td_flight *flight = TD_LIST_ENTRY(node, struct td_flight, link);
            asking += flight->asking;
            free(flight);
        }
    td_list_init(&folder->waits);
    return asking;
}

/* ---- The lock ------------------------------------------------------------------------------------------ */

/* What an asking thread is given. */
struct asking {
    struct td_folder *folder;
    uint64_t hash;
    int fd;
};

static void *ask(void *context)
{
    struct asking *asking = context;
    struct td_folder *folder = asking->folder;
    const enum td_lock lock = td__lock_wait(asking->fd, lock_of(asking->hash));
    pthread_mutex_lock(&folder->lock);
    struct td_flight *flight = td__flight_find_locked(folder, asking->hash);
    flight->asking = false;
    flight->locked = lock == TD_LOCKED;
    folder->no_locks |= lock == TD_LOCK_NONE;
    wake_all_locked(flight);
    settle_locked(folder, flight);
    pthread_mutex_unlock(&folder->lock);
    td__folder_unref(folder);
    free(asking);
    return NULL;
}

static td_status start_thread(struct asking *asking)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return TD_ENOMEM;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, ASKER_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&thread, &attributes, ask, asking);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error == 0 ? TD_OK : TD_ETHREAD;
}

/* TD_EAGAIN: wait. */
static td_status start_asking_locked(struct td_folder *folder, struct td_flight *flight)
{
    struct asking *asking = malloc(sizeof *asking);
    if (asking == NULL)
        return TD_ENOMEM;
    *asking = (struct asking){.folder = folder, .hash = flight->hash, .fd = folder->state_fd};
    flight->asking = true;
    td__folder_ref(folder);
    const td_status status = start_thread(asking);
    if (status == TD_OK)
        return TD_EAGAIN;
    flight->asking = false;
    td_atomic_fetch_sub_relaxed(&folder->refs, 1); /* not the last: the store has one */
    free(asking);
    return status;
}

/* ---- Entering ------------------------------------------------------------------------------------------ */

struct entering {
    td_store *store;
    struct td_folder *folder;
    struct td_flight *flight;
    uint64_t owner, stale;
    int64_t deadline_ns;
    bool waited;
    enum td_role role;
};

static bool has_landed(const struct entering *entering)
{
    char name[TD_NAME_BYTES];
    struct stat file;
    td__entry_name(&entering->flight->key, name);
    return entering->folder->fd >= 0 && fstatat(entering->folder->fd, name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
           td__stamp(&file) != entering->stale;
}

/* Nobody leads, and no other process does (as far as that can be known). */
static void take_locked(struct entering *entering, enum td_role role)
{
    struct td_flight *flight = entering->flight;
    entering->role = role;
    if (has_landed(entering)) { /* L1 */
        entering->role = TD_ROLE_LANDED;
        unlock_locked(entering->folder, flight);
        wake_all_locked(flight);
    } else {
        flight->owner = entering->owner;
    }
}

/* TD_OK: entered. TD_EAGAIN: wait. */
static td_status try_locked(struct entering *entering)
{
    struct td_folder *folder = entering->folder;
    struct td_flight *flight = entering->flight;
    if (flight->owner == entering->owner) {
        entering->role = TD_ROLE_CYCLE;
        return TD_OK;
    }
    if (entering->waited && has_landed(entering)) {
        entering->role = TD_ROLE_LANDED;
        return TD_OK;
    }
    if (flight->owner != 0 || flight->asking)
        return TD_EAGAIN;
    if (flight->locked) {
        take_locked(entering, TD_ROLE_LEADER);
        return TD_OK;
    }
    const int fd = entering->store->options.no_locks || folder->no_locks ? -1 : td__folder_state_locked(folder);
    const enum td_lock lock = fd >= 0 ? td__lock_try(fd, lock_of(flight->hash)) : TD_LOCK_NONE;
    if (lock == TD_LOCK_HELD && entering->deadline_ns == 0)
        return TD_ETIMEDOUT;
    if (lock == TD_LOCK_HELD) {
        const td_status status = start_asking_locked(folder, flight);
        if (status != TD_ETHREAD)
            return status;
        entering->role = TD_ROLE_CYCLE; /* who can't wait computes */
        return TD_OK;
    }
    flight->locked = lock == TD_LOCKED;
    folder->no_locks |= lock == TD_LOCK_NONE && fd >= 0;
    take_locked(entering, lock == TD_LOCKED ? TD_ROLE_LEADER : TD_ROLE_NOLOCKS);
    return TD_OK;
}

/* Sleeps until there is something to look at. */
static td_status sleep_locked(struct entering *entering)
{
    struct td_flight *flight = entering->flight;
    const uint32_t turn = td_atomic_load_relaxed(&flight->turn);
    pthread_mutex_unlock(&entering->folder->lock);
    td_status status = td_futex_wait_until(&flight->turn, turn, entering->deadline_ns, false);
    pthread_mutex_lock(&entering->folder->lock);
    return status == TD_EAGAIN ? TD_OK : status;
}

static td_status enter_locked(struct entering *entering)
{
    struct td_folder *folder = entering->folder;
    struct td_flight *flight = entering->flight;
    struct td_wait wait = {.slot = -1};
    td_status status;
    while ((status = try_locked(entering)) == TD_EAGAIN) {
        const bool locks = !entering->store->options.no_locks && !folder->no_locks;
        if (entering->deadline_ns == 0) {
            status = TD_ETIMEDOUT;
            break;
        }
        if (!wait.made && td__wait_begin_locked(folder, locks, &wait, entering->owner, flight->hash)) {
            entering->role = TD_ROLE_CYCLE; /* L4 */
            status = TD_OK;
            break;
        }
        status = sleep_locked(entering);
        entering->waited = true;
        if (status != TD_OK)
            break;
    }
    td__wait_end_locked(folder, &wait);
    return status;
}

td_status td_store_enter_until(td_store *store, const struct td_key *key, uint64_t owner, uint64_t stale,
                               int64_t deadline_ns, enum td_role *role)
{
    struct td_folder *folder = store->folder;
    if (key->length == 0 || key->length > TD_KEY_BYTES)
        return TD_EINVAL;
    struct entering entering = {.store = store,
                                .folder = folder,
                                .owner = owner != 0 ? owner : this_thread(),
                                .stale = stale,
                                .deadline_ns = deadline_ns};
    td_status status = TD_ENOMEM;
    pthread_mutex_lock(&folder->lock);
    entering.flight = find_or_make_locked(folder, key);
    if (entering.flight != NULL) {
        entering.flight->waiters++;
        status = enter_locked(&entering);
        entering.flight->waiters--;
        settle_locked(folder, entering.flight);
    }
    pthread_mutex_unlock(&folder->lock);
    if (status == TD_OK)
        *role = entering.role;
    return status;
}

td_status td_store_leave(td_store *store, const struct td_key *key, uint64_t owner)
{
    struct td_folder *folder = store->folder;
    pthread_mutex_lock(&folder->lock);
    struct td_flight *flight = td__flight_find_locked(folder, td__key_hash(key));
    const bool led = flight != NULL && flight->owner == (owner != 0 ? owner : this_thread());
    if (led) {
        flight->owner = 0;
        wake_all_locked(flight);
        settle_locked(folder, flight);
    }
    pthread_mutex_unlock(&folder->lock);
    return led ? TD_OK : TD_ENOTHELD;
}
