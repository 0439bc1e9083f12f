/* os/futex.h: sleep on a 32-bit word, and wake who sleeps there. */
#ifndef TD_OS_FUTEX_H
#define TD_OS_FUTEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "base/status.h"

/* Sleeps while *word == expected, at most until the deadline. `shared`: the word is in memory of several processes.
 *   TD_OK         woken, perhaps for no reason: look at the word again
 *   TD_EAGAIN     the word did not hold `expected`
 *   TD_ETIMEDOUT  the deadline has passed
 *   TD_EINTR      a signal was handled
 * Returning orders nothing: the caller reads the word again with the order it needs. */
td_status td_futex_wait_until(td_atomic_u32 *word, uint32_t expected, int64_t deadline_ns, bool shared);

/* Wakes at most `count` sleepers (INT_MAX: all); the number woken. */
int td_futex_wake(td_atomic_u32 *word, int count, bool shared);

/* The change of a word in memory of several processes and the waking of all who sleep there, done by the kernel in one
 * step: a process that is killed has done both or neither. */
void td_futex_set_bit_wake_all(td_atomic_u32 *word, unsigned bit);
void td_futex_clear_bit_wake_all(td_atomic_u32 *word, unsigned bit);

#endif
