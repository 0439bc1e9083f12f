/* treadle.h: the public interface of libtreadle, the engine under the Python package.
 *
 * Every function that can fail returns a td_status: 0, or a negative number from the one table below. Results
 * come back in trailing out-parameters, which a failed call leaves untouched. The engine never prints and never
 * ends the process. */
#ifndef TREADLE_H
#define TREADLE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status -----------------------------------------------------------------------------------------------
 * The one table of outcomes: X(name, value, text, Python exception). Values are part of the interface and are
 * never reused. The exception is the name of a built-in, or of a class that the Python package exports. */
#define TD_STATUS_TABLE(X)                                                                                     \
    X(TD_OK, 0, "success", "")                                                                                 \
    X(TD_EINVAL, -1, "invalid argument", "ValueError")                                                         \
    X(TD_ENOMEM, -2, "out of memory", "MemoryError")                                                           \
    X(TD_ENOROOM, -3,                                                                                          \
      "no room left: the arena (TREADLE_ARENA_BYTES), the cgroup, ulimit -v or ulimit -f allows no more",      \
      "MemoryError")                                                                                           \
    X(TD_ETIMEDOUT, -4, "the deadline has passed", "TimeoutError")                                             \
    X(TD_EINTR, -5, "interrupted by a signal", "InterruptedError")                                             \
    X(TD_ECLOSED, -6, "closed, or shut down", "RuntimeError")                                                  \
    X(TD_EBROKEN, -7, "the pool is broken", "BrokenProcessPool")                                               \
    X(TD_EDIED, -8, "the worker that ran this task died", "WorkerDied")                                        \
    X(TD_ECANCELLED, -9, "cancelled", "CancelledError")                                                        \
    X(TD_EFORKED, -10, "belongs to the parent: not usable in a forked child", "RuntimeError")                  \
    X(TD_EPROTO, -11, "data from another process failed a check", "RuntimeError")                              \
    X(TD_ENOSYS, -12, "the kernel, or a seccomp filter, refuses this system call", "OSError")                  \
    X(TD_ENOFD, -13, "the limit of open descriptors is reached: raise it (ulimit -n)", "OSError")              \
    X(TD_EAGAIN, -14, "not now: would block, or the value has changed", "BlockingIOError")                     \
    X(TD_EOS, -15, "a system call failed (see errno)", "OSError")                                              \
    X(TD_ETHREAD, -16,                                                                                         \
      "no thread or process could be started: ulimit -u, ulimit -v or the cgroup's pids.max allows no more",   \
      "OSError")                                                                                               \
    X(TD_EHOLDER, -17,                                                                                         \
      "the lock's holder died while it held it; now this thread holds it: look at what it protects, then "     \
      "release it",                                                                                            \
      "LockHolderDied")                                                                                        \
    X(TD_ENOTHELD, -18, "this thread does not hold the lock: only the thread that acquired it releases it",    \
      "RuntimeError")                                                                                          \
    X(TD_EDEADLOCK, -19, "this thread holds the lock already, and would wait for itself", "RuntimeError")      \
    X(TD_EBARRIER, -20,                                                                                        \
      "the barrier is broken: a party died or ran into its timeout, or abort() or reset() was called",         \
      "BrokenBarrier")                                                                                         \
    X(TD_ECORRUPT, -21, "the entry was torn or changed on the disk", "CorruptEntry")                           \
    X(TD_EFOREIGN, -22,                                                                                        \
      "another user can write to this folder, and what is in it would be unpickled: take the right away "      \
      "(chmod go-w), or say that it is shared",                                                                \
      "PermissionError")

typedef enum td_status {
#define TD_STATUS_ENUM_(name, value, text, exception) name = value,
    TD_STATUS_TABLE(TD_STATUS_ENUM_)
#undef TD_STATUS_ENUM_
} td_status;

/* "TD_EINVAL", "invalid argument", "ValueError". Never NULL; an unknown status gives "TD_E?", "unknown status"
 * and "RuntimeError". The exception of TD_OK is "". */
const char *td_status_name(td_status status);
const char *td_status_text(td_status status);
const char *td_status_exception(td_status status);

/* ---- Shared vocabulary ------------------------------------------------------------------------------------
 * Times are absolute CLOCK_MONOTONIC nanoseconds; TD_FOREVER never comes. A function that may block takes the
 * deadline last but for out-parameters, returns TD_ETIMEDOUT when it passed and TD_EINTR when a signal arrived.
 * Payloads are opaque bytes to the engine; the binding alone knows their coding. */

