/* watchdog.c: event loops watched by the native thread: LoopWatch, and what the watchdog's own thread needs.
 *
 * A LoopWatch is made by its loop's thread. It shows the engine the loop's turns: `select` stands in the place of the
 * select method of an asyncio loop's selector; other loops wait for `question`, and call `answer`.
 * The native thread never enters Python. It sends a signal to the thread whose loop is stuck, the handler (ours, around
 * the one that faulthandler has registered) writes that thread's Python stack into a pipe, and the news wait for a
 * Python thread, which waits for the GIL. If the main thread computes, that would be 5 ms, and the time until a CPU is
 * free: so it is asked to let go of both at its next bytecode (hand_over), by the one call that needs no GIL.
 * Invariants  I1 the signal's default action, which would end the process, is gone for good before the first one is
 *                sent: faulthandler found it ignored, and that is what it gives back at the interpreter's end.
 *             I2 nothing here runs in a thread that Python doesn't know; once the interpreter ends, the handler doesn't
 *                look at it any more.
 * Crash       nothing is held.   Tests  tests/unit/watchdog/ */
#include "watchdog.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/option.h"
#include "os/event.h"
#include "os/futex.h"
#include "os/placement.h"
#include "watch/watch.h"

struct loop_watch {
    PyObject_HEAD td_watch *watch;
    PyObject *wrapped; /* the selector's method that `select` stands for; NULL: none */
    bool closed;
};

static struct loop_watch *self_of(PyObject *object)
{
    return (struct loop_watch *)object;
}

/* ---- Without Python --------------------------------------------------------------------------------------------- */

static const char *doing_texts[] = {
    [TD_DOING_COMPUTES] = "computes",
    [TD_DOING_STARVES] = "starves",
    [TD_DOING_WAITS] = "waits",
    [TD_DOING_WAITS_GIL] = "gil",
};

/* What one write takes from anybody without waiting, once the descriptor is ready. */
#define URGENT_MOST 4096

/* The GIL can't be had, so the stack is all that can be said: context is a descriptor. */
static void write_urgent(void *context, const struct td_watch_news *news)
{
    char text[URGENT_MOST];
    struct pollfd ready = {.fd = (int)(intptr_t)context, .events = POLLOUT};
    int bytes = snprintf(
        text, sizeof text,
        "treadle.aio.watchdog: an event loop is blocked, for %.3f s so far, and the GIL is not free to "
        "say by which task (%s)\n%.*s",
        (double)news->lasted_ns / 1e9, doing_texts[news->doing],
        (int)(news->bytes < sizeof text ? news->bytes : sizeof text), news->text);
    if (bytes >= (int)sizeof text)
        bytes = (int)sizeof text - 1;
    if (bytes > 0 && poll(&ready, 1, 0) == 1 && (ready.revents & POLLOUT) != 0)
        (void)!write(ready.fd, text, (size_t)bytes);
}

/* ---- The stack, from a signal's handler -------------------------------------------------------------------------- */

static struct {
    void (*python)(int);  /* faulthandler's */
    td_atomic_u32 number; /* the signal; 0: the interpreter ends */
    int write_fd, bell;
} stacks;

static void on_signal(int number, siginfo_t *Py_UNUSED(info), void *Py_UNUSED(context))
{
    const int saved = errno;
    const uint32_t used = td_atomic_load_relaxed(&stacks.number);
    if (used == 0)
        return;
    if ((uint32_t)number != used) { /* somebody has registered it anew, and another one is in use here */
        tb_dump_over_trampoline(stacks.python, number);
        return;
    }
    struct td_dump_mark mark = {.mark = TD_DUMP_MARK, .holds_gil = (char)PyGILState_Check()};
    mark.tid = (int32_t)syscall(SYS_gettid);
    tb_dump_over_trampoline(stacks.python, number);
    (void)!write(stacks.write_fd, &mark, sizeof mark);
    (void)td_event_ring(stacks.bell);
    sched_yield(); /* the native thread may be waiting for this CPU, and its answer is due */
    errno = saved;
}

