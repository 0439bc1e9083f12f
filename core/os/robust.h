/* os/robust.h: words that a thread owns, in memory of several processes, and that the kernel marks when the thread
 * ends. */
#ifndef TD_OS_ROBUST_H
#define TD_OS_ROBUST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/status.h"

/* In the word, beside the owner's thread number; the kernel's. */
#define TD_ROBUST_WAITED_BIT 31u
#define TD_ROBUST_WAITED UINT32_C(0x80000000) /* somebody may sleep here: whoever frees the word wakes */
#define TD_ROBUST_DIED UINT32_C(0x40000000)   /* the last owner ended without freeing it */
#define TD_ROBUST_OWNER UINT32_C(0x3fffffff)

/* All zero: owned by nobody. prev and next are addresses in the owner's process. */
struct td_robust {
    td_atomic_u32 word;
    uint32_t unused[5];
    void *prev, *next;
};

/* TD_ENOSYS: this can't be had here. */
td_status td_robust_check(void);

/* TD_OK: this thread owns it. TD_EHOLDER: it does, and the owner before has ended without freeing it, or passed that
 * on. TD_EDEADLOCK: it did before; TD_ETIMEDOUT; TD_EINTR; TD_ENOSYS. A deadline of 0 never sleeps. */
td_status td_robust_take_until(struct td_robust *robust, int64_t deadline_ns);
bool td_robust_is_mine(const struct td_robust *robust);
/* Frees it and wakes up to `wake` sleepers; `died`: the next one gets TD_EHOLDER. TD_ENOTHELD: it is not this
 * thread's. */
td_status td_robust_free(struct td_robust *robust, int wake, bool died);

/* Sleeps while the word is `seen`, which has TD_ROBUST_WAITED and perhaps an owner. Others who sleep there are woken
 * with this thread. TD_OK: look again; TD_ETIMEDOUT, TD_EINTR, TD_ENOSYS. */
td_status td_robust_watch_until(struct td_robust *robust, uint32_t seen, int64_t deadline_ns);
/* Sends all who sleep there to look again: TD_ROBUST_WAITED is cleared. */
void td_robust_nudge(struct td_robust *robust);

/* In a forked child that the C library did not make. */
void td_robust_after_fork_child(void);

static inline uint32_t td_robust_owner(uint32_t word)
{
    return word & TD_ROBUST_OWNER;
}

#endif
