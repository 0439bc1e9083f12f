/* pool.c: pools of the engine as Python holds them, and the calls of the engine that the package makes on them.
 *
 * The package makes the engine's pool at the first submit (Executor._begin calls _create and then _engine_start or
 * _engine_adopt), so that an executor that a fork finds unused works in the child.
 * Invariant  the engine's pool lives as long as its handle: every future that is not read yet has one. An executor
 *            that goes away with work queued is kept by the package until that is done.
 * Every wait is without the GIL, and a signal's handler runs in it.
 * Tests  tests/unit/test_engine_module.py, tests/unit/test_submit.py */
#include "pool.h"

#include "base/clock.h"
#include "executor.h"
#include "map.h"

/* ---- Handles ------------------------------------------------------------------------------------------------- */

static void handle_dealloc(PyObject *self)
{
    struct tb_handle *handle = (struct tb_handle *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (handle->pool != NULL) {
        td_pool *pool = handle->pool;
        Py_BEGIN_ALLOW_THREADS; /* it may end processes */
        td_pool_unref(pool);
        Py_END_ALLOW_THREADS;
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot handle_slots[] = {{Py_tp_dealloc, (void *)handle_dealloc}, {0, NULL}};

static PyType_Spec handle_spec = {
    .name = "treadle._engine.Handle",
    .basicsize = sizeof(struct tb_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handle_slots,
};

/* ---- Blocks for arguments -------------------------------------------------------------------------------------- */

struct request {
    td_pool *pool;
    uint64_t bytes;
    struct td_block *out;
};

static td_status wait_for_block(void *subject, int64_t deadline_ns)
{
    const struct request *request = subject;
    return td_pool_block_until(request->pool, request->bytes, deadline_ns, request->out);
}

static int room_take(void *ctx, uint64_t bytes, struct td_block *out)
{
    const struct tb_pool_room *room = ctx;
    struct request request = {room->pool, bytes, out};
    return tb_poll_or_wait(room->state, room->pool, wait_for_block, &request, TD_FOREVER) < 0 ? -1 : 0;
}

static void room_drop(void *ctx, struct td_block *block)
{
    const struct tb_pool_room *room = ctx;
    td_pool_block_drop(room->pool, block);
}

static void room_fill(void *ctx, void *to, const void *from, uint64_t bytes)
{
    td_pool_block_fill(((const struct tb_pool_room *)ctx)->pool, to, from, bytes);
}

struct tb_room tb_pool_room_of(struct tb_pool_room *room)
{
    return (struct tb_room){.take = room_take, .drop = room_drop, .fill = room_fill, .ctx = room};
}

/* ---- Executor's methods: opening -------------------------------------------------------------------------------- */

/* The executor's pool: a new reference, or NULL with an exception. */
static struct tb_handle *begun_handle(PyObject *self)
{
    struct tb_handle *handle = tb_executor_handle((struct tb_executor *)self);
    if (handle == NULL)
        PyErr_SetString(PyExc_RuntimeError, "this pool has not begun, or has ended");
    return handle;
}

/* Takes over the reference. */
static PyObject *none_or_raise(PyObject *self, struct tb_handle *handle, td_status status)
{
    if (status != TD_OK)
        (void)tb_raise_status(((struct tb_executor *)self)->state, status, handle->pool);
    Py_DECREF((PyObject *)handle);
    return status == TD_OK ? Py_NewRef(Py_None) : NULL;
}

/* A command line, or an environment, for the engine. */
struct strings {
    const char **items; /* NULL-terminated; NULL: there are none */
    PyObject *owner;
};

static void strings_fini(struct strings *strings)
{
    PyMem_Free(strings->items);
    Py_XDECREF(strings->owner);
}

/* From a sequence of str, in the file system's encoding; None has none. */
static int strings_init(struct strings *strings, PyObject *sequence)
{
    *strings = (struct strings){0};
    if (sequence == Py_None)
        return 0;
    PyObject *list = strings->owner = PySequence_List(sequence);
    if (list == NULL)
        return -1;
    Py_ssize_t count = PyList_GET_SIZE(list);
    strings->items = PyMem_New(const char *, (size_t)count + 1);
    if (strings->items == NULL)
        return PyErr_NoMemory(), -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *bytes = NULL;
        if (!PyUnicode_FSConverter(PyList_GET_ITEM(list, i), &bytes) || PyList_SetItem(list, i, bytes) < 0)
            return -1;
        strings->items[i] = PyBytes_AS_STRING(bytes);
    }
    strings->items[count] = NULL;
    return 0;
}

/* _create's: the engine's pool, which starts the zygote. */
static struct tb_handle *handle_new(struct tb_state *state, struct td_pool_config *config, PyObject *argv,
                                    PyObject *env)
{
    struct strings argv_strings = {0}, env_strings = {0};
    struct tb_handle *handle = (struct tb_handle *)state->handle_type->tp_alloc(state->handle_type, 0);
    if (handle != NULL && (strings_init(&argv_strings, argv) < 0 || strings_init(&env_strings, env) < 0))
        Py_CLEAR(handle);
    if (handle != NULL) {
        td_status status;
        config->argv = argv_strings.items;
        config->envp = env_strings.items;
        Py_BEGIN_ALLOW_THREADS;
        status = td_pool_new(config, &handle->pool);
        Py_END_ALLOW_THREADS;
        if (status != TD_OK) {
            (void)tb_raise_status(state, status, NULL);
            Py_CLEAR(handle);
        }
    }
    strings_fini(&argv_strings);
    strings_fini(&env_strings);
    return handle;
}

/* Gives the number of CPUs that this process may use. */
PyObject *tb_pool_create(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {
        "max_workers", "max_tasks", "start", "break_on_death", "timeout", "retries", "by_reference_main",
        "argv",        "env",       NULL};
    struct tb_executor *executor = (struct tb_executor *)self;
    unsigned workers, tasks = 0;
    int start = TD_START_SHARED, break_on_death = 0, by_reference = 0;
    PyObject *timeout = Py_None, *retries = NULL, *argv = Py_None, *env = Py_None;
    struct tb_options defaults;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|$IipOOpOO:_create", keywords, &workers, &tasks, &start,
                                     &break_on_death, &timeout, &retries, &by_reference, &argv, &env) ||
        tb_options_parse(timeout, retries, NULL, &defaults) < 0)
        return NULL;
    if (executor->handle != NULL || executor->ended) {
        PyErr_SetString(PyExc_RuntimeError, "this pool has begun already");
        return NULL;
    }
    struct td_pool_config config = {
        .max_workers = workers,
        .max_tasks_per_worker = tasks,
        .start = (enum td_start)start,
        .break_on_death = break_on_death != 0,
    };
    struct tb_handle *handle = handle_new(executor->state, &config, argv, env);
    if (handle == NULL)
        return NULL;
    executor->workers = workers;
    executor->defaults = defaults;
    executor->encode_flags = by_reference ? TB_MAIN_BY_REFERENCE : 0;
    executor->handle = handle;
    return PyLong_FromUnsignedLong(td_pool_cpus(handle->pool));
}

PyObject *tb_pool_start(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_handle *handle = begun_handle(self);
    if (handle == NULL)
        return NULL;
    td_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = td_pool_start(handle->pool);
    Py_END_ALLOW_THREADS;
    return none_or_raise(self, handle, status);
}

/* Hands a process that the package forked, and the socket to it, over to the engine. Detaches the socket in the same
 * step: whatever is raised afterwards, a signal's exception say, it shows whose the process is. */
static PyObject *adopt(PyObject *self, PyObject *args, const char *format,
                       td_status (*take)(td_pool *pool, int32_t pid, int channel))
{
    int pid;
    PyObject *socket;
    if (!PyArg_ParseTuple(args, format, &pid, &socket))
        return NULL;
    const int channel = PyObject_AsFileDescriptor(socket);
    struct tb_handle *handle = channel >= 0 ? begun_handle(self) : NULL;
    if (handle == NULL)
        return NULL;
    const td_status status = take(handle->pool, pid, channel);
    PyObject *none = none_or_raise(self, handle, status);
    PyObject *detached = none != NULL ? PyObject_CallMethod(socket, "detach", NULL) : NULL;
    Py_XDECREF(none);
    Py_XDECREF(detached);
    return detached != NULL ? Py_NewRef(Py_None) : NULL;
}

/* _engine_adopt_worker(pid, socket): the first worker. */
PyObject *tb_pool_adopt_worker(PyObject *self, PyObject *args)
{
    return adopt(self, args, "iO:_engine_adopt_worker", td_pool_adopt_worker);
}

/* _engine_adopt(pid, socket): the zygote; the pool starts. */
PyObject *tb_pool_adopt(PyObject *self, PyObject *args)
{
    return adopt(self, args, "iO:_engine_adopt", td_pool_adopt_zygote);
}

PyObject *tb_pool_set_context(PyObject *self, PyObject *context)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(context, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    struct tb_handle *handle = begun_handle(self);
    td_status status = TD_OK;
    if (handle != NULL)
        status = td_pool_set_context(handle->pool, bytes.buf, (uint64_t)bytes.len);
    PyBuffer_Release(&bytes);
    return handle != NULL ? none_or_raise(self, handle, status) : NULL;
}

PyObject *tb_pool_restart_zygote(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_handle *handle = begun_handle(self);
    if (handle == NULL)
        return NULL;
    td_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = td_pool_restart_zygote(handle->pool);
    Py_END_ALLOW_THREADS;
    return none_or_raise(self, handle, status);
}

PyObject *tb_pool_prestart(PyObject *self, PyObject *count)
{
    unsigned long workers = PyLong_AsUnsignedLong(count);
    struct tb_handle *handle = PyErr_Occurred() == NULL ? begun_handle(self) : NULL;
    if (handle == NULL)
        return NULL;
    td_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = td_pool_prestart(handle->pool, workers > TD_MAX_WORKERS ? TD_MAX_WORKERS : (uint32_t)workers);
    Py_END_ALLOW_THREADS;
    return none_or_raise(self, handle, status);
}

/* ---- Executor's methods: ending --------------------------------------------------------------------------------- */

/* _close(flags=0): no more submits; flags are TD_CLOSE_*. Unless what is queued is to be cancelled, maps that were
 * not read to their end get the rest of their input first. */
PyObject *tb_pool_close(PyObject *self, PyObject *args)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    unsigned flags = 0;
    if (!PyArg_ParseTuple(args, "|I:_close", &flags))
        return NULL;
    if ((flags & TD_CLOSE_CANCEL_QUEUED) == 0 && tb_maps_pump(executor) < 0)
        return NULL;
    struct tb_handle *handle = tb_executor_handle(executor);
    if (handle == NULL)
        Py_RETURN_NONE;
    td_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = td_pool_close(handle->pool, flags);
    Py_END_ALLOW_THREADS;
    return none_or_raise(self, handle, status == TD_EBROKEN ? TD_OK : status);
}

