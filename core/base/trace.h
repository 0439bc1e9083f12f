/* base/trace.h: trace points that cost one predictable branch when off.
 *
 * When on, a point appends {time, event, thread, a, b} to a ring that belongs to its thread; the oldest records give
 * way. td_trace_dump writes what the rings hold as text. The protocol is described in trace.c. */
#ifndef TD_BASE_TRACE_H
#define TD_BASE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/status.h"

/* X(event, meaning of a, meaning of b). */
#define TD_TRACE_TABLE(X)                                                                                      \
    X(SUBMIT, "slot", "position")                                                                              \
    X(CLAIM, "slot", "worker")                                                                                 \
    X(SPLIT, "slot", "new slot")                                                                               \
    X(RUN, "slot", "worker")                                                                                   \
    X(FINISH, "slot", "worker")                                                                                \
    X(COMPLETE, "position", "state")                                                                           \
    X(CANCEL, "slot", "forced")                                                                                \
    X(SLEEP, "who", "word")                                                                                    \
    X(WAKE, "who", "count")                                                                                    \
    X(DRAIN_TAKE, "pool", "waiters")                                                                           \
    X(DRAIN_GIVE, "pool", "drained")                                                                           \
    X(SPAWN, "worker", "pid")                                                                                  \
    X(EXIT, "worker", "wait status")                                                                           \
    X(GROW, "arena", "bytes")                                                                                  \
    X(TRIM, "arena", "bytes")

typedef enum td_trace_event {
#define TD_TRACE_ENUM_(event, a, b) TD_TRACE_##event,
    TD_TRACE_TABLE(TD_TRACE_ENUM_)
#undef TD_TRACE_ENUM_
        TD_TRACE_COUNT
} td_trace_event;

extern td_atomic_u32 td_trace_on;

void td_trace_record(td_trace_event event, uint64_t a, uint64_t b);

/* TD_TRACE(CLAIM, slot, worker); */
#define TD_TRACE(event, a, b)                                                                                  \
    do {                                                                                                       \
        if (__builtin_expect(td_atomic_load_relaxed(&td_trace_on) != 0, 0))                                    \
            td_trace_record(TD_TRACE_##event, (uint64_t)(a), (uint64_t)(b));                                   \
    } while (0)

void td_trace_enable(bool on);

/* Writes one line per record to `fd`: nanoseconds, thread, event, a, b. Oldest first within a thread. Other threads may
 * go on recording. TD_EOS when write(2) fails. */
td_status td_trace_dump(int fd);

/* Records lost because a thread's ring could not be allocated. */
uint64_t td_trace_lost(void);

#endif
