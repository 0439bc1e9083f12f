/* encode.c: Python objects -> payloads (frame.h).
 *
 * A compact value is tried first, straight into the caller's small buffer; one that does not fit there is measured
 * and written into a block of exactly its size. What is not compact is pickled whole, by treadle._travel, and its
 * large buffers are copied once, into the block; but where all of it is compact except plain arrays, no pickle is made.
 * Invariants  E1 what is measured is what is written: compact values are immutable and of exact built-in types.
 *             E2 a failed call leaves nothing behind: no block, no reference.
 * Crash       a block not yet submitted belongs to this process's arena and goes with it.
 * Tests  tests/unit/test_codec.py */
#include "array.h"
#include "compact.h"
#include "pickled.h"
#include "shared.h"

/* ---- Compact calls ---------------------------------------------------------------------------------------- */

struct call {
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *kwnames;
};

static Py_ssize_t call_keywords(const struct call *call)
{
    return call->kwnames == NULL ? 0 : PyTuple_GET_SIZE(call->kwnames);
}

static enum tb_outcome write_call(struct tb_writer *w, const struct call *call)
{
    Py_ssize_t nkw = call_keywords(call);
    if (call->nargs > 255 || nkw > 255)
        return TB_NOT_COMPACT;
    if (w->end - w->at < 3)
        return TB_NO_FIT;
    *w->at++ = TB_CALL;
    *w->at++ = (uint8_t)call->nargs;
    *w->at++ = (uint8_t)nkw;
    enum tb_outcome outcome = TB_WROTE;
    for (Py_ssize_t i = 0; outcome == TB_WROTE && i < call->nargs; i++)
        outcome = tb_put_value(w, call->args[i]);
    for (Py_ssize_t i = 0; outcome == TB_WROTE && i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(call->kwnames, i);
        outcome = PyUnicode_CheckExact(name) ? tb_write_text(w, name) : TB_NOT_COMPACT;
        if (outcome == TB_WROTE)
            outcome = tb_put_value(w, call->args[call->nargs + i]);
    }
    return outcome;
}

static uint64_t measure_call(const struct call *call, const struct tb_sharing *sharing)
{
    Py_ssize_t nkw = call_keywords(call);
    uint64_t sum = 3;
    if (call->nargs > 255 || nkw > 255)
        return 0;
    for (Py_ssize_t i = 0; i < call->nargs + nkw; i++) {
        uint64_t bytes = tb_measure_value(call->args[i], sharing);
        if (bytes == 0)
            return 0;
        sum += bytes;
    }
    for (Py_ssize_t i = 0; i < nkw; i++)
        sum += tb_measure_value(PyTuple_GET_ITEM(call->kwnames, i), NULL);
    return sum;
}

/* ---- Pickles ---------------------------------------------------------------------------------------------- */

static int take_block(const struct tb_room *room, uint64_t bytes, struct tb_payload *out)
{
    struct td_block block;
    if (room->take(room->ctx, bytes, &block) < 0)
        return -1;
    out->block = block;
    return 0;
}

static int emit_pickled(const struct tb_codec *codec, PyObject *pair, uint8_t *small, size_t cap,
                        const struct tb_room *room, struct tb_payload *out)
{
    struct tb_pickled p;
    uint8_t *at = small;
    int done = tb_pickled_open(&p, pair);
    if (done == 0)
        done = tb_holds_add(codec, &out->holds, p.blocks);
    if (done == 0 && (p.spans > 0 || p.total > cap)) {
        done = take_block(room, p.total, out);
        at = out->block.data;
    }
    if (done == 0)
        done = tb_pickled_emit(&p, at, room, out);
    if (done < 0)
        tb_holds_fini(&out->holds);
    Py_XDECREF(p.pair);
    return done;
}

/* ---- Calls and values ------------------------------------------------------------------------------------- */

