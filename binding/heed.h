/* heed.h: a signal that makes a worker leave, at whatever moment it comes. */
#ifndef TB_HEED_H
#define TB_HEED_H

#include "module.h"

/* Puts itself before Python's handler of the signal: 0, or -1 with an exception. */
int tb_heed(td_worker *worker, int number);

#endif