/* For callers whose signal handlers only note that one came, as an interpreter's do, and who see to it when a wait says
 * TD_EINTR. From now on every wait on the process's first thread says so before it sleeps, too, unless the caller has
 * just looked: so no signal that came while the thread was awake is slept over. */
void td_heed_signals(bool heed);
/* This thread has just looked: its next wait may sleep once. */
void td_signals_heeded(void);

#define TD_FOREVER INT64_MAX
#define TD_INLINE_ARGS 72u   /* bytes of arguments that travel inside a task's slot */
#define TD_INLINE_RESULT 64u /* bytes of a result that do */
#define TD_MAX_WORKERS 1024u

typedef struct td_pool td_pool;       /* one pool of worker processes, in the parent */
typedef struct td_task td_task;       /* one call on its way: from submit until its result was read */
typedef struct td_group td_group;     /* a queue of tasks in the order of their completion */
typedef struct td_worker td_worker;   /* a worker's end of a pool */
typedef struct td_hold td_hold;       /* keeps one block of shared memory, for this process */
typedef struct td_nursery td_nursery; /* where a worker's arrays are born (memory/nursery.h) */

/* A block of an arena that its holder may fill or read, named by a ref that is good in every process; ref 0 is no
 * block. */
typedef struct td_block {
    uint64_t ref;
    void *data;        /* 64-byte aligned */
    uint64_t capacity; /* bytes, at least what was asked for */
} td_block;

/* Bytes to be read: inside a slot, or in an arena's block. Valid as long as the task (parent) or the
 * assignment (worker) is. */
struct td_view {
    const void *data;
    uint64_t bytes;
    uint64_t ref; /* of the block that holds it; 0 when inline */
};

/* ---- Shared memory ------------------------------------------------------------------------------------------
 * Each process has a heap: memory that others can map, to read and to write. A block of it lives as long as its owner,
 * or a task that the owner submitted, or a worker that told of it, holds it. Any thread. */

/* A new block of the heap of this process; the bytes are zeros if asked for, else anything. One reference.
 * TD_ENOROOM, TD_ENOMEM, TD_ENOFD, TD_EOS. */
td_status td_hold_new(uint64_t bytes, bool zeros, td_hold **out);
td_hold *td_hold_ref(td_hold *hold);
/* The last one frees the block; of another process's block, it is then no longer held here. NULL is fine. */
void td_hold_unref(td_hold *hold);
void *td_hold_data(const td_hold *hold); /* 64-byte aligned */
uint64_t td_hold_bytes(const td_hold *hold);
/* The hold whose block has all of these bytes in it, with a new reference; NULL when there is none. */
td_hold *td_hold_find(const void *address, uint64_t bytes);

/* What names a block to another process of the same user, as long as somebody holds it. */
struct td_share {
    uint64_t heap, heap_bytes, ref, bytes;
    int32_t pid, fd; /* of whoever names it: where the heap can be opened */
};
void td_hold_share(const td_hold *hold, struct td_share *out);
/* The named block, mapped here. TD_EPROTO: it is gone, or never was; TD_EOS: its heap can't be opened (errno). */
td_status td_share_open(const struct td_share *share, td_hold **out);

struct td_heap_info {
    uint64_t blocks, bytes;                 /* of our own heap: live, and what they take */
    uint64_t committed_bytes;               /* its pages, those of free blocks that are kept warm included */
    uint64_t foreign_blocks, foreign_bytes; /* blocks of other processes that are held here */
    uint32_t foreign_heaps;
    uint64_t device, inode; /* of our own heap's file, as fstat(2) has them; 0: there is none */
};
void td_heap_get_info(struct td_heap_info *out);
/* Gives the kernel back what the heap keeps warm; all of it, when there is no block. */
void td_heap_trim(void);

/* ---- Shared memory: locks, flags, barriers, counters ---------------------------------------------------------
 * Each is a block, used through the hold on it by threads of all processes (of one PID namespace) that have one. Any
 * function: TD_EPROTO: the block is none of these. */

/* A lock that belongs to the thread which acquired it, until that releases it or ends. TD_ENOSYS: the kernel, or what
 * emulates it, does not watch threads that hold locks (get_robust_list). */
td_status td_lock_new(td_hold **out);
/* TD_OK; TD_EHOLDER: this thread holds it now, and whoever held it before ended without releasing it; TD_EDEADLOCK: it
 * held it before; TD_ETIMEDOUT, TD_EINTR. A deadline of 0 never sleeps, and is TD_ETIMEDOUT also where this thread
 * holds it. The block is held until the release. */
