/* pool/held.h: which shared blocks a worker holds, as it tells its parent (held.c). */
#ifndef TD_POOL_HELD_H
#define TD_POOL_HELD_H

#include <stdint.h>

#include "memory/arena.h"
#include "ring/slot.h"

/* The worker's part of a reply: the reply_flags to be set. The list, if there is one to send, is in a block of its
 * results' arena. *told_sum: of what was told last. */
uint32_t td__tell_held(struct td_slot *slot, td_arena *results, uint64_t *told_sum);

#endif
