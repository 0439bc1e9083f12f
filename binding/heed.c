/* heed.c: a signal that makes a worker leave, at whatever moment it comes.
 *
 * Python only notes a signal, and runs its handler when it is next at a bytecode. A worker that is about to sleep is
 * in C by then, and sleeps on: the signal has come, and interrupts nothing. So the engine is told in the C handler,
 * and Python's is called after it.
 * Invariant  a child that a task forked leaves the worker alone: it is another process.
 * Crash      nothing is held.   Tests  tests/fault/test_worker_death.py */
#include "heed.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

/* A process is one worker. */
static struct {
    td_worker *worker;
    pid_t pid;
    void (*python)(int);
} heeding;

static void on_signal(int number)
{
    const int saved = errno;
    if (getpid() == heeding.pid)
        td_worker_leave(heeding.worker);
    heeding.python(number);
    errno = saved;
}

int tb_heed(td_worker *worker, int number)
{
    struct sigaction action;
    if (worker == NULL || sigaction(number, NULL, &action) != 0 || action.sa_handler == SIG_DFL ||
        action.sa_handler == SIG_IGN) {
        PyErr_SetString(PyExc_ValueError, "heed() is for a worker, and a signal that has a handler");
        return -1;
    }
    heeding.worker = worker;
    heeding.pid = getpid();
    heeding.python = action.sa_handler;
    action.sa_handler = on_signal;
    if (sigaction(number, &action, NULL) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}