td_status td_lock_acquire_until(td_hold *lock, int64_t deadline_ns);
/* TD_ENOTHELD: this thread does not hold it. */
td_status td_lock_release(td_hold *lock);
/* Releases it so that the next one gets TD_EHOLDER: for whoever got that and can't look at what the lock protects. */
td_status td_lock_pass_on(td_hold *lock);
bool td_lock_is_held(const td_hold *lock); /* by whomever */

/* A flag that is waited for. */
td_status td_flag_new(td_hold **out);
td_status td_flag_set(td_hold *flag);
td_status td_flag_clear(td_hold *flag);
bool td_flag_is_set(const td_hold *flag);
/* What td_flag_wait_until wants to know: since when the caller has been waiting. */
uint32_t td_flag_ticket(const td_hold *flag);
/* TD_OK: it is set, or was since the ticket was taken. TD_ETIMEDOUT, TD_EINTR. */
td_status td_flag_wait_until(td_hold *flag, uint32_t ticket, int64_t deadline_ns);

/* Where `parties` threads wait for each other, again and again. TD_EINVAL: not 1..TD_MAX_PARTIES; TD_ENOSYS as for
 * locks. */
#define TD_MAX_PARTIES 4096u
td_status td_barrier_new(uint32_t parties, td_hold **out);
/* TD_OK: all have come; the index is another one for each, from 0. TD_EBARRIER: it is broken, by this call where the
 * deadline has passed. TD_EINTR: a signal arrived; this thread is as if it had never come, until it calls again. */
td_status td_barrier_wait_until(td_hold *barrier, int64_t deadline_ns, uint32_t *index);
/* The same for a caller that has something to look at in between: on TD_EINTR, and on TD_EAGAIN when look_ns has
 * passed, the thread is still there, as *party, and calls again, or leaves. At first, and in the end, that is
 * TD_NO_PARTY. */
#define TD_NO_PARTY UINT32_MAX
td_status td_barrier_stay_until(td_hold *barrier, int64_t deadline_ns, int64_t look_ns, uint32_t *party,
                                uint32_t *index);
/* TD_EINTR: it has left; else what it was told meanwhile. */
td_status td_barrier_leave(td_hold *barrier, uint32_t party, uint32_t *index);
td_status td_barrier_abort(td_hold *barrier); /* breaks it: for all who wait, and all who come */
td_status td_barrier_reset(td_hold *barrier); /* whole again; TD_EBARRIER for those who wait */
struct td_barrier_info {
    uint32_t parties, waiting;
    bool broken;
};
td_status td_barrier_get_info(td_hold *barrier, struct td_barrier_info *out);

/* A number that wraps around at 64 bits; all operations are in one order that every process sees. */
td_status td_counter_new(int64_t value, td_hold **out);
td_status td_counter_add(td_hold *counter, int64_t number, int64_t *sum);
td_status td_counter_get(const td_hold *counter, int64_t *value);
td_status td_counter_set(td_hold *counter, int64_t value);

/* A block that goes with a result, beside the one that the result is in, and is given back by itself. */
struct td_parcel {
    uint64_t ref;
    uint64_t bytes;  /* from its start on: no more of it counts */
    uint64_t copied; /* 0: the task's own memory; 1: a copy that was made for the way */
};
typedef struct td_parcel_ref td_parcel_ref; /* a reference on a parcel, in the parent */

/* ---- Threads: parallel loops ---------------------------------------------------------------------------------
 * One set of threads per process, started when they are first wanted: with those that call, as many as its CPU budget
 * has CPUs ($TREADLE_THREADS, else what affinity mask and cgroup allow, counted at the first loop). Idle ones sleep. */

/* Does the iterations [begin, end). Anything but TD_OK ends the loop early. It must return: no longjmp, no exception,
 * no end of the thread. */
typedef td_status td_range_fn(int64_t begin, int64_t end, void *context);

/* Calls fn for all of [begin, end), in chunks that run side by side on the calling thread and others; returns when all
 * have returned.
 *   grain > 0: chunk k is [begin + k * grain, begin + (k + 1) * grain), cut at `end`: what a chunk computes can be kept
 *              by its number, and does not depend on the threads. A chunk should take some microseconds.
 *   grain = 0: the chunks are such that take some microseconds.
 * TD_OK: all was done. Else chunks were left out: what the first fn to fail returned, or the interrupt hook;
 * TD_EFORKED: this is the child of a fork that a chunk made. TD_EINVAL: grain is negative, or fn NULL, and nothing was
 * called.
 *
 * From any thread, by several at once, and from within a chunk (then no thread is added: those of the loop around it
 * share the work). While a chunk waits for a loop of its own, its thread may run other chunks of that, or of others
 * nested as deep. Where a thread can't be started the others do its part. After fork, a child has threads of its
 * own. */
