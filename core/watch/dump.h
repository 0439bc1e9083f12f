/* watch/dump.h: the stack of a thread that does not answer, written by that thread itself from a signal's handler.
 *
 * Whoever knows the thread's language brings the signal, its handler, and a pipe into which the handler writes the
 * stack as text and then a mark. The native thread sends the signal to one thread at a time, and reads when it hears
 * that the mark is there: a handler writes word by word, and each would wake whoever waits for the pipe itself. A stack
 * that never comes (the thread blocks the signal) is given up on; what comes of it later has another thread's
 * number, or nobody who wants it.
 * Invariants  I1 the signal is sent only while its handler is the one that was brought: any other program would be
 *                ended by it.
 *             I2 a text is given out only whole, up to the mark of the thread that was asked.
 * Signals     the handler interrupts what the thread does. With SA_RESTART most system calls go on by themselves.
 * Tests       tests/watch/test_dump.c */
#ifndef TD_WATCH_DUMP_H
#define TD_WATCH_DUMP_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

#define TD_DUMP_MARK '\1' /* occurs in no text */
#define TD_DUMP_TEXT_MOST ((size_t)60000)

/* What the handler writes behind the text, with one write(2). */
struct td_dump_mark {
    char mark; /* TD_DUMP_MARK */
    char holds_gil;
    char unused[2];
    int32_t tid;
};

typedef void td_dump_handler(int signal, siginfo_t *info, void *context);

/* Any thread: from here on stacks can be asked for, until the next call; a signal of 0: no more. The descriptor is the
 * pipe's end to read from, and does not block. */
void td_dump_use(int signal, td_dump_handler *handler, int read_fd);

/* ---- The native thread ---- */

/* Asks for a thread's stack. TD_EAGAIN: another one's is under way. TD_ENOSYS: there is no signal. */
td_status td_dump_ask(pid_t tid);
/* Reads what is there: TD_OK with the stack that was asked for, whose text is valid until the next call here, or
 * TD_EAGAIN. */
td_status td_dump_take(pid_t tid, const char **text, size_t *bytes, int *holds_gil);
/* Gives up on it. */
void td_dump_forget(pid_t tid);

/* In a forked child: no signal, no pipe; the lock is new. */
void td_dump_after_fork_child(void);

#endif
