/* named.h: shared memory with a name. */
#ifndef TB_NAMED_H
#define TB_NAMED_H

#include "module.h"

/* Adds Segment and what makes segments to the module. */
int tb_named_init(PyObject *module, struct tb_state *state);

#endif
