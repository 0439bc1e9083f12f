/* pool/birth.h: what a new worker gets, and the messages between parent and zygote that carry it.
 *
 * One SEQPACKET channel. Every message begins with struct td_message; only FAILED is longer, by its text.
 *
 *   parent -> zygote   BIRTH        worker, context, and the descriptors below
 *                      LEAVE        no more births: leave when the last child is reaped
 *   zygote -> parent   READY        it serves
 *                      BORN         worker, pid, and the child's pidfd where there are pidfds
 *                      FORK_FAILED  worker, value = errno: no such worker, and no descriptor of it is left
 *                      EXITED       worker, pid, value = status as of waitpid(2); always after its BORN
 *                      FAILED       text: it could not start, and leaves
 *
 * A BIRTH carries all that a worker needs, so that a zygote inherits nothing but its channel. The end of the channel
 * says the rest: a zygote whose parent is gone leaves, a parent whose zygote is gone starts another.
 *
 * The messages come from another process and are checked: magic, version, kind, length, number of descriptors.
 * Tests  tests/pool/test_birth.c */
#ifndef TD_POOL_BIRTH_H
#define TD_POOL_BIRTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "treadle.h"

#define TD_MESSAGE_MAGIC 0x62647254u /* "Trdb" */
#define TD_MESSAGE_VERSION 2u
#define TD_MESSAGE_TEXT_BYTES 4096u /* of a FAILED, at most; a longer one is cut */

enum td_message_kind {
    TD_MESSAGE_BIRTH = 1,
    TD_MESSAGE_LEAVE,
    TD_MESSAGE_READY,
    TD_MESSAGE_BORN,
    TD_MESSAGE_FORK_FAILED,
    TD_MESSAGE_EXITED,
    TD_MESSAGE_FAILED,
};

/* The descriptors of a BIRTH, in this order. Those that are absent are left out: see td_message.fds. */
enum td_birth_fd {
    TD_BIRTH_SEGMENT = 0, /* the pool's shared memory */
    TD_BIRTH_ARGS,        /* the parent's arena */
    TD_BIRTH_BELL,
    TD_BIRTH_EVENT, /* the bell's eventfd */
    TD_BIRTH_LOOP,  /* the one for an event loop */
    TD_BIRTH_ARENA, /* the worker's own arena, which it will own */
    TD_BIRTH_LIFELINE,
    TD_BIRTH_REQUIRED,                  /* how many of them every worker needs */
    TD_BIRTH_STACK = TD_BIRTH_REQUIRED, /* where faulthandler writes */
    TD_BIRTH_STDIN,
    TD_BIRTH_STDOUT,
    TD_BIRTH_STDERR,
    TD_BIRTH_FDS,
};

struct td_message {
    uint32_t magic;
    uint16_t version;
    uint16_t kind;
    uint32_t worker;
    int32_t pid;
    int32_t value;
    uint32_t fds; /* bit i: the message carries descriptor i of enum td_birth_fd (BIRTH), or the pidfd (BORN) */
    uint64_t context_ref; /* a block of the parent's arena; 0: no context */
    uint64_t context_bytes;
};

/* A message as it is received, with room for its text and its descriptors (in the places of enum td_birth_fd, -1 when
 * absent; a pidfd is in place 0). */
struct td_letter {
    struct td_message head;
    char text[TD_MESSAGE_TEXT_BYTES + 1]; /* NUL-terminated */
    int fds[TD_BIRTH_FDS];
    bool fds_lost; /* the limit of open descriptors was reached: the message is here, its descriptors are not */
};

/* Sends one, with fds[i] for each i whose bit is set in head->fds; they stay the caller's. Sets magic and version.
 *   TD_EAGAIN  the channel is full, or too many descriptors are under way: later
 *   TD_ECLOSED the other side is gone */
td_status td__message_send_until(int channel, struct td_message *head, const int *fds, const char *text,
                                 int64_t deadline_ns);

/* Receives one; its descriptors are the caller's (close-on-exec).
 *   TD_EAGAIN  nothing is there before the deadline
 *   TD_EINTR   a signal was handled
 *   TD_ECLOSED the other side is gone, and all was read
 *   TD_EPROTO  not a message of this version */
td_status td__message_receive_until(int channel, struct td_letter *letter, int64_t deadline_ns);
void td__letter_close(struct td_letter *letter); /* closes descriptors not taken (set to -1) */

/* Makes a birth of a BIRTH: takes the letter's descriptors, and copies the context out of the parent's arena.
 * TD_EPROTO, TD_ENOFD (they were lost), TD_ENOMEM, TD_EOS (errno); the letter is closed then. */
td_status td__birth_open(struct td_letter *letter, struct td_birth *out);
/* Closes what is left of a birth and frees its context. Fields already taken over are -1. */
void td_birth_fini(struct td_birth *birth);

#endif
