/* memory/heap.h: what the engine itself does with shared blocks; treadle.h has the rest.
 *
 * A worker tells its parent, with a reply, which blocks of others it still holds, and the parent holds them in its
 * place until it hears otherwise, or the worker is dead, and whoever saw the blocks through it. */
#ifndef TD_MEMORY_HEAP_H
#define TD_MEMORY_HEAP_H

#include <stdint.h>

#include "base/status.h"
#include "treadle.h"

/* One foreign block that a process holds, as it tells so. */
struct td_held {
    uint64_t heap, ref;
};

/* A number for the set of foreign blocks that are held here: the same as long as, and whenever, that is the same (two
 * sets share one by a chance of 2^-63). 0: none. */
uint64_t td_heap_foreign_sum(void);
/* Writes up to `cap` of them; returns how many there are, and the sum of those. */
uint64_t td_heap_list(struct td_held *out, uint64_t cap, uint64_t *sum);
/* The hold on a block that another process tells of, with a new reference; NULL: not held here. */
td_hold *td_heap_find(const struct td_held *held);

/* A worker is dead: what it held of these is held on, as long as others of its family see it. The holds stay the
 * caller's. TD_KIN_ANY (kin.h): it is not known which worker. */
void td_heap_mourn(int32_t pid, td_hold *const *holds, uint64_t count);

/* Blocks as an allocator has them, by the address of their first byte; whoever took one holds it until it gives it.
 * NULL: there is no room. Any thread. In a forked child also those that it was born with, which the parent goes on
 * sharing with it, and which it can give without harm. */
void *td_heap_take(uint64_t bytes, bool zeros);
void td_heap_give(void *data);
/* 0: no block starts there. */
uint64_t td_heap_capacity(const void *data);

/* Gives back what the heap keeps warm, if nobody has used it for a second; all of it, if nothing is held. Looks after
 * the mourned. Ask again at the time returned, or when woken. */
int64_t td_heap_keep(int64_t now_ns);

/* Before the first fork handler of anything whose lock is held while these functions are called. `wake` is called, by
 * any thread, when td_heap_keep has something to look at again. */
void td_heap_init(void (*wake)(void));
/* In a forked child: what was the process's own heap is its parent's from here on. */
void td_heap_after_fork_child(void);

#endif
