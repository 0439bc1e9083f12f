/* decode.c: payloads (frame.h) -> Python objects.
 *
 * Compact values are made one by one from checked heads; a pickle is loaded in place, its buffers handed over as
 * spans of the block (lease.c), or as copies where the block may not be written or kept.
 * Invariants  D1 bytes are trusted for nothing: what fails a check is CorruptData.
 *             D2 no object refers to the payload but spans, which hold the lease.
 * Tests  tests/unit/test_codec.py */
#include "codec_internal.h"
#include "frame.h"
#include "module.h"

#define STACK_ARGS 16

/* ---- Compact values --------------------------------------------------------------------------------------- */

/* Characters of 2 or 4 bytes lie anywhere in a payload: copied where they are not aligned. */
static PyObject *make_wide_text(const struct tb_item *item, unsigned width)
{
    int kind = width == 2 ? PyUnicode_2BYTE_KIND : PyUnicode_4BYTE_KIND;
    if (((uintptr_t)item->data & (width - 1)) == 0)
        return PyUnicode_FromKindAndData(kind, item->data, (Py_ssize_t)item->count);
    void *copy = PyMem_Malloc(item->count * width + 1);
    if (copy == NULL)
        return PyErr_NoMemory();
    memcpy(copy, item->data, item->count * width);
    PyObject *text = PyUnicode_FromKindAndData(kind, copy, (Py_ssize_t)item->count);
    PyMem_Free(copy);
    return text;
}

static bool is_unicode(const struct tb_item *item)
{
    for (uint64_t i = 0; i < item->count; i++) {
        uint32_t point;
        memcpy(&point, item->data + i * 4, 4);
        if (point > 0x10ffff)
            return false;
    }
    return true;
}

static PyObject *read_value(struct tb_codec *codec, struct tb_reader *reader, unsigned depth);

static PyObject *read_tuple(struct tb_codec *codec, struct tb_reader *reader, uint64_t count, unsigned depth)
{
    if (depth == TB_MAX_DEPTH) {
        tb_codec_corrupt(codec, "tuples are nested too deep");
        return NULL;
    }
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (uint64_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *value = read_value(codec, reader, depth + 1);
        if (value == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, value);
    }
    return tuple;
}

static PyObject *read_value(struct tb_codec *codec, struct tb_reader *reader, unsigned depth)
{
    struct tb_item item = {0};
    if (!tb_read_item(reader, &item)) {
        tb_codec_corrupt(codec, "a value ends early or has an unknown tag");
        return NULL;
    }
    switch (item.tag) {
    case TB_INT:
        return PyLong_FromLongLong(item.integer);
    case TB_NONE:
        Py_RETURN_NONE;
    case TB_TRUE:
        Py_RETURN_TRUE;
    case TB_FALSE:
        Py_RETURN_FALSE;
    case TB_FLOAT:
        return PyFloat_FromDouble(item.real);
    case TB_TEXT1:
        return PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, item.data, (Py_ssize_t)item.count);
    case TB_TEXT2:
        return make_wide_text(&item, 2);
    case TB_TEXT4:
        if (is_unicode(&item))
            return make_wide_text(&item, 4);
        break;
    case TB_BYTES:
        return PyBytes_FromStringAndSize((const char *)item.data, (Py_ssize_t)item.count);
    case TB_TUPLE:
        return read_tuple(codec, reader, item.count, depth);
    default:
        break;
    }
    tb_codec_corrupt(codec, "a character beyond Unicode");
    return NULL;
}

/* ---- Pickles ---------------------------------------------------------------------------------------------- */

/* A memoryview, because an object may do with its buffer what bytes and memoryviews can. */
static PyObject *view_buffer(struct tb_codec *codec, PyObject *lease, const void *data, uint64_t len,
                             bool readonly)
{
    PyObject *span = tb_span_new(codec, lease, data, len, readonly);
    PyObject *view = span == NULL ? NULL : PyMemoryView_FromObject(span);
    Py_XDECREF(span);
    return view;
}

