/* os/pidfd.h: a process by descriptor, which never comes to mean another process as a pid may.
 * Every call gives TD_ENOSYS where the kernel or a seccomp filter refuses pidfds; callers then fall back on the pid
 * and on the end of the lifeline (os/process.h). */
#ifndef TD_OS_PIDFD_H
#define TD_OS_PIDFD_H

#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

/* Close-on-exec; readable in poll and epoll once the process has exited (also before it is reaped).
 * TD_ECLOSED: there is no such process any more. */
td_status td_pidfd_open(pid_t pid, int *pidfd);

/* TD_ECLOSED: the process has exited and was reaped. */
td_status td_pidfd_signal(int pidfd, int signal);

/* TD_OK once the process has exited; TD_ETIMEDOUT, TD_EINTR. A deadline of 0 only asks. */
td_status td_pidfd_wait_until(int pidfd, int64_t deadline_ns);

/* Waits for the end of our own child, and reaps it: *wait_status is as of waitpid(2). TD_ECLOSED: somebody else has
 * reaped it. */
td_status td_pidfd_reap(int pidfd, int *wait_status);

#endif
