/* pool/pool.h: the inside of a pool, shared by the files of this folder that run in the parent.
 *
 *   submit.c   a call becomes a task; blocks for arguments; what doesn't fit the segment waits in `overflow`
 *   finish.c   completions become final tasks; slots are freed and refilled
 *   task.c     a task's life, its state, its result; parcel.c: the blocks that came with that
 *   chunk.c    a map's chunk in parts: split for idle workers, taken apart when its worker dies
 *   cancel.c   cancelling, timeouts, the exception signal and the kill after the grace time
 *   crew.c     worker processes are ordered, signalled, sent away; news.c: born, gone; death.c: what a dead worker
 *   leaves
 *   intern.c   functions by number
 *   group.c    queues of completed tasks
 *   pool.c     construction, closing, breaking, statistics
 *   zygote.c, birth.c, worker.c   the other processes' side, which uses none of this
 *
 * One lock per pool covers all but what is marked atomic; it is taken for well under a microsecond per task, never
 * while a system call may block. A function named _locked needs it.
 * Locks, outer to inner: registry (pool.c) -> drain sources -> pool -> completions (group.c) -> arena. td_drain_notify
 * and the condition of a waiter are outside the pool's lock: conditions read atomics only. Whoever may have ended a
 * task gives the lock up with td__pool_unlock, which notifies.
 *
 * References: users hold one together (td_pool_unref closes the pool when the last of them leaves), each task holds
 * one, and the native thread holds one from the start of the pool until its last process is gone. The last one frees
 * everything. */
#ifndef TD_POOL_POOL_H
#define TD_POOL_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "base/list.h"
#include "loop/drain.h"
#include "loop/native.h"
#include "memory/arena.h"
#include "memory/heap.h"
#include "memory/kin.h"
#include "memory/rest.h"
#include "os/budget.h"
#include "ring/completion.h"
#include "ring/relief.h"
#include "ring/segment.h"
#include "ring/submission.h"
#include "treadle.h"

#define TD_NO_SLOT UINT32_MAX
#define TD__ORDER_AGAIN_NS (100 * TD_NS_PER_MS) /* after a worker could not be started, and others are there */

/* ---- Tasks -------------------------------------------------------------------------------------------------- */

/* What a call's arguments need beside the bytes in the slot; shared by the parts of a chunk. */
struct td_args {
    struct td_args *next; /* in pool->stranded */
    uint32_t users;
    bool kept; /* a worker holds on to the block: it gives it back, not we */
    /* A worker may look at the shared blocks for ever: they are held while the pool lives. Its process's number, or
     * TD_KIN_ANY; 0: none */
    int32_t stranded;
    uint64_t ref; /* of the block; 0: they are inline */
    uint32_t hold_count;
    td_hold *holds[]; /* the shared blocks that they name */
};

/* Who may look there, where another one may, too. */
static inline int32_t td__strand(int32_t stranded, int32_t pid)
{
    return stranded == 0 || stranded == pid ? pid : TD_KIN_ANY;
}

/* How a worker died, kept with the task it ran. */
struct td_obituary {
    struct td_death death;
    char stack[];
};

struct td_member;
struct td_parcels;

enum td_doom { TD_DOOM_NONE = 0, TD_DOOM_CANCEL, TD_DOOM_TIMEOUT };

