/* loop/native.h: the one C thread of the process that looks after all pools.
 *
 * It sleeps in epoll on the descriptors that pools watch (zygote channels, pidfds), on the bell's eventfd and on its
 * own, until the next deadline. Whatever wakes it, it empties the events and then asks every *keeper* (a pool) to see
 * to its affairs; a keeper looks at its own descriptors itself, without blocking, and answers when it wants to be asked
 * again. It blocks all signals and never touches Python. It starts with the first keeper and ends after the last.
 *
 * Invariants  I1 keep() and ended() run on the native thread only, without any lock held, so that a pool's end needs no
 *                handshake: only the native thread removes a keeper.
 *             I2 a watched descriptor that is ready was seen to, or unwatched, when keep() returns (epoll is
 *                level-triggered: else the thread would spin).
 *             I3 who rings an event after a keeper was asked makes the thread ask that keeper again.
 * Fork        td_native_forget in the child: the thread is the parent's.
 * Tests       tests/loop/test_native.c */
#ifndef TD_LOOP_NATIVE_H
#define TD_LOOP_NATIVE_H

#include <stdint.h>

#include "base/list.h"
#include "base/status.h"

#define TD_KEEP_END INT64_MIN

struct td_keeper {
    td_list link;
    int64_t (*keep)(struct td_keeper *keeper); /* the next deadline, or TD_KEEP_END to be removed */
    void (*ended)(struct td_keeper *keeper);   /* called once after the removal; may free it */
};

/* Any thread. TD_ENOFD, TD_ENOMEM, TD_ETHREAD. */
td_status td_native_add(struct td_keeper *keeper);

/* Any thread; fd must be watched at most once, and unwatched before it is closed. */
td_status td_native_watch(int fd);
/* The same for an eventfd that concerns all keepers: it is emptied here, before they are asked. One of them could not:
 * what rings while they are asked would be news to those behind it only. */
td_status td_native_watch_event(int fd);
void td_native_unwatch(int fd);

/* Any thread: ask all keepers soon (a deadline came nearer, something was closed). */
void td_native_wake(void);

/* Waits until the thread has ended, after its last keeper, and closes what it polled with. For tests that count what is
 * open: nobody may add a keeper, or wake, at the same time. */
void td_native_end(void);

/* In a forked child. */
void td_native_forget(void);

#endif
