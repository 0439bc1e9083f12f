/* memory/lock.c: a lock between threads of all processes, which reports that its holder has died.
 *
 * It is one owned word (os/robust.c): the kernel frees it when the thread that holds it ends, and the next one to acquire
 * it is told. That one may repair what the lock protects and release it; or it passes the report on to the one after it.
 * Invariant  L1 whoever holds the lock holds its block, too, so that what the kernel looks at when the thread ends is
 *               still the lock.
 * Ordering   T of os/robust.c.
 * Crash      the kernel marks the word and wakes the next. A holder that ends in a process that goes on leaves its reference
 *            to the block behind.
 * Tests      tests/memory/test_lock.c, tests/memory/test_sync_killed.c */
#include "memory/sync.h"
#include "os/robust.h"

struct lock {
    struct td_sync_head head;
    struct td_robust robust;
};

static struct td_robust *word_of(const td_hold *hold)
{
    struct lock *lock = td__sync_peek(hold, TD_SYNC_LOCK, sizeof *lock);
    return lock != NULL ? &lock->robust : NULL;
}

td_status td_lock_new(td_hold **out)
{
    const td_status status = td_robust_check();
    return status == TD_OK ? td__sync_new(TD_SYNC_LOCK, sizeof(struct lock), out) : status;
}

td_status td_lock_acquire_until(td_hold *hold, int64_t deadline_ns)
{
    struct td_robust *word = word_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    const td_status status = td_robust_take_until(word, deadline_ns);
    if (status == TD_OK || status == TD_EHOLDER)
        td_hold_ref(hold); /* L1 */
    return status;
}

static td_status release(td_hold *hold, bool died)
{
    struct td_robust *word = word_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    const td_status status = td_robust_free(word, 1, died);
    if (status == TD_OK)
        td_hold_unref(hold); /* L1 */
    return status;
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
    struct td_robust *word = word_of(hold);
    return word != NULL && td_robust_owner(td_atomic_load_relaxed(&word->word)) != 0;
}
