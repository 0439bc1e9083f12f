/* array.c: arrays of shared memory, written and made without pickle.
 *
 * NumPy need not be there when this is built, nor when it is loaded: treadle.shared hands over the type and the table
 * of NumPy's C API, whose order is part of its binary interface, as is the head of the array object. What a version is
 * found to lay out in another way (looks_right) travels by pickle, as slices in lists and dates do anyway.
 * Invariants  A1 an array's bytes lie inside the block that it names: checked when it is written, and again, against
 *                the block's true size, when it is made.
 *             A2 the array made holds the block (its base), and so does what was submitted, until it is done.
 * Tests       tests/unit/test_shared.py, tests/unit/test_codec.py */
#include "array.h"

#include "module.h"
#include "shared.h"

/* The table's entries (numpy/__multiarray_api.h). */
enum { API_DESCR_FROM_TYPE = 45, API_NEW_FROM_DESCR = 94, API_SET_BASE_OBJECT = 282 };

#define FLAG_C_CONTIGUOUS 0x0001
#define FLAG_ALIGNED 0x0100
#define FLAG_WRITEABLE 0x0400

/* The head of PyArrayObject_fields. */
struct array_head {
    PyObject_HEAD char *data;
    int nd;
    Py_ssize_t *dimensions, *strides;
    PyObject *base;
    const struct descr_head *descr;
    int flags;
};

/* The head of PyArray_Descr. */
struct descr_head {
    PyObject_HEAD PyTypeObject *typeobj;
    char kind, type, byteorder, unused;
    int type_num;
};

/* Bytes of an item by NumPy's number of its type, those of numbers only. */
static unsigned item_bytes(int type_num)
{
    static const uint8_t sizes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 4, 8, 0, 8, 16, 0, 0, 0, 0, 0, 0, 0, 2};
    return type_num >= 0 && (size_t)type_num < sizeof sizes ? sizes[type_num] : 0;
}

/* Is it NumPy's own description of these numbers? Another one may have metadata, which pickle keeps. */
static bool is_own_descr(const struct tb_numpy *numpy, const struct descr_head *descr)
{
    PyObject *own = numpy->descr_from_type(descr->type_num);
    if (own == NULL)
        PyErr_Clear();
    Py_XDECREF(own); /* NumPy has one, too */
    return own == (const PyObject *)(const void *)descr;
}

static bool is_plain(const struct tb_codec *codec, PyObject *value)
{
    if (Py_TYPE(value) != codec->numpy.array_type)
        return false;
    const struct array_head *array = (const struct array_head *)(void *)value;
    const char order = array->descr->byteorder;
    return array->nd <= (int)TB_ARRAY_DIMENSIONS && (order == '=' || order == '|') &&
           item_bytes(array->descr->type_num) != 0 && is_own_descr(&codec->numpy, array->descr);
}

/* The bytes around `start` that items can be in: [start - before, start + behind). False when there is none, or too
 * many to count. */
static bool reach(int nd, const Py_ssize_t *dimensions, const Py_ssize_t *strides, unsigned item,
                  uint64_t *before, uint64_t *behind)
{
    uint64_t low = 0, high = item;
    for (int i = 0; i < nd; i++) {
        int64_t far;
        if (dimensions[i] <= 0 || __builtin_mul_overflow((int64_t)dimensions[i] - 1, (int64_t)strides[i], &far))
            return false;
        uint64_t *side = far < 0 ? &low : &high;
        if (__builtin_add_overflow(*side, far < 0 ? 0 - (uint64_t)far : (uint64_t)far, side))
            return false;
    }
    *before = low;
    *behind = high;
    return true;
}

/* ---- Writing ----------------------------------------------------------------------------------------------- */

/* Where an array has no strides, its items follow each other. False: they would be more than there is memory. */
static bool dense_strides(int nd, const Py_ssize_t *dimensions, unsigned item, Py_ssize_t *strides)
{
    Py_ssize_t step = (Py_ssize_t)item;
    for (int i = nd; i-- > 0;) {
        strides[i] = step;
        if (__builtin_mul_overflow(step, dimensions[i], &step))
            return false;
    }
    return true;
}