td_status td_parallel_for(int64_t begin, int64_t end, int64_t grain, td_range_fn *fn, void *context);

/* How many threads a loop that began here would have, the calling one among them: 1 to the budget. */
uint32_t td_threads(void);
/* For all threads of the process, until it is set again; 0: the budget. More than the budget count as that. */
void td_threads_set(uint32_t threads);
/* The same for loops that the calling thread begins from here on, until it leaves; inside a chunk, until that returns.
 * More than the process has, or the loop around it, count as that, and so does 0. The value is for td_threads_leave. */
uint32_t td_threads_enter(uint32_t threads);
void td_threads_leave(uint32_t before);
/* Inside a chunk: the number of its thread among those of the outermost loop, 0 for the one that called, below the
 * number of threads that this had. Chunks that run at the same time, in one outermost loop, have different ones. */
uint32_t td_thread_number(void);

/* Asked now and then (each millisecond, at most) by threads that have called td_parallel_for, between two chunks, and
 * while they wait, when a signal came or some milliseconds have passed. What it returns, if it is not TD_OK, ends the
 * outermost loop of that thread, and with it those nested in it. NULL: none. */
typedef td_status td_interrupt_hook(void);
void td_set_interrupt_hook(td_interrupt_hook *hook);

/* ---- The parent: pools ------------------------------------------------------------------------------------ */

enum td_start {
    TD_START_SHARED = 0, /* one zygote, spawned from argv, forks all workers (zygote, forkserver) */
    TD_START_ADOPTED,    /* the caller forks the zygote itself and hands it over (fork) */
    TD_START_SINGLE,     /* each worker is a fresh process that becomes the worker (spawn) */
};

struct td_pool_config {
    uint32_t max_workers;          /* 1..TD_MAX_WORKERS */
    uint32_t max_tasks_per_worker; /* 0: unlimited */
    enum td_start start;
    uint32_t break_on_death;    /* a death breaks the whole pool, as the stdlib's does */
    uint32_t max_barren_deaths; /* replacements in a row that finish no task before the pool breaks; 0: 10 */
    int64_t grace_ns;           /* between a cancel's exception and SIGKILL; 0: the option's value */
    /* As td_pool_set_launch takes them; NULL: they come later. SHARED: the zygote is started first of all, and boots
     * while the pool is made. */
    const char *const *argv, *const *envp;
};

td_status td_pool_new(const struct td_pool_config *config, td_pool **out);
/* The CPUs that this process may use, as they were counted when the pool was made. */
uint32_t td_pool_cpus(const td_pool *pool);
td_pool *td_pool_ref(td_pool *pool);
/* The last one closes a pool that is still open and kills what runs; a closed one finishes its work first. Its memory
 * goes with its last process and its last task. */
void td_pool_unref(td_pool *pool);

/* How zygotes (or single workers) are started: copied. argv gets one more argument, a decimal descriptor number
 * of its channel. TD_START_SHARED and TD_START_SINGLE. They start with SIGINT blocked, so that a Ctrl-C which is meant
 * for the parent does not end them before they can see to it. */
td_status td_pool_set_launch(td_pool *pool, const char *const argv[], const char *const envp[]);
/* TD_START_ADOPTED, before anything else of it runs: the first worker, which the caller has forked itself, so that a
 * first task need not wait for a second fork, and which calls td_birth_receive with the other end of this channel. From
 * here on the channel is the pool's, and the worker is reaped by it. */
td_status td_pool_adopt_worker(td_pool *pool, int32_t pid, int channel);
/* TD_START_ADOPTED: the parent's end of a channel to a zygote that the caller forked; see td_zygote_serve. */
td_status td_pool_adopt_zygote(td_pool *pool, int32_t pid, int channel);
/* Starts the native thread and, unless ADOPTED, the first zygote; idempotent. Submitting does it otherwise. */
td_status td_pool_start(td_pool *pool);
/* What every worker started from now on receives at its start (opaque to the engine). Copied. */
td_status td_pool_set_context(td_pool *pool, const void *bytes, uint64_t len);
/* Ends the zygote (SHARED); the next worker is forked by a fresh one, those there go on. What it had imported
 * changed. */
