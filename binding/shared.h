/* shared.h: shared blocks as Python objects, and the holds that travel beside a payload. */
#ifndef TB_SHARED_H
#define TB_SHARED_H

#include "codec.h"

extern PyType_Spec tb_shared_spec;
extern PyMethodDef tb_shared_methods[], tb_allocator_methods[];

/* Adds a reference to the hold of each SharedBlock of the list (NULL: none). 0, or -1 with an exception and nothing
 * added. */
int tb_holds_add(const struct tb_codec *codec, struct tb_holds *holds, PyObject *blocks);
/* Takes over the hold. 0, or -1 with an exception, and the hold is let go. */
int tb_holds_push(struct tb_holds *holds, td_hold *hold);
/* Lets go of all but the first `count`. */
void tb_holds_cut(struct tb_holds *holds, size_t count);
void tb_holds_fini(struct tb_holds *holds);

/* A hold as a new SharedBlock, which takes it over; NULL with an exception, and it is let go. */
PyObject *tb_shared_of(struct tb_codec *codec, td_hold *hold);
/* A SharedBlock's hold, borrowed; NULL with an exception: it is none. */
td_hold *tb_shared_hold(const struct tb_codec *codec, PyObject *block);
/* The named block as a new SharedBlock; NULL with an exception. */
PyObject *tb_shared_open(struct tb_codec *codec, const struct td_share *share);
void *tb_shared_data(PyObject *block);

#endif
