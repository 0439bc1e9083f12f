/* array.h: NumPy's arrays of shared memory as compact values (frame.h, TB_ARRAY). */
#ifndef TB_ARRAY_H
#define TB_ARRAY_H

#include "compact.h"

/* Where arrays of shared memory may be named: what is named is held. */
struct tb_sharing {
    const struct tb_codec *codec;
    struct tb_holds *holds;
};

/* TB_NOT_COMPACT: it is no array, not one of numbers, or does not lie in shared memory. */
enum tb_outcome tb_write_array(struct tb_writer *w, PyObject *value);
/* An upper bound of what that needs; 0: not compact. */
uint64_t tb_measure_array(const struct tb_sharing *sharing, PyObject *value);
PyObject *tb_make_array(struct tb_codec *codec, const struct tb_item *item);

extern PyMethodDef tb_array_methods[];

#endif
