/* module.c: treadle._engine, the extension module: its state, its types and how it starts and ends.
 *
 * One state per module object, reached from types (PyType_GetModuleState) and from the module's functions. What
 * needs concurrent.futures is made at its first use, by the module's __getattr__ or by the first submit.
 * Invariant  the types keep the module alive, the module its state: a `struct tb_state *` taken from an object is
 *            valid as long as the object is.
 * Tests  tests/unit/test_engine_module.py */
#include "module.h"

#include "cache.h"
#include "executor.h"
#include "future.h"
#include "group.h"
#include "inbox.h"
#include "info.h"
#include "map.h"
#include "named.h"
#include "pool.h"
#include "sync.h"
#include "threads.h"
#include "watchdog.h"

struct tb_codec *tb_codec_of(PyObject *module)
{
    return &tb_state_of(module)->codec;
}

/* ---- Names that are made at their first use ---------------------------------------------------------------- */

int tb_load_future(struct tb_state *state)
{
    if (state->future_type != NULL)
        return 0;
    PyObject *base = PyImport_ImportModule("concurrent.futures._base");
    if (base == NULL)
        return -1;
    int done = tb_future_init(state, base);
    Py_DECREF(base);
    return done;
}

static PyObject *module_getattr(PyObject *module, PyObject *name)
{
    struct tb_state *state = tb_state_of(module);
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "Future") == 0) {
        if (tb_load_future(state) < 0)
            return NULL;
        return Py_NewRef((PyObject *)state->future_type);
    }
    return PyErr_Format(PyExc_AttributeError, "module 'treadle._engine' has no attribute %R", name);
}

static PyMethodDef module_methods[] = {
    {"__getattr__", module_getattr, METH_O, NULL},
    {0},
};

/* ---- Iterators ---------------------------------------------------------------------------------------------- */

static void iterator_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)type->tp_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyTypeObject *tb_iterator_type_new(PyObject *module, const struct tb_iterator_type *type)
{
    PyType_Slot slots[] = {
        {Py_tp_doc, (void *)(uintptr_t)type->doc},
        {Py_tp_dealloc, (void *)iterator_dealloc},
        {Py_tp_traverse, (void *)type->traverse},
        {Py_tp_clear, (void *)type->clear},
        {Py_tp_iter, (void *)PyObject_SelfIter},
        {Py_tp_iternext, (void *)type->next},
        {Py_tp_methods, type->methods},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = type->name,
        .basicsize = (int)type->basicsize,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}

/* ---- Start and end ------------------------------------------------------------------------------------------ */

static int module_exec(PyObject *module)
{
    struct tb_state *state = tb_state_of(module);
    state->module = module;
    td_heed_signals(true);
    if (tb_codec_init(module, &state->codec) < 0)
        return -1;
    if (tb_pool_init(module, state) < 0 || tb_executor_init(module, state) < 0)
        return -1;
    if (tb_map_init(module, state) < 0 || tb_group_init(module, state) < 0)
        return -1;
    if (tb_dispatch_init(module) < 0 || tb_threads_init(module) < 0 || tb_named_init(module, state) < 0)
        return -1;
    if (tb_sync_init(module) < 0 || tb_cache_init(module) < 0 || tb_inbox_init(module, state) < 0 ||
        tb_watchdog_init(module) < 0)
        return -1;
    return tb_info_init(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct tb_state *state = tb_state_of(module);
    Py_VISIT(state->handle_type);
    Py_VISIT(state->function_type);
    Py_VISIT(state->executor_type);
    Py_VISIT(state->map_type);
    Py_VISIT(state->completed_type);
    Py_VISIT(state->segment_type);
    Py_VISIT(state->mapping_type);
    Py_VISIT(state->entry_type);
    Py_VISIT(state->part_type);
    Py_VISIT(state->pages_type);
    Py_VISIT(state->future_type);
    Py_VISIT(state->timing_type);
    Py_VISIT(state->futures_base);
    Py_VISIT(state->cancelled_error);
    Py_VISIT(state->inbox_type);
    Py_VISIT(state->call_type);
    Py_VISIT(state->awaited_type);
    Py_VISIT(state->base_await);
    Py_VISIT(state->running_loop);
    Py_VISIT(state->current_task);
    Py_VISIT(state->errors);
    Py_VISIT(state->dispatcher);
    return tb_codec_traverse(&state->codec, visit, arg);
}

static int module_clear(PyObject *module)
{
    struct tb_state *state = tb_state_of(module);
    Py_CLEAR(state->handle_type);
    Py_CLEAR(state->function_type);
    Py_CLEAR(state->executor_type);
    Py_CLEAR(state->map_type);
    Py_CLEAR(state->completed_type);
    Py_CLEAR(state->segment_type);
    Py_CLEAR(state->mapping_type);
    Py_CLEAR(state->entry_type);
    Py_CLEAR(state->part_type);
    Py_CLEAR(state->pages_type);
    Py_CLEAR(state->future_type);
    Py_CLEAR(state->timing_type);
    Py_CLEAR(state->futures_base);
    Py_CLEAR(state->cancelled_error);
    for (size_t i = 0; i < sizeof(state->state_names) / sizeof(state->state_names[0]); i++)
        Py_CLEAR(state->state_names[i]);
    Py_CLEAR(state->inbox_type);
    Py_CLEAR(state->call_type);
    Py_CLEAR(state->awaited_type);
    Py_CLEAR(state->base_await);
    Py_CLEAR(state->running_loop);
    Py_CLEAR(state->current_task);
    Py_CLEAR(state->errors);
    Py_CLEAR(state->dispatcher);
    tb_codec_clear(&state->codec);
    return 0;
}

static void module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    /* The engine's native thread and its drain token are one per process. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_engine",
    .m_doc = PyDoc_STR("The C engine under treadle."),
    .m_size = sizeof(struct tb_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

struct tb_state *tb_state_of_executor(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &module_def);
    return module != NULL ? tb_state_of(module) : NULL;
}

PyMODINIT_FUNC PyInit__engine(void);

PyMODINIT_FUNC PyInit__engine(void)
{
    return PyModuleDef_Init(&module_def);
}
