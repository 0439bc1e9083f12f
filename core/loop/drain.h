/* loop/drain.h: how threads wait for completions, and who does the draining meanwhile.
 *
 * There is one of this per process, over all its pools: a thread may wait for tasks of several pools at once. A pool is
 * a *source*. Draining a source takes the source's own lock, so anybody may do it at any time; what only one thread at
 * a time may do is to sleep on the bell. That right is the token:
 *
 *      free --(a waiter comes)--> held: drain, ready? spin a little, listen, look once more, sleep on the bell
 *      held --(its holder's condition came true, deadline, signal)--> handed to the next waiter, else free
 *
 * A waiter that finds the token held sleeps on a word of its own. The holder, after each drain that finished something,
 * wakes those whose condition became true. While nobody waits, completions stay in the rings, where they take no room
 * that anybody needs; the native thread (native.h) drains when more tasks wait in the parent or someone observes.
 *
 * Invariants  I1 at most one thread holds the token; it alone sleeps on the bell.
 *             I2 a waiter is in the list, or holds the token, or has returned.
 *             I3 whoever makes a condition true outside td_drain_run calls td_drain_notify afterwards.
 * Locks       `lock` is innermost: it is never held while a source's lock is taken. Conditions are called with it held,
 *             so they only read atomics.
 * Signals     A handler that only notes its signal, as Python's do, interrupts a sleep and nothing else: what comes
 *             while the thread spins or drains would be noted, and slept over. So a thread that heeds signals
 *             (td_heed_signals) goes back to its caller, who looks, before each sleep.
 * Ordering    I3 publishes with the mutex: condition true -> notify locks -> the waiter locks or is woken.
 * Fork        td_drain_forget in the child makes everything new; the parent's sources are left alone.
 * Tests       tests/loop/test_drain.c */
#ifndef TD_LOOP_DRAIN_H
#define TD_LOOP_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/status.h"
#include "ring/doorbell.h"

struct td_source {
    td_list link;
    bool (*drain)(struct td_source *source);    /* takes what is there; may a condition have come true? */
    bool (*waits)(struct td_source *source);    /* is there something to take? seq_cst, without a lock */
    bool (*may_spin)(struct td_source *source); /* is a CPU left for a waiter that spins? without a lock */
};

td_status td_drain_add_source(struct td_source *source);
void td_drain_remove_source(struct td_source *source);

/* The bell that workers of all pools ring; made with the first source, or for the first waiter. */
td_status td_drain_make_bell(void);
struct td_bell_map *td_drain_bell(void);

typedef bool td_condition(void *context);

/* Waits until ready(context), draining all sources. TD_OK, TD_ETIMEDOUT, TD_EINTR (also: look for signals, and come
 * back). A deadline of 0 drains once. */
td_status td_drain_wait_until(td_condition *ready, void *context, int64_t deadline_ns);

/* Drains all sources once. May a condition have come true? */
bool td_drain_run(void);

/* The same, and wakes whoever waited for what came. */
bool td_drain_poll(void);

/* Polls until ready(context), for at most spin_ns, and not at all where no CPU is left for it. Never sleeps: any thread
 * may, beside the token's holder. Is it ready? */
bool td_drain_spin(td_condition *ready, void *context, int64_t spin_ns);

/* Something became true by other means than draining. */
void td_drain_notify(void);

/* Does any thread wait now? It will drain; nobody else needs to. */
bool td_drain_has_waiter(void);

/* In a forked child: forget the parent's sources, waiters and bell. */
void td_drain_forget(void);

#endif
