/* executor.c: the C base type of treadle.ProcessPoolExecutor: functions by identity, and submit.
 *
 * The fast path of submit: the callable is found by its address, its arguments are written into 80 bytes on the
 * stack, the engine copies them into a slot, and a Future is made around the task. No Python code runs, nothing is
 * pickled, no lock object or dict is made.
 * Invariants  I1 a function in the table holds its callable, so its address names it as long as it is there.
 *             I2 who uses a number holds its function: numbers are given back when the last one lets go.
 * What cannot be sent (a function, an argument) makes its own future fail; submit raises only where the pool is over.
 * Tests  tests/unit/test_submit.py */
#include "executor.h"

#include <string.h>

#include "call.h"
#include "map.h"
#include "shared.h"

#define FUNCTIONS_MAX                                                                                          \
    1024u /* more than that, and the table starts again: a program that makes functions as it goes */

/* ---- Functions ------------------------------------------------------------------------------------------------ */

static int function_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tb_function *function = (struct tb_function *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(function->callable);
    Py_VISIT(function->watch);
    return 0;
}

static int function_clear(PyObject *self)
{
    struct tb_function *function = (struct tb_function *)self;
    Py_CLEAR(function->callable);
    Py_CLEAR(function->watch);
    return 0;
}

static void function_dealloc(PyObject *self)
{
    struct tb_function *function = (struct tb_function *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)function_clear(self);
    if (function->interned)
        td_pool_release_fn(function->handle->pool, function->number);
    Py_CLEAR(function->name);
    Py_CLEAR(function->handle);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot function_slots[] = {
    {Py_tp_dealloc, (void *)function_dealloc},
    {Py_tp_traverse, (void *)function_traverse},
    {Py_tp_clear, (void *)function_clear},
    {0, NULL},
};

static PyType_Spec function_spec = {
    .name = "treadle._engine.Function",
    .basicsize = sizeof(struct tb_function),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = function_slots,
};

PyObject *tb_name_of(PyObject *callable)
{
    static const char *const attributes[] = {"__qualname__", "__name__"};
    for (size_t i = 0; i < 2; i++) {
        PyObject *name = PyObject_GetAttrString(callable, attributes[i]);
        if (name != NULL && PyUnicode_CheckExact(name))
            return name;
        Py_XDECREF(name);
        PyErr_Clear();
    }
    PyObject *inner = PyObject_GetAttrString(callable, "func"); /* functools.partial and its like */
    if (inner == NULL) {
        PyErr_Clear();
        return PyUnicode_FromString(Py_TYPE(callable)->tp_name);
    }
    PyObject *name = NULL;
    if (Py_EnterRecursiveCall(" in the name of a function") == 0) {
        name = tb_name_of(inner);
        Py_LeaveRecursiveCall();
    }
    Py_DECREF(inner);
    return name;
}

/* ---- The table ------------------------------------------------------------------------------------------------- */

static size_t slot_of(const struct tb_functions *functions, const PyObject *callable)
{
    uint64_t key = (uint64_t)(uintptr_t)callable >> 4;
    return (size_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & (functions->capacity - 1);
}

/* The slot that holds the callable, or the free one where it belongs. */
static struct tb_function **functions_find(const struct tb_functions *functions, const PyObject *callable)
{
    for (size_t i = slot_of(functions, callable);; i = (i + 1) & (functions->capacity - 1)) {
        struct tb_function *at = functions->slots[i];
        if (at == NULL || at->callable == callable)
            return &functions->slots[i];
    }
}

/* Empties it; what was in it is let go of afterwards, outside of the critical section, by the caller. */
static struct tb_functions functions_take(struct tb_functions *functions)
{
    struct tb_functions taken = *functions;
    *functions = (struct tb_functions){0};
    return taken;
}

static void functions_drop(struct tb_functions *functions)
{
    for (size_t i = 0; i < functions->capacity; i++)
        Py_XDECREF((PyObject *)functions->slots[i]);
    PyMem_Free(functions->slots);
}

static int functions_grow(struct tb_functions *functions)
{
    struct tb_functions grown = {.capacity = functions->capacity != 0 ? functions->capacity * 2 : 32};
    grown.slots = PyMem_Calloc(grown.capacity, sizeof *grown.slots);
    if (grown.slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    grown.count = functions->count;
    for (size_t i = 0; i < functions->capacity; i++)
        if (functions->slots[i] != NULL)
            *functions_find(&grown, functions->slots[i]->callable) = functions->slots[i];
    PyMem_Free(functions->slots);
    *functions = grown;
    return 0;
}

/* Puts it in, in the place of one for the same callable. */
static int functions_put(struct tb_executor *executor, struct tb_function *function)
{
    struct tb_functions *functions = &executor->functions, dropped = {0};
    struct tb_function *replaced = NULL;
    int done = 0;
    Py_BEGIN_CRITICAL_SECTION(executor);
    if (functions->count >= FUNCTIONS_MAX)
        dropped = functions_take(functions);
    if (functions->count * 2 >= functions->capacity)
        done = functions_grow(functions);
    if (done == 0) {
        struct tb_function **slot = functions_find(functions, function->callable);
        replaced = *slot;
        functions->count += replaced == NULL;
        *slot = (struct tb_function *)Py_NewRef((PyObject *)function);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF((PyObject *)replaced);
    functions_drop(&dropped);
    return done;
}

/* A new reference when it is known and still what it was. */
static inline struct tb_function *functions_get(struct tb_executor *executor, const PyObject *callable)
{
    struct tb_function *function = NULL;
    Py_BEGIN_CRITICAL_SECTION(executor);
    if (executor->functions.capacity != 0)
        function =
            (struct tb_function *)Py_XNewRef((PyObject *)*functions_find(&executor->functions, callable));
    Py_END_CRITICAL_SECTION();
    if (function != NULL && function->watch != NULL && !tb_watch_holds(function->watch))
        Py_CLEAR(function);
    return function;
}

/* ---- Making a function known ------------------------------------------------------------------------------------- */

static struct tb_function *function_new(struct tb_executor *executor, PyObject *callable)
{
    PyTypeObject *type = executor->state->function_type;
    struct tb_function *function = (struct tb_function *)type->tp_alloc(type, 0);
    if (function == NULL)
        return NULL;
    function->handle = tb_executor_handle(executor);
    if (function->handle == NULL) {
        Py_DECREF((PyObject *)function);
        (void)tb_raise_status(executor->state, TD_ECLOSED, NULL);
        return NULL;
    }
    function->callable = Py_NewRef(callable);
    function->name = tb_name_of(callable);
    if (function->name == NULL)
        Py_CLEAR(function);
    return function;
}

/* The package's _pack_function(callable) gives (bytes, key, blocks): key True: it is found by name, for good; a Watch:
 * while that holds; None: not to be remembered. blocks: those of shared memory that the bytes name, or None. */
static int function_intern(struct tb_executor *executor, struct tb_function *function, PyObject **key)
{
    PyObject *packed = PyObject_CallMethod((PyObject *)executor, "_pack_function", "O", function->callable);
    if (packed == NULL)
        return -1;
    if (!PyTuple_Check(packed) || PyTuple_GET_SIZE(packed) != 3 ||
        !PyBytes_Check(PyTuple_GET_ITEM(packed, 0))) {
        PyErr_SetString(PyExc_TypeError, "_pack_function() must return (bytes, key, blocks)");
        Py_DECREF(packed);
        return -1;
    }
    PyObject *bytes = PyTuple_GET_ITEM(packed, 0), *blocks = PyTuple_GET_ITEM(packed, 2);
    struct tb_holds holds = {0};
    if (tb_holds_add(&executor->state->codec, &holds, blocks == Py_None ? NULL : blocks) < 0) {
        Py_DECREF(packed);
        return -1;
    }
    td_status status = td_pool_intern_holding(function->handle->pool, PyBytes_AS_STRING(bytes),
                                              (uint64_t)PyBytes_GET_SIZE(bytes), holds.items,
                                              (uint32_t)holds.count, &function->number);
    tb_holds_fini(&holds);
    function->interned = status == TD_OK;
    *key = Py_NewRef(PyTuple_GET_ITEM(packed, 1));
    Py_DECREF(packed);
    if (status == TD_OK)
        return 0;
    Py_CLEAR(*key);
    (void)tb_raise_status(executor->state, status, function->handle->pool);
    return -1;
}

static struct tb_function *function_pack(struct tb_executor *executor, PyObject *callable)
{
    PyObject *key = NULL;
    struct tb_function *function = function_new(executor, callable);
    if (function == NULL || function_intern(executor, function, &key) < 0) {
        Py_XDECREF((PyObject *)function);
        return NULL;
    }
    int done = 0;
    if (tb_watch_check(&executor->state->codec, key))
        function->watch = Py_NewRef(key);
    if (key == Py_True || function->watch != NULL)
        done = functions_put(executor, function);
    Py_DECREF(key);
    if (done < 0)
        Py_CLEAR(function);
    return function;
}

struct tb_function *tb_executor_function(struct tb_executor *executor, PyObject *callable)
{
    struct tb_function *function = functions_get(executor, callable);
    return function != NULL ? function : function_pack(executor, callable);
}

PyObject *tb_executor_name(struct tb_executor *executor, uint32_t number)
{
    PyObject *name = NULL;
    Py_BEGIN_CRITICAL_SECTION(executor);
    for (size_t i = 0; i < executor->functions.capacity && name == NULL; i++) {
        struct tb_function *function = executor->functions.slots[i];
        if (function != NULL && function->number == number)
            name = Py_NewRef(function->name);
    }
    Py_END_CRITICAL_SECTION();
    return name;
}

/* ---- The pool behind it ------------------------------------------------------------------------------------------ */

struct tb_handle *tb_executor_handle(struct tb_executor *executor)
{
    struct tb_handle *handle;
    Py_BEGIN_CRITICAL_SECTION(executor);
    handle = (struct tb_handle *)Py_XNewRef((PyObject *)executor->handle);
    Py_END_CRITICAL_SECTION();
    return handle;
}

void tb_executor_end(struct tb_executor *executor)
{
    struct tb_functions functions;
    struct tb_handle *handle;
    PyObject *deaths = tb_pool_deaths((PyObject *)executor, NULL);
    if (deaths == NULL)
        PyErr_Clear();
    Py_BEGIN_CRITICAL_SECTION(executor);
    Py_XSETREF(executor->last_deaths, deaths);
    handle = executor->handle;
    functions = functions_take(&executor->functions);
    executor->handle = NULL;
    executor->begun = false;
    if (handle != NULL) {
        const char *reason = td_pool_broken_reason(handle->pool);
        executor->ended = true;
        td_pool_get_stats(handle->pool, &executor->last_stats);
        if (reason[0] != '\0')
            executor->last_reason = PyUnicode_DecodeUTF8(reason, (Py_ssize_t)strlen(reason), "replace");
        PyErr_Clear();
    }
    Py_END_CRITICAL_SECTION();
    functions_drop(&functions);
    Py_XDECREF((PyObject *)handle);
}

/* Why nothing can be submitted any more. */
static int raise_ended(const struct tb_executor *executor)
{
    if (executor->last_reason == NULL)
        return tb_raise_status(executor->state, TD_ECLOSED, NULL);
    PyObject *exception = tb_call_errors(executor->state, "pool_broken", "(O)", executor->last_reason);
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return -1;
}

/* ---- Submit ------------------------------------------------------------------------------------------------------ */

int tb_executor_prepare(struct tb_executor *executor)
{
    if (executor->begun)
        return 0;
    if (executor->ended)
        return raise_ended(executor);
    /* The errors, too: they may be wanted when nothing can be imported any more. */
    if (tb_load_future(executor->state) < 0 || tb_errors(executor->state) == NULL)
        return -1;
    PyObject *begun = PyObject_CallMethod((PyObject *)executor, "_begin", NULL);
    if (begun == NULL)
        return -1;
    Py_DECREF(begun);
    if (executor->handle == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "_begin() created no pool");
        return -1;
    }
    executor->begun = true;
    return 0;
}

int tb_executor_refresh(struct tb_executor *executor, td_pool *pool)
{
    if (!td_pool_is_short_handed(pool))
        return 0;
    PyObject *refreshed = PyObject_CallMethod((PyObject *)executor, "_refresh", NULL);
    Py_XDECREF(refreshed);
    return refreshed != NULL ? 0 : -1;
}

static int arguments_encode(struct tb_executor *executor, const struct tb_arguments *arguments, uint8_t *small,
                            const struct tb_room *room, struct tb_payload *payload)
{
    struct tb_codec *codec = &executor->state->codec;
    if (arguments->tuple != NULL)
        return tb_encode_call_objects(codec, arguments->tuple, arguments->dict, executor->encode_flags, small,
                                      TD_INLINE_ARGS, room, payload);
    return tb_encode_call(codec, arguments->values, arguments->count, arguments->names, executor->encode_flags,
                          small, TD_INLINE_ARGS, room, payload);
}

int tb_executor_send(struct tb_executor *executor, struct tb_function *function,
                     const struct tb_arguments *arguments, const struct tb_options *options, uint64_t tag,
                     td_task **task, bool *own_failure)
{
    uint8_t small[TD_INLINE_ARGS];
    struct tb_payload payload = {0};
    td_pool *pool = function->handle->pool;
    struct tb_pool_room ctx = {.state = executor->state, .pool = pool};
    struct tb_room room = tb_pool_room_of(&ctx);
    if (tb_executor_refresh(executor, pool) < 0)
        return -1;
    *own_failure = true;
    if (arguments_encode(executor, arguments, small, &room, &payload) < 0)
        return -1;
    *own_failure = false;
    const struct td_call call = {
        .fn = function->number,
        .args = payload.block.data == NULL ? small : NULL,
        .block = payload.block,
        .args_bytes = payload.len,
        .timeout_ns = options->timeout_ns,
        .retries = options->retries,
        .name = options->name != NULL ? PyUnicode_AsUTF8(options->name) : NULL,
        .tag = tag,
        .holds = payload.holds.items,
        .hold_count = (uint32_t)payload.holds.count,
    };
    if (options->name != NULL && call.name == NULL)
        PyErr_Clear(); /* it has surrogates */
    td_status status = td_pool_submit(pool, &call, task);
    tb_holds_fini(&payload.holds);
    if (status == TD_OK)
        return 0;
    if (payload.block.data != NULL)
        td_pool_block_drop(pool, &payload.block);
    return tb_raise_status(executor->state, status, pool);
}

/* A finished future with the exception that is set, when it is an ordinary one. */
static PyObject *failed_future(struct tb_executor *executor, PyObject *callable)
{
    if (!tb_is_ordinary_error())
        return NULL;
    PyObject *exception = tb_exception_take();
    PyObject *name = tb_name_of(callable);
    struct tb_future *future = name != NULL ? tb_future_new(executor->state, NULL, name) : NULL;
    Py_XDECREF(name);
    if (future == NULL) {
        Py_DECREF(exception);
        return NULL;
    }
    tb_future_fail(future, exception);
    return (PyObject *)future;
}

bool tb_executor_is_forked_error(struct tb_executor *executor)
{
    PyObject *raised = tb_exception_take();
    PyObject *errors = tb_errors(executor->state);
    PyObject *class = errors != NULL ? PyObject_GetAttrString(errors, "ForkedPool") : NULL;
    bool forked = class != NULL && PyErr_GivenExceptionMatches(raised, class);
    Py_XDECREF(class);
    PyErr_Clear();
    tb_exception_give(raised);
    return forked;
}

static PyObject *submit_call(struct tb_executor *executor, PyObject *callable,
                             const struct tb_arguments *arguments, const struct tb_options *options)
{
    if (!executor->begun && tb_executor_prepare(executor) < 0)
        return NULL;
    struct tb_function *function = tb_executor_function(executor, callable);
    if (function == NULL)
        return tb_executor_is_forked_error(executor) ? NULL : failed_future(executor, callable);
    struct tb_future *future = tb_future_new(executor->state, function->handle,
                                             options->name != NULL ? options->name : function->name);
    bool own_failure = false;
    td_task *task;
    int sent = future != NULL ? tb_executor_send(executor, function, arguments, options, tb_future_tag(future),
                                                 &task, &own_failure)
                              : -1;
    Py_DECREF((PyObject *)function);
    if (sent == 0) {
        tb_future_adopt(future, task, options->timeout_ns);
        return (PyObject *)future;
    }
    Py_XDECREF((PyObject *)future);
    return own_failure ? failed_future(executor, callable) : NULL;
}

PyDoc_STRVAR(submit_doc,
             "submit($self, fn, /, *args, **kwargs)\n--\n\n"
             "Has a worker call `fn(*args, **kwargs)`; the Future of the outcome.\n\n"
             "Arguments are copied once, into shared memory; in the worker, arrays and other large "
             "buffers are views of it, writable ones where only this call has them. What can't be sent "
             "fails the future, not this call. Waits while more than TREADLE_ARENA_BYTES of arguments "
             "are queued.\n\n"
             "Raises:\n"
             "    PoolClosed: after shutdown().\n"
             "    PoolBroken: the pool can run nothing any more.\n"
             "    ForkedPool: the pool was started by this process's parent.");

static PyObject *executor_submit(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    if (nargs == 0)
        return PyErr_Format(PyExc_TypeError, "%s.submit() missing 1 required positional argument: 'fn'",
                            Py_TYPE(self)->tp_name);
    const struct tb_arguments arguments = {.values = args + 1, .count = nargs - 1, .names = kwnames};
    return submit_call(executor, args[0], &arguments, &executor->defaults);
}

int tb_options_parse(PyObject *timeout, PyObject *retries, PyObject *name, struct tb_options *options)
{
    *options = (struct tb_options){0};
    if (tb_duration(timeout, "timeout", &options->timeout_ns) < 0)
        return -1;
    if (retries != NULL) {
        long count = PyLong_AsLong(retries);
        if (count == -1 && PyErr_Occurred())
            return -1;
        if (count < 0 || count > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "retries must be >= 0");
            return -1;
        }
        options->retries = (uint32_t)count;
    }
    if (name != NULL && name != Py_None) {
        if (!PyUnicode_Check(name)) {
            PyErr_SetString(PyExc_TypeError, "name must be a str or None");
            return -1;
        }
        options->name = name;
    }
    return 0;
}

/* _submit(fn, args, kwargs, timeout, retries, name) */
static PyObject *executor_submit_with(PyObject *self, PyObject *args)
{
    PyObject *callable, *kwargs, *timeout, *retries, *name;
    struct tb_arguments arguments = {0};
    struct tb_options options;
    if (!PyArg_ParseTuple(args, "OO!OOOO:_submit", &callable, &PyTuple_Type, &arguments.tuple, &kwargs,
                          &timeout, &retries, &name) ||
        tb_options_parse(timeout, retries, name, &options) < 0)
        return NULL;
    arguments.dict = kwargs == Py_None ? NULL : kwargs;
    return submit_call((struct tb_executor *)self, callable, &arguments, &options);
}

/* ---- The type ---------------------------------------------------------------------------------------------------- */

static PyObject *executor_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct tb_executor *executor = (struct tb_executor *)type->tp_alloc(type, 0);
    if (executor == NULL)
        return NULL;
    executor->state = tb_state_of_executor(type);
    if (executor->state == NULL)
        Py_CLEAR(executor);
    return (PyObject *)executor;
}

static int executor_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < executor->functions.capacity; i++)
        Py_VISIT(executor->functions.slots[i]);
    return tb_maps_traverse(executor, visit, arg);
}