td_status td_pool_restart_zygote(td_pool *pool);
/* Would the next submit order a worker? Then is the time to set a new context, if it changed. */
bool td_pool_is_short_handed(td_pool *pool);
/* Starts workers until n are there (n <= max_workers) without waiting for work. */
td_status td_pool_prestart(td_pool *pool, uint32_t n);

/* Functions: the bytes from which a worker makes the callable are sent once and named by a number.
 * The same bytes give the same number while they are held. One reference per td_pool_intern. */
td_status td_pool_intern(td_pool *pool, const void *bytes, uint64_t len, uint32_t *fn_out);
/* The same of bytes that name shared blocks, which are held as long as the function is known. */
td_status td_pool_intern_holding(td_pool *pool, const void *bytes, uint64_t len, td_hold *const *holds,
                                 uint32_t hold_count, uint32_t *fn_out);
void td_pool_release_fn(td_pool *pool, uint32_t fn);

/* Arguments over TD_INLINE_ARGS are written into a block first. Waits (deadline, TD_EINTR) while the cap on queued
 * argument bytes is reached. TD_ENOROOM when they can never fit. A block not submitted is dropped. */
td_status td_pool_block_until(td_pool *pool, uint64_t bytes, int64_t deadline_ns, struct td_block *out);
void td_pool_block_drop(td_pool *pool, struct td_block *block);
/* Copies into a block, in the way that is fastest for its pages. */
void td_pool_block_fill(td_pool *pool, void *to, const void *from, uint64_t bytes);
/* How many bytes of arguments and results a caller that reads ahead should have under way at most, so that other parts
 * of the program have room, too: TD_AHEAD_BYTES, or an eighth of the memory if that is less. */
#define TD_AHEAD_BYTES (UINT64_C(256) << 20)
uint64_t td_pool_ahead_bytes(const td_pool *pool);

struct td_call {
    uint32_t fn;           /* from td_pool_intern; the task takes a reference of its own */
    uint32_t items;        /* 0: a plain task; else a chunk of that many items of a map */
    const void *args;      /* inline bytes, or NULL when block is used */
    struct td_block block; /* taken over on success */
    uint64_t args_bytes;
    int64_t timeout_ns; /* of running time, relative; 0: none */
    uint32_t retries;   /* how often it may run again after a worker's death */
    uint32_t flags;     /* TD_CALL_* */
    const char *name;   /* for errors and stats; copied, may be NULL */
    uint64_t tag;       /* the caller's own; given back by td_task_tag */
    td_hold *const
        *holds; /* the shared blocks that the arguments name: held until the call is final, and for as long */
    uint32_t hold_count; /* as the worker that ran it holds them. Borrowed */
};
#define TD_CALL_OBSERVED 1u /* its completion goes to td_observed_pop_until as well */

/* Never waits for a worker. TD_ECLOSED, TD_EBROKEN, TD_EFORKED, TD_ENOMEM. The caller owns one reference. */
td_status td_pool_submit(td_pool *pool, const struct td_call *call, td_task **out);

#define TD_CLOSE_CANCEL_QUEUED 1u /* but for what workers that are free, or on their way, take at this moment */
#define TD_CLOSE_TERMINATE 2u     /* SIGTERM to all workers; what they ran is lost */
#define TD_CLOSE_KILL 4u          /* SIGKILL likewise */
#define TD_CLOSE_CANCEL_RUNNING 8u /* and what is queued; what runs as td_task_cancel with force does */
/* No more submits; workers leave when nothing is queued. Idempotent; returns at once. */
td_status td_pool_close(td_pool *pool, uint32_t flags);
/* Waits until the pool is closed and its last worker and zygote are gone. */
td_status td_pool_join_until(td_pool *pool, int64_t deadline_ns);
/* Waits until no task is queued or running. */
td_status td_pool_idle_until(td_pool *pool, int64_t deadline_ns);
/* Why the pool is broken, or "" when it is not; valid until the pool's last reference goes. */
const char *td_pool_broken_reason(td_pool *pool);
/* Breaks the pool from outside (an initializer failed): every pending task fails with EBROKEN, reason copied. */
void td_pool_break(td_pool *pool, const char *reason);

struct td_pool_stats {
    uint64_t submitted, queued, running, succeeded, failed, cancelled, died, timed_out, retried;
    uint64_t bytes_moved, bytes_copied, argument_bytes_live, result_bytes_live;
    uint32_t workers_alive, workers_idle, workers_started, restarts, barren_deaths, zygote_starts;
    int32_t zygote_pid;
};
void td_pool_get_stats(td_pool *pool, struct td_pool_stats *out);

