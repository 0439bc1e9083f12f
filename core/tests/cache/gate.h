/* tests/cache/gate.h: the system calls that a store makes on files, by a gate that counts them: at a chosen one the
 * process is killed, or the call fails. They are defined here, and so found before the C library's. */
#ifndef TD_TESTS_CACHE_GATE_H
#define TD_TESTS_CACHE_GATE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum gate_end { GATE_OPEN, GATE_KILL, GATE_FAIL };

static struct {
    enum gate_end end;
    long calls, at; /* counted from 1 */
    int error;
    bool is_short;  /* writes and reads do as little as they can */
    int lock_error; /* what asking for a lock ends with, unless it is 0 */
    long syncs;
} gate;

/* True: the call fails. */
static bool gate_pass(void)
{
    gate.calls++;
    if (gate.end == GATE_OPEN || gate.calls != gate.at)
        return false;
    if (gate.end == GATE_KILL)
        kill(getpid(), SIGKILL);
    errno = gate.error;
    return true;
}

#define GATED(...) (gate_pass() ? -1 : syscall(__VA_ARGS__))

int openat(int folder, const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    const unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, unsigned) : 0;
    va_end(more);
    return (int)GATED(SYS_openat, folder, path, flags, mode);
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
    return (int)GATED(SYS_linkat, from, path, to, name, flags);
}

int renameat(int from, const char *path, int to, const char *name)
{
    return (int)GATED(SYS_renameat2, from, path, to, name, 0);
}

int renameat2(int from, const char *path, int to, const char *name, unsigned flags)
{
    return (int)GATED(SYS_renameat2, from, path, to, name, flags);
}

int unlinkat(int folder, const char *path, int flags)
{
    return (int)GATED(SYS_unlinkat, folder, path, flags);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    return (int)GATED(SYS_mkdirat, folder, path, mode);
}

int fallocate(int fd, int mode, off_t from, off_t bytes)
{
    return (int)GATED(SYS_fallocate, fd, mode, from, bytes);
}

int fsync(int fd)
{
    gate.syncs++;
    return (int)GATED(SYS_fsync, fd);
}

ssize_t writev(int fd, const struct iovec *vectors, int count)
{
    if (gate.is_short) {
        const struct iovec first = {vectors->iov_base, vectors->iov_len > 7 ? 7 : vectors->iov_len};
        return GATED(SYS_writev, fd, &first, 1);
    }
    return GATED(SYS_writev, fd, vectors, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    return GATED(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t at)
{
    return GATED(SYS_pread64, fd, bytes, gate.is_short && count > 100 ? count / 2 : count, at);
}

int flock(int fd, int operation)
{
    return (int)GATED(SYS_flock, fd, operation);
}

int fstatat(int folder, const char *restrict path, struct stat *restrict file, int flags)
{
    return (int)GATED(SYS_newfstatat, folder, path, file, flags);
}

/* Locks alone are gated. */
int fcntl(int fd, int command, ...)
{
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (gate.lock_error != 0 && (command == F_OFD_SETLK || command == F_OFD_SETLKW || command == F_OFD_GETLK)) {
        errno = gate.lock_error;
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

#endif
