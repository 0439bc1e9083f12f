/* array.c: arrays of numbers, written and made without pickle.
 *
 * NumPy need not be there when this is built, nor when it is loaded: it is found when it is wanted, by the table of its
 * C API, whose order is part of its binary interface, as is the head of the array object. What a version is found to
 * lay out in another way (looks_right) travels by pickle, as slices in lists and dates do anyway.
 * Invariants  A1 an array's bytes lie inside the block that it names: checked when it is written, and again, against
 *                the block's true size, when it is made.
 *             A2 the array made holds the block (its base), and so does what was submitted, until it is done.
 *             A3 a vector's buffer is as long as its lengths say: checked when it is made.
 * Tests       tests/unit/test_shared.py, tests/unit/test_codec.py, tests/unit/test_vectors.py */
#include "array.h"

#include "module.h"
#include "numpy_memory.h"
#include "shared.h"

/* The table's entries (numpy/__multiarray_api.h). */
enum { API_ARRAY_TYPE = 2, API_DESCR_FROM_TYPE = 45, API_NEW_FROM_DESCR = 94, API_SET_BASE_OBJECT = 282 };

#define FLAG_C_CONTIGUOUS 0x0001
#define FLAG_F_CONTIGUOUS 0x0002
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

bool tb_reach(int nd, const Py_ssize_t *dimensions, const Py_ssize_t *strides, uint64_t item, uint64_t *before,
              uint64_t *behind)
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

/* An array of shared memory, by name. */
static enum tb_outcome write_shared(struct tb_writer *w, const struct array_head *array)
{
    uint64_t before, behind;
    if (!tb_reach(array->nd, array->dimensions, array->strides, item_bytes(array->descr->type_num), &before,
                  &behind))
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

#define VECTOR_LEAST 1024u /* bytes; below, a copy in the pickle is cheaper than a buffer of its own */

/* Bytes of that many items; 0 when there are none, or too many to count. */
static uint64_t vector_bytes(int nd, const Py_ssize_t *dimensions, unsigned item)
{
    uint64_t bytes = item;
    for (int i = 0; i < nd; i++)
        if (dimensions[i] < 0 || __builtin_mul_overflow(bytes, (uint64_t)dimensions[i], &bytes))
            return 0;
    return bytes;
}

/* Has the program said how arrays are pickled? */
static bool is_reduced_otherwise(struct tb_codec *codec)
{
    PyObject *type = (PyObject *)codec->numpy.array_type;
    PyObject *reducers = tb_codec_import(&codec->reducers, "copyreg", "dispatch_table");
    if (reducers == NULL || !PyDict_CheckExact(reducers) || PyDict_Contains(reducers, type) != 0)
        return true;
    PyObject *module = PyDict_GetItemString(PyImport_GetModuleDict(), "multiprocessing.reduction");
    if (module == NULL)
        return false;
    PyObject *pickler = PyObject_GetAttrString(module, "ForkingPickler");
    PyObject *extra = pickler == NULL ? NULL : PyObject_GetAttrString(pickler, "_extra_reducers");
    const bool otherwise = extra == NULL || !PyDict_CheckExact(extra) || PyDict_Contains(extra, type) != 0;
    Py_XDECREF(extra);
    Py_XDECREF(pickler);
    return otherwise;
}

/* An array that comes twice is one object, which pickle knows to keep. */
static bool is_among(PyObject *buffers, const PyObject *array)
{
    for (Py_ssize_t i = 0; buffers != NULL && i < PyList_GET_SIZE(buffers); i++) {
        const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(buffers, i));
        if (view == NULL || view->obj == array)
            return true;
    }
    return false;
}

static bool lies_in_shared_memory(const struct array_head *array, uint64_t bytes)
{
    td_hold *hold = td_hold_find(array->data, bytes);
    if (hold != NULL)
        td_hold_unref(hold);
    return hold != NULL;
}

/* Puts the array on the list. False, maybe with an exception: it could not. */
static bool add_buffer(PyObject **buffers, PyObject *array)
{
    if (*buffers == NULL)
        *buffers = PyList_New(0);
    PyObject *buffer = *buffers == NULL ? NULL : PyPickleBuffer_FromObject(array);
    const bool added = buffer != NULL && PyList_Append(*buffers, buffer) == 0;
    Py_XDECREF(buffer);
    return added;
}

/* An array of its own memory. */
static enum tb_outcome write_vector(struct tb_writer *w, PyObject *value)
{
    const struct array_head *array = (const struct array_head *)(void *)value;
    PyObject **buffers = w->sharing->buffers;
    const uint64_t bytes = vector_bytes(array->nd, array->dimensions, item_bytes(array->descr->type_num));
    if (bytes < VECTOR_LEAST || (array->flags & (FLAG_C_CONTIGUOUS | FLAG_F_CONTIGUOUS)) == 0 ||
        is_among(*buffers, value) || lies_in_shared_memory(array, bytes) ||
        is_reduced_otherwise(w->sharing->codec) || !add_buffer(buffers, value))
        return TB_NOT_COMPACT;
    if ((uint64_t)(w->end - w->at) < TB_VECTOR_HEAD + (uint64_t)array->nd * 8)
        return TB_NO_FIT;
    const bool is_fortran = (array->flags & FLAG_C_CONTIGUOUS) == 0;
    const uint8_t flags = is_fortran ? (uint8_t)TB_VECTOR_FORTRAN : 0;
    const uint8_t head[4] = {TB_VECTOR, (uint8_t)array->descr->type_num, (uint8_t)array->nd, flags};
    const uint32_t number = (uint32_t)PyList_GET_SIZE(*buffers) - 1;
    put(w, head, sizeof head);
    put(w, &number, sizeof number);
    put(w, array->dimensions, (size_t)array->nd * 8);
    return TB_WROTE;
}

