/* info.h: what `treadle doctor` shows of the engine. */
#ifndef TB_INFO_H
#define TB_INFO_H

#include <Python.h>

/* Adds options(), budget() and now_ns() to the module. */
int tb_info_init(PyObject *module);

#endif
