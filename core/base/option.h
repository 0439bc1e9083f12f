/* base/option.h: the options, one table, read from TREADLE_* environment variables.
 *
 * Reading is lazy (the first td_option_* call) and again at each td_options_reload. A variable that doesn't parse
 * leaves its option at the default, and the reason can be asked for: the engine never prints.
 *
 * Spelling of values: bool is 0/1, off/on, false/true, no/yes; bytes take K, M, G, T (powers of 1024); durations take
 * ns, us, ms, s, and a bare number is seconds; a spin is a duration whose bare number is microseconds, or off, or
 * auto. An empty variable counts as unset. */
#ifndef TD_BASE_OPTION_H
#define TD_BASE_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* X(id, variable, type, default as text, help). */
#define TD_OPTION_TABLE(X)                                                                                     \
    X(SPIN, "TREADLE_SPIN", SPIN, "auto",                                                                      \
      "how long workers and waiters spin before they sleep: auto (100 us, waiters 20), 0 (never), or us")      \
    X(WORKERS, "TREADLE_WORKERS", INT, "0", "default number of workers; 0 is the CPU budget")                  \
    X(THREADS, "TREADLE_THREADS", INT, "0",                                                                    \
      "CPUs that pools made here may count on; workers find their share in it; 0 is the CPU budget")           \
    X(SLOTS, "TREADLE_SLOTS", INT, "4096", "tasks a pool holds in shared memory; more wait in the parent")     \
    X(ARENA_BYTES, "TREADLE_ARENA_BYTES", BYTES, "0",                                                          \
      "cap on the bytes of queued arguments; 0 is a quarter of the memory")                                    \
    X(WARM_BYTES, "TREADLE_WARM_BYTES", BYTES, "256M", "freed bytes that each arena keeps for reuse")          \
    X(MOVE_BYTES, "TREADLE_MOVE_BYTES", BYTES, "64K",                                                          \
      "NumPy arrays of so many bytes or more come back from workers without a copy; 0: none do")               \
    X(RANGE_BYTES, "TREADLE_RANGE_BYTES", BYTES, "0",                                                          \
      "addresses that each arena takes; 0 is four times the memory, and at least 64G")                         \
    X(GRACE, "TREADLE_GRACE", DURATION, "1s",                                                                  \
      "time between the exception and SIGKILL when running work is cancelled by force")                        \
    X(WATCHDOG, "TREADLE_WATCHDOG", DURATION, "0",                                                             \
      "importing treadle starts the watchdog of event loops with this threshold; 0: it does not")              \
    X(INLINE, "TREADLE_INLINE", BOOL, "0", "run every task in the caller, for debuggers and profilers")        \
    X(START_METHOD, "TREADLE_START_METHOD", STRING, "",                                                        \
      "default start method: zygote, fork, forkserver or spawn; empty is zygote")                              \
    X(TRACE, "TREADLE_TRACE", STRING, "", "file that trace points are written to; empty is off")               \
    X(NO_MEMFD, "TREADLE_NO_MEMFD", BOOL, "0", "act as if the kernel refused memfd_create (for tests)")        \
    X(NO_PIDFD, "TREADLE_NO_PIDFD", BOOL, "0", "act as if the kernel refused pidfd_open (for tests)")

typedef enum td_option {
#define TD_OPTION_ENUM_(id, variable, type, text, help) TD_OPT_##id,
    TD_OPTION_TABLE(TD_OPTION_ENUM_)
#undef TD_OPTION_ENUM_
        TD_OPTION_COUNT
} td_option;

typedef enum td_option_type {
    TD_OPTION_BOOL,
    TD_OPTION_INT,
    TD_OPTION_BYTES,
    TD_OPTION_DURATION,
    TD_OPTION_SPIN,
    TD_OPTION_STRING,
} td_option_type;

#define TD_SPIN_AUTO INT64_C(-1)

/* bool, int, bytes; durations and spins in nanoseconds (a spin may be TD_SPIN_AUTO). Any thread, any time. */
int64_t td_option_int(td_option option);
static inline bool td_option_bool(td_option option)
{
    return td_option_int(option) != 0;
}

/* Never NULL; valid until the process ends, also across reloads. */
const char *td_option_string(td_option option);

/* Reads the environment again. TD_EINVAL when a variable doesn't parse (all others are taken), TD_ENOMEM when the
 * texts can't be kept (nothing changes). getenv(3) races with setenv(3): from Python, call it with the GIL held. */
td_status td_options_reload(void);

/* For children that the C library did not make. */
void td_options_after_fork_child(void);

/* Why the first bad variable was refused, e.g. "TREADLE_GRACE=soon: expected a duration, such as ..."; NULL when all is
 * well. */
const char *td_options_problem(void);

typedef struct td_option_info {
    const char *name; /* the variable */
    const char *type; /* "bool", "int", "bytes", "duration", "spin", "string" */
    const char *text; /* as it stands in the environment, else the default */
    const char *default_text;
    const char *help;
    const char *problem; /* NULL, or why the variable was refused and the default is in force */
    bool is_set;
} td_option_info;

/* For listings: options 0 .. TD_OPTION_COUNT-1, in the order of the table. */
void td_option_describe(td_option option, td_option_info *info);

/* The parser, on its own: TD_EINVAL leaves *value alone. Strings have no number: always TD_EINVAL. */
td_status td_option_parse(td_option_type type, const char *text, int64_t *value);

#endif