static bool is_dense(const struct array_head *array)
{
    Py_ssize_t strides[TB_ARRAY_DIMENSIONS];
    return (array->flags & FLAG_C_CONTIGUOUS) != 0 &&
           dense_strides(array->nd, array->dimensions, item_bytes(array->descr->type_num), strides) &&
           (array->nd == 0 || memcmp(strides, array->strides, (size_t)array->nd * sizeof *strides) == 0);
}

static uint64_t written_bytes(const struct array_head *array, bool dense)
{
    return TB_ARRAY_HEAD + (uint64_t)array->nd * (dense ? 8u : 16u);
}

static void put(struct tb_writer *w, const void *data, size_t bytes)
{
    if (bytes > 0) /* an array without dimensions has no list of them */
        memcpy(w->at, data, bytes);
    w->at += bytes;
}

static void put_array(struct tb_writer *w, const struct array_head *array, bool dense, const td_hold *hold)
{
    const uint64_t start = (uint64_t)(array->data - (char *)td_hold_data(hold));
    const uint8_t flags =
        (dense ? TB_ARRAY_DENSE : 0) | ((array->flags & FLAG_WRITEABLE) != 0 ? TB_ARRAY_WRITABLE : 0);
    const uint8_t head[4] = {TB_ARRAY, (uint8_t)array->descr->type_num, (uint8_t)array->nd, flags};
    struct td_share share;
    td_hold_share(hold, &share);
    put(w, head, sizeof head);
    put(w, &share, sizeof share);
    put(w, &start, sizeof start);
    put(w, array->dimensions, (size_t)array->nd * 8);
    if (!dense)
        put(w, array->strides, (size_t)array->nd * 8);
}

enum tb_outcome tb_write_array(struct tb_writer *w, PyObject *value)
{
    const struct array_head *array = (const struct array_head *)(void *)value;
    uint64_t before, behind;
    if (!is_plain(w->sharing->codec, value) || !reach(array->nd, array->dimensions, array->strides,
                                                      item_bytes(array->descr->type_num), &before, &behind))
        return TB_NOT_COMPACT;
    const bool dense = is_dense(array);
    if ((uint64_t)(w->end - w->at) < written_bytes(array, dense))
        return TB_NO_FIT;
    td_hold *hold = td_hold_find(array->data - before, before + behind);
    if (hold == NULL)
        return TB_NOT_COMPACT;
    if (tb_holds_push(w->sharing->holds, hold) < 0) {
        PyErr_Clear(); /* pickle will meet it again */
        return TB_NOT_COMPACT;
    }
    put_array(w, array, dense, hold);
    return TB_WROTE;
}

uint64_t tb_measure_array(const struct tb_sharing *sharing, PyObject *value)
{
    if (sharing == NULL || !is_plain(sharing->codec, value))
        return 0;
    return written_bytes((const struct array_head *)(void *)value, false);
}

/* ---- Making ------------------------------------------------------------------------------------------------ */

/* Takes over base, which has the bytes. */
static PyObject *new_array(const struct tb_numpy *numpy, int type_num, int nd, const Py_ssize_t *dimensions,
                           const Py_ssize_t *strides, void *data, int flags, PyObject *base)
{
    PyObject *descr = numpy->descr_from_type(type_num);
    PyObject *array = descr == NULL
                          ? NULL
                          : numpy->new_from_descr(numpy->array_type, descr, nd, dimensions, strides, data,
                                                  flags, NULL); /* it takes descr over, whatever comes */
    if (array == NULL) {
        Py_DECREF(base);
        return NULL;
    }
    if (numpy->set_base_object(array, base) < 0)
        Py_CLEAR(array);
    return array;
}

static const struct tb_numpy *numpy_of(struct tb_codec *codec)
{
    if (codec->numpy.array_type == NULL) {
        PyObject *shared = PyImport_ImportModule("treadle.shared"); /* which hands it over */
        Py_XDECREF(shared);
        if (shared != NULL && codec->numpy.array_type == NULL)
            PyErr_SetString(PyExc_ImportError,
                            "this NumPy lays out its arrays in a way that is not known here");
    }
    return codec->numpy.array_type == NULL ? NULL : &codec->numpy;
}