static td_status wait_for_end(void *pool, int64_t deadline_ns)
{
    return td_pool_join_until(pool, deadline_ns);
}

static td_status wait_for_idleness(void *pool, int64_t deadline_ns)
{
    return td_pool_idle_until(pool, deadline_ns);
}

/* 1: done, or there is no pool; 0: the deadline passed; -1. */
static int wait_for_pool(PyObject *self, PyObject *args, tb_wait *wait)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    PyObject *timeout = Py_None;
    int64_t deadline_ns;
    if (!PyArg_ParseTuple(args, "|O", &timeout) || tb_deadline(timeout, &deadline_ns) < 0)
        return -1;
    struct tb_handle *handle = tb_executor_handle(executor);
    if (handle == NULL)
        return 1;
    int done = tb_wait_until(executor->state, handle->pool, wait, handle->pool, deadline_ns);
    Py_DECREF((PyObject *)handle);
    return done;
}

/* _join(timeout=None): waits until it is closed and its last process is gone; False when time ran out. Then nothing of
 * it is left here but its figures. */
PyObject *tb_pool_join(PyObject *self, PyObject *args)
{
    int done = wait_for_pool(self, args, wait_for_end);
    if (done > 0)
        tb_executor_end((struct tb_executor *)self);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* _idle(timeout=None): waits until nothing is queued or running; False when time ran out. */
PyObject *tb_pool_idle(PyObject *self, PyObject *args)
{
    int done = wait_for_pool(self, args, wait_for_idleness);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

PyObject *tb_pool_break(PyObject *self, PyObject *reason)
{
    const char *text = PyUnicode_AsUTF8(reason);
    struct tb_handle *handle = text != NULL ? begun_handle(self) : NULL;
    if (handle == NULL)
        return NULL;
    td_pool_break(handle->pool, text);
    return none_or_raise(self, handle, TD_OK);
}

/* _broken_reason(): why it is broken, or None. */
PyObject *tb_pool_broken(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_executor *executor = (struct tb_executor *)self;
    struct tb_handle *handle = tb_executor_handle(executor);
    if (handle == NULL)
        return Py_NewRef(executor->last_reason != NULL ? executor->last_reason : Py_None);
    const char *reason = td_pool_broken_reason(handle->pool);
    PyObject *text = reason[0] != '\0' ? PyUnicode_DecodeUTF8(reason, (Py_ssize_t)strlen(reason), "replace")
                                       : Py_NewRef(Py_None);
    Py_DECREF((PyObject *)handle);
    return text;
}

/* ---- The module's part ------------------------------------------------------------------------------------------ */

int tb_pool_init(PyObject *module, struct tb_state *state)
{
    state->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &handle_spec, NULL);
    if (state->handle_type == NULL)
        return -1;
    static const struct {
        const char *name;
        long value;
    } constants[] = {
        {"START_SHARED", TD_START_SHARED},
        {"START_ADOPTED", TD_START_ADOPTED},
        {"START_SINGLE", TD_START_SINGLE},
        {"CLOSE_CANCEL_QUEUED", (long)TD_CLOSE_CANCEL_QUEUED},
        {"CLOSE_TERMINATE", (long)TD_CLOSE_TERMINATE},
        {"CLOSE_KILL", (long)TD_CLOSE_KILL},
        {"CLOSE_CANCEL_RUNNING", (long)TD_CLOSE_CANCEL_RUNNING},
        {"MAX_WORKERS", (long)TD_MAX_WORKERS},
    };
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0)
            return -1;
    return 0;
}