/* A buffer as the object had it: writable or read-only; in the block where the lease allows, else a copy. */
static PyObject *make_buffer(struct tb_codec *codec, const struct tb_pickle *pickle, uint32_t i,
                             PyObject *lease)
{
    struct tb_span_entry entry = tb_pickle_span(pickle, i);
    const uint8_t *data = pickle->payload + entry.offset;
    bool readonly = entry.readonly != 0;
    if (lease != NULL && (readonly || tb_lease_is_writable(lease)))
        return view_buffer(codec, lease, data, entry.len, readonly);
    if (readonly)
        return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)entry.len);
    return PyByteArray_FromStringAndSize((const char *)data, (Py_ssize_t)entry.len);
}

PyObject *tb_cannot_load(struct tb_codec *codec, const char *what)
{
    if (!tb_is_ordinary_error() && !PyErr_ExceptionMatches(PyExc_SystemExit))
        return NULL;
    PyObject *raised = tb_exception_take();
    PyObject *explain = tb_codec_import(&codec->cannot_load, "treadle._remote", "cannot_load");
    PyObject *error = explain == NULL ? NULL : PyObject_CallFunction(explain, "sO", what, raised);
    Py_DECREF(raised);
    if (error != NULL)
        tb_exception_give(error);
    return NULL;
}

static PyObject *load_pickle(struct tb_codec *codec, const void *data, uint64_t len, PyObject *buffers)
{
    PyObject *loads = tb_codec_import(&codec->loads, "treadle._travel", "loads");
    PyObject *bytes =
        loads == NULL ? NULL : PyMemoryView_FromMemory((char *)(uintptr_t)data, (Py_ssize_t)len, PyBUF_READ);
    if (bytes == NULL)
        return NULL;
    PyObject *stack[2] = {bytes, buffers};
    PyObject *value = PyObject_Vectorcall(loads, stack, 1, buffers == NULL ? NULL : codec->buffers_keyword);
    Py_DECREF(bytes);
    return value;
}

static PyObject *load_pickle_oob(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease)
{
    struct tb_pickle pickle;
    if (!tb_pickle_open(data, len, &pickle)) {
        tb_codec_corrupt(codec, "a pickle's buffers lie outside it");
        return NULL;
    }
    PyObject *value = NULL, *buffers = PyList_New(pickle.spans);
    for (uint32_t i = 0; buffers != NULL && i < pickle.spans; i++) {
        PyObject *buffer = make_buffer(codec, &pickle, i, lease);
        if (buffer == NULL)
            Py_CLEAR(buffers);
        else
            PyList_SET_ITEM(buffers, i, buffer);
    }
    if (buffers != NULL)
        value = load_pickle(codec, pickle.pickle, pickle.pickle_len, buffers);
    Py_XDECREF(buffers);
    return value;
}

static bool is_pickle(const uint8_t *bytes, uint64_t len)
{
    return len > 0 && (bytes[0] == TB_PICKLE || bytes[0] == TB_PICKLE_OOB);
}

static PyObject *load_any_pickle(struct tb_codec *codec, const uint8_t *bytes, uint64_t len, PyObject *lease)
{
    if (bytes[0] == TB_PICKLE)
        return load_pickle(codec, bytes + 1, len - 1, NULL);
    return load_pickle_oob(codec, bytes, len, lease);
}

PyObject *tb_decode_value(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease)
{
    const uint8_t *bytes = data;
    if (is_pickle(bytes, len)) {
        PyObject *loaded = load_any_pickle(codec, bytes, len, lease);
        return loaded != NULL ? loaded : tb_cannot_load(codec, "the result could not be loaded");
    }
    struct tb_reader reader = {bytes, bytes + len};
    PyObject *value = read_value(codec, &reader, 0);
    if (value != NULL && reader.at != reader.end) {
        Py_CLEAR(value);
        tb_codec_corrupt(codec, "bytes follow a value");
    }
    return value;
}