PyDoc_STRVAR(
    dumps_doc,
    "watch_dumps(signal, write_fd, read_fd, bell)\n--\n\n"
    "faulthandler.register has registered the signal with write_fd: from now on it is sent to "
    "threads whose loop is stuck, and the bell, an eventfd, rings when a stack was written. A LoopWatch must "
    "be there.");

static PyObject *watch_dumps(PyObject *Py_UNUSED(module), PyObject *args)
{
    int number, write_fd, read_fd, bell;
    struct sigaction action;
    if (!PyArg_ParseTuple(args, "iiii:watch_dumps", &number, &write_fd, &read_fd, &bell))
        return NULL;
    if (sigaction(number, NULL, &action) != 0 || (action.sa_flags & SA_SIGINFO) != 0 ||
        action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
        PyErr_SetString(PyExc_ValueError, "the signal has no handler of faulthandler's");
        return NULL;
    }
    stacks.python = action.sa_handler;
    stacks.write_fd = write_fd;
    stacks.bell = bell;
    td_atomic_store_relaxed(&stacks.number, (uint32_t)number);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    if (sigaction(number, &action, NULL) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    (void)td_watch_use_dumps(number, on_signal, read_fd, bell);
    Py_RETURN_NONE;
}

static PyObject *watch_no_dumps(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    td_atomic_store_relaxed(&stacks.number, 0);
    (void)td_watch_use_dumps(0, NULL, -1, -1);
    Py_RETURN_NONE;
}

static PyObject *watch_dumps_stand(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    struct sigaction action;
    const int number = (int)td_atomic_load_relaxed(&stacks.number);
    return PyBool_FromLong(number != 0 && sigaction(number, NULL, &action) == 0 &&
                           (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == on_signal);
}

/* No other thread of Python's can be between the look and the change. */
static PyObject *ignore_signal(PyObject *Py_UNUSED(module), PyObject *arg)
{
    struct sigaction action;
    const long number = PyLong_AsLong(arg);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (sigaction((int)number, NULL, &action) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    if ((action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != SIG_DFL)
        Py_RETURN_FALSE;
    const struct sigaction ignored = {.sa_handler = SIG_IGN};
    if (sigaction((int)number, &ignored, NULL) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_TRUE;
}

/* ---- The GIL -------------------------------------------------------------------------------------------------- */

#ifndef Py_GIL_DISABLED
#define HAND_OVER_NS (5 * TD_NS_PER_MS) /* the interpreter's own interval: then it would let go anyway */

static struct {
    td_atomic_u32 wanted;  /* there is news, and the watchdog's thread has not got the GIL yet */
    td_atomic_u32 pending; /* the main thread will run hand_over */
} handing;

/* The main thread, at a bytecode: lets the watchdog's thread have the GIL, and the CPU, first. */
static int hand_over(void *Py_UNUSED(unused))
{
    td_atomic_store_seq(&handing.pending, 0);
    if (td_atomic_load_seq(&handing.wanted) == 0)
        return 0;
    Py_BEGIN_ALLOW_THREADS;
    const int64_t deadline = td_deadline_after(HAND_OVER_NS);
    td_status status = TD_OK;
    while (td_atomic_load_seq(&handing.wanted) != 0 && (status == TD_OK || status == TD_EINTR))
        status = td_futex_wait_until(&handing.wanted, 1, deadline, false);
    Py_END_ALLOW_THREADS;
    return 0;
}

/* The native thread, about a loop of the main thread. */
static void news_came(void *Py_UNUSED(context))
{
    td_atomic_store_seq(&handing.wanted, 1);
    if (td_atomic_exchange_seq(&handing.pending, 1) == 0 && Py_AddPendingCall(hand_over, NULL) != 0)
        td_atomic_store_seq(&handing.pending, 0);
}

static void have_gil(void)
{
    td_atomic_store_seq(&handing.wanted, 0);
    td_futex_wake(&handing.wanted, INT32_MAX, false);
}
#else
#define news_came NULL

static void have_gil(void) {}
#endif

/* ---- News ------------------------------------------------------------------------------------------------------- */

static PyObject *syscall_text(int64_t number)
{
    const char *name = td_thread_syscall_name(number);
    if (number < 0)
        Py_RETURN_NONE;
    return name != NULL ? PyUnicode_FromString(name)
                        : PyUnicode_FromFormat("system call %lld", (long long)number);
}

PyDoc_STRVAR(next_doc,
             "watch_next()\n--\n\n"
             "Waits for news of a LoopWatch: (key, what, turn, seconds, doing, CPU share, state, system call, "
             "holds the GIL, stack); what: 0 stuck, 1 still, 2 over. None: watch_close_news was called.");

static PyObject *watch_next(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    struct td_watch_news *news = NULL;
    const int64_t turns_ns = td_thread_ask_turns(TD_TURN_SHORTEST_NS); /* while it waits, for both */
    Py_BEGIN_ALLOW_THREADS;
    (void)td_watch_next(&news);
    Py_END_ALLOW_THREADS;
    if (turns_ns != 0)
        (void)td_thread_ask_turns(turns_ns);
    if (news == NULL)
        Py_RETURN_NONE;
    have_gil();
    const char state[2] = {news->state, '\0'};
    PyObject *tuple =
        Py_BuildValue("KiKdsdsNiN", (unsigned long long)(uintptr_t)news->watch, (int)news->what,
                      (unsigned long long)news->turn, (double)news->lasted_ns / 1e9, doing_texts[news->doing],
                      news->cpu_share / 1000.0, state, syscall_text(news->syscall), news->holds_gil,
                      PyUnicode_DecodeLatin1(news->text, (Py_ssize_t)news->bytes, NULL));
    td_watch_news_free(news);
    return tuple;
}

static PyObject *watch_close_news(PyObject *Py_UNUSED(module), PyObject *arg)
{
    td_watch_news_close(PyObject_IsTrue(arg) > 0);
    Py_RETURN_NONE;
}

/* ---- Exceptions for threads -------------------------------------------------------------------------------------- */

static int call_pending(void *callable)
{
    PyObject *result = PyObject_CallNoArgs((PyObject *)callable);
    Py_DECREF((PyObject *)callable);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

PyDoc_STRVAR(main_doc,
             "at_next_bytecode(callable, /)\n--\n\n"
             "Has the main thread call it at its next bytecode, where an exception of it is raised. False: "
             "too many wait for that.");

static PyObject *at_next_bytecode(PyObject *Py_UNUSED(module), PyObject *callable)
{
    if (Py_AddPendingCall(call_pending, Py_NewRef(callable)) == 0)
        Py_RETURN_TRUE;
    Py_DECREF(callable);
    Py_RETURN_FALSE;
}

PyDoc_STRVAR(raise_doc,
             "raise_in_thread(ident, exception, /)\n--\n\n"
             "Has a thread raise the exception, a class, at its next bytecode; None: raise none after all.");

static PyObject *raise_in_thread(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long ident;
    PyObject *class;
    if (!PyArg_ParseTuple(args, "kO:raise_in_thread", &ident, &class))
        return NULL;
    return PyBool_FromLong(PyThreadState_SetAsyncExc(ident, class == Py_None ? NULL : class) == 1);
}

PyDoc_STRVAR(duration_doc, "parse_duration(text, /)\n--\n\n"
                           "Nanoseconds: a number of seconds, or one with ns, us, ms or s.");

static PyObject *parse_duration(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int64_t ns;
    const char *text = PyUnicode_AsUTF8(arg);
    if (text == NULL)
        return NULL;
    if (td_option_parse(TD_OPTION_DURATION, text, &ns) != TD_OK)
        return PyErr_Format(PyExc_ValueError, "%R is no duration, such as 50ms or 0.05", arg);
    return PyLong_FromLongLong(ns);
}

/* ---- LoopWatch --------------------------------------------------------------------------------------------------- */

static PyObject *loop_watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"threshold_ns", "asked", "urgent_fd", NULL};
    long long threshold_ns;
    int asked = 0, urgent_fd = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "L|pi:LoopWatch", names, &threshold_ns, &asked, &urgent_fd))
        return NULL;
    struct loop_watch *self = (struct loop_watch *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    const struct td_watch_options options = {
        .threshold_ns = threshold_ns,
        .asked = asked != 0,
        .urgent = urgent_fd >= 0 ? write_urgent : NULL,
        .came = syscall(SYS_gettid) == getpid() ? news_came : NULL,
        .context = (void *)(intptr_t)urgent_fd,
    };
    const td_status status = td_watch_new(&options, &self->watch);
    if (status == TD_OK)
        return (PyObject *)self;
    self->closed = true;
    (void)tb_raise_status(tb_state_of_final((PyObject *)self), status, NULL);
    Py_DECREF((PyObject *)self);
    return NULL;
}

static int loop_watch_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self_of(object)->wrapped);
    return 0;
}

static int loop_watch_clear(PyObject *object)
{
    Py_CLEAR(self_of(object)->wrapped);
    return 0;
}

static void loop_watch_dealloc(PyObject *object)
{
    struct loop_watch *self = self_of(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->watch != NULL) {
        if (!self->closed)
            td_watch_close(self->watch);
        td_watch_unref(self->watch);
    }
    Py_CLEAR(self->wrapped);
    type->tp_free(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(
    select_doc,
    "select($self, /, *args, **kwargs)\n--\n\nThe wrapped method, between the end of a turn and the next one.");

static PyObject *loop_watch_select(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct loop_watch *self = self_of(object);
    PyObject *wrapped = Py_XNewRef(self->wrapped);
    if (wrapped == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this LoopWatch wraps nothing");
        return NULL;
    }
    td_watch_rest(self->watch);
    PyObject *ready = PyObject_Vectorcall(wrapped, args, (size_t)count, names);
    td_watch_turn(self->watch);
    Py_DECREF(wrapped);
    return ready;
}

static PyObject *loop_watch_answer(PyObject *object, PyObject *Py_UNUSED(unused))
{
    td_watch_answer(self_of(object)->watch);
    Py_RETURN_NONE;
}

static PyObject *loop_watch_rest(PyObject *object, PyObject *Py_UNUSED(unused))
{
    td_watch_rest(self_of(object)->watch);
    Py_RETURN_NONE;
}

static PyObject *loop_watch_begin(PyObject *object, PyObject *Py_UNUSED(unused))
{
    td_watch_turn(self_of(object)->watch);
    Py_RETURN_NONE;
}

static PyObject *loop_watch_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
    struct loop_watch *self = self_of(object);
    if (!self->closed) {
        self->closed = true;
        td_watch_close(self->watch);
    }
    Py_BEGIN_ALLOW_THREADS;
    td_watch_join(self->watch);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *get_wrapped(PyObject *object, void *Py_UNUSED(unused))
{
    PyObject *wrapped = self_of(object)->wrapped;
    return Py_NewRef(wrapped != NULL ? wrapped : Py_None);
}

static int set_wrapped(PyObject *object, PyObject *value, void *Py_UNUSED(unused))
{
    Py_XSETREF(self_of(object)->wrapped, Py_XNewRef(value));
    return 0;
}

static PyObject *get_question(PyObject *object, void *Py_UNUSED(unused))
{
    return PyLong_FromLong(td_watch_question(self_of(object)->watch));
}

static PyObject *get_key(PyObject *object, void *Py_UNUSED(unused))
{
    return PyLong_FromVoidPtr(self_of(object)->watch);
}

static PyObject *get_turn(PyObject *object, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(td_watch_now(self_of(object)->watch));
}

static PyObject *get_looks(PyObject *object, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(td_watch_looks(self_of(object)->watch));
}

static PyObject *get_closed(PyObject *object, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self_of(object)->closed);
}

static PyGetSetDef loop_watch_getset[] = {
    {"wrapped", get_wrapped, set_wrapped, PyDoc_STR("What select calls."), NULL},
    {"question", get_question, NULL, PyDoc_STR("The descriptor that an asked loop waits for; -1."), NULL},
    {"key", get_key, NULL, PyDoc_STR("Its number in news."), NULL},
    {"turn", get_turn, NULL, PyDoc_STR("The turn that goes on; 0: the loop waits."), NULL},
    {"looks", get_looks, NULL, PyDoc_STR("How often the native thread has looked."), NULL},
    {"closed", get_closed, NULL, PyDoc_STR("close() was called."), NULL},
    {0},
};

static PyMethodDef loop_watch_methods[] = {
    {"select", (PyCFunction)(void (*)(void))loop_watch_select, METH_FASTCALL | METH_KEYWORDS, select_doc},
    {"answer", loop_watch_answer, METH_NOARGS, PyDoc_STR("What an asked loop calls when it was asked.")},
    {"rest", loop_watch_rest, METH_NOARGS, PyDoc_STR("The loop is about to wait, or has stopped.")},
    {"begin", loop_watch_begin, METH_NOARGS, PyDoc_STR("A turn begins.")},
    {"close", loop_watch_close, METH_NOARGS, PyDoc_STR("Ends the watch, and closes what it had open.")},
    {0},
};

static PyType_Slot loop_watch_slots[] = {
    {Py_tp_new, (void *)loop_watch_new},
    {Py_tp_dealloc, (void *)loop_watch_dealloc},
    {Py_tp_traverse, (void *)loop_watch_traverse},
    {Py_tp_clear, (void *)loop_watch_clear},
    {Py_tp_methods, loop_watch_methods},
    {Py_tp_getset, loop_watch_getset},
    {Py_tp_doc,
     (void *)(uintptr_t) "LoopWatch(threshold_ns, asked=False, urgent_fd=-1)\n--\n\n"
                         "Watches the loop of the calling thread. Sources: binding/watchdog.c, core/watch/."},
    {0, NULL},
};

static PyType_Spec loop_watch_spec = {
    .name = "treadle._engine.LoopWatch",
    .basicsize = sizeof(struct loop_watch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_watch_slots,
};

static PyMethodDef watchdog_methods[] = {
    {"watch_dumps", watch_dumps, METH_VARARGS, dumps_doc},
    {"watch_next", watch_next, METH_NOARGS, next_doc},
    {"watch_close_news", watch_close_news, METH_O,
     PyDoc_STR("Has watch_next return None, or (False) wait again.")},
    {"watch_no_dumps", watch_no_dumps, METH_NOARGS, PyDoc_STR("No signal is sent any more.")},
    {"watch_dumps_stand", watch_dumps_stand, METH_NOARGS, PyDoc_STR("Has the signal our handler still?")},
    {"ignore_signal", ignore_signal, METH_O,
     PyDoc_STR("Ignores a signal from now on, if it has no handler and its default action; else False.")},
    {"at_next_bytecode", at_next_bytecode, METH_O, main_doc},
    {"raise_in_thread", raise_in_thread, METH_VARARGS, raise_doc},
    {"parse_duration", parse_duration, METH_O, duration_doc},
    {0},
};

int tb_watchdog_init(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &loop_watch_spec, NULL);
    if (type == NULL)
        return -1;
    const int added = PyModule_AddObjectRef(module, "LoopWatch", type);
    Py_DECREF(type);
    return added < 0 ? -1 : PyModule_AddFunctions(module, watchdog_methods);
}
