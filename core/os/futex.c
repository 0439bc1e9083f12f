/* os/futex.c: futex(2) with an absolute deadline.
 * FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC, so a wait that is restarted keeps its deadline.
 * Ordering   none: the kernel compares the word under its own lock, and callers read it again.
 * Crash      a dead sleeper is no longer queued; a dead waker has woken nobody, so whoever watches the waker's death
 *            (pidfd) rings in its place.
 * Tests      tests/os/test_futex.c */
#include "os/futex.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

td_status td_futex_wait_until(td_atomic_u32 *word, uint32_t expected, int64_t deadline_ns, bool shared)
{
    struct timespec at, *timeout = NULL;
    if (deadline_ns != TD_FOREVER) {
        int64_t deadline = deadline_ns > 0 ? deadline_ns : 0;
        at.tv_sec = (time_t)(deadline / TD_NS_PER_S);
        at.tv_nsec = (long)(deadline % TD_NS_PER_S);
        timeout = &at;
    }
    int operation = FUTEX_WAIT_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG);
    if (syscall(SYS_futex, word, operation, expected, timeout, NULL, FUTEX_BITSET_MATCH_ANY) == 0)
        return TD_OK;
    return td_status_from_errno(errno);
}

int td_futex_wake(td_atomic_u32 *word, int count, bool shared)
{
    int operation = FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG);
    long woken = syscall(SYS_futex, word, operation, count, NULL, NULL, 0);
    return woken > 0 ? (int)woken : 0;
}

/* FUTEX_WAKE_OP wakes at its first word and changes its second, which are one here. The comparison that it makes
 * besides could wake one more there; all are awake by then. */
static void change_and_wake_all(td_atomic_u32 *word, unsigned operation, unsigned bit)
{
    const uint32_t change = ((operation | FUTEX_OP_OPARG_SHIFT) << 28) | (FUTEX_OP_CMP_EQ << 24) | (bit << 12);
    (void)syscall(SYS_futex, word, FUTEX_WAKE_OP, INT_MAX, 0L, word, change);
}

void td_futex_set_bit_wake_all(td_atomic_u32 *word, unsigned bit)
{
    change_and_wake_all(word, FUTEX_OP_OR, bit);
}

void td_futex_clear_bit_wake_all(td_atomic_u32 *word, unsigned bit)
{
    change_and_wake_all(word, FUTEX_OP_ANDN, bit);
}