/* (args, kwargs) of a call in vectorcall form. */
static int call_objects(const struct call *call, PyObject **args_out, PyObject **kwargs_out)
{
    PyObject *kwargs = NULL, *args = PyTuple_New(call->nargs);
    if (args == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < call->nargs; i++)
        PyTuple_SET_ITEM(args, i, Py_NewRef(call->args[i]));
    kwargs = PyDict_New();
    if (kwargs == NULL)
        goto failed;
    for (Py_ssize_t i = 0; i < call_keywords(call); i++)
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(call->kwnames, i), call->args[call->nargs + i]) < 0)
            goto failed;
    *args_out = args;
    *kwargs_out = kwargs;
    return 0;
failed:
    Py_DECREF(args);
    Py_XDECREF(kwargs);
    return -1;
}

/* A new (bytes, buffers), or NULL. */
static PyObject *dump_call(struct tb_codec *codec, PyObject *args, PyObject *kwargs, unsigned flags)
{
    PyObject *dump = tb_codec_import(&codec->dump_call, "treadle._travel", "dump_call");
    if (dump == NULL)
        return NULL;
    PyObject *by_reference = flags & TB_MAIN_BY_REFERENCE ? Py_True : Py_False;
    PyObject *stack[3] = {args, kwargs, by_reference};
    return PyObject_Vectorcall(dump, stack, 3, NULL);
}

#define PLAIN_BYTES 512u

/* What `write` finds compact, but for plain arrays, as the dump; or NULL without an exception. */
static PyObject *dump_plain(struct tb_codec *codec,
                            enum tb_outcome (*write)(struct tb_writer *w, const struct call *call),
                            const struct call *call)
{
    uint8_t bytes[PLAIN_BYTES];
    PyObject *buffers = NULL, *pair = NULL;
    const struct tb_sharing arrays = {codec, NULL, &buffers};
    struct tb_writer w = {bytes, bytes + sizeof bytes, &arrays};
    if (tb_numpy_of(codec) != NULL && write(&w, call) == TB_WROTE && buffers != NULL)
        pair = Py_BuildValue("(y#O)", (const char *)bytes, (Py_ssize_t)(w.at - bytes), buffers);
    Py_XDECREF(buffers);
    PyErr_Clear(); /* pickle will meet it again */
    return pair;
}

PyObject *tb_dump_vector(struct tb_codec *codec, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                         unsigned flags)
{
    const struct call call = {args, nargs, kwnames};
    PyObject *tuple, *kwargs, *plain = dump_plain(codec, write_call, &call);
    if (plain != NULL)
        return plain;
    if (call_objects(&call, &tuple, &kwargs) < 0)
        return NULL;
    PyObject *pair = dump_call(codec, tuple, kwargs, flags);
    Py_DECREF(tuple);
    Py_DECREF(kwargs);
    return pair;
}

int tb_encode_call(struct tb_codec *codec, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                   unsigned flags, uint8_t *small, size_t cap, const struct tb_room *room,
                   struct tb_payload *out)
{
    struct call call = {args, nargs, kwnames};
    const struct tb_sharing arrays = {codec, &out->holds, NULL}, *sharing = codec->shares ? &arrays : NULL;
    struct tb_writer w = {small, small + cap, sharing};
    enum tb_outcome outcome = write_call(&w, &call);
    out->block = (struct td_block){0};
    if (outcome == TB_WROTE) {
        out->len = (uint64_t)(w.at - small);
        return 0;
    }
    tb_holds_cut(&out->holds, 0);
    uint64_t bytes = outcome == TB_NO_FIT ? measure_call(&call, sharing) : 0;
    if (bytes == 0)
        return emit_pickled(codec, tb_dump_vector(codec, args, nargs, kwnames, flags), small, cap, room, out);
    if (take_block(room, bytes, out) < 0) {
        tb_holds_fini(&out->holds);
        return -1;
    }
    w = (struct tb_writer){out->block.data, (uint8_t *)out->block.data + bytes, sharing};
    outcome = write_call(&w, &call);
    if (outcome != TB_WROTE) { /* an array that does not lie in shared memory */
        room->drop(room->ctx, &out->block);
        out->block = (struct td_block){0};
        tb_holds_cut(&out->holds, 0);
        return emit_pickled(codec, tb_dump_vector(codec, args, nargs, kwnames, flags), small, cap, room, out);
    }
    out->len = (uint64_t)(w.at - (uint8_t *)out->block.data);
    return 0;
}

