/* watchdog.h: event loops watched by the native thread, as Python sees them. */
#ifndef TB_WATCHDOG_H
#define TB_WATCHDOG_H

#include "module.h"

/* Adds LoopWatch and its functions to the module. */
int tb_watchdog_init(PyObject *module);

/* Async-signal-safe as far as faulthandler is, whose handler of the signal `dump` is (trampoline.c). */
void tb_dump_over_trampoline(void (*dump)(int), int number);

#endif
