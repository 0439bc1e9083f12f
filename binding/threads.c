/* threads.c: the queue under treadle.ThreadPoolExecutor: calls go in with their futures, threads run them.
 *
 * Threads are Python's (made by the package's start function, so that threading knows them); each is in serve() for its
 * life. A thread that finds the queue empty sleeps on the condition variable, without the GIL. It takes a call only
 * once it has the GIL again: calls begin in order, and whoever is awake empties the queue without a wake-up in between.
 *
 * Invariants  I1 `lock` covers the list and the counters; it is held for a few instructions, never while the GIL is
 *                waited for and never across Python code. So it may be taken with the GIL held.
 *             I2 idle counts threads that found the list empty and have not looked again; a submit starts a thread only
 *                when there are more calls than those. A thread becomes idle before it gives the GIL up, so whoever
 *                waited for its last call finds it idle. Of them asleep are in the condition's wait, and called of
 *                those were signalled: a submit signals only while called < asleep.
 *             I3 closed: nothing is added; threads leave when the list is empty.
 * Fork        a child has no threads: its queues are as dead as the stdlib's.
 * Tests       tests/unit/test_threads.py; tests/parity */
#include "threads.h"

#include <pthread.h>

#include "future.h"

/* One call: made by submit, consumed by the thread that runs it. */
struct call {
    struct call *next;
    struct tb_future *future;
    PyObject *function;
    PyObject *kwnames; /* tuple or NULL */
    Py_ssize_t nargs;  /* positional */
    PyObject *args[];  /* positional, then the values of kwnames */
};

struct tb_thread_queue {
    PyObject_HEAD pthread_mutex_t lock;
    pthread_cond_t filled;
    struct call *first, *last;
    Py_ssize_t length;
    uint32_t idle, asleep, called, threads, most;
    bool closed;
    PyObject *start;  /* start(): starts one more thread, which calls serve() */
    PyObject *refuse; /* refuse(): raises why nothing is taken any more */
};

/* ---- Calls ---------------------------------------------------------------------------------------------------- */

static Py_ssize_t value_count(const struct call *call)
{
    return call->nargs + (call->kwnames != NULL ? PyTuple_GET_SIZE(call->kwnames) : 0);
}

