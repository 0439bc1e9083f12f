/* watch/watch.h: event loops that are watched by the native thread, and the news of those that are stuck.
 *
 * A loop tells of its turns (beat.h), or it is *asked*: where nothing of ours runs at each turn, the native thread
 * rings an eventfd that the loop waits for like any other descriptor, and what the loop then calls answers. A turn of
 * such a loop, as seen from here, is the time that the question waits. It is asked at short intervals, but not while
 * its thread sleeps in the epoll_wait in which it was found before when it answered.
 *
 * Once a turn has lasted for the threshold, the native thread sees what the loop's thread does (thread.h), has it write
 * its stack (dump.h), and puts that into a queue, from which one thread takes it that may wait for what it likes.
 *
 * Invariants  I1 what is stuck makes news once, then again at doubling intervals, then once when it is over. The last
 *                news of a watch is that it has ended.
 *             I2 a watch lives until its owner has released it, the native thread has let go of it, and no news names
 *             it.
 * Locks       `lock` is innermost, but for dump.c's.
 * Fork        in the child no loop is watched; beats may go on, and nobody looks.
 * Tests       tests/watch/test_watch.c */
#ifndef TD_WATCH_WATCH_H
#define TD_WATCH_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/status.h"
#include "watch/beat.h"
#include "watch/dump.h"
#include "watch/thread.h"

typedef struct td_watch td_watch;

enum td_watch_what { TD_WATCH_STUCK, TD_WATCH_STILL, TD_WATCH_OVER, TD_WATCH_ENDED };

struct td_watch_news {
    td_list link;
    td_watch *watch; /* a reference */
    enum td_watch_what what;
    uint64_t turn;
    int64_t lasted_ns; /* until now; OVER: in all */
    /* Of STUCK and STILL: */
    enum td_doing doing;
    uint32_t cpu_share; /* thousandths of a CPU that the thread had in this turn */
    char state;
    int64_t syscall; /* -1: none */
    int holds_gil;   /* 1, 0, -1: not known */
    size_t bytes;
    char text[]; /* the stack; empty: it was not to be had */
};

struct td_watch_options {
    int64_t threshold_ns;
    bool asked;
    /* Called once by the native thread if the news of a stuck turn was not taken when it is due for the third time. It
     * must neither block nor call anything here. May be NULL. */
    void (*urgent)(void *context, const struct td_watch_news *news);
    /* Called by the native thread, under the same rules, when a turn is stuck and its news is in the queue; never once
     * td_watch_news_close has closed that. May be NULL. */
    void (*came)(void *context);
    void *context;
};

/* Watches the calling thread's loop, from its next turn on. TD_ENOMEM, TD_ENOFD, TD_ETHREAD. */
td_status td_watch_new(const struct td_watch_options *options, td_watch **watch);
/* Any thread: ends the watch. Its descriptors are closed when td_watch_join returns, which waits for nothing but the
 * native thread. */
void td_watch_close(td_watch *watch);
void td_watch_join(td_watch *watch);
void td_watch_unref(td_watch *watch);

/* The loop's thread: it is about to wait; a turn begins. */
void td_watch_rest(td_watch *watch);
void td_watch_turn(td_watch *watch);
/* Of an asked loop: what it waits for, and what it calls then. */
int td_watch_question(const td_watch *watch);
void td_watch_answer(td_watch *watch);

/* The turn that goes on, 0 where the loop waits; how often the native thread has looked. Any thread. */
uint64_t td_watch_now(td_watch *watch);
uint64_t td_watch_looks(td_watch *watch);
void *td_watch_context(const td_watch *watch);

/* Waits for news, to be freed: TD_OK, or TD_ECLOSED. */
td_status td_watch_next(struct td_watch_news **news);
void td_watch_news_free(struct td_watch_news *news);
/* Has td_watch_next give TD_ECLOSED once the queue is empty; or no longer. */
void td_watch_news_close(bool closed);

/* td_dump_use, for as long as there is a watch. The handler rings the bell, an eventfd, when the pipe has a stack and
 * its mark; with a signal of 0 nobody listens to the one before any longer. */
td_status td_watch_use_dumps(int signal, td_dump_handler *handler, int read_fd, int bell);

#endif