struct td_task {
    td_atomic_u32 refs;
    td_atomic_u32
        state; /* TD_TASK_QUEUED until final; RUNNING is read off the slot. Edge F: release when final */
    td_pool *pool;
    td_list link;  /* in pool->overflow, when it has no slot */
    uint32_t slot; /* TD_NO_SLOT: in overflow, or final */
    enum td_lane lane;
    uint32_t fn;
    td_atomic_u64 position;
    uint32_t begin, end; /* a chunk's items; 0, 0: a plain task */
    uint32_t retries_left;
    uint32_t deaths;
    uint32_t attempts;
    uint8_t doom; /* enum td_doom: what an ERROR, or a death, will be called */
    bool in_overflow;
    bool chunk; /* one of the parts of a map's chunk */
    int64_t timeout_ns;
    uint64_t args_bytes;
    struct td_args *args; /* NULL: inline, and no shared block is named */
    uint64_t tag;
    char *name;
    struct td_task *rest;   /* the next part of the same chunk; holds a reference */
    struct td_group *group; /* this and the next five belong to group.c and its lock */
    uint64_t group_tag;
    td_list group_link, observed_link;
    bool observed; /* its completion goes to the observed queue */
    bool filed;    /* its completion was told */
    struct td_obituary *obituary;
    struct td_timing timing;
    /* the result */
    td_arena *arena; /* of the block; holds a reference */
    uint64_t result_ref;
    uint64_t result_bytes;
    struct td_parcels *parcels; /* what came with it; NULL: nothing did */
    union {
        uint8_t args[TD_INLINE_ARGS];     /* until final */
        uint8_t result[TD_INLINE_RESULT]; /* from then on */
    } inline_bytes;
};

td_task *td__task_new(td_pool *pool);
/* The task is final from here on: publishes the state and hands it to its group and to observers. */
void td__task_finish_locked(td_task *task, enum td_task_state state);
/* With its holds, but not its block. NULL is fine. */
void td__args_free(struct td_args *args);
/* Drops the task's use of its arguments' block, and of the shared blocks that they name. */
void td__task_drop_args_locked(td_task *task);

/* parcel.c: takes over the blocks that the worker's table, at the end of the result's block, names. TD_EPROTO: one of
 * them is none; TD_ENOMEM: they are given back. */
td_status td__parcels_take_locked(td_task *task, struct td_member *member, uint32_t count);
/* The end of the task. */
void td__parcels_drop(struct td_parcels *parcels);

/* group.c: files a final task with its group and the observers. */
void td__completed_file(td_task *task);
void td__completed_forget(void); /* in a forked child */
/* Does an event loop wait that only the native thread can wake? Then that has to listen. */
bool td__groups_listen(void);

/* ---- Functions ---------------------------------------------------------------------------------------------- */

struct td_function;

struct td_intern {
    struct td_function **by_index; /* by the low 16 bits of the number */
    uint32_t count, capacity;
    uint16_t *generations;  /* of each index */
    uint32_t *free_indexes; /* a queue, oldest first, so that numbers come back as late as possible */
    uint32_t free_head, free_count;
    struct td_function **buckets; /* by hash of the content, chained */
    uint32_t bucket_count;
    td_list idle; /* held by nobody, oldest first */
    uint32_t idle_count;
    uint64_t idle_bytes;
};

td_status td__intern_init(struct td_intern *intern);
void td__intern_fini(struct td_intern *intern, td_arena *arena);
/* The holds, which are the caller's, are of the shared blocks that the bytes name: so the same bytes have the same. */
td_status td__intern_add_locked(struct td_intern *intern, td_arena *arena, const void *bytes, uint64_t len,
                                td_hold *const *holds, uint32_t hold_count, uint32_t *fn_out);
/* Another reference; false when there is no such function. Gives where its bytes are. */
bool td__intern_ref_locked(struct td_intern *intern, uint32_t fn);
/* Keeps it, for this worker may look at what it names for ever. */
void td__intern_strand_locked(struct td_intern *intern, uint32_t fn, int32_t pid);
/* The shared blocks that its bytes name. */
td_hold *const *td__intern_holds_locked(const struct td_intern *intern, uint32_t fn, uint32_t *count);
bool td__intern_find_locked(struct td_intern *intern, uint32_t fn, uint64_t *ref, uint64_t *len);
void td__intern_unref_locked(struct td_intern *intern, td_arena *arena, uint32_t fn);

/* ---- Workers ------------------------------------------------------------------------------------------------ */

enum td_member_state {
    TD_MEMBER_EMPTY = 0,
    TD_MEMBER_ORDERED, /* its birth was sent, no pid yet */
    TD_MEMBER_ALIVE,
};

