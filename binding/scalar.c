/* scalar.c: NumPy's scalars as compact values: the character of their type in the buffer protocol, and their bytes.
 *
 * They are known by their types: static ones, as no class of a user's is, with a name in numpy. NumPy's headers are not
 * needed, nor is it imported before a scalar comes.
 * Invariant  C1 (compact.c): they are immutable.
 * Tests  tests/unit/test_codec.py */
#include "compact.h"

static bool is_numpy_scalar(PyObject *value)
{
    const PyTypeObject *type = Py_TYPE(value);
    if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0 || strncmp(type->tp_name, "numpy.", 6) != 0)
        return false;
    while (type != NULL && strcmp(type->tp_name, "numpy.generic") != 0)
        type = type->tp_base;
    return type != NULL; /* an array of no dimensions is none */
}

static enum tb_outcome put_scalar(struct tb_writer *w, char kind, const void *data, size_t bytes)
{
    if ((size_t)(w->end - w->at) < 2 + bytes)
        return TB_NO_FIT;
    w->at[0] = TB_SCALAR;
    w->at[1] = (uint8_t)kind;
    memcpy(w->at + 2, data, bytes);
    w->at += 2 + bytes;
    return TB_WROTE;
}

enum tb_outcome tb_write_scalar(struct tb_writer *w, PyObject *value)
{
    Py_buffer view;
    enum tb_outcome outcome = TB_NOT_COMPACT;
    if (!is_numpy_scalar(value))
        return TB_NOT_COMPACT;
    if (PyObject_GetBuffer(value, &view, PyBUF_FORMAT | PyBUF_ND) < 0) {
        PyErr_Clear();
        return TB_NOT_COMPACT;
    }
    /* Dates, strings and records have more than one dimension or character, or another size. */
    if (view.ndim == 0 && view.format != NULL && view.format[0] != 0 && view.format[1] == 0) {
        size_t bytes = tb_scalar_bytes((uint8_t)view.format[0]);
        if (bytes != 0 && view.len == (Py_ssize_t)bytes)
            outcome = put_scalar(w, view.format[0], view.buf, bytes);
    }
    PyBuffer_Release(&view);
    return outcome;
}

/* The Python number of the same value, a new reference. */
static PyObject *number_of(uint8_t kind, const uint8_t *data)
{
    uint64_t bits = 0;
    float narrow;
    double real;
    size_t bytes = tb_scalar_bytes(kind);
    memcpy(&bits, data, bytes);
    switch (kind) {
    case '?':
        return PyBool_FromLong(bits != 0);
    case 'f':
        memcpy(&narrow, data, sizeof narrow);
        return PyFloat_FromDouble((double)narrow);
    case 'd':
        memcpy(&real, data, sizeof real);
        return PyFloat_FromDouble(real);
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
        return PyLong_FromUnsignedLongLong(bits);
    case 'b':
        return PyLong_FromLong((int8_t)bits);
    case 'h':
        return PyLong_FromLong((int16_t)bits);
    case 'i':
        return PyLong_FromLong((int32_t)bits);
    default:
        return PyLong_FromLongLong((int64_t)bits);
    }
}

/* The scalar's type, borrowed; NULL with an exception. */
static PyObject *type_of(struct tb_codec *codec, uint8_t kind)
{
    PyObject **slot = &codec->scalar_types[kind & (TB_SCALAR_KINDS - 1)];
    if (*slot != NULL)
        return *slot;
    PyObject *make = tb_codec_import(&codec->numpy_dtype, "numpy", "dtype");
    PyObject *name = make == NULL ? NULL : PyUnicode_FromOrdinal(kind);
    PyObject *dtype = name == NULL ? NULL : PyObject_CallOneArg(make, name);
    *slot = dtype == NULL ? NULL : PyObject_GetAttrString(dtype, "type");
    Py_XDECREF(name);
    Py_XDECREF(dtype);
    return *slot;
}

PyObject *tb_make_scalar(struct tb_codec *codec, const struct tb_item *item)
{
    uint8_t kind = (uint8_t)item->integer;
    PyObject *type = type_of(codec, kind);
    if (type == NULL)
        return tb_cannot_load(codec, "a NumPy scalar could not be loaded");
    PyObject *number = number_of(kind, item->data);
    PyObject *scalar = number == NULL ? NULL : PyObject_CallOneArg(type, number);
    Py_XDECREF(number);
    return scalar;
}
