/* watch/thread.c: see thread.h.
 * /proc/self/task/TID/syscall says "running", or "-1 ..." (asleep, in no system call), or the number of the call and
 * six arguments; /proc/self/task/TID/stat has the state behind the last parenthesis, as names may have some, too.
 * Tests  tests/watch/test_thread.c */
#include "watch/thread.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define HALF 500

static int open_of(pid_t tid, const char *what)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)tid, what);
    return open(path, O_RDONLY | O_CLOEXEC);
}

void td_thread_open(struct td_thread *thread)
{
    thread->tid = (pid_t)syscall(SYS_gettid);
    if (pthread_getcpuclockid(pthread_self(), &thread->clock) != 0)
        thread->clock = -1;
    thread->syscall_fd = open_of(thread->tid, "syscall");
    thread->stat_fd = open_of(thread->tid, "stat");
}

void td_thread_close(struct td_thread *thread)
{
    if (thread->syscall_fd >= 0)
        close(thread->syscall_fd);
    if (thread->stat_fd >= 0)
        close(thread->stat_fd);
    thread->syscall_fd = thread->stat_fd = -1;
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        return -1;
    return (int64_t)time.tv_sec * TD_NS_PER_S + time.tv_nsec;
}

void td_thread_clock(const struct td_thread *thread, struct td_thread_sight *sight)
{
    *sight = (struct td_thread_sight){.now_ns = td_now_ns(), .cpu_ns = clock_ns(thread->clock)};
    sight->process_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static void read_syscall(int fd, struct td_thread_sight *sight)
{
    char text[256];
    const ssize_t bytes = pread(fd, text, sizeof text - 1, 0);
    if (bytes <= 0)
        return;
    text[bytes] = '\0';
    if (strncmp(text, "running", 7) == 0) {
        sight->state = 'R';
        return;
    }
    char *end;
    sight->syscall = strtoll(text, &end, 10);
    if (end == text || sight->syscall < 0)
        return;
    for (size_t i = 0; i < 6; i++)
        sight->arguments[i] = strtoull(end, &end, 16);
    sight->in_syscall = true;
}

static void read_state(int fd, struct td_thread_sight *sight)
{
    char text[512];
    const ssize_t bytes = pread(fd, text, sizeof text - 1, 0);
    if (bytes <= 0)
        return;
    text[bytes] = '\0';
    const char *name_end = strrchr(text, ')');
    if (name_end != NULL && name_end[1] == ' ')
        sight->state = name_end[2];
}

void td_thread_peek(const struct td_thread *thread, struct td_thread_sight *sight)
{
    *sight = (struct td_thread_sight){0};
    if (thread->syscall_fd >= 0)
        read_syscall(thread->syscall_fd, sight);
}

void td_thread_look(const struct td_thread *thread, struct td_thread_sight *sight)
{
    td_thread_clock(thread, sight);
    if (thread->stat_fd >= 0)
        read_state(thread->stat_fd, sight);
    if (thread->syscall_fd >= 0)
        read_syscall(thread->syscall_fd, sight);
}

static uint32_t share(int64_t cpu_ns, int64_t wall_ns)
{
    return cpu_ns <= 0 || wall_ns <= 0 ? 0 : (uint32_t)(cpu_ns * 1000 / wall_ns);
}

uint32_t td_thread_share(const struct td_thread_sight *from, const struct td_thread_sight *to)
{
    const uint32_t measured = share(to->cpu_ns - from->cpu_ns, to->now_ns - from->now_ns);
    return measured > 1000 ? 1000 : measured; /* the clocks are read one after the other */
}

uint32_t td_thread_others(const struct td_thread_sight *from, const struct td_thread_sight *to)
{
    const int64_t own_ns = to->cpu_ns - from->cpu_ns;
    return share(to->process_cpu_ns - from->process_cpu_ns - own_ns, to->now_ns - from->now_ns);
}

static bool waits_on_futex_with_timeout(const struct td_thread_sight *sight)
{
    return sight->in_syscall && sight->syscall == SYS_futex && sight->arguments[3] != 0;
}

enum td_doing td_thread_doing(const struct td_thread_sight *from, const struct td_thread_sight *to,
                              int holds_gil)
{
    const bool was_busy = td_thread_share(from, to) >= HALF;
    if (to->state == 'R' || to->state == 0)
        return was_busy || to->now_ns == from->now_ns ? TD_DOING_COMPUTES : TD_DOING_STARVES;
    if (holds_gil == 0 && waits_on_futex_with_timeout(to) && td_thread_others(from, to) >= HALF)
        return TD_DOING_WAITS_GIL;
    return was_busy ? TD_DOING_COMPUTES : TD_DOING_WAITS;
}

/* What only x86-64 has is left out where it is not. */
static const struct {
    int64_t number;
    const char *name;
} names[] = {
    {SYS_read, "read"},
    {SYS_write, "write"},
    {SYS_readv, "readv"},
    {SYS_writev, "writev"},
    {SYS_pread64, "pread64"},
    {SYS_pwrite64, "pwrite64"},
    {SYS_openat, "openat"},
    {SYS_close, "close"},
    {SYS_connect, "connect"},
    {SYS_accept, "accept"},
    {SYS_accept4, "accept4"},
    {SYS_recvfrom, "recvfrom"},
    {SYS_recvmsg, "recvmsg"},
    {SYS_sendto, "sendto"},
    {SYS_sendmsg, "sendmsg"},
    {SYS_sendfile, "sendfile"},
    {SYS_splice, "splice"},
    {SYS_futex, "futex"},
    {SYS_nanosleep, "nanosleep"},
    {SYS_clock_nanosleep, "clock_nanosleep"},
    {SYS_restart_syscall, "restart_syscall"},
    {SYS_wait4, "wait4"},
    {SYS_waitid, "waitid"},
    {SYS_ppoll, "ppoll"},
    {SYS_pselect6, "pselect6"},
    {SYS_epoll_pwait, "epoll_pwait"},
    {SYS_flock, "flock"},
    {SYS_fcntl, "fcntl"},
    {SYS_ioctl, "ioctl"},
    {SYS_fsync, "fsync"},
    {SYS_fdatasync, "fdatasync"},
    {SYS_fallocate, "fallocate"},
    {SYS_ftruncate, "ftruncate"},
    {SYS_mmap, "mmap"},
    {SYS_munmap, "munmap"},
    {SYS_madvise, "madvise"},
    {SYS_rt_sigtimedwait, "rt_sigtimedwait"},
    {SYS_semtimedop, "semtimedop"},
    {SYS_msgrcv, "msgrcv"},
    {SYS_mq_timedreceive, "mq_timedreceive"},
    {SYS_mq_timedsend, "mq_timedsend"},
    {SYS_getdents64, "getdents64"},
    {SYS_unlinkat, "unlinkat"},
    {SYS_clone, "clone"},
    {SYS_execve, "execve"},
#ifdef SYS_epoll_pwait2
    {SYS_epoll_pwait2, "epoll_pwait2"},
#endif
#ifdef SYS_io_uring_enter
    {SYS_io_uring_enter, "io_uring_enter"},
#endif
#ifdef SYS_epoll_wait
    {SYS_epoll_wait, "epoll_wait"},
#endif
#ifdef SYS_open
    {SYS_open, "open"},
    {SYS_stat, "stat"},
    {SYS_lstat, "lstat"},
    {SYS_poll, "poll"},
    {SYS_select, "select"},
    {SYS_pause, "pause"},
    {SYS_unlink, "unlink"},
    {SYS_vfork, "vfork"},
#endif
};

const char *td_thread_syscall_name(int64_t number)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].number == number)
            return names[i].name;
    return NULL;
}

int64_t td_thread_polled(const struct td_thread_sight *sight)
{
    const char *name = sight->in_syscall ? td_thread_syscall_name(sight->syscall) : NULL;
    if (name == NULL || (strncmp(name, "epoll_", 6) != 0 && strcmp(name, "io_uring_enter") != 0))
        return -1;
    return (int64_t)sight->arguments[0];
}