PyObject *tb_make_array(struct tb_codec *codec, const struct tb_item *item)
{
    const uint8_t *at = item->data;
    const int type_num = at[0], nd = at[1];
    const uint8_t flags = at[2];
    const unsigned bytes = item_bytes(type_num);
    struct td_share share;
    uint64_t start, before, behind;
    Py_ssize_t dimensions[TB_ARRAY_DIMENSIONS], strides[TB_ARRAY_DIMENSIONS];
    memcpy(&share, at + 3, sizeof share);
    memcpy(&start, at + 3 + sizeof share, sizeof start);
    at += TB_ARRAY_HEAD - 1;
    memcpy(dimensions, at, (size_t)nd * 8);
    bool sound = bytes != 0;
    if ((flags & TB_ARRAY_DENSE) == 0)
        memcpy(strides, at + (size_t)nd * 8, (size_t)nd * 8);
    else
        sound = sound && dense_strides(nd, dimensions, bytes, strides);
    if (!sound || !reach(nd, dimensions, strides, bytes, &before, &behind) || before > start ||
        start > share.bytes || behind > share.bytes - start) {
        tb_codec_corrupt(codec, "an array reaches beyond its memory");
        return NULL;
    }
    const struct tb_numpy *numpy = numpy_of(codec);
    if (numpy == NULL)
        return NULL;
    PyObject *base = tb_shared_open(codec, &share);
    if (base == NULL)
        return NULL;
    char *data = (char *)tb_shared_data(base) + start;
    return new_array(numpy, type_num, nd, dimensions, strides, data,
                     (flags & TB_ARRAY_WRITABLE) != 0 ? FLAG_WRITEABLE | FLAG_ALIGNED : FLAG_ALIGNED, base);
}

/* ---- NumPy itself ------------------------------------------------------------------------------------------ */

/* Makes an array by the table and looks at it through our idea of an array. */
static bool looks_right(const struct tb_numpy *numpy)
{
    enum { NUMPY_DOUBLE = 12 };
    static const Py_ssize_t dimensions[2] = {2, 3}, strides[2] = {8, 16};
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, 64);
    if (bytes == NULL)
        return false;
    char *data = PyByteArray_AS_STRING(bytes);
    PyObject *made = new_array(numpy, NUMPY_DOUBLE, 2, dimensions, strides, data, FLAG_WRITEABLE | FLAG_ALIGNED,
                               Py_NewRef(bytes));
    Py_DECREF(bytes);
    if (made == NULL)
        return false;
    const struct array_head *array = (const struct array_head *)(void *)made;
    const bool right = array->data == data && array->nd == 2 &&
                       memcmp(array->dimensions, dimensions, 16) == 0 &&
                       memcmp(array->strides, strides, 16) == 0 && array->base == bytes &&
                       array->descr->type_num == NUMPY_DOUBLE && array->descr->type == 'd' &&
                       (array->flags & FLAG_WRITEABLE) != 0 && (array->flags & FLAG_C_CONTIGUOUS) == 0;
    Py_DECREF(made);
    return right;
}

static PyObject *use_numpy(PyObject *module, PyObject *args)
{
    struct tb_codec *codec = tb_codec_of(module);
    PyTypeObject *type;
    PyObject *capsule;
    if (!PyArg_ParseTuple(args, "O!O:use_numpy", &PyType_Type, &type, &capsule))
        return NULL;
    void *const *api = PyCapsule_GetPointer(capsule, NULL);
    if (api == NULL)
        return NULL;
    struct tb_numpy numpy = {.array_type = type};
    memcpy(&numpy.descr_from_type, &api[API_DESCR_FROM_TYPE], sizeof api[0]);
    memcpy(&numpy.new_from_descr, &api[API_NEW_FROM_DESCR], sizeof api[0]);
    memcpy(&numpy.set_base_object, &api[API_SET_BASE_OBJECT], sizeof api[0]);
    if (!looks_right(&numpy)) {
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    Py_INCREF(type);
    Py_XDECREF(codec->numpy.array_type);
    codec->numpy = numpy;
    Py_RETURN_TRUE;
}

PyMethodDef tb_array_methods[] = {
    {"use_numpy", use_numpy, METH_VARARGS,
     PyDoc_STR("use_numpy(ndarray, api, /)\n--\n\n"
               "From now on arrays of shared memory travel without pickle; False: not with this NumPy.")},
    {0},
};