enum td_worker_state {
    TD_WORKER_ABSENT = 0,
    TD_WORKER_STARTING,
    TD_WORKER_IDLE,
    TD_WORKER_BUSY,
    TD_WORKER_LEAVING,
    TD_WORKER_DEAD
};
struct td_worker_info {
    int32_t pid;
    enum td_worker_state state;
    uint64_t tasks_done, rss_bytes, busy_ns;
    int64_t started_ns;
};
/* Fills up to cap entries, returns how many there are. */
uint32_t td_pool_get_workers(td_pool *pool, struct td_worker_info *out, uint32_t cap);

/* The log of deaths: of each worker that ended without being asked to leave, or was killed for a task. The latest
 * TD_DEATHS_KEPT are kept. */
#define TD_DEATHS_KEPT 256u
#define TD_DEATH_NAME_BYTES 48u
struct td_death_record {
    uint64_t number;                /* of the death in this pool, from 1 */
    int32_t pid, signal, exit_code; /* as in td_death */
    uint32_t worker;                /* its seat: below max_workers */
    bool lost;                      /* it ran a task; the rest is about that: */
    uint32_t fate; /* what became of the task: TD_TASK_QUEUED: it runs again; else its final td_task_state */
    uint32_t attempt, fn;
    uint32_t begin, end; /* of a chunk: the items that were lost */
    uint64_t tag, position;
    char name[TD_DEATH_NAME_BYTES]; /* the call's, cut short; "" when it had none */
};
/* Fills the latest, up to cap, oldest first; returns how many it filled. */
uint32_t td_pool_get_deaths(td_pool *pool, struct td_death_record *out, uint32_t cap);

/* ---- The parent: tasks ------------------------------------------------------------------------------------ */

enum td_task_state {
    TD_TASK_QUEUED = 0,
    TD_TASK_RUNNING,
    /* final from here */
    TD_TASK_RESULT, /* td_task_result is the payload of the result */
    TD_TASK_ERROR,  /* td_task_result is the payload of the exception that the call raised */
    TD_TASK_CANCELLED,
    TD_TASK_DIED, /* td_task_death says how */
    TD_TASK_TIMED_OUT,
    TD_TASK_BROKEN, /* the pool broke before it could run; td_pool_broken_reason */
};

td_task *td_task_ref(td_task *task);
void td_task_unref(td_task *task);                     /* never cancels; frees a final task's memory */
enum td_task_state td_task_state(const td_task *task); /* cheap: no lock, drains nothing */
uint64_t td_task_tag(const td_task *task);
/* Whoever waits drives all pools of the process (the drain token). GIL released by the caller. */
td_status td_task_wait_until(td_task *task, int64_t deadline_ns);
/* Drains without waiting if nobody else does; true when the task is final now. */
bool td_task_poll(td_task *task);
/* Polls again and again, at most so long, and only where a CPU would idle otherwise; true when it is final now. */
bool td_task_spin(td_task *task, int64_t spin_ns);
/* Queued: cancelled now, TD_OK. Running: TD_EAGAIN, or with force it gets the exception now and SIGKILL after
 * the pool's grace time: TD_OK, final later. Final: TD_EINVAL. */
td_status td_task_cancel(td_task *task, bool force);
/* RESULT and ERROR: bytes valid until the task's last reference goes. */
td_status td_task_result(const td_task *task, struct td_view *out);
/* How many bytes they are, with those of the parcels that came with them; 0: there are none. */
uint64_t td_task_result_bytes(const td_task *task);
/* The arguments, as submitted (for a caller that runs them itself or names them in an error). */
td_status td_task_args(const td_task *task, struct td_view *out);

/* How many parcels came with the result, and a reference on one of them: its bytes are valid until td_parcel_unref,
 * longer than the task's if need be. TD_EINVAL: there is none of this number, or it was dropped and let go of. */
uint32_t td_task_parcels(const td_task *task);
td_status td_task_parcel(td_task *task, uint32_t i, td_parcel_ref **out, struct td_view *view);
void td_parcel_unref(td_parcel_ref *hold);
/* The result was read: parcels that nobody holds are given back now, and not when the task goes. */
void td_task_drop_parcels(td_task *task);

struct td_timing {
    int64_t submitted_ns, started_ns, ended_ns, completed_ns; /* absolute; 0: did not happen */
    int32_t worker_pid;
    uint32_t attempts;
};
void td_task_timing(const td_task *task, struct td_timing *out);

