/* codec.c: the codec's state and types, and its module functions, by which tests and the slow paths in Python reach
 * encoding and decoding. Tests  tests/unit/test_codec.py */
#include "array.h"
#include "codec_internal.h"
#include "frame.h"
#include "shared.h"

PyObject *tb_codec_import(PyObject **slot, const char *module, const char *attribute)
{
    if (*slot == NULL) {
        PyObject *imported = PyImport_ImportModule(module);
        PyObject *value = imported == NULL ? NULL : PyObject_GetAttrString(imported, attribute);
        Py_XDECREF(imported);
        if (value == NULL)
            return NULL;
        Py_XSETREF(*slot, value);
    }
    return *slot;
}

void tb_codec_raise_corrupt(struct tb_codec *codec, const char *what)
{
    PyObject *type = tb_codec_import(&codec->corrupt_data, "treadle._errors", "CorruptData");
    if (type != NULL)
        PyErr_Format(type, "data from another process failed a check: %s", what);
}

/* ---- A room in bytes objects ------------------------------------------------------------------------------ */

struct heap_room {
    void *base;
};

static int heap_take(void *ctx, uint64_t bytes, struct td_block *out)
{
    struct heap_room *room = ctx;
    room->base = PyMem_Malloc(bytes + TB_ALIGN);
    if (room->base == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    uintptr_t data = ((uintptr_t)room->base + (TB_ALIGN - 1)) & ~(uintptr_t)(TB_ALIGN - 1);
    *out = (struct td_block){.data = (void *)data, .ref = 1, .capacity = bytes};
    return 0;
}

static void heap_drop(void *ctx, struct td_block *block)
{
    struct heap_room *room = ctx;
    (void)block;
    PyMem_Free(room->base);
    room->base = NULL;
}

static PyObject *payload_bytes(int rc, const uint8_t *small, struct tb_payload *payload, struct heap_room *heap)
{
    PyObject *bytes = NULL;
    if (rc == 0) {
        const void *data = payload->block.data == NULL ? small : payload->block.data;
        bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)payload->len);
    }
    PyMem_Free(heap->base);
    tb_holds_fini(&payload->holds);
    return bytes;
}

static PyObject *encode_call(PyObject *module, PyObject *args)
{
    PyObject *call_args, *kwargs = NULL;
    int by_reference = 0;
    if (!PyArg_ParseTuple(args, "O!|O!p:encode_call", &PyTuple_Type, &call_args, &PyDict_Type, &kwargs,
                          &by_reference))
        return NULL;
    uint8_t small[TD_INLINE_ARGS];
    struct heap_room heap = {0};
    struct tb_room room = {heap_take, heap_drop, NULL, &heap};
    struct tb_payload payload = {0};
    int rc =
        tb_encode_call_objects(tb_codec_of(module), call_args, kwargs, by_reference ? TB_MAIN_BY_REFERENCE : 0,
                               small, sizeof small, &room, &payload);
    return payload_bytes(rc, small, &payload, &heap);
}

static PyObject *encode_value(PyObject *module, PyObject *value)
{
    uint8_t small[TD_INLINE_RESULT];
    struct heap_room heap = {0};
    struct tb_room room = {heap_take, heap_drop, NULL, &heap};
    struct tb_payload payload = {0};
    int rc = tb_encode_value(tb_codec_of(module), value, small, sizeof small, &room, &payload);
    return payload_bytes(rc, small, &payload, &heap);
}

static PyObject *encode_chunk(PyObject *module, PyObject *items)
{
    struct tb_codec *codec = tb_codec_of(module);
    if (!PyList_Check(items))
        return PyErr_Format(PyExc_TypeError, "encode_chunk takes a list of tuples");
    struct tb_chunk chunk = {0};
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (!PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError, "encode_chunk takes a list of tuples");
            rc = -1;
            break;
        }
        rc = tb_chunk_append(codec, &chunk, &PyTuple_GET_ITEM(item, 0), PyTuple_GET_SIZE(item), 0);
    }
    uint8_t small[TD_INLINE_ARGS];
    struct heap_room heap = {0};
    struct tb_room room = {heap_take, heap_drop, NULL, &heap};
    struct tb_payload payload = {0};
    if (rc == 0)
        rc = tb_chunk_finish(&chunk, small, sizeof small, &room, &payload);
    tb_chunk_fini(&chunk);
    return payload_bytes(rc, small, &payload, &heap);
}

/* ---- Decoding bytes objects ------------------------------------------------------------------------------- */

static void owner_release(void *ctx, uint64_t ref)
{
    (void)ref;
    Py_DECREF((PyObject *)ctx);
}

/* Decodes from a bytes object as from a block: buffers are read-only or copied views of it. */
static PyObject *lease_of(struct tb_codec *codec, PyObject *bytes)
{
    PyObject *lease = tb_lease_new(codec, owner_release, Py_NewRef(bytes), 0, false);
    if (lease == NULL)
        Py_DECREF(bytes);
    return lease;
}

typedef PyObject *decoder(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease);

static PyObject *decode_bytes(PyObject *module, PyObject *bytes, decoder *decode)
{
    struct tb_codec *codec = tb_codec_of(module);
    if (!PyBytes_Check(bytes))
        return PyErr_Format(PyExc_TypeError, "a payload is bytes, not %.100s", Py_TYPE(bytes)->tp_name);
    PyObject *lease = lease_of(codec, bytes);
    if (lease == NULL)
        return NULL;
    PyObject *value = decode(codec, PyBytes_AS_STRING(bytes), (uint64_t)PyBytes_GET_SIZE(bytes), lease);
    Py_DECREF(lease);
    return value;
}

