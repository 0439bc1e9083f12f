/* os/placement.h: where the scheduler puts the calling thread, and a say in it. All of it is advice: where the kernel
 * refuses, nothing happens. */
#ifndef TD_OS_PLACEMENT_H
#define TD_OS_PLACEMENT_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The CPU that the calling thread runs on; -1 where that can't be told. A few nanoseconds. */
int td_cpu_current(void);

/* Moves the calling thread to another CPU of its affinity mask, which is afterwards as it was. False: there is none.
 * Takes about 10 us. */
bool td_cpu_leave(void);

/* Lets a thread (0: the calling one) run on these CPUs, but for one of them (-1: none), unless it is the only one. */
void td_cpus_confine(pid_t thread, const cpu_set_t *cpus, int without);

/* From now on, being woken does not interrupt what runs on the CPU (SCHED_BATCH; what the thread starts inherits it).
 * Another policy than the default one is the user's choice and stays. */
void td_thread_wake_gently(void);

/* The length of the turns that the calling thread asks the scheduler for; what the thread starts inherits it. Gives
 * back the length before. One with short turns is let in soon when it is woken: what computes there has asked for
 * longer ones. From Linux 6.12 on; 0 and nothing done before that, and under another policy than the default one. */
int64_t td_thread_ask_turns(int64_t turn_ns);
#define TD_TURN_SHORTEST_NS INT64_C(100000) /* less is not given */

#endif
