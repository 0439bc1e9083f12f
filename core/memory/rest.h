/* memory/rest.h: an arena that has not been used for a second is to give back what it keeps warm.
 *
 *   USED ---- keep ----> QUIET ---- keep, a second later ----> RESTING ---- use ----> USED
 *     ^------- use --------'
 *
 * Users stir it with each block that they take or let go of; one thread, the keeper, asks it now and then.
 * Invariants  I1 whoever stirs it out of RESTING wakes the keeper: only then has it nothing else to wake it.
 *             I2 what was let go of before a stir is seen by the trim that follows it: the arena's lock orders them.
 * Crash       nothing is held.   Tests  tests/memory/test_rest.c */
#ifndef TD_MEMORY_REST_H
#define TD_MEMORY_REST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/clock.h"

#define TD_REST_AFTER_NS TD_NS_PER_S
#define TD_REST_KEEP_BYTES (UINT64_C(2) << 20) /* what is kept all the same: a pool's next task needs it */

enum td_rest_state { TD_REST_RESTING, TD_REST_USED, TD_REST_QUIET };

/* Zero-initialised: resting. */
typedef struct td_rest {
    td_atomic_u32 state;
    int64_t since_ns; /* QUIET; the keeper's */
} td_rest;

/* The arena was used. True: wake the keeper. Any thread. */
static inline bool td_rest_stir(td_rest *rest)
{
    return td_atomic_load_relaxed(&rest->state) != TD_REST_USED &&
           td_atomic_exchange_acqrel(&rest->state, TD_REST_USED) == TD_REST_RESTING;
}

/* True: trim it now; it rests. *next: ask again then. The keeper's thread. */
static inline bool td_rest_keep(td_rest *rest, int64_t now_ns, int64_t *next)
{
    uint32_t state = td_atomic_load_relaxed(&rest->state);
    *next = TD_FOREVER;
    if (state == TD_REST_RESTING)
        return false;
    if (state == TD_REST_QUIET && now_ns - rest->since_ns >= TD_REST_AFTER_NS &&
        td_atomic_cas_strong_acqrel(&rest->state, &state, TD_REST_RESTING))
        return true;
    if (state == TD_REST_USED && td_atomic_cas_strong_acqrel(&rest->state, &state, TD_REST_QUIET))
        rest->since_ns = now_ns;
    *next = rest->since_ns + TD_REST_AFTER_NS;
    return false;
}

#endif
