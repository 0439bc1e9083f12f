/* watch/thread.h: what a thread of this process does, seen from another one: its CPU clock, its state, its system call.
 *
 * Nothing here stops the thread or waits for it. Where /proc does not show system calls (a kernel without
 * CONFIG_HAVE_ARCH_TRACEHOOK, an emulator, a sandbox) the state is all that is known.
 * Tests  tests/watch/test_thread.c */
#ifndef TD_WATCH_THREAD_H
#define TD_WATCH_THREAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/status.h"

struct td_thread {
    pid_t tid;
    clockid_t clock;
    int syscall_fd, stat_fd; /* -1: not to be had */
};

/* What was seen at a moment. */
struct td_thread_sight {
    int64_t now_ns;
    int64_t cpu_ns;         /* of this thread; -1: it has ended */
    int64_t process_cpu_ns; /* of all threads */
    char state;             /* R, S, D, ...; 0: unknown */
    bool in_syscall;        /* it waits in one: the next two are known */
    int64_t syscall;        /* its number */
    uint64_t arguments[6];
};

/* What it does, as two sights tell. */
enum td_doing {
    TD_DOING_COMPUTES,
    TD_DOING_STARVES,   /* it could run, and got less than half of a CPU */
    TD_DOING_WAITS,     /* in a system call, or the kernel works for it */
    TD_DOING_WAITS_GIL, /* inferred: see td_thread_doing */
};

/* Of the calling thread. Always usable, also where /proc is not. */
void td_thread_open(struct td_thread *thread);
void td_thread_close(struct td_thread *thread);

/* Its clocks alone. */
void td_thread_clock(const struct td_thread *thread, struct td_thread_sight *sight);
/* Its system call alone. */
void td_thread_peek(const struct td_thread *thread, struct td_thread_sight *sight);
/* Everything. */
void td_thread_look(const struct td_thread *thread, struct td_thread_sight *sight);

/* The share of one CPU, in thousandths, that the thread, or the others of its process, had between two sights. */
uint32_t td_thread_share(const struct td_thread_sight *from, const struct td_thread_sight *to);
uint32_t td_thread_others(const struct td_thread_sight *from, const struct td_thread_sight *to);

/* holds_gil: 1 yes, 0 no, -1 not known. That a thread waits for the GIL is inferred: it does not hold it, sleeps on a
 * futex with a timeout, as those that wait for the GIL do, and other threads of the process compute meanwhile. */
enum td_doing td_thread_doing(const struct td_thread_sight *from, const struct td_thread_sight *to,
                              int holds_gil);

/* "clock_nanosleep" and so on, for the calls in which threads usually wait; NULL for others. */
const char *td_thread_syscall_name(int64_t number);

/* The descriptor that it waits on for events, in epoll_wait or io_uring_enter; -1: it does not. */
int64_t td_thread_polled(const struct td_thread_sight *sight);

#endif
