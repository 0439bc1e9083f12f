/* os/pidfd.c: pidfd_open(2), pidfd_send_signal(2), and waiting for the exit.
 * Crash   a pidfd outlives the process and names it alone, so a signal never reaches a stranger.
 * Tests   tests/os/test_pidfd.c */
#include "os/pidfd.h"

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/option.h"

#ifndef P_PIDFD /* headers older than the kernel */
#define P_PIDFD 3
#endif

/* Seccomp filters answer EPERM as often as ENOSYS; for our own child neither has another reason. */
static td_status refused_or(int error)
{
    if (error == EPERM)
        return TD_ENOSYS;
    return td_status_from_errno(error);
}

td_status td_pidfd_open(pid_t pid, int *pidfd)
{
    if (td_option_bool(TD_OPT_NO_PIDFD))
        return TD_ENOSYS;
    long fd = syscall(SYS_pidfd_open, pid, 0); /* always close-on-exec */
    if (fd < 0)
        return refused_or(errno);
    *pidfd = (int)fd;
    return TD_OK;
}

td_status td_pidfd_signal(int pidfd, int signal)
{
    if (syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0)
        return refused_or(errno);
    return TD_OK;
}

td_status td_pidfd_wait_until(int pidfd, int64_t deadline_ns)
{
    struct pollfd watched = {.fd = pidfd, .events = POLLIN};
    for (;;) {
        int ready = poll(&watched, 1, td_deadline_left_ms(deadline_ns));
        if (ready > 0)
            return watched.revents & POLLNVAL ? TD_EINVAL : TD_OK;
        if (ready < 0)
            return td_status_from_errno(errno);
        if (td_deadline_left(deadline_ns) == 0)
            return TD_ETIMEDOUT;
    }
}

td_status td_pidfd_reap(int pidfd, int *wait_status)
{
    siginfo_t info;
    int done;
    do
        done = waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED);
    while (done < 0 && errno == EINTR);
    if (done < 0)
        return errno == ECHILD                     ? TD_ECLOSED
               : errno == EINVAL || errno == EPERM ? TD_ENOSYS /* before Linux 5.4 */
                                                   : td_status_from_errno(errno);
    *wait_status = info.si_code == CLD_EXITED   ? (info.si_status & 0xff) << 8
                   : info.si_code == CLD_DUMPED ? info.si_status | 0x80
                                                : info.si_status;
    return TD_OK;
}
