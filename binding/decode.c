/* decode.c: payloads (frame.h) -> Python objects.
 *
 * Compact values are made one by one from checked heads; a pickle is loaded in place, its buffers handed over as
 * spans of the block (lease.c), or as copies where the block may not be written or kept.
 * Invariants  D1 bytes are trusted for nothing: what fails a check is CorruptData.
 *             D2 no object refers to the payload but spans, which hold the lease.
 * Tests  tests/unit/test_codec.py */
#include "compact.h"
#include "module.h"

#define STACK_ARGS 16

/* ---- Compact calls ---------------------------------------------------------------------------------------- */

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
    PyObject *name = tb_read_value(codec, reader);
    if (name != NULL && !PyUnicode_CheckExact(name)) {
        Py_CLEAR(name);
        tb_codec_corrupt(codec, "a keyword is not a string");
    }
    if (name != NULL)
        PyUnicode_InternInPlace(&name);
    return name;
}

static int arguments_read(struct tb_codec *codec, struct arguments *a, const uint8_t *bytes, uint64_t len,
                          PyObject *buffers)
{
    if (len < 3 || bytes[0] != TB_CALL)
        return tb_codec_corrupt(codec, "a call has an unknown tag");
    unsigned nargs = bytes[1], nkw = bytes[2];
    struct tb_reader reader = {bytes + 3, bytes + len, buffers};
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
        PyObject *value = tb_read_value(codec, &reader);
        if (value == NULL)
            goto failed;
        a->values[1 + a->count++] = value;
    }
    return 0;
failed:
    arguments_clear(a);
    return -1;
}

/* (args, kwargs) of a compact call. */
static PyObject *compact_call_objects(struct tb_codec *codec, const uint8_t *bytes, uint64_t len,
                                      PyObject *buffers)
{
    struct arguments a;
    if (arguments_read(codec, &a, bytes, len, buffers) < 0)
        return NULL;
    PyObject *pair = NULL, *args = PyTuple_New(a.nargs), *kwargs = PyDict_New();
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

/* ---- Pickles ---------------------------------------------------------------------------------------------- */

/* A memoryview, because an object may do with its buffer what bytes and memoryviews can. Takes the span over. */
static PyObject *view_span(PyObject *span)
{
    PyObject *view = span == NULL ? NULL : PyMemoryView_FromObject(span);
    Py_XDECREF(span);
    return view;
}

/* A buffer in a block of its own, which nobody else reads. */
static PyObject *open_parcel(struct tb_codec *codec, const struct tb_span_entry *entry, PyObject *lease)
{
    struct td_view view;
    PyObject *buffer = NULL, *own = tb_lease_open_parcel(codec, lease, entry->parcel - 1, &view);
    if (own == NULL)
        return NULL;
    if (entry->offset > view.bytes || entry->len > view.bytes - entry->offset)
        tb_codec_raise_corrupt(codec, "a buffer lies outside its parcel");
    else
        buffer = view_span(tb_span_new(codec, own, (const uint8_t *)view.data + entry->offset, entry->len,
                                       entry->readonly != 0));
    Py_DECREF(own);
    return buffer;
}

/* A buffer as the object had it: writable or read-only; in the block where the lease allows, else a copy. */
static PyObject *make_buffer(struct tb_codec *codec, const struct tb_pickle *pickle, uint32_t i,
                             PyObject *lease)
{
    struct tb_span_entry entry = tb_pickle_span(pickle, i);
    if (entry.parcel != 0)
        return open_parcel(codec, &entry, lease);
    const uint8_t *data = pickle->payload + entry.offset;
    bool readonly = entry.readonly != 0;
    if (lease != NULL && (readonly || tb_lease_is_writable(lease)))
        return view_span(tb_span_new(codec, lease, data, entry.len, readonly));
    if (readonly)
        return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)entry.len);
    PyObject *span = NULL;
    if (lease != NULL && tb_span_new_private(codec, lease, data, entry.len, &span) != 0)
        return view_span(span);
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

static PyObject *read_whole(struct tb_codec *codec, const uint8_t *bytes, uint64_t len, PyObject *buffers)
{
    struct tb_reader reader = {bytes, bytes + len, buffers};
    PyObject *value = tb_read_value(codec, &reader);
    if (value != NULL && reader.at != reader.end) {
        Py_CLEAR(value);
        tb_codec_corrupt(codec, "bytes follow a value");
    }
    return value;
}

