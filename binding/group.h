/* group.h: wait() and as_completed() for Treadle's futures. */
#ifndef TB_GROUP_H
#define TB_GROUP_H

#include "module.h"

int tb_group_init(PyObject *module, struct tb_state *state);

#endif