PyObject *tb_decode_error(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease)
{
    const uint8_t *bytes = data;
    (void)lease; /* an error has no buffers out of band */
    if (len > 0 && bytes[0] == TB_NO_MEMORY) {
        PyObject *text = PyUnicode_DecodeUTF8((const char *)bytes + 1, (Py_ssize_t)len - 1, "replace");
        PyObject *error = text == NULL ? NULL : PyObject_CallOneArg(PyExc_MemoryError, text);
        Py_XDECREF(text);
        return error;
    }
    if (len == 0 || bytes[0] != TB_ERROR) {
        tb_codec_corrupt(codec, "an error has an unknown tag");
        return NULL;
    }
    PyObject *load = tb_codec_import(&codec->load_exception, "treadle._remote", "load_exception");
    PyObject *dump =
        load == NULL ? NULL : PyBytes_FromStringAndSize((const char *)bytes + 1, (Py_ssize_t)len - 1);
    PyObject *error = dump == NULL ? NULL : PyObject_CallOneArg(load, dump);
    Py_XDECREF(dump);
    if (error == NULL)
        return tb_cannot_load(codec, "the exception that the task raised could not be loaded");
    if (!PyExceptionInstance_Check(error)) {
        Py_CLEAR(error);
        tb_codec_corrupt(codec, "an error is no exception");
    }
    return error;
}

/* ---- Calls ------------------------------------------------------------------------------------------------ */

/* A compact call's arguments, on the stack where they are few. values[0] is free for the callee. */
struct arguments {
    PyObject *few[STACK_ARGS + 1];
    PyObject **values;
    PyObject *kwnames;
    Py_ssize_t nargs, count; /* count: made so far, keyword values included */
};

static void arguments_clear(struct arguments *a)
{
    for (Py_ssize_t i = 0; i < a->count; i++)
        Py_DECREF(a->values[1 + i]);
    Py_XDECREF(a->kwnames);
    if (a->values != a->few)
        PyMem_Free(a->values);
}

static PyObject *read_name(struct tb_codec *codec, struct tb_reader *reader)
{
    PyObject *name = read_value(codec, reader, 0);
    if (name != NULL && !PyUnicode_CheckExact(name)) {
        Py_CLEAR(name);
        tb_codec_corrupt(codec, "a keyword is not a string");
    }
    if (name != NULL)
        PyUnicode_InternInPlace(&name);
    return name;
}

static int arguments_read(struct tb_codec *codec, struct arguments *a, const uint8_t *bytes, uint64_t len)
{
    if (len < 3 || bytes[0] != TB_CALL)
        return tb_codec_corrupt(codec, "a call has an unknown tag");
    unsigned nargs = bytes[1], nkw = bytes[2];
    struct tb_reader reader = {bytes + 3, bytes + len};
    a->values = a->few;
    a->kwnames = NULL;
    a->nargs = nargs;
    a->count = 0;
    if (nargs + nkw > STACK_ARGS) {
        a->values = PyMem_Malloc((1 + nargs + nkw) * sizeof *a->values);
        if (a->values == NULL) {
            a->values = a->few;
            PyErr_NoMemory();
            return -1;
        }
    }
    if (nkw > 0 && (a->kwnames = PyTuple_New(nkw)) == NULL)
        goto failed;
    for (unsigned i = 0; i < nargs + nkw; i++) {
        if (i >= nargs) {
            PyObject *name = read_name(codec, &reader);
            if (name == NULL)
                goto failed;
            PyTuple_SET_ITEM(a->kwnames, i - nargs, name);
        }
        PyObject *value = read_value(codec, &reader, 0);
        if (value == NULL)
            goto failed;
        a->values[1 + a->count++] = value;
    }
    return 0;
failed:
    arguments_clear(a);
    return -1;
}