enum tb_outcome tb_write_array(struct tb_writer *w, PyObject *value)
{
    if (!is_plain(w->sharing->codec, value))
        return TB_NOT_COMPACT;
    if (w->sharing->buffers != NULL)
        return write_vector(w, value);
    return write_shared(w, (const struct array_head *)(void *)value);
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

/* As tb_numpy_of, when the module, which imports NumPy, is imported; NULL with an exception. */
static const struct tb_numpy *numpy_with(struct tb_codec *codec, const char *module)
{
    PyObject *imported = PyImport_ImportModule(module);
    Py_XDECREF(imported);
    if (imported == NULL)
        return NULL;
    const struct tb_numpy *numpy = tb_numpy_of(codec);
    if (numpy == NULL)
        PyErr_SetString(PyExc_ImportError, "this NumPy lays out its arrays in a way that is not known here");
    return numpy;
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
    if (!sound || !tb_reach(nd, dimensions, strides, bytes, &before, &behind) || before > start ||
        start > share.bytes || behind > share.bytes - start) {
        tb_codec_corrupt(codec, "an array reaches beyond its memory");
        return NULL;
    }
    const struct tb_numpy *numpy = codec->shares ? tb_numpy_of(codec) : numpy_with(codec, "treadle.shared");
    if (numpy == NULL)
        return NULL;
    PyObject *base = tb_shared_open(codec, &share);
    if (base == NULL)
        return NULL;
    char *data = (char *)tb_shared_data(base) + start;
    return new_array(numpy, type_num, nd, dimensions, strides, data,
                     (flags & TB_ARRAY_WRITABLE) != 0 ? FLAG_WRITEABLE | FLAG_ALIGNED : FLAG_ALIGNED, base);
}

static void fortran_strides(int nd, const Py_ssize_t *dimensions, unsigned item, Py_ssize_t *strides)
{
    Py_ssize_t step = (Py_ssize_t)item;
    for (int i = 0; i < nd; i++) {
        strides[i] = step;
        step *= dimensions[i];
    }
}

PyObject *tb_make_vector(struct tb_codec *codec, const struct tb_item *item, PyObject *buffers)
{
    const uint8_t *at = item->data;
    const int type_num = at[0], nd = at[1];
    const unsigned bytes = item_bytes(type_num);
    uint32_t number;
    Py_ssize_t dimensions[TB_ARRAY_DIMENSIONS], strides[TB_ARRAY_DIMENSIONS];
    memcpy(&number, at + 3, sizeof number);
    memcpy(dimensions, at + TB_VECTOR_HEAD - 1, (size_t)nd * 8);
    const uint64_t total = bytes == 0 ? 0 : vector_bytes(nd, dimensions, bytes);
    if (buffers == NULL || number >= (uint64_t)PyList_GET_SIZE(buffers) || total == 0) {
        tb_codec_corrupt(codec, "an array has no buffer");
        return NULL;
    }
    PyObject *view = PyMemoryView_FromObject(PyList_GET_ITEM(buffers, number));
    if (view == NULL)
        return NULL;
    const Py_buffer *buffer = PyMemoryView_GET_BUFFER(view);
    const struct tb_numpy *numpy = tb_numpy_of(codec);
    if (numpy == NULL && (numpy = numpy_with(codec, "numpy")) == NULL)
        goto failed;
    if ((uint64_t)buffer->len != total) {
        tb_codec_corrupt(codec, "an array's buffer has another size");
        goto failed;
    }
    if ((at[2] & TB_VECTOR_FORTRAN) != 0)
        fortran_strides(nd, dimensions, bytes, strides);
    else
        (void)dense_strides(nd, dimensions, bytes, strides);
    return new_array(numpy, type_num, nd, dimensions, strides, buffer->buf,
                     buffer->readonly ? FLAG_ALIGNED : FLAG_WRITEABLE | FLAG_ALIGNED, view);
failed:
    Py_DECREF(view);
    return NULL;
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

const struct tb_numpy *tb_numpy_of(struct tb_codec *codec)
{
    if (codec->numpy.array_type != NULL)
        return &codec->numpy;
    void *const *api = codec->numpy.refused ? NULL : tb_numpy_table();
    if (api == NULL)
        return NULL;
    struct tb_numpy numpy = {.array_type = api[API_ARRAY_TYPE]};
    memcpy(&numpy.descr_from_type, &api[API_DESCR_FROM_TYPE], sizeof api[0]);
    memcpy(&numpy.new_from_descr, &api[API_NEW_FROM_DESCR], sizeof api[0]);
    memcpy(&numpy.set_base_object, &api[API_SET_BASE_OBJECT], sizeof api[0]);
    if (!looks_right(&numpy)) {
        PyErr_Clear();
        codec->numpy.refused = true;
        return NULL;
    }
    Py_INCREF(numpy.array_type);
    codec->numpy = numpy;
    return &codec->numpy;
}

static PyObject *use_numpy(PyObject *module, PyObject *noargs)
{
    (void)noargs;
    struct tb_codec *codec = tb_codec_of(module);
    codec->shares = tb_numpy_of(codec) != NULL;
    return PyBool_FromLong(codec->shares);
}

PyMethodDef tb_array_methods[] = {
    {"use_numpy", use_numpy, METH_NOARGS,
     PyDoc_STR("use_numpy()\n--\n\n"
               "From now on arrays of shared memory travel without pickle; False: not with this NumPy.")},
    {0},
};