struct td_member {
    enum td_member_state state;
    int32_t pid;
    int pidfd;    /* -1: not to be had */
    int lifeline; /* the parent's end */
    int stack_fd; /* where its faulthandler writes */
    int channel;  /* its own: no zygote made it, and we reap it; else -1 */
    bool orphan;  /* its zygote is gone, and with it the one who could tell its exit code */
    bool watched; /* its pidfd, or where there is none its lifeline, is with the native thread */
    int condemned; /* SIGKILL or SIGTERM that we sent ourselves, or will once there is a way to reach it; else 0 */
    int64_t ordered_ns, born_ns;
    int64_t kill_at_ns;         /* TD_FOREVER: no force is under way */
    uint64_t kill_position;     /* the task that the kill is meant for; 0: whatever it runs */
    uint32_t kill_slot;         /* of that task */
    int64_t nudge_at_ns;        /* when to see whether the exception signal has to come again; TD_FOREVER: no */
    int64_t nudge_pause_ns;     /* until the one after */
    struct td_context *context; /* what it was ordered with, until it has read it; holds a use */
    td_arena *arena;            /* its results */
    uint64_t results_end;       /* no result that was taken over reaches beyond this offset */
    uint64_t *kept;             /* refs of argument blocks it holds on to */
    uint32_t kept_count, kept_capacity;
    td_hold **holds; /* the shared blocks that it told of when it last did: held in its place */
    uint64_t hold_count;
};

struct td_zygote {
    int32_t pid;
    int pidfd;
    int channel;        /* -1: there is none */
    bool watched;       /* its channel is with the native thread */
    bool ready;         /* it said so */
    bool leaving;       /* it was told to */
    int64_t kill_at_ns; /* TD_FOREVER: it may take its time */
};

/* What workers receive at their start: a block of the parent's arena. */
struct td_context {
    uint64_t ref, bytes;
    uint32_t users; /* the pool, while it is the current one, and orders under way */
};

/* ---- The pool ----------------------------------------------------------------------------------------------- */

struct td_pool {
    td_atomic_u32 refs;  /* the users together, each task, and the native thread */
    td_atomic_u32 users; /* td_pool_new, td_pool_ref */
    pthread_mutex_t lock;
    struct td_source source;
    struct td_keeper keeper;
    struct td_pool_config config;
    struct td_segment_map map;
    td_arena *args_arena;
    td_rest args_rest;
    td_memory_budget memory;
    uint64_t oom_kills; /* in our cgroup, when we last looked */

    uint32_t *free_slots; /* a stack: the warmest slot is on top */
    uint32_t free_count;
    uint32_t slots_made; /* those below it have memory: a pool that has little to do never needs the others */
    td_task **slot_tasks;
    td_list overflow;
    uint64_t overflow_count;
    td_atomic_u64 outstanding; /* tasks not final */
    uint32_t chunks;           /* of those, chunks */
    int64_t split_at_ns;       /* look for a chunk to split then; TD_FOREVER: when a worker is hungry */
    uint64_t timed;            /* of those, tasks with a timeout */
    int64_t shortest_timeout_ns;
    int64_t timeouts_at_ns;       /* look at the clocks of running tasks then */
    td_atomic_u64 blocks_freed;   /* counts argument blocks that came back */
    td_atomic_u64 blocks_in_hand; /* argument blocks that their callers fill: not submitted, not dropped */
    td_atomic_u64 result_bytes;   /* in blocks of tasks that are still there */
    struct td_intern intern;
    struct td_args *stranded; /* kept for their holds until no worker is left */

    struct td_member *members;
    td_atomic_u64
        *completed; /* of each worker's ring: the consumer's head; waiters look at it without the lock */
    struct td_zygote zygote;
    uint32_t member_count; /* not EMPTY */
    uint32_t barren_deaths;
    uint32_t failed_starts; /* zygotes in a row that ended before a worker was born */
    int64_t order_again_ns; /* a worker could not be started: no other is ordered before then */
    char **argv, **envp;
    struct td_context *context; /* what the next worker gets; NULL: nothing */

