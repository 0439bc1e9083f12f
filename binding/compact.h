/* compact.h: Python objects <-> compact values (frame.h). The quick cases stand here, to be inlined where a chunk's
 * items are written and read: None, numbers. */
#ifndef TB_COMPACT_H
#define TB_COMPACT_H

#include "codec_internal.h"
#include "compat.h"
#include "frame.h"

struct tb_sharing;

struct tb_writer {
    uint8_t *at, *end;
    const struct tb_sharing *sharing; /* array.h; NULL: arrays of shared memory are not compact here */
};

/* What came of writing; after the last two the bytes behind the writer's start are garbage. */
enum tb_outcome { TB_WROTE, TB_NO_FIT, TB_NOT_COMPACT };

enum tb_outcome tb_write_value(struct tb_writer *w, PyObject *value);
/* A str of any subclass's layout. */
enum tb_outcome tb_write_text(struct tb_writer *w, PyObject *text);
/* A NumPy scalar; TB_NOT_COMPACT: it is none, or not one of a plain number. */
enum tb_outcome tb_write_scalar(struct tb_writer *w, PyObject *value);
PyObject *tb_make_scalar(struct tb_codec *codec, const struct tb_item *item);
/* An upper bound of what tb_write_value needs; 0 when the value is not compact. */
uint64_t tb_measure_value(PyObject *value, const struct tb_sharing *sharing);
/* A new reference; NULL with an exception, the reader anywhere. */
PyObject *tb_read_value(struct tb_codec *codec, struct tb_reader *reader);

static inline bool tb_put_int4(struct tb_writer *w, int32_t value)
{
    if (w->end - w->at < 5)
        return false;
    *w->at = TB_INT4;
    memcpy(w->at + 1, &value, 4);
    w->at += 5;
    return true;
}

static inline bool tb_put_float(struct tb_writer *w, double value)
{
    if (w->end - w->at < 9)
        return false;
    *w->at = TB_FLOAT;
    memcpy(w->at + 1, &value, 8);
    w->at += 9;
    return true;
}

/* tb_write_value */
static inline enum tb_outcome tb_put_value(struct tb_writer *w, PyObject *value)
{
    int32_t number;
    if (value == Py_None && w->at != w->end) {
        *w->at++ = TB_NONE;
        return TB_WROTE;
    }
    if (tb_is_short_int(value, &number) && (number < 0 || number > 127) && tb_put_int4(w, number))
        return TB_WROTE;
    if (PyFloat_CheckExact(value) && tb_put_float(w, PyFloat_AS_DOUBLE(value)))
        return TB_WROTE;
    return tb_write_value(w, value);
}

/* The next value where it is made in no time, the reader behind it; else NULL without an exception, the reader where it
 * was. */
static inline PyObject *tb_get_quick(struct tb_reader *reader)
{
    const uint8_t *at = reader->at;
    PyObject *value = NULL;
    uint64_t left = (uint64_t)(reader->end - at), taken = 0;
    if (left == 0)
        return NULL;
    if (*at == TB_NONE) {
        taken = 1;
        value = Py_NewRef(Py_None);
    } else if (*at == TB_INT4 && left >= 5) {
        int32_t number;
        memcpy(&number, at + 1, 4);
        taken = 5;
        value = PyLong_FromLong(number);
    } else if ((*at & TB_SMALL) != 0) {
        taken = 1;
        value = PyLong_FromLong(*at & 0x7f);
    } else if (*at == TB_FLOAT && left >= 9) {
        double number;
        memcpy(&number, at + 1, 8);
        taken = 9;
        value = PyFloat_FromDouble(number);
    } else {
        return NULL;
    }
    if (value == NULL)
        PyErr_Clear(); /* no memory: who reads it again will be told */
    else
        reader->at = at + taken;
    return value;
}

/* tb_read_value */
static inline PyObject *tb_get_value(struct tb_codec *codec, struct tb_reader *reader)
{
    PyObject *value = tb_get_quick(reader);
    return value != NULL ? value : tb_read_value(codec, reader);
}

/* tb_results_next where the next item's result is made in no time; else NULL without an exception. */
static inline PyObject *tb_results_quick(struct tb_results *results)
{
    struct tb_reader reader = {results->data + results->at, results->data + results->len, NULL};
    PyObject *value = tb_get_quick(&reader);
    results->at = (uint64_t)(reader.at - results->data);
    return value;
}

#endif