static PyObject *decode_value(PyObject *module, PyObject *bytes)
{
    return decode_bytes(module, bytes, tb_decode_value);
}

static PyObject *decode_error(PyObject *module, PyObject *bytes)
{
    return decode_bytes(module, bytes, tb_decode_error);
}

static PyObject *decode_call(PyObject *module, PyObject *bytes)
{
    return decode_bytes(module, bytes, tb_decode_call_objects);
}

static PyObject *decode_chunk_item(PyObject *module, PyObject *args)
{
    PyObject *bytes;
    unsigned item;
    if (!PyArg_ParseTuple(args, "SI:decode_chunk_item", &bytes, &item))
        return NULL;
    return tb_decode_chunk_item(tb_codec_of(module), PyBytes_AS_STRING(bytes),
                                (uint64_t)PyBytes_GET_SIZE(bytes), item, NULL);
}

static PyObject *check_payload(PyObject *module, PyObject *bytes)
{
    (void)module;
    if (!PyBytes_Check(bytes))
        return PyErr_Format(PyExc_TypeError, "a payload is bytes, not %.100s", Py_TYPE(bytes)->tp_name);
    return PyBool_FromLong(tb_payload_check(PyBytes_AS_STRING(bytes), (uint64_t)PyBytes_GET_SIZE(bytes)));
}

static PyObject *globals_changed(PyObject *module, PyObject *unused)
{
    (void)unused;
    tb_codec_of(module)->globals_epoch++;
    Py_RETURN_NONE;
}

PyMethodDef tb_codec_methods[] = {
    {"globals_changed", globals_changed, METH_NOARGS,
     PyDoc_STR("A global that came by value has another value now.")},
    {"encode_call", encode_call, METH_VARARGS,
     PyDoc_STR("encode_call(args, kwargs={}, by_reference_main=False)")},
    {"encode_value", encode_value, METH_O, PyDoc_STR("The payload of a result, as bytes.")},
    {"encode_chunk", encode_chunk, METH_O, PyDoc_STR("The payload of a chunk's arguments, as bytes.")},
    {"decode_call", decode_call, METH_O, PyDoc_STR("(args, kwargs) of a call's payload.")},
    {"decode_value", decode_value, METH_O, PyDoc_STR("The value of a result's payload.")},
    {"decode_error", decode_error, METH_O, PyDoc_STR("The exception of an error's payload.")},
    {"decode_chunk_item", decode_chunk_item, METH_VARARGS, PyDoc_STR("decode_chunk_item(payload, item)")},
    {"check_payload", check_payload, METH_O, PyDoc_STR("Do all of a payload's lengths and tags hold?")},
    {0},
};

/* ---- State ------------------------------------------------------------------------------------------------ */

static PyTypeObject *make_type(PyObject *module, PyType_Spec *spec)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
}

int tb_codec_init(PyObject *module, struct tb_codec *codec)
{
    if ((codec->buffers_keyword = Py_BuildValue("(s)", "buffers")) == NULL ||
        (codec->lease_type = make_type(module, &tb_lease_spec)) == NULL ||
        (codec->span_type = make_type(module, &tb_span_spec)) == NULL ||
        (codec->watch_type = make_type(module, &tb_watch_spec)) == NULL ||
        (codec->birth_type = make_type(module, &tb_birth_spec)) == NULL ||
        (codec->shared_type = make_type(module, &tb_shared_spec)) == NULL)
        return -1;
    if (PyModule_AddType(module, codec->watch_type) < 0 || PyModule_AddType(module, codec->birth_type) < 0 ||
        PyModule_AddType(module, codec->shared_type) < 0 ||
        PyModule_AddFunctions(module, tb_codec_methods) < 0 ||
        PyModule_AddFunctions(module, tb_shared_methods) < 0 ||
        PyModule_AddFunctions(module, tb_allocator_methods) < 0 ||
        PyModule_AddFunctions(module, tb_array_methods) < 0)
        return -1;
    if (PyModule_AddFunctions(module, tb_worker_methods) < 0)
        return -1;
    return PyModule_AddFunctions(module, tb_fork_methods);
}

/* Every reference of a codec, for the collector. */
/* clang-format off */
#define CODEC_FIELDS(X) \
    X(lease_type) \
    X(span_type) \
    X(watch_type) \
    X(birth_type) \
    X(shared_type) \
    X(dump_call) \
    X(dump_result) \
    X(loads) \
    X(load_function) \
    X(dump_exception) \
    X(load_exception) \
    X(cannot_load) \
    X(corrupt_data) \
    X(numpy_dtype) \
    X(numpy.array_type) \
    X(after_task) \
    X(reducers) \
    X(buffers_keyword)
/* clang-format on */

int tb_codec_traverse(struct tb_codec *codec, visitproc visit, void *arg)
{
#define VISIT_FIELD(field) Py_VISIT(codec->field);
    CODEC_FIELDS(VISIT_FIELD)
    for (size_t i = 0; i < TB_SCALAR_KINDS; i++)
        VISIT_FIELD(scalar_types[i])
#undef VISIT_FIELD
    return 0;
}

void tb_codec_clear(struct tb_codec *codec)
{
#define CLEAR_FIELD(field) Py_CLEAR(codec->field);
    CODEC_FIELDS(CLEAR_FIELD)
    for (size_t i = 0; i < TB_SCALAR_KINDS; i++)
        CLEAR_FIELD(scalar_types[i])
#undef CLEAR_FIELD
}