    td_list registry_link;
    uint32_t forks_seen;   /* by this process when the pool was made; more: it is the parent's */
    td_atomic_u32 started; /* the native thread keeps it, and it is a source */
    bool closed;           /* no submits */
    bool news;             /* tasks have ended, or the pool broke, and waiters have not heard of it */
    td_atomic_u32 gone;    /* closed, and its last process is gone */
    td_atomic_u32 is_broken;
    char broken_reason[4096];
    struct td_pool_stats stats;
    struct td_death_record *deaths; /* a ring of TD_DEATHS_KEPT; NULL until the first, or without memory */
    uint64_t death_count;           /* ever */
};

/* pool.c */
/* The references that tasks and the native thread hold. */
td_pool *td__pool_hold(td_pool *pool);
void td__pool_drop(td_pool *pool);
/* Gives the lock up, and tells waiters, or the native thread, if there is something to tell. */
void td__pool_unlock(td_pool *pool);
void td__context_drop_locked(td_pool *pool, struct td_context *context);
/* Every pending task ends BROKEN, every worker gets the signal. */
void td__pool_break_locked(td_pool *pool, const char *reason, int signal);
/* How many forks lie between the first pool's process and this one. What was made at another number is another's. */
uint32_t td__forks(void);
bool td__pool_forked(const td_pool *pool);
/* A block of the arguments' arena was taken or let go of. */
static inline void td__pool_stir_args(td_pool *pool)
{
    if (td_rest_stir(&pool->args_rest))
        td_native_wake();
}
/* Without the lock. */
td_status td__pool_start(td_pool *pool);

/* submit.c: moves waiting tasks into free slots. True when tasks wait on, and workers are asked anew to ring: what they
 * reported before they could see that is to be drained once more. */
bool td__pool_refill_locked(td_pool *pool);
/* Puts a task that has no slot, a lost or cut-off one too, in line: at the front of what has no slot, and in this
 * lane. */
void td__task_requeue_locked(td_task *task, enum td_lane lane);

/* held.c: the shared blocks that a worker tells of. */
/* Takes over what the reply says. Before the task lets go of its own. */
void td__held_hear_locked(td_pool *pool, struct td_member *member, const td_task *task,
                          const struct td_slot *slot);
/* The task ends before its worker does. */
void td__held_strand_locked(td_pool *pool, const struct td_member *member, const td_task *task);
/* The worker is dead: what its task held may be seen by its family. Before the task lets go of it. */
void td__held_mourn_locked(const struct td_pool *pool, const struct td_member *member, const td_task *task);
/* The worker is dead. */
void td__held_bury_locked(struct td_member *member);
/* No worker is left. */
void td__held_fini(td_pool *pool);

/* finish.c */
void td__pool_drain_locked(td_pool *pool);
/* Gives more slots their memory, when none is free; false when all have it, or there is none. */
bool td__pool_make_slots_locked(td_pool *pool);
void td__member_drain_locked(td_pool *pool, uint32_t worker);
/* Takes what all workers reported, and nothing else: no refill, no split. */
void td__member_drain_all_locked(td_pool *pool);
/* Has a worker reported something that was not taken yet? Without the lock. */
bool td__pool_waits(const td_pool *pool);
/* Makes a block of the worker's arena the task's result. TD_EPROTO: there is no such block. */
td_status td__take_block_locked(td_task *task, struct td_member *member, uint64_t ref, uint64_t bytes);
/* A slot that its worker marked DONE. */
void td__finish_slot_locked(td_pool *pool, uint32_t worker, uint32_t slot);
/* Gives the task's slot back; the word must be the parent's to write. */
void td__slot_free_locked(td_pool *pool, uint32_t slot);

