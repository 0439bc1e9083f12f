/* birth.c: a worker's birth, and the zygote's calls, as seen from Python: the type Birth, and how one is received.
 * Crash  the parent sees the death.   Tests  tests/unit/test_worker.py, tests/unit/test_start.py */
#include "birth.h"

#include <unistd.h>

#include "heed.h"
#include "module.h"

int tb_birth_raise(struct tb_birth *self, td_status status)
{
    return tb_raise_status(tb_state_of_final((PyObject *)self), status, NULL);
}

/* The parent's standard streams as they are now, not as they were when the zygote started. */
static void take_stdio(struct td_birth *birth)
{
    for (int fd = 0; fd < 3; fd++) {
        if (birth->stdio_fds[fd] < 0)
            continue;
        (void)dup2(birth->stdio_fds[fd], fd);
        close(birth->stdio_fds[fd]);
        birth->stdio_fds[fd] = -1;
    }
}

static PyObject *birth_attach(PyObject *object, PyObject *unused)
{
    struct tb_birth *self = (struct tb_birth *)object;
    (void)unused;
    take_stdio(&self->birth);
    td_status status = td_worker_attach(&self->birth, &self->worker);
    if (status != TD_OK) {
        (void)tb_birth_raise(self, status);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *none_or_raise(struct tb_birth *self, td_status status)
{
    if (status == TD_OK)
        Py_RETURN_NONE;
    (void)tb_birth_raise(self, status);
    return NULL;
}

static PyObject *birth_ready(PyObject *object, PyObject *unused)
{
    struct tb_birth *self = (struct tb_birth *)object;
    (void)unused;
    return none_or_raise(self, td_worker_ready(self->worker));
}

static PyObject *birth_failed(PyObject *object, PyObject *reason)
{
    struct tb_birth *self = (struct tb_birth *)object;
    const char *text = PyUnicode_AsUTF8(reason);
    return text == NULL ? NULL : none_or_raise(self, td_worker_failed(self->worker, text));
}

static PyObject *birth_interrupted(PyObject *object, PyObject *unused)
{
    struct tb_birth *self = (struct tb_birth *)object;
    (void)unused;
    if (self->worker == NULL || self->disowned || !td_worker_interrupted(self->worker))
        Py_RETURN_FALSE;
    self->interrupted = true;
    Py_RETURN_TRUE;
}

static PyObject *birth_interrupt_again(PyObject *object, PyObject *unused)
{
    struct tb_birth *self = (struct tb_birth *)object;
    (void)unused;
    if (self->worker != NULL && !self->disowned)
        td_worker_interrupt_again(self->worker);
    Py_RETURN_NONE;
}

static PyObject *birth_leave(PyObject *object, PyObject *unused)
{
    struct tb_birth *self = (struct tb_birth *)object;
    (void)unused;
    if (self->worker != NULL && !self->disowned)
        td_worker_leave(self->worker);
    Py_RETURN_NONE;
}

static PyObject *birth_heed(PyObject *object, PyObject *number)
{
    struct tb_birth *self = (struct tb_birth *)object;
    const int signal_number = (int)PyLong_AsLong(number);
    if ((signal_number == -1 && PyErr_Occurred()) || tb_heed(self->worker, signal_number) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *birth_disown(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((struct tb_birth *)object)->disowned = true;
    Py_RETURN_NONE;
}

static PyObject *birth_get_context(PyObject *object, void *unused)
{
    const struct td_birth *birth = &((struct tb_birth *)object)->birth;
    (void)unused;
    return PyBytes_FromStringAndSize(birth->context, (Py_ssize_t)birth->context_bytes);
}

static PyObject *birth_get_index(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((struct tb_birth *)object)->birth.worker);
}

static PyObject *birth_get_stack_fd(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((struct tb_birth *)object)->birth.stack_fd);
}

static PyMethodDef birth_methods[] = {
    {"attach", birth_attach, METH_NOARGS, PyDoc_STR("Maps the pool: this process is the worker now.")},
    {"ready", birth_ready, METH_NOARGS, PyDoc_STR("Tells the pool that the worker has initialised.")},
    {"failed", birth_failed, METH_O, PyDoc_STR("Tells the pool why the worker could not initialise.")},
    {"run", tb_birth_run, METH_NOARGS, PyDoc_STR("Runs tasks until the worker is to leave.")},
    {"interrupted", birth_interrupted, METH_NOARGS, PyDoc_STR("Is the running task to be interrupted? Once.")},
    {"interrupt_again", birth_interrupt_again, METH_NOARGS,
     PyDoc_STR("The interruption was dropped: it is to come once more, if the task still runs then.")},
    {"disown", birth_disown, METH_NOARGS, PyDoc_STR("In a child of the worker: the pool is not its business.")},
    {"leave", birth_leave, METH_NOARGS, PyDoc_STR("Makes run return after the current task.")},
    {"heed", birth_heed, METH_O,
     PyDoc_STR("From now on that signal, too, makes run return, at whatever moment.")},
    {0},
};

static PyGetSetDef birth_getset[] = {
    {"context", birth_get_context, NULL, PyDoc_STR("What the pool gives every worker, as bytes."), NULL},
    {"index", birth_get_index, NULL, PyDoc_STR("The worker's number in its pool."), NULL},
    {"stack_fd", birth_get_stack_fd, NULL, PyDoc_STR("Where a fatal error writes its stack."), NULL},
    {0},
};

/* The process ends with os._exit: a worker's births are never freed, and those of a zygote own nothing by then. */
static void birth_dealloc(PyObject *object)
{
    struct tb_birth *self = (struct tb_birth *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->sys_dict);
    Py_XDECREF(self->name_stdout);
    Py_XDECREF(self->name_stderr);
    Py_XDECREF(self->name_flush);
    Py_XDECREF(self->moves.name_numpy);
    PyMem_Free(self->moves.parcels);
    for (uint32_t i = 0; i < TB_FUNCTIONS; i++) {
        Py_XDECREF(self->functions[i].callable);
        Py_XDECREF(self->functions[i].refresh);
    }
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot birth_slots[] = {
    {Py_tp_dealloc, birth_dealloc},
    {Py_tp_methods, birth_methods},
    {Py_tp_getset, birth_getset},
    {0, NULL},
};

PyType_Spec tb_birth_spec = {
    .name = "treadle._engine.Birth",
    .basicsize = sizeof(struct tb_birth),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = birth_slots,
};

/* ---- The zygote ------------------------------------------------------------------------------------------- */

static PyObject *birth_new(PyObject *module)
{
    struct tb_codec *codec = tb_codec_of(module);
    struct tb_birth *self = (struct tb_birth *)codec->birth_type->tp_alloc(codec->birth_type, 0);
    if (self == NULL)
        return NULL;
    self->codec = codec;
    self->name_stdout = PyUnicode_InternFromString("stdout");
    self->name_stderr = PyUnicode_InternFromString("stderr");
    self->name_flush = PyUnicode_InternFromString("flush");
    PyObject *sys = PyImport_ImportModule("sys");
    self->sys_dict = sys == NULL ? NULL : Py_NewRef(PyModule_GetDict(sys));
    Py_XDECREF(sys);
    if (self->name_stdout == NULL || self->name_stderr == NULL || self->name_flush == NULL ||
        self->sys_dict == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

typedef td_status receiver(int channel, struct td_birth *out);

/* A birth from the channel; None when the parent is gone. */
static PyObject *receive(PyObject *module, PyObject *channel, receiver *from)
{
    int fd = (int)PyLong_AsLong(channel);
    PyObject *object = fd == -1 && PyErr_Occurred() ? NULL : birth_new(module);
    while (object != NULL) {
        struct tb_birth *self = (struct tb_birth *)object;
        td_status status;
        Py_BEGIN_ALLOW_THREADS status = from(fd, &self->birth);
        Py_END_ALLOW_THREADS if (status == TD_OK) return object;
        if (status == TD_EINTR && PyErr_CheckSignals() == 0)
            continue;
        if (status != TD_ECLOSED && status != TD_EINTR)
            (void)tb_birth_raise(self, status);
        Py_DECREF(object);
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    return NULL;
}

static PyObject *zygote_serve(PyObject *module, PyObject *channel)
{
    return receive(module, channel, td_zygote_serve);
}

static PyObject *birth_receive(PyObject *module, PyObject *channel)
{
    return receive(module, channel, td_birth_receive);
}

static PyObject *zygote_forked(PyObject *module, PyObject *args)
{
    int channel, pid;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "iO!i:zygote_forked", &channel, tb_codec_of(module)->birth_type, &object, &pid))
        return NULL;
    struct tb_birth *self = (struct tb_birth *)object;
    return none_or_raise(self, td_zygote_forked(channel, &self->birth, pid));
}

static PyObject *zygote_fail(PyObject *module, PyObject *args)
{
    int channel;
    const char *reason;
    if (!PyArg_ParseTuple(args, "is:zygote_fail", &channel, &reason))
        return NULL;
    td_status status = td_zygote_fail(channel, reason);
    if (status != TD_OK) {
        (void)tb_raise_status(tb_state_of(module), status, NULL);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *after_task(PyObject *module, PyObject *call)
{
    Py_XSETREF(tb_codec_of(module)->after_task, call == Py_None ? NULL : Py_NewRef(call));
    Py_RETURN_NONE;
}

PyMethodDef tb_worker_methods[] = {
    {"after_task", after_task, METH_O, PyDoc_STR("after_task(call): called before each reply; None: no more.")},
    {"zygote_serve", zygote_serve, METH_O, PyDoc_STR("The next worker to fork, or None: leave.")},
    {"zygote_forked", zygote_forked, METH_VARARGS, PyDoc_STR("zygote_forked(channel, birth, pid), in both.")},
    {"zygote_fail", zygote_fail, METH_VARARGS, PyDoc_STR("zygote_fail(channel, reason): it cannot start.")},
    {"birth_receive", birth_receive, METH_O, PyDoc_STR("The birth of a process that is one worker, or None.")},
    {0},
};
