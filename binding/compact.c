/* compact.c: compact values, written and read one by one: None, bool, int, float, str, bytes, NumPy's scalars
 * (scalar.c), arrays of shared memory (array.c), and tuples of those.
 * Invariants  C1 what is measured is what is written: compact values are immutable and of exact built-in types.
 *             C2 bytes that are read are trusted for nothing: what fails a check is CorruptData.
 * Tests  tests/unit/test_codec.py */
#include "compact.h"
#include "array.h"

/* ---- Writing ------------------------------------------------------------------------------------------------ */

static enum tb_outcome write_int(struct tb_writer *w, int64_t value)
{
    if (value >= 0 && value < 128) {
        if (w->at == w->end)
            return TB_NO_FIT;
        *w->at++ = (uint8_t)(TB_SMALL | value);
        return TB_WROTE;
    }
    if (value >= INT32_MIN && value <= INT32_MAX)
        return tb_put_int4(w, (int32_t)value) ? TB_WROTE : TB_NO_FIT;
    if (w->end - w->at < 11)
        return TB_NO_FIT;
    *w->at++ = TB_INT;
    uint64_t left = tb_zigzag(value);
    for (; left >= 0x80; left >>= 7)
        *w->at++ = (uint8_t)(left | 0x80);
    *w->at++ = (uint8_t)left;
    return TB_WROTE;
}

static enum tb_outcome write_run(struct tb_writer *w, uint8_t tag, const void *data, uint64_t count,
                                 unsigned width)
{
    uint64_t bytes = count * width;
    if (w->end - w->at < 11 || (uint64_t)(w->end - w->at) - 11 < bytes)
        return TB_NO_FIT;
    *w->at++ = tag;
    uint64_t left = count;
    for (; left >= 0x80; left >>= 7)
        *w->at++ = (uint8_t)(left | 0x80);
    *w->at++ = (uint8_t)left;
    memcpy(w->at, data, bytes);
    w->at += bytes;
    return TB_WROTE;
}

static uint8_t text_tag(int kind)
{
    return kind == PyUnicode_1BYTE_KIND ? TB_TEXT1 : kind == PyUnicode_2BYTE_KIND ? TB_TEXT2 : TB_TEXT4;
}

enum tb_outcome tb_write_text(struct tb_writer *w, PyObject *text)
{
    int kind = (int)PyUnicode_KIND(text);
    return write_run(w, text_tag(kind), PyUnicode_DATA(text), (uint64_t)PyUnicode_GET_LENGTH(text),
                     (unsigned)kind);
}

static enum tb_outcome write_tag(struct tb_writer *w, uint8_t tag)
{
    if (w->at == w->end)
        return TB_NO_FIT;
    *w->at++ = tag;
    return TB_WROTE;
}

static enum tb_outcome write_value(struct tb_writer *w, PyObject *value, unsigned depth);

static enum tb_outcome write_tuple(struct tb_writer *w, PyObject *tuple, unsigned depth)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    if (count > TB_MAX_TUPLE || depth == TB_MAX_DEPTH)
        return TB_NOT_COMPACT;
    if (w->end - w->at < 2)
        return TB_NO_FIT;
    *w->at++ = TB_TUPLE;
    *w->at++ = (uint8_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        enum tb_outcome outcome = write_value(w, PyTuple_GET_ITEM(tuple, i), depth + 1);
        if (outcome != TB_WROTE)
            return outcome;
    }
    return TB_WROTE;
}

static enum tb_outcome write_value(struct tb_writer *w, PyObject *value, unsigned depth)
{
    if (PyLong_CheckExact(value)) {
        int overflow;
        long long integer = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow ? TB_NOT_COMPACT : write_int(w, integer);
    }
    if (value == Py_None)
        return write_tag(w, TB_NONE);
    if (PyUnicode_CheckExact(value))
        return tb_write_text(w, value);
    if (PyFloat_CheckExact(value))
        return tb_put_float(w, PyFloat_AS_DOUBLE(value)) ? TB_WROTE : TB_NO_FIT;
    if (PyTuple_CheckExact(value))
        return write_tuple(w, value, depth);
    if (value == Py_True || value == Py_False)
        return write_tag(w, value == Py_True ? TB_TRUE : TB_FALSE);
    if (PyBytes_CheckExact(value))
        return write_run(w, TB_BYTES, PyBytes_AS_STRING(value), (uint64_t)PyBytes_GET_SIZE(value), 1);
    const enum tb_outcome outcome = w->sharing != NULL ? tb_write_array(w, value) : TB_NOT_COMPACT;
    return outcome == TB_NOT_COMPACT ? tb_write_scalar(w, value) : outcome;
}

static uint64_t measure_value(PyObject *value, const struct tb_sharing *sharing, unsigned depth)
{
    if (PyUnicode_CheckExact(value))
        return 11 + (uint64_t)PyUnicode_GET_LENGTH(value) * (unsigned)PyUnicode_KIND(value);
    if (PyBytes_CheckExact(value))
        return 11 + (uint64_t)PyBytes_GET_SIZE(value);
    if (!PyTuple_CheckExact(value)) {
        uint8_t scratch[16];
        struct tb_writer w = {scratch, scratch + sizeof scratch, NULL};
        return write_value(&w, value, depth) == TB_WROTE ? 11 : tb_measure_array(sharing, value);
    }
    if (PyTuple_GET_SIZE(value) > TB_MAX_TUPLE || depth == TB_MAX_DEPTH)
        return 0;
    uint64_t sum = 2;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); i++) {
        uint64_t bytes = measure_value(PyTuple_GET_ITEM(value, i), sharing, depth + 1);
        if (bytes == 0)
            return 0;
        sum += bytes;
    }
    return sum;
}

enum tb_outcome tb_write_value(struct tb_writer *w, PyObject *value)
{
    return write_value(w, value, 0);
}

uint64_t tb_measure_value(PyObject *value, const struct tb_sharing *sharing)
{
    return measure_value(value, sharing, 0);
}

/* ---- Reading ------------------------------------------------------------------------------------------------ */

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
    case TB_SCALAR:
        return tb_make_scalar(codec, &item);
    case TB_ARRAY:
        return tb_make_array(codec, &item);
    case TB_VECTOR:
        return tb_make_vector(codec, &item, reader->buffers);
    case TB_TUPLE:
        return read_tuple(codec, reader, item.count, depth);
    default:
        break;
    }
    tb_codec_corrupt(codec, "a character beyond Unicode");
    return NULL;
}

PyObject *tb_read_value(struct tb_codec *codec, struct tb_reader *reader)
{
    return read_value(codec, reader, 0);
}
