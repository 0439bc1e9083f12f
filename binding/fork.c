/* fork.c: the zygote as a fork of the user's process (start_method="fork").
 *
 * It is forked at the first submit, for it is to be as that process was then, and nobody needs it before a
 * second worker is wanted. What Python does in a child of fork would take the first task's CPU meanwhile, and
 * unshare hundreds of pages. So the child dozes in the engine, and is Python's child only from its first order on.
 * Invariant  no handler of the user's process runs in the child, and nothing is written to that process's wakeup
 *            descriptor, until the package has put its own handlers in place (_zygote.leave_user_behind): all signals
 *            are blocked from before the fork, and those that come while it dozes are dropped. They were sent to a
 *            group, for the user's process to act on.
 * Tests  tests/unit/test_start.py */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "module.h"

#define CLOSED_MOST 4

/* fork_dozing(channel, *closed): os.fork() for a zygote with this end of its channel; the others are closed in it. */
static PyObject *fork_dozing(PyObject *Py_UNUSED(module), PyObject *args)
{
    int channel, closed[CLOSED_MOST] = {-1, -1, -1, -1};
    sigset_t all, before;
    if (!PyArg_ParseTuple(args, "i|iiii:fork_dozing", &channel, &closed[0], &closed[1], &closed[2],
                          &closed[3]) ||
        PySys_Audit("os.fork", NULL) < 0)
        return NULL;
    sigfillset(&all);
    /* Before the handlers of forks, which may do the same, and undo it in the child. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    PyOS_BeforeFork();
    const pid_t pid = fork();
    const int error = errno;
    if (pid == 0) {
        for (int i = 0; i < CLOSED_MOST; i++)
            if (closed[i] >= 0)
                close(closed[i]);
        if (td_zygote_doze(channel) != TD_OK)
            _exit(0);
        while (sigtimedwait(&all, NULL, &(struct timespec){0}) > 0)
            continue;
        PyOS_AfterFork_Child();
    } else {
        PyOS_AfterFork_Parent();
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (pid >= 0)
        return PyLong_FromLong(pid);
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyMethodDef tb_fork_methods[] = {
    {"fork_dozing", fork_dozing, METH_VARARGS,
     PyDoc_STR("fork_dozing(channel, *closed): forks a zygote that sleeps until its first order.")},
    {0},
};
