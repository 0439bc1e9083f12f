/* array.h: NumPy's arrays as compact values (frame.h): those of shared memory by name (TB_ARRAY), others as one of the
 * buffers of their payload (TB_VECTOR). */
#ifndef TB_ARRAY_H
#define TB_ARRAY_H

#include "compact.h"

/* What a writer does with arrays. */
struct tb_sharing {
    struct tb_codec *codec;
    struct tb_holds *holds; /* those of shared memory are named, and what is named is held */
    PyObject **buffers;     /* not NULL: the others, instead, become buffers of this list (NULL: no list yet) */
};

/* The bytes around the first item that items can be in: [first - before, first + behind). False when there is none, or
 * too many to count. */
bool tb_reach(int nd, const Py_ssize_t *dimensions, const Py_ssize_t *strides, uint64_t item, uint64_t *before,
              uint64_t *behind);

/* TB_NOT_COMPACT: it is no array, not one of numbers, does not lie where the writer wants it; or, of the others, it is
 * small, not contiguous, or somebody has said how it is pickled. */
enum tb_outcome tb_write_array(struct tb_writer *w, PyObject *value);
/* An upper bound of what that needs; 0: not compact. */
uint64_t tb_measure_array(const struct tb_sharing *sharing, PyObject *value);
PyObject *tb_make_array(struct tb_codec *codec, const struct tb_item *item);
/* Of one of the list's buffers, writable if that is. */
PyObject *tb_make_vector(struct tb_codec *codec, const struct tb_item *item, PyObject *buffers);

/* What NumPy's arrays are made with; NULL: NumPy is not loaded, or lays them out in a way that is not known here. */
const struct tb_numpy *tb_numpy_of(struct tb_codec *codec);

extern PyMethodDef tb_array_methods[];

#endif
