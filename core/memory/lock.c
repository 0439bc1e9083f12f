/* memory/lock.c: a lock between threads of all processes, which reports that its holder has died.
 *
 * It is one owned word (os/robust.c): the kernel frees it when the thread that holds it ends, and the next one to
 * acquire it is told. That one may repair what the lock protects and release it; or it passes the report on to the one
 * after it.
 * Invariants L1 whoever holds the lock holds its block, too, so that what the kernel looks at when the thread ends is
 *               still the lock.
 *            L2 a thread knows what it holds, and lets go of it when it ends while its process goes on. Where the whole
 *               process ends, there is nothing left to let go of.
 * Ordering   T of os/robust.c.
 * Crash      the kernel marks the word and wakes the next.
 * Fork       what the list of the thread that forked names is its parent's: it is passed over in the child.
 * Tests      tests/memory/test_lock.c, tests/memory/test_sync_killed.c */
#include <pthread.h>
#include <stdlib.h>

#include "memory/sync.h"
#include "os/robust.h"

struct lock {
    struct td_sync_head head;
    struct td_robust robust;
};

static struct lock *lock_of(const td_hold *hold)
{
    return td__sync_peek(hold, TD_SYNC_LOCK, sizeof(struct lock));
}

td_status td_lock_new(td_hold **out)
{
    const td_status status = td_robust_check();
    return status == TD_OK ? td__sync_new(TD_SYNC_LOCK, sizeof(struct lock), out) : status;
}

/* ---- What a thread holds ----------------------------------------------------------------------------------- */

struct held {
    td_hold **holds;
    uint32_t count, room;
};

static pthread_key_t key;
static bool keyed;

/* At its end: as the kernel does for one that is killed. */
static void let_go_of_all(void *context)
{
    struct held *held = context;
    while (held->count > 0) {
        td_hold *hold = held->holds[--held->count];
        struct lock *lock = lock_of(hold);
        if (lock != NULL && td_robust_free(&lock->robust, 1, true) == TD_OK)
            td_hold_unref(hold);
    }
    free(held->holds);
    free(held);
}

static void make_key(void)
{
    keyed = pthread_key_create(&key, let_go_of_all) == 0;
}

/* This thread's, with room for one more; NULL: there is no memory. */
static struct held *held_here(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_key);
    struct held *held = keyed ? pthread_getspecific(key) : NULL;
    if (held == NULL) {
        held = keyed ? calloc(1, sizeof *held) : NULL;
        if (held == NULL || pthread_setspecific(key, held) != 0) {
            free(held);
            return NULL;
        }
    }
    if (held->count == held->room) {
        const uint32_t room = held->room == 0 ? 4 : held->room * 2;
        td_hold **holds = realloc(held->holds, room * sizeof *holds);
        if (holds == NULL)
            return NULL;
        held->holds = holds;
        held->room = room;
    }
    return held;
}

static void forget(const td_hold *hold)
{
    struct held *held = pthread_getspecific(key);
    for (uint32_t i = held != NULL ? held->count : 0; i-- > 0;)
        if (held->holds[i] == hold) {
            held->holds[i] = held->holds[--held->count];
            return;
        }
}

/* ---- The lock ---------------------------------------------------------------------------------------------- */

td_status td_lock_acquire_until(td_hold *hold, int64_t deadline_ns)
{
    struct lock *lock = lock_of(hold);
    if (lock == NULL)
        return TD_EPROTO;
    struct held *held = held_here();
    if (held == NULL)
        return TD_ENOMEM;
    const td_status status = td_robust_take_until(&lock->robust, deadline_ns);
    if (status == TD_OK || status == TD_EHOLDER)
        held->holds[held->count++] = td_hold_ref(hold); /* L1 */
    return status;
}

static td_status release(td_hold *hold, bool died)
{
    struct lock *lock = lock_of(hold);
    if (lock == NULL)
        return TD_EPROTO;
    const td_status status = td_robust_free(&lock->robust, 1, died);
    if (status != TD_OK)
        return status;
    forget(hold);
    td_hold_unref(hold); /* L1 */
    return TD_OK;
}

td_status td_lock_release(td_hold *hold)
{
    return release(hold, false);
}

td_status td_lock_pass_on(td_hold *hold)
{
    return release(hold, true);
}

bool td_lock_is_held(const td_hold *hold)
{
    const struct lock *lock = lock_of(hold);
    return lock != NULL && td_robust_owner(td_atomic_load_relaxed(&lock->robust.word)) != 0;
}
