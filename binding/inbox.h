/* inbox.h: where completed tasks are handed to an event loop: one inbox for each, used by its thread alone.
 *
 * The loop polls the inbox's descriptor (binding/inbox.c); what a task's outcome is handed to is a call (call.h). */
#ifndef TB_INBOX_H
#define TB_INBOX_H

#include "module.h"

struct tb_call;

struct tb_inbox {
    PyObject_HEAD struct tb_state *state;
    PyObject *weak_references;
    struct tb_inbox *next; /* in the module's list */
    td_group *group;       /* NULL: closed */
    struct tb_call *calls; /* not delivered yet, newest first; the list holds a reference on each */
    PyObject *loop;        /* asyncio's, or None: somebody else's, who calls ring() himself */
    PyObject *keeper;      /* what closes the inbox when the loop shuts down, kept here */
    unsigned long thread;
    int fd;
    bool turning;          /* the loop will call settle() */
    int64_t turn_ns;       /* since then */
    const PyObject *hasty; /* the task that may spin in this turn; only compared */
};

int tb_inbox_init(PyObject *module, struct tb_state *state);

/* The running loop's, made when there is none yet: a new reference, or NULL with an exception (no loop runs). */
struct tb_inbox *tb_inbox_here(struct tb_state *state);
/* Is this its thread, in a process that is not a fork? */
bool tb_inbox_is_here(const struct tb_inbox *inbox);
/* Something is to be heard of: the loop will call settle() at its next turn. 0 or -1. */
int tb_inbox_turn(struct tb_inbox *inbox);

#endif
