/* treadle.h: the public interface of libtreadle, the engine under the Python package.
 *
 * Every function that can fail returns a td_status: 0, or a negative number from the one table below. Results
 * come back in trailing out-parameters, which a failed call leaves untouched. The engine never prints and never
 * ends the process. */
#ifndef TREADLE_H
#define TREADLE_H

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
    X(TD_ENOROOM, -3, "no room left under the memory limit of the arena or the cgroup", "MemoryError")         \
    X(TD_ETIMEDOUT, -4, "the deadline has passed", "TimeoutError")                                             \
    X(TD_EINTR, -5, "interrupted by a signal", "InterruptedError")                                             \
    X(TD_ECLOSED, -6, "closed, or shut down", "RuntimeError")                                                  \
    X(TD_EBROKEN, -7, "the pool is broken", "BrokenProcessPool")                                               \
    X(TD_EDIED, -8, "the worker that ran this task died", "WorkerDied")                                        \
    X(TD_ECANCELLED, -9, "cancelled", "CancelledError")                                                        \
    X(TD_EFORKED, -10, "belongs to the parent: not usable in a forked child", "RuntimeError")                  \
    X(TD_EPROTO, -11, "data from another process failed a check", "RuntimeError")                              \
    X(TD_ENOSYS, -12, "the kernel, or a seccomp filter, refuses this system call", "OSError")                  \
    X(TD_ENOFD, -13, "the limit of open descriptors is reached (ulimit -n)", "OSError")                        \
    X(TD_EAGAIN, -14, "not now: would block, or the value has changed", "BlockingIOError")                     \
    X(TD_EOS, -15, "a system call failed (see errno)", "OSError")

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

#ifdef __cplusplus
}
#endif

#endif
