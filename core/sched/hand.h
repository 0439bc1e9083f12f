/* sched/hand.h: the threads that work on loops, each a *hand*, and the loops, each a *region*.
 *
 * A hand is a worker, which the scheduler started, or a caller: a thread of the user's that began a loop. There are as
 * many workers as CPUs in the budget, less one: for whoever begins a loop works on it. Each has a deque, from which all
 * the others may take.
 *
 * One CPU budget. A loop that is begun within a chunk of another (a *nested* one) is put into the deque of the hand
 * that runs the chunk, and starts no thread. While n callers are in loops, worker w takes work only if w + n <
 * cpus, and one that finds itself beyond gives back what it has not begun: so hands that work are never more than CPUs,
 * unless the callers alone are.
 *
 * Who may take a range is written in its tag, as the region can't be looked at before that:
 *      root    the hand that called the outermost loop. It has one at a time.
 *      depth   0 for that loop, one more for each that is nested in another.
 *      window  {from, count}: the workers (from + i) mod workers, for i below count. A loop with n threads has n - 1 of
 *              them, a nested one no more than the one around it. Their numbers, 1 + i, differ (td_thread_number).
 *      A worker without work takes what has it in its window. A hand that waits for the rest of a loop takes ranges of
 *      the same root which are no less deep: never from outside, where its own loop would have to wait for them.
 *      Nobody waits in a circle: a hand waits for parts of a loop of some depth d, in other hands' stacks. Depths don't
 *      fall from the bottom of a stack to its top, and a chunk of depth d that waits, waits for a deeper loop. So along
 *      each chain of waiting hands the depth grows, and nests end.
 *
 * Invariants  I1 a region lives on its caller's stack, from before its first range is published until `left` is 0 (J):
 *                who has taken a range may use it until it has taken those units off `left`.
 *             I2 a hand is never freed: it is kept for the next thread.
 *             I3 hand_count only grows; hands below it are there.
 * Ordering    J: run chunks -> release left -> acquire left -> the caller returns.
 *             H: write a hand -> release hand_count -> acquire hand_count -> use the hand.
 * Fork        the child starts afresh (hands.c).
 * Tests       tests/sched/ */
#ifndef TD_SCHED_HAND_H
#define TD_SCHED_HAND_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/atomic.h"
#include "base/status.h"
#include "sched/deque.h"

#define TD_CALLERS_MOST 1024u
#define TD_HANDS_MOST (TD_MAX_WORKERS + TD_CALLERS_MOST)
#define TD_DEPTH_MOST 255u /* loops nested deeper run on one thread */

struct td_region {
    /* what changes while it runs, and a little more: one cache line */
    TD_ALIGNED(TD_CACHELINE) td_atomic_u64 left; /* units that are not done */
    td_atomic_u64 pace; /* units in a chunk: 1, or as many as were last found to be right */
    td_atomic_u32 stop; /* minus the status that ended it early; 0: none has */
    uint32_t threads;
    uint32_t forks; /* of the process, when it began */
    uint64_t own;   /* units that the caller has done, and not yet taken off `left`: its own */
    struct td_hand *caller;
    /* what does not */
    TD_ALIGNED(TD_CACHELINE) td_range_fn *fn;
    void *context;
    int64_t begin, end;
    uint64_t grain; /* of a unit; 0: units are single iterations, and chunks as many as take a while */
    uint64_t units;
    uint64_t tag;
    struct td_region *parent;
};

enum td_hand_state {
    TD_HAND_AWAKE = 0,
    TD_HAND_IDLE,    /* parked, without work; a worker that was never started, too */
    TD_HAND_WAITING, /* parked, until the rest of its loop is done */
    TD_HAND_WOKEN
};