static struct call *call_new(struct tb_state *state, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t count = nargs - 1 + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
    struct call *call = PyMem_Malloc(sizeof *call + (size_t)count * sizeof call->args[0]);
    if (call == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    call->future = tb_future_new(state, NULL, NULL);
    if (call->future == NULL) {
        PyMem_Free(call);
        return NULL;
    }
    call->future->state = TB_PENDING;
    call->next = NULL;
    call->function = Py_NewRef(args[0]);
    call->kwnames = Py_XNewRef(kwnames);
    call->nargs = nargs - 1;
    for (Py_ssize_t i = 0; i < count; i++)
        call->args[i] = Py_NewRef(args[i + 1]);
    return call;
}

static void call_free(struct call *call)
{
    for (Py_ssize_t i = 0; i < value_count(call); i++)
        Py_DECREF(call->args[i]);
    Py_DECREF(call->function);
    Py_XDECREF(call->kwnames);
    Py_DECREF((PyObject *)call->future);
    PyMem_Free(call);
}

/* Runs it and settles its future. -1: a callback of the future raised what is no ordinary error. */
static int call_run(struct tb_state *state, struct call *call)
{
    struct tb_future *future = call->future;
    int applied = tb_future_apply(state, future, TB_EVENT_START, NULL);
    if (applied <= 0 || future->state != TB_RUNNING) /* it was cancelled */
        return applied < 0 ? -1 : 0;
    PyObject *result = PyObject_Vectorcall(call->function, call->args, (size_t)call->nargs, call->kwnames);
    if (result != NULL) {
        applied = tb_future_apply(state, future, TB_EVENT_RESULT, result);
        Py_DECREF(result);
    } else {
        PyObject *exception = tb_exception_take();
        applied = tb_future_apply(state, future, TB_EVENT_EXCEPTION, exception);
        Py_DECREF(exception);
    }
    return applied < 0 ? -1 : 0;
}

/* ---- The list ------------------------------------------------------------------------------------------------- */

enum need { NEED_NOTHING, NEED_THREAD, REFUSED };

static enum need push(struct tb_thread_queue *queue, struct call *call)
{
    enum need need = NEED_NOTHING;
    pthread_mutex_lock(&queue->lock);
    if (queue->closed) {
        need = REFUSED;
    } else {
        if (queue->last != NULL)
            queue->last->next = call;
        else
            queue->first = call;
        queue->last = call;
        queue->length++;
        if (queue->called < queue->asleep) {
            queue->called++;
            pthread_cond_signal(&queue->filled);
        }
        if (queue->length > (Py_ssize_t)queue->idle && queue->threads < queue->most) {
            queue->threads++;
            need = NEED_THREAD;
        }
    }
    pthread_mutex_unlock(&queue->lock);
    return need;
}

static struct call *pop_locked(struct tb_thread_queue *queue)
{
    struct call *call = queue->first;
    if (call != NULL) {
        queue->first = call->next;
        if (queue->first == NULL)
            queue->last = NULL;
        queue->length--;
    }
    return call;
}

/* A thread that push asked for could not be started. Its call waits for the next one, as with the stdlib. */
static void thread_missing(struct tb_thread_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->threads--;
    pthread_mutex_unlock(&queue->lock);
}

static struct call *pop(struct tb_thread_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    struct call *call = pop_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    return call;
}

/* For a thread of the queue, which is idle if it gets nothing. */
static struct call *pop_or_idle(struct tb_thread_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    struct call *call = pop_locked(queue);
    queue->idle += call == NULL;
    pthread_mutex_unlock(&queue->lock);
    return call;
}

/* An idle thread sleeps until something is there, without the GIL; false: closed and empty. */
static bool await_call(struct tb_thread_queue *queue)
{
    bool more;
    Py_BEGIN_ALLOW_THREADS;
    pthread_mutex_lock(&queue->lock);
    while (queue->first == NULL && !queue->closed) {
        queue->asleep++;
        pthread_cond_wait(&queue->filled, &queue->lock);
        queue->asleep--;
        queue->called -= queue->called > 0;
    }
    queue->idle--;
    more = queue->first != NULL;
    pthread_mutex_unlock(&queue->lock);
    Py_END_ALLOW_THREADS;
    return more;
}

/* ---- Methods -------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(submit_doc, "submit($self, fn, /, *args, **kwargs)\n--\n\n"
                         "Schedules fn(*args, **kwargs) and returns its future.");

static PyObject *queue_submit(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct tb_thread_queue *queue = (struct tb_thread_queue *)self;
    struct tb_state *state = tb_state_of_final(self);
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "submit() missing 1 required positional argument: 'fn'");
        return NULL;
    }
    struct call *call = call_new(state, args, nargs, kwnames);
    if (call == NULL)
        return NULL;
    PyObject *future = Py_NewRef((PyObject *)call->future);
    enum need need = push(queue, call);
    if (need == NEED_NOTHING)
        return future;
    PyObject *done = PyObject_CallNoArgs(need == REFUSED ? queue->refuse : queue->start);
    if (need == REFUSED)
        call_free(call);
    else if (done == NULL)
        thread_missing(queue);
    if (need == REFUSED || done == NULL)
        Py_CLEAR(future);
    Py_XDECREF(done);
    return future;
}

PyDoc_STRVAR(serve_doc,
             "serve($self)\n--\n\nRuns calls until the queue is closed and empty. For the queue's threads.");

static PyObject *queue_serve(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_thread_queue *queue = (struct tb_thread_queue *)self;
    struct tb_state *state = tb_state_of_final(self);
    do {
        struct call *call;
        while ((call = pop_or_idle(queue)) != NULL) {
            if (call_run(state, call) < 0)
                PyErr_WriteUnraisable(call->function);
            call_free(call);
        }
    } while (await_call(queue));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close($self, cancel=False)\n--\n\n"
             "No more calls are taken; with cancel, those that have not begun are cancelled. Threads leave "
             "when nothing is left. Returns the cancelled futures.");

static PyObject *queue_close(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"cancel", NULL};
    struct tb_thread_queue *queue = (struct tb_thread_queue *)self;
    int cancel = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:close", keywords, &cancel))
        return NULL;
    PyObject *dropped = PyList_New(0);
    if (dropped == NULL)
        return NULL;
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->filled);
    pthread_mutex_unlock(&queue->lock);
    for (struct call *call; cancel != 0 && (call = pop(queue)) != NULL; call_free(call)) {
        if (PyList_Append(dropped, (PyObject *)call->future) < 0) {
            call_free(call);
            Py_DECREF(dropped);
            return NULL;
        }
    }
    return dropped;
}

static PyObject *queue_qsize(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_thread_queue *queue = (struct tb_thread_queue *)self;
    pthread_mutex_lock(&queue->lock);
    Py_ssize_t length = queue->length;
    pthread_mutex_unlock(&queue->lock);
    return PyLong_FromSsize_t(length);
}

/* ---- The type ------------------------------------------------------------------------------------------------- */

static PyObject *queue_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"max_workers", "start", "refuse", NULL};
    unsigned int most;
    PyObject *start, *refuse;
    struct tb_state *state = PyType_GetModuleState(type);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IOO:ThreadQueue", keywords, &most, &start, &refuse))
        return NULL;
    if (tb_load_future(state) < 0)
        return NULL;
    struct tb_thread_queue *queue = (struct tb_thread_queue *)type->tp_alloc(type, 0);
    if (queue == NULL)
        return NULL;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->filled, NULL);
    queue->most = most;
    queue->start = Py_NewRef(start);
    queue->refuse = Py_NewRef(refuse);
    return (PyObject *)queue;
}