int tb_encode_call_objects(struct tb_codec *codec, PyObject *args, PyObject *kwargs, unsigned flags,
                           uint8_t *small, size_t cap, const struct tb_room *room, struct tb_payload *out)
{
    if (kwargs == NULL || PyDict_GET_SIZE(kwargs) == 0)
        return tb_encode_call(codec, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args), NULL, flags, small,
                              cap, room, out);
    out->block = (struct td_block){0};
    return emit_pickled(codec, dump_call(codec, args, kwargs, flags), small, cap, room, out);
}

int tb_encode_compact(PyObject *value, uint8_t *small, size_t cap, const struct tb_room *room,
                      struct tb_payload *out)
{
    struct tb_writer w = {small, small + cap, NULL};
    enum tb_outcome outcome = tb_put_value(&w, value);
    out->block = (struct td_block){0};
    if (outcome == TB_WROTE) {
        out->len = (uint64_t)(w.at - small);
        return 1;
    }
    uint64_t bytes = outcome == TB_NO_FIT ? tb_measure_value(value, NULL) : 0;
    if (bytes == 0)
        return 0;
    if (take_block(room, bytes, out) < 0)
        return -1;
    w = (struct tb_writer){out->block.data, (uint8_t *)out->block.data + bytes, NULL};
    (void)tb_put_value(&w, value);
    out->len = (uint64_t)(w.at - (uint8_t *)out->block.data);
    return 1;
}

static enum tb_outcome write_result(struct tb_writer *w, const struct call *result)
{
    return tb_put_value(w, result->args[0]);
}

PyObject *tb_dump_result(struct tb_codec *codec, PyObject *value)
{
    const struct call result = {&value, 1, NULL};
    PyObject *plain = dump_plain(codec, write_result, &result);
    if (plain != NULL)
        return plain;
    PyObject *dump = tb_codec_import(&codec->dump_result, "treadle._travel", "dump_result");
    return dump == NULL ? NULL : PyObject_CallOneArg(dump, value);
}

int tb_encode_value(struct tb_codec *codec, PyObject *value, uint8_t *small, size_t cap,
                    const struct tb_room *room, struct tb_payload *out)
{
    const int done = tb_encode_compact(value, small, cap, room, out);
    if (done != 0)
        return done < 0 ? -1 : 0;
    return emit_pickled(codec, tb_dump_result(codec, value), small, cap, room, out);
}

int tb_encode_error(struct tb_codec *codec, PyObject *exception, uint8_t *small, size_t cap,
                    const struct tb_room *room, struct tb_payload *out)
{
    PyObject *dump = tb_codec_import(&codec->dump_exception, "treadle._remote", "dump_exception");
    PyObject *bytes = dump == NULL ? NULL : PyObject_CallOneArg(dump, exception);
    if (bytes == NULL)
        return -1;
    if (!PyBytes_Check(bytes)) {
        Py_DECREF(bytes);
        PyErr_SetString(PyExc_TypeError, "dump_exception must return bytes");
        return -1;
    }
    uint64_t len = (uint64_t)PyBytes_GET_SIZE(bytes);
    uint8_t *at = small;
    out->block = (struct td_block){0};
    if (len + 1 > cap) {
        if (take_block(room, len + 1, out) < 0) {
            Py_DECREF(bytes);
            return -1;
        }
        at = out->block.data;
    }
    at[0] = TB_ERROR;
    memcpy(at + 1, PyBytes_AS_STRING(bytes), len);
    out->len = len + 1;
    Py_DECREF(bytes);
    return 0;
}
