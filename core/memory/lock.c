/* memory/lock.c: a lock between threads of all processes, which reports that its holder has died.
 *
 * It is one owned word (os/robust.c): the kernel frees it when the thread that holds it ends, and the next one to
 * acquire it is told. That one may repair what the lock protects and release it; or it passes the report on to the one
 * after it.
 * Invariant  L1 whoever holds the lock holds its block, too, so that what the kernel looks at when the thread ends is
 *               still the lock.
 *            L2 process and hold say whose reference that is, so that who follows a thread that ended in a process that
 *               goes on takes it over. They are compared, and nothing else.
 * Ordering   T of os/robust.c.
 * Crash      the kernel marks the word and wakes the next.
 * Tests      tests/memory/test_lock.c, tests/memory/test_sync_killed.c */
#include "memory/sync.h"
#include "os/robust.h"

struct lock {
    struct td_sync_head head;
    struct td_robust robust;
    uint64_t process, hold; /* of the holder; 0: nobody's */
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

td_status td_lock_acquire_until(td_hold *hold, int64_t deadline_ns)
{
    struct lock *lock = lock_of(hold);
    if (lock == NULL)
        return TD_EPROTO;
    const td_status status = td_robust_take_until(&lock->robust, deadline_ns);
    if (status != TD_OK && status != TD_EHOLDER)
        return status;
    const uint64_t process = td_robust_process();
    if (lock->process != process || lock->hold != (uintptr_t)hold) /* L2 */
        td_hold_ref(hold);
    lock->process = process;
    lock->hold = (uintptr_t)hold;
    return status;
}

static td_status release(td_hold *hold, bool died)
{
    struct lock *lock = lock_of(hold);
    if (lock == NULL)
        return TD_EPROTO;
    if (!td_robust_is_mine(&lock->robust))
        return TD_ENOTHELD;
    lock->process = lock->hold = 0;
    (void)td_robust_free(&lock->robust, 1, died);
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