/* chunk.c: cuts running chunks in parts, as long as workers are idle and it is worth it. */
void td__chunk_split_locked(td_pool *pool, int64_t now);
/* A chunk was submitted: workers that sleep already will not ring for a share of it. */
void td__chunk_expect_locked(td_pool *pool);
/* The items of a running chunk that nobody has taken yet are CANCELLED. */
void td__chunk_cut_locked(td_task *task);
/* The worker died in it. Takes the obituary over. */
void td__chunk_lost_locked(td_task *task, struct td_slot *slot, struct td_member *member,
                           struct td_obituary *obituary);

/* cancel.c */
int64_t td__timeouts_keep_locked(td_pool *pool, int64_t now);
td_status td__task_doom_locked(td_task *task, enum td_doom doom);
/* Unless all: what a free worker is about to take is as good as begun, and runs. */
void td__cancel_queued_locked(td_pool *pool, bool all);
void td__cancel_running_locked(td_pool *pool);
void td__fail_all_locked(td_pool *pool); /* every pending task ends BROKEN */

/* crew.c */
void td__close_fd(int *fd); /* unless it is -1, and makes it so */
/* By pidfd, which may be -1; then by pid, which may be 0: not known. */
void td__send_signal(int pidfd, int32_t pid, int signal);
/* Our own child, which has had SIGKILL or has ended. Its status, -1 when somebody else reaped it. By pidfd, which may
 * be -1: its pid may be another's by then. */
int td__reap(int pidfd, int32_t pid);
/* SIGKILL for our own child, and its end. */
void td__kill_and_reap(int pidfd, int32_t pid);
/* What becomes readable when the worker ends. */
static inline int td__watch_fd(const struct td_member *member)
{
    return member->pidfd >= 0 ? member->pidfd : member->lifeline;
}
td_status td__crew_init(td_pool *pool);
void td__crew_fini(td_pool *pool);
/* Orders as many workers as are allowed and find work waiting. */
void td__crew_grow_locked(td_pool *pool);
/* How many workers are there, or on their way, and run nothing. */
uint32_t td__crew_free_hands(const td_pool *pool);
/* Orders one, if one more is allowed. TD_EAGAIN: not now, the native thread tries again. */
td_status td__crew_order_locked(td_pool *pool);
/* The seat of a process that is gone, and all that belonged to it. */
void td__member_clear_locked(td_pool *pool, uint32_t worker);
void td__crew_signal_locked(td_pool *pool, uint32_t worker, int signal);
/* Every process is to end: signals the workers, and kills after the grace time whatever is left then. */
void td__crew_end_all_locked(td_pool *pool, int signal);
/* Starts the zygote if there is none, without watching it yet: the native thread need not run. */
td_status td__crew_boot_zygote_locked(td_pool *pool);
/* The same, and watches it. */
td_status td__crew_start_zygote_locked(td_pool *pool);
/* Nothing is left to do: everybody is to leave. */
void td__crew_dismiss_locked(td_pool *pool);
bool td__crew_is_gone_locked(const td_pool *pool);

/* news.c: on the native thread: what the zygote says, and processes that have ended; when to look again. */
int64_t td__crew_keep_locked(td_pool *pool, int64_t now);

/* death.c: the worker's process is gone for sure. status as of waitpid(2), -1: not known. */
void td__death_locked(td_pool *pool, uint32_t worker, int status);
/* The lane for what a dead worker leaves. What no replacement gets over must not be claimed next again and again, and
 * bring the pool to its end: a worker that had finished nothing sends its task to the end of the line. */
static inline enum td_lane td__lane_after_death(bool finished_something)
{
    return finished_something ? TD_LANE_AGAIN : TD_LANE_NEW;
}
/* What becomes of a task, or a part of one, that its worker took with it: QUEUED, CANCELLED, TIMED_OUT or DIED. Goes to
 * the record of the death. */
enum td_task_state td__death_fate_locked(const td_task *task, uint64_t position, enum td_doom doom);

#endif