/* Calls still waiting are reachable only through the list, which no thread changes while the collector runs. */
static int queue_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tb_thread_queue *queue = (struct tb_thread_queue *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(queue->start);
    Py_VISIT(queue->refuse);
    for (struct call *call = queue->first; call != NULL; call = call->next) {
        Py_VISIT((PyObject *)call->future);
        Py_VISIT(call->function);
        for (Py_ssize_t i = 0; i < value_count(call); i++)
            Py_VISIT(call->args[i]);
    }
    return 0;
}

static int queue_clear(PyObject *self)
{
    struct tb_thread_queue *queue = (struct tb_thread_queue *)self;
    Py_CLEAR(queue->start);
    Py_CLEAR(queue->refuse);
    for (struct call *call; (call = pop(queue)) != NULL;)
        call_free(call);
    return 0;
}

static void queue_dealloc(PyObject *self)
{
    struct tb_thread_queue *queue = (struct tb_thread_queue *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)queue_clear(self);
    pthread_cond_destroy(&queue->filled);
    pthread_mutex_destroy(&queue->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef queue_methods[] = {
    {"submit", (PyCFunction)(void (*)(void))queue_submit, METH_FASTCALL | METH_KEYWORDS, submit_doc},
    {"serve", queue_serve, METH_NOARGS, serve_doc},
    {"close", (PyCFunction)(void (*)(void))queue_close, METH_VARARGS | METH_KEYWORDS, close_doc},
    {"qsize", queue_qsize, METH_NOARGS, PyDoc_STR("qsize($self)\n--\n\nHow many calls wait.")},
    {0},
};

PyDoc_STRVAR(queue_doc,
             "ThreadQueue(max_workers, start, refuse)\n--\n\n"
             "Calls for threads: start() starts one more, refuse() raises once the queue is closed.");

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, (void *)queue_doc},
    {Py_tp_new, (void *)queue_make},
    {Py_tp_dealloc, (void *)queue_dealloc},
    {Py_tp_traverse, (void *)queue_traverse},
    {Py_tp_clear, (void *)queue_clear},
    {Py_tp_methods, queue_methods},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    .name = "treadle._engine.ThreadQueue",
    .basicsize = sizeof(struct tb_thread_queue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = queue_slots,
};

int tb_threads_init(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &queue_spec, NULL);
    if (type == NULL)
        return -1;
    int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}