static int executor_clear(PyObject *self)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    struct tb_functions functions = functions_take(&executor->functions);
    functions_drop(&functions);
    tb_maps_drop(executor);
    return 0;
}

static void executor_dealloc(PyObject *self)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)executor_clear(self);
    Py_CLEAR(executor->handle);
    Py_CLEAR(executor->last_reason);
    Py_CLEAR(executor->last_deaths);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef executor_methods[] = {
    {"submit", (PyCFunction)(void (*)(void))executor_submit, METH_FASTCALL | METH_KEYWORDS, submit_doc},
    {"_submit", executor_submit_with, METH_VARARGS, NULL},
    {"run", (PyCFunction)(void (*)(void))tb_executor_run, METH_FASTCALL | METH_KEYWORDS, tb_executor_run_doc},
    {"_run", tb_executor_run_any, METH_VARARGS, NULL},
    {"_map", tb_executor_map, METH_VARARGS, NULL},
    TB_POOL_METHODS,
    {0},
};

PyDoc_STRVAR(executor_doc, "The engine's side of treadle.ProcessPoolExecutor.");

static PyType_Slot executor_slots[] = {
    {Py_tp_doc, (void *)executor_doc},
    {Py_tp_new, (void *)executor_new},
    {Py_tp_dealloc, (void *)executor_dealloc},
    {Py_tp_traverse, (void *)executor_traverse},
    {Py_tp_clear, (void *)executor_clear},
    {Py_tp_methods, executor_methods},
    {0, NULL},
};

static PyType_Spec executor_spec = {
    .name = "treadle._engine.Executor",
    .basicsize = sizeof(struct tb_executor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = executor_slots,
};

int tb_executor_init(PyObject *module, struct tb_state *state)
{
    state->function_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &function_spec, NULL);
    if (state->function_type == NULL)
        return -1;
    state->executor_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &executor_spec, NULL);
    return state->executor_type != NULL ? PyModule_AddType(module, state->executor_type) : -1;
}