struct td_death {
    int32_t pid, signal, exit_code;              /* signal 0: it left with exit_code; exit_code -1: not known */
    uint32_t oom_suspected, quarantined, deaths; /* quarantined: its retries were used up by deaths */
};
td_status td_task_death(const td_task *task, struct td_death *out);
/* The faulthandler text that the dead worker wrote; "" when there is none. Valid as long as the task. */
const char *td_task_death_stack(const td_task *task);

/* A map's chunk may come back in parts: this task holds items [begin, end), and td_task_rest, borrowed, NULL at
 * the last part, those that follow it. Parts are fixed once the task is final. */
void td_task_range(const td_task *task, uint32_t *begin, uint32_t *end);
td_task *td_task_rest(const td_task *task);

/* Marks the task so that its completion reaches td_observed_pop_until. TD_EINVAL: it is final already;
 * TD_EFORKED: it is the parent's, and not final. */
td_status td_task_observe(td_task *task);

/* ---- The parent: waiting for many ------------------------------------------------------------------------- */

td_status td_group_new(td_group **out);
void td_group_free(td_group *group);
/* A task is in at most one group: TD_EINVAL otherwise. A final task is queued at once. The group holds a reference.
 * TD_EFORKED, here and below: it is the parent's, and not final. */
td_status td_group_add(td_group *group, td_task *task);
/* The same with a number of the caller's, which td_task_group_tag gives back once the task was popped. */
td_status td_group_add_as(td_group *group, td_task *task, uint64_t tag);
uint64_t td_task_group_tag(const td_task *task);
/* The next completed task, whose reference passes to the caller. TD_EINVAL: the group is empty; TD_EAGAIN: another
 * thread was faster, call again. */
td_status td_group_pop_until(td_group *group, int64_t deadline_ns, td_task **out);

/* Takes a task out of the group, final or not. TD_EINVAL: it is not in it. */
td_status td_group_remove(td_group *group, td_task *task);
/* How many tasks are in it, final or not. */
uint64_t td_group_count(const td_group *group);

/* An event loop that polls descriptors of its own waits for a group so: it arms the group, and sleeps in its poll; the
 * descriptor becomes readable once a task of the group is final, or was already. That is said once: the loop
 * *disarms*, which empties the descriptor, pops with a deadline of 0 until nothing is there, and arms again if tasks
 * are left. The descriptor is the group's, and goes with it. TD_ENOFD, TD_ENOMEM. */
td_status td_group_open_event(td_group *group, int *fd);
void td_group_arm(td_group *group);
void td_group_disarm(td_group *group);

/* The next observed completion (reference passes to the caller). TD_ECLOSED after td_observed_close, until reopened;
 * TD_EAGAIN: another thread was faster. */
td_status td_observed_pop_until(int64_t deadline_ns, td_task **out);
void td_observed_close(void);
void td_observed_open(void);

/* In the child of a fork that the C library did not make: every pool of the parent is inert from here on (TD_EFORKED),
 * as it is after fork(3) by itself. Results that were there can still be read. */
void td_after_fork_child(void);

/* ---- The zygote ------------------------------------------------------------------------------------------- */

/* What a forked child gets; descriptors are its own, close-on-exec. */
struct td_birth {
    uint32_t worker;
    int arena_fd, lifeline_fd, control_fd, args_fd, bell_fd, event_fd, loop_fd, stack_fd;
    int stdio_fds[3];
    const void *context; /* as td_pool_set_context gave it; malloc'ed, the child's */
    uint64_t context_bytes;
};
/* In a zygote that nobody needs yet: sleeps until its first order, which stays in the channel. TD_ECLOSED: leave, as
 * td_zygote_serve would say. Does nothing but that, so that it may stand between fork and all else in the child. */
td_status td_zygote_doze(int channel);
/* Waits for orders on the channel and reaps children, until one of:
 *   TD_OK         fork now: the caller forks and calls td_zygote_forked in both processes
 *   TD_ECLOSED    the parent is gone or wants an end: leave
 * Any signal is handled inside but for Python's own (TD_EINTR). */
td_status td_zygote_serve(int channel, struct td_birth *out);
/* pid > 0 in the zygote (reports the child), or the negative errno of a failed fork; 0 in the child (closes the
 * channel). */
td_status td_zygote_forked(int channel, struct td_birth *birth, int32_t pid);
/* A single worker (TD_START_SINGLE): receives its birth from the channel and needs no fork. */
td_status td_birth_receive(int channel, struct td_birth *out);
/* The zygote's own answer to a failed start (a preload that raised): text reaches td_pool_broken_reason. */
td_status td_zygote_fail(int channel, const char *reason);

