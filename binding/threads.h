/* threads.h: the queue under treadle.ThreadPoolExecutor. */
#ifndef TB_THREADS_H
#define TB_THREADS_H

#include "module.h"

/* Adds the type ThreadQueue to the module. */
int tb_threads_init(PyObject *module);

#endif