/* A pickled call: new references to a tuple and a dict. */
static int load_call(struct tb_codec *codec, const uint8_t *bytes, uint64_t len, PyObject *lease,
                     PyObject **args, PyObject **kwargs)
{
    PyObject *pair = load_any_pickle(codec, bytes, len, lease);
    if (pair == NULL) {
        (void)tb_cannot_load(codec, "the arguments could not be loaded in the worker");
        return -1;
    }
    if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 ||
        !PyTuple_CheckExact(PyTuple_GET_ITEM(pair, 0)) || !PyDict_CheckExact(PyTuple_GET_ITEM(pair, 1))) {
        Py_DECREF(pair);
        return tb_codec_corrupt(codec, "a pickled call is not (args, kwargs)");
    }
    *args = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
    *kwargs = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    Py_DECREF(pair);
    return 0;
}

PyObject *tb_decode_and_call(struct tb_codec *codec, PyObject *fn, const void *data, uint64_t len,
                             PyObject *lease, bool *called)
{
    PyObject *result;
    if (called != NULL)
        *called = false;
    if (is_pickle(data, len)) {
        PyObject *args, *kwargs;
        if (load_call(codec, data, len, lease, &args, &kwargs) < 0)
            return NULL;
        if (called != NULL)
            *called = true;
        result = PyObject_Call(fn, args, kwargs);
        Py_DECREF(args);
        Py_DECREF(kwargs);
        return result;
    }
    struct arguments a;
    if (arguments_read(codec, &a, data, len) < 0)
        return NULL;
    if (called != NULL)
        *called = true;
    result = PyObject_Vectorcall(fn, a.values + 1, (size_t)a.nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, a.kwnames);
    arguments_clear(&a);
    return result;
}

PyObject *tb_decode_call_objects(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease)
{
    PyObject *args, *kwargs;
    if (is_pickle(data, len)) {
        if (load_call(codec, data, len, lease, &args, &kwargs) < 0)
            return NULL;
        return Py_BuildValue("(NN)", args, kwargs);
    }
    struct arguments a;
    if (arguments_read(codec, &a, data, len) < 0)
        return NULL;
    PyObject *pair = NULL;
    args = PyTuple_New(a.nargs);
    kwargs = PyDict_New();
    if (args == NULL || kwargs == NULL)
        goto done;
    for (Py_ssize_t i = 0; i < a.nargs; i++)
        /* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): arguments_read made `count` values, all of them */
        PyTuple_SET_ITEM(args, i, Py_NewRef(a.values[1 + i]));
    for (Py_ssize_t i = a.nargs; i < a.count; i++)
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(a.kwnames, i - a.nargs), a.values[1 + i]) < 0)
            goto done;
    pair = PyTuple_Pack(2, args, kwargs);
done:
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    arguments_clear(&a);
    return pair;
}

/* ---- Chunks ----------------------------------------------------------------------------------------------- */

PyObject *tb_decode_chunk_item(struct tb_codec *codec, const void *data, uint64_t len, uint32_t item,
                               PyObject *lease)
{
    struct tb_chunk_view chunk;
    const uint8_t *bytes;
    uint64_t bytes_len;
    if (!tb_chunk_open(data, len, &chunk) || !tb_chunk_item(&chunk, item, &bytes, &bytes_len)) {
        tb_codec_corrupt(codec, "a chunk has no such item");
        return NULL;
    }
    return tb_decode_call_objects(codec, bytes, bytes_len, lease);
}

void tb_results_open(struct tb_results *results, const void *data, uint64_t len)
{
    *results = (struct tb_results){.data = data, .len = len, .at = 0};
}

int tb_results_next(struct tb_codec *codec, struct tb_results *results, PyObject *lease, bool *ok,
                    PyObject **value)
{
    struct tb_record record;
    if (!tb_record_read(results->data, results->len, results->at, &record))
        return tb_codec_corrupt(codec, "a chunk's results end early");
    results->at = record.next;
    bool succeeded = record.kind == TB_RECORD_VALUE;
    PyObject *object = succeeded ? tb_decode_value(codec, record.payload, record.len, lease)
                                 : tb_decode_error(codec, record.payload, record.len, lease);
    if (object == NULL)
        return -1;
    *ok = succeeded;
    *value = object;
    return 0;
}