/* ---- The worker ------------------------------------------------------------------------------------------- */

/* Arms the lifeline, maps the pool. The birth's descriptors are taken over. */
td_status td_worker_attach(struct td_birth *birth, td_worker **out);
void td_worker_detach(td_worker *worker);

struct td_assignment {
    uint32_t fn;             /* the function's number */
    struct td_view fn_bytes; /* from which to make it when it is not known yet */
    struct td_view args;
    void *args_data;     /* writable alias of args when they are in a block with this one consumer, else NULL */
    uint32_t begin, end; /* a chunk's items at the time of claiming; 0, 0: a plain task */
    uint32_t attempt;
    bool fn_holds;     /* the function's bytes name shared blocks */
    uint64_t position; /* names this assignment; td_worker_interrupted compares it */
};
/* Are the bytes of a function that names shared blocks still there? They are while it is known to the parent, and while
 * a task of it is the assignment. `ref`: of td_assignment's fn_bytes. */
bool td_worker_has_fn(td_worker *worker, uint64_t ref);
/* The next task: spins, then sleeps. TD_ECLOSED: leave; TD_EINTR: run signal handlers and come back. */
td_status td_worker_next(td_worker *worker, struct td_assignment *out);
/* A chunk's next item of the current assignment; TD_ECLOSED: no item is left. */
td_status td_worker_take_item(td_worker *worker, uint32_t *item);
/* Room for a result in the worker's own arena; grows by copying with td_worker_block_grow. */
td_status td_worker_block(td_worker *worker, uint64_t bytes, struct td_block *out);
td_status td_worker_block_grow(td_worker *worker, struct td_block *block, uint64_t used, uint64_t bytes);
void td_worker_block_drop(td_worker *worker, struct td_block *block);
void td_worker_block_fill(td_worker *worker, void *to, const void *from, uint64_t bytes);
/* Parcels of the result in this block, of which the first `used` bytes are the result's: from now on they are not this
 * process's, and pass to the parent with the block. They are written down at its end, so it needs that room, beside
 * what was enclosed before. TD_EINVAL: it has not, or one is not the worker's. */
td_status td_worker_enclose(td_worker *worker, const struct td_block *block, uint64_t used,
                            const struct td_parcel *parcels, uint32_t count);
/* A chunk's results so far are readable in this block: survives the worker's death (release store). */
void td_worker_publish(td_worker *worker, const struct td_block *block, uint64_t used_bytes,
                       uint32_t items_done);
/* Ends the assignment: ok or error, inline (<= TD_INLINE_RESULT) or in a block, which passes to the parent.
 * keep_args: the arguments' block is still referenced here; td_worker_give_args gives it back later. */
td_status td_worker_reply(td_worker *worker, bool ok, const void *bytes, struct td_block *block, uint64_t len,
                          bool keep_args);
void td_worker_give_args(td_worker *worker, uint64_t ref);
/* Bytes of the arguments' block, where they are not writable, as memory of this process's own: nobody else sees what is
 * written there, and only a page that was written to costs memory and time. Until unmapped, the block must be held.
 * TD_EINVAL: they are not in the parent's arena. TD_ENOMEM, TD_EOS. */
struct td_private {
    void *data;
    void *base; /* of the mapping */
    uint64_t mapped_bytes;
};
td_status td_worker_map_private(td_worker *worker, const void *data, uint64_t bytes, struct td_private *out);
void td_private_unmap(const struct td_private *mapping);
/* The nursery of the worker's arena, made at the first call: its blocks may be parcels. Lives as long
 * as the worker. TD_ENOMEM, TD_ENOSYS. */
td_status td_worker_nursery(td_worker *worker, td_nursery **out);
/* Was the exception signal (SIGURG) meant for the running assignment? Clears the request. The signal may also come from
 * within td_worker_next, when it was sent before the assignment was known; then it is raised there. */
bool td_worker_interrupted(td_worker *worker);
/* What td_worker_interrupted answered was lost on the running assignment: the signal comes again, after a pause. */
void td_worker_interrupt_again(td_worker *worker);
/* The engine asks this worker to leave after the current task (SIGTERM does). */
void td_worker_leave(td_worker *worker);
uint32_t td_worker_index(const td_worker *worker);
/* Initialisation failed or succeeded: the text reaches td_pool_broken_reason. */
td_status td_worker_ready(td_worker *worker);
td_status td_worker_failed(td_worker *worker, const char *reason);

#ifdef __cplusplus
}
#endif

#endif