/* What stands in a pickle's place. */
static PyObject *load_compact(struct tb_codec *codec, const uint8_t *bytes, uint64_t len, PyObject *buffers)
{
    if (bytes[0] == TB_CALL)
        return compact_call_objects(codec, bytes, len, buffers);
    return read_whole(codec, bytes, len, buffers);
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
    if (buffers != NULL && tb_pickle_is_compact(&pickle))
        value = load_compact(codec, pickle.pickle, pickle.pickle_len, buffers);
    else if (buffers != NULL)
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
    return read_whole(codec, bytes, len, NULL);
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
    if (arguments_read(codec, &a, data, len, NULL) < 0)
        return NULL;
    if (called != NULL)
        *called = true;
    result = PyObject_Vectorcall(fn, a.values + 1, (size_t)a.nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, a.kwnames);
    arguments_clear(&a);
    return result;
}

PyObject *tb_decode_call_objects(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease)
{
    if (is_pickle(data, len)) {
        PyObject *args, *kwargs;
        if (load_call(codec, data, len, lease, &args, &kwargs) < 0)
            return NULL;
        return Py_BuildValue("(NN)", args, kwargs);
    }
    return compact_call_objects(codec, data, len, NULL);
}

/* ---- Chunks ----------------------------------------------------------------------------------------------- */

/* The arguments of an item of a dense chunk or a range, as a tuple. */
static PyObject *read_dense_item(struct tb_codec *codec, const struct tb_chunk_view *chunk, uint32_t item)
{
    struct tb_reader reader;
    int64_t number;
    if (tb_chunk_number(chunk, item, &number))
        return Py_BuildValue("(L)", (long long)number);
    if (!tb_chunk_seek(chunk, item, &reader)) {
        tb_codec_corrupt(codec, "a chunk has no such item");
        return NULL;
    }
    PyObject *args = PyTuple_New(chunk->nargs);
    for (Py_ssize_t i = 0; args != NULL && i < chunk->nargs; i++) {
        PyObject *value = tb_get_value(codec, &reader);
        if (value == NULL)
            Py_CLEAR(args);
        else
            PyTuple_SET_ITEM(args, i, value);
    }
    return args;
}

PyObject *tb_decode_chunk_item(struct tb_codec *codec, const void *data, uint64_t len, uint32_t item,
                               PyObject *lease)
{
    struct tb_chunk_view chunk;
    const uint8_t *bytes;
    uint64_t bytes_len;
    bool opened = tb_chunk_open(data, len, &chunk);
    if (opened && chunk.layout > TB_WIDE) {
        PyObject *args = read_dense_item(codec, &chunk, item);
        return args == NULL ? NULL : Py_BuildValue("(N{})", args);
    }
    if (!opened || !tb_chunk_item(&chunk, item, &bytes, &bytes_len)) {
        tb_codec_corrupt(codec, "a chunk has no such item");
        return NULL;
    }
    return tb_decode_call_objects(codec, bytes, bytes_len, lease);
}

void tb_results_open(struct tb_results *results, const void *data, uint64_t len)
{
    *results = (struct tb_results){.data = data, .len = len, .at = 0};
}

/* A value that stands by itself. The cursor passes it even when making it fails. */
static PyObject *read_plain_result(struct tb_codec *codec, struct tb_results *results)
{
    struct tb_reader reader = {results->data + results->at, results->data + results->len, NULL};
    struct tb_reader behind = reader;
    PyObject *value = tb_get_value(codec, &reader);
    if (value == NULL) {
        results->at = tb_skip_value(&behind) ? (uint64_t)(behind.at - results->data) : results->len;
        return NULL;
    }
    results->at = (uint64_t)(reader.at - results->data);
    return value;
}

int tb_results_next(struct tb_codec *codec, struct tb_results *results, PyObject *lease, bool *ok,
                    PyObject **value)
{
    struct tb_record record;
    PyObject *object;
    bool succeeded = true;
    if (results->at < results->len && results->data[results->at] != TB_RECORD) {
        object = read_plain_result(codec, results);
    } else {
        if (!tb_record_read(results->data, results->len, results->at, &record))
            return tb_codec_corrupt(codec, "a chunk's results end early");
        results->at = record.next;
        succeeded = record.kind == TB_RECORD_VALUE;
        object = succeeded ? tb_decode_value(codec, record.payload, record.len, lease)
                           : tb_decode_error(codec, record.payload, record.len, lease);
    }
    if (object == NULL)
        return -1;
    *ok = succeeded;
    *value = object;
    return 0;
}
