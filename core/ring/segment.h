/* ring/segment.h: how a pool's shared memory is laid out.
 *
 *   +--------+----------------+-----------+-------------+-----------------+--------------------------+
 *   | header | states[W] u32  | seats[W]  | slots[N]    | cells[2][N] u64 | completions[W][N] u64    |
 *   +--------+----------------+-----------+-------------+-----------------+--------------------------+
 *
 * N slots (a power of two), W seats for workers, two lanes of cells (submission.h). Every part starts on a cache line.
 * The parent writes the header once, before any worker starts; a worker checks magic, version and size when it
 * attaches, and derives every address from N and W as it then saw them, so later damage to the header can't move a
 * pointer. Pages are committed at creation.
 *
 * One writer per word: the parent writes `tails`, `closing`, `wants`, cells and what a seat's comment says; a worker
 * its own state (but for PARKED -> WOKEN, which is its waker's, and STARTING and EMPTY, while it does not exist), its
 * seat and its completion ring; `head_hints` are hints that anybody may overwrite, and relief.h has a few words for
 * all. Tests  tests/ring/test_segment.c */
#ifndef TD_RING_SEGMENT_H
#define TD_RING_SEGMENT_H

#include "base/atomic.h"
#include "base/status.h"
#include "ring/slot.h"

#define TD_SEGMENT_MAGIC UINT64_C(0x74656c6461657274) /* "treadlet" */
#define TD_SEGMENT_VERSION 3u

/* What a worker does, in its word of states[]. */
enum td_seat_state {
    TD_SEAT_EMPTY = 0,
    TD_SEAT_STARTING,
    TD_SEAT_SEARCHING, /* awake, looks for work: a submit needs no wake-up */
    TD_SEAT_BUSY,
    TD_SEAT_PARKED, /* sleeps on this word */
    TD_SEAT_WOKEN,  /* was PARKED, a wake-up is on its way */
    TD_SEAT_LEAVING,
};

/* The parent asks to be rung when ... (td_segment.wants) */
#define TD_WANT_LOW 1u    /* less than a quarter of the slots is queued: more wait in the parent */
#define TD_WANT_HUNGRY 2u /* a worker finds nothing to do, or sleeps: a running chunk may be split */

struct td_seat {
    /* by the worker */
    td_atomic_u64 done_tail;  /* of its completion ring */
    td_atomic_u64 park_stamp; /* when it parked, in ns: the largest is the most recently active */
    td_atomic_u64 tasks_done;
    td_atomic_u64 busy_ns;
    td_atomic_u32 pid;
    td_atomic_u32 leaving;  /* it takes no more tasks */
    td_atomic_u64 current;  /* the cell it claimed; 0 when it has none. A hint: the slot's word decides */
    td_atomic_u64 failure;  /* a block of its arena: why it could not start, as text; 0: nothing to say */
    uint64_t failure_bytes; /* written before failure is released */
    /* by the parent */
    td_atomic_u64 interrupt; /* the position of the task that SIGURG is meant for */
    td_atomic_u32 dismissed; /* leave after the current task */
    uint32_t max_tasks;      /* 0: unlimited */
    /* by the worker, seldom */
    td_atomic_u32 relieved; /* relief.h: its answer */
    uint8_t padding2[44];
};

static_assert(sizeof(struct td_seat) == 128, "a seat is two cache lines, one per writer");

struct td_segment {
    /* written once */
    uint64_t magic;
    uint32_t version;
    uint32_t slots;
    uint32_t workers;
    uint32_t cpu_budget;
    int64_t spin_ns;
    uint64_t bytes;
    uint64_t memory_bytes; /* what the parent can count on; 0: not said */
    uint8_t padding[16];
    /* by the parent */
    td_atomic_u64 tails[TD_LANES]; /* of each lane: positions below it were announced */
    td_atomic_u32 closing;         /* no task will follow: leave when nothing is queued */
    td_atomic_u32 wants;           /* TD_WANT_*; a worker that rings clears the bit */
    td_atomic_u32 relieved;        /* relief.h: the parent's answer */
    /* by whoever lacks room for a block (relief.h), which is rare */
    td_atomic_u32 relief_asked;
    td_atomic_u32 relief_news; /* a futex word */
    uint8_t padding2[28];
    /* by workers */
    td_atomic_u64 head_hints[TD_LANES]; /* most positions below it are claimed */
    uint8_t padding3[48];
    /* written once: the workers that the parent descends from, and is (memory/kin.h) */
    uint32_t kin_count;
    int32_t kin[8];
    uint8_t padding4[28];
};

static_assert(sizeof(struct td_segment) == 256,
              "a header line, the parent's, the workers' and another header line");

/* One side's view of a segment: private memory. */
struct td_segment_map {
    struct td_segment *head;
    td_atomic_u32 *states;
    struct td_seat *seats;
    struct td_slot *slots;
    td_atomic_u64 *cells;       /* of lane l: cells + l * slot_count */
    td_atomic_u64 *completions; /* of worker w: completions + w * slot_count */
    uint32_t slot_count;
    uint32_t worker_count;
    uint64_t bytes;
    int fd;
};

uint64_t td_segment_bytes(uint32_t slots, uint32_t workers);
/* Makes and maps a segment, all of it committed but the slots. `slots` must be a power of two. */
td_status td_segment_new(struct td_segment_map *map, uint32_t slots, uint32_t workers, uint32_t cpu_budget,
                         int64_t spin_ns);
/* Commits slots [first, first + count), before anybody uses them. TD_ENOROOM. */
td_status td_segment_commit_slots(const struct td_segment_map *map, uint32_t first, uint32_t count);
/* Maps one that another process made; takes the descriptor over on success. TD_EPROTO when its header is wrong. */
td_status td_segment_attach(struct td_segment_map *map, int fd);
void td_segment_fini(struct td_segment_map *map);

#endif
