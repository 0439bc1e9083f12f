/* memory/kin.h: whether a process that has ended left others behind that still see a heap: the workers of its pools,
 * which outlive it for a moment, and children that it forked.
 *
 * Each process that opens another's heap puts a read lock on its open file there, at the byte of its own number and of
 * those of the workers that it descends from. Such a lock belongs to the open file, which lives as long as somebody has
 * a descriptor or a mapping of it, a forked child included. */
#ifndef TD_MEMORY_KIN_H
#define TD_MEMORY_KIN_H

#include <stdbool.h>
#include <stdint.h>

#include "treadle.h"

/* Of workers in pools of workers: as deep as anybody nests them. Below that a family's end is not waited for. */
#define TD_KIN_MOST 8u

struct td_kin {
    uint32_t count;
    int32_t pids[TD_KIN_MOST]; /* from the outermost worker to this process; none: it is no worker */
};

/* This process is a worker, of a process with these kin. */
void td_kin_enter(const struct td_kin *parent);
struct td_kin td_kin_get(void);

/* Says on this open file of another's heap that this process sees it. Where the kernel has no such locks, nothing is
 * said. */
void td_kin_sign(int fd);

/* Has a process of the family of this worker, which has ended, the heap open? TD_KIN_ANY: has any? `fd`: an open file
 * of the heap, of a process that is not of the family. */
#define TD_KIN_ANY (-1)
bool td_kin_sees(int fd, int32_t pid);

#endif