struct td_hand {
    struct td_deque deque;
    TD_ALIGNED(TD_CACHELINE) td_atomic_u32 state; /* td_hand_state, and the futex word */
    td_atomic_u32 keeps_off;                      /* the CPU that it is not to be woken on, plus 1; 0: none */
    td_atomic_u32 waker_cpu;                      /* where the thread ran that woke it last, plus 1 */
    td_atomic_u64 waits_for;                      /* while WAITING: the tag of its loop */
    TD_ALIGNED(TD_CACHELINE) uint32_t index;
    bool is_worker; /* number `index` of them */
    bool started;   /* a worker: its thread is there */
    bool in_use;    /* a caller */
    pid_t thread;   /* a worker's that may be placed (park.h); 0: it may not */
    cpu_set_t cpus; /* which it may use; written before it first sleeps */
    /* its thread's own */
    struct td_region *region; /* the innermost whose chunk it runs */
    uint32_t next_victim;
    uint32_t turns, turns_per_look; /* of chunks, between looks at the clock */
    int64_t looked_ns;              /* when the hook was last asked */
};

struct td_sched {
    TD_ALIGNED(TD_CACHELINE) td_atomic_u32 parked;    /* IDLE and WAITING hands, at least */
    TD_ALIGNED(TD_CACHELINE) td_atomic_u32 searching; /* workers awake without work, at most; signed */
    TD_ALIGNED(TD_CACHELINE) td_atomic_u32 callers;   /* threads in outermost loops of more than one thread */
    TD_ALIGNED(TD_CACHELINE) uint32_t workers;
    uint32_t cpus;
    int64_t spin_ns;
    td_atomic_u32 hand_count;
    td_atomic_u32 threads;       /* of a loop, where its caller has not said otherwise */
    td_atomic_u32 forks;         /* that this process has come through as the child */
    td_atomic_u64 calm_until_ns; /* nobody spins before: somebody else wanted the CPU */
    td_atomic_ptr hands[TD_HANDS_MOST];
    bool (*start)(struct td_hand *hand); /* starts the thread of a worker */
};

/* ---- Tags ------------------------------------------------------------------------------------------------------ */

static inline uint64_t td_tag(uint32_t root, uint32_t depth, uint32_t from, uint32_t count)
{
    return (uint64_t)root << 48 | (uint64_t)depth << 32 | (uint64_t)from << 16 | count;
}
static inline uint32_t td_tag_root(uint64_t tag)
{
    return (uint32_t)(tag >> 48);
}
static inline uint32_t td_tag_depth(uint64_t tag)
{
    return (uint32_t)(tag >> 32) & 0xffffu;
}
static inline uint32_t td_tag_from(uint64_t tag)
{
    return (uint32_t)(tag >> 16) & 0xffffu;
}
static inline uint32_t td_tag_count(uint64_t tag)
{
    return (uint32_t)tag & 0xffffu;
}

/* Where the worker stands in the tag's window; its count, or more: outside. */
static inline uint32_t td_tag_place(uint64_t tag, uint32_t worker, uint32_t workers)
{
    return (worker + workers - td_tag_from(tag)) % workers;
}

/* ---- Hands (hands.c) ------------------------------------------------------------------------------------------- */

/* The scheduler of this process, made at the first call. */
struct td_sched *td_sched_get(void);
/* One on which no thread runs: for the tests of its parts. `workers` hands, of which none was started. */
td_status td_sched_init(struct td_sched *sched, uint32_t cpus, bool (*start)(struct td_hand *hand));
void td_sched_fini(struct td_sched *sched);

/* The calling thread's, made at its first call; NULL: there is no memory, or there are too many. */
struct td_hand *td_hand_self(struct td_sched *sched);
/* The same, but NULL where it has none yet. */
struct td_hand *td_hand_peek(void);

static inline struct td_hand *td_hand_at(struct td_sched *sched, uint32_t index)
{
    return td_atomic_load_relaxed(&sched->hands[index]);
}

/* For children that the C library did not make. */
void td_sched_after_fork_child(void);

/* May this worker work now, as far as the budget goes? */
static inline bool td_hand_is_within_budget(const struct td_sched *sched, const struct td_hand *hand)
{
    return hand->index + td_atomic_load_relaxed(&sched->callers) < sched->cpus;
}

/* ---- A worker's life (loop.c) ---------------------------------------------------------------------------------- */

void td_hand_work(struct td_hand *hand);

#endif
