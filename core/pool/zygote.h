/* pool/zygote.h: both ends of the channel between a pool's parent and its zygote; the zygote's own calls,
 * td_zygote_serve and its siblings, are in treadle.h. The messages are in birth.h.
 *
 * The parent's side never blocks and keeps no state: the crew (crew.c) knows what it ordered. */
#ifndef TD_POOL_ZYGOTE_H
#define TD_POOL_ZYGOTE_H

#include <stdint.h>

#include "pool/birth.h"

/* An order for one worker. All descriptors stay the parent's; -1 in fds for what is absent (only those from
 * TD_BIRTH_REQUIRED on may be). The context's block must stay until the answer, BORN or FORK_FAILED, is here. */
struct td_birth_order {
    uint32_t worker;
    uint64_t context_ref; /* a block of the parent's arena; 0: none */
    uint64_t context_bytes;
    int fds[TD_BIRTH_FDS];
};

/* To a zygote, or to a single worker (TD_START_SINGLE).
 *   TD_EAGAIN   not now: wait until the channel can be written, or until an answer to an earlier order is here. (Each
 *               order under way counts TD_BIRTH_FDS descriptors against the user's limit: keep a few at most.)
 *   TD_ECLOSED  the other side is gone
 *   TD_EINVAL   a required descriptor is absent */
td_status td_zygote_send_birth(int channel, const struct td_birth_order *order);

/* No more births will be ordered: the zygote leaves once it has reaped its last child and said so. TD_EAGAIN,
 * TD_ECLOSED. To have it leave at once, close the channel. */
td_status td_zygote_send_leave(int channel);

enum td_zygote_event {
    TD_ZYGOTE_READY = TD_MESSAGE_READY,
    TD_ZYGOTE_BORN = TD_MESSAGE_BORN,               /* worker, pid, pidfd */
    TD_ZYGOTE_FORK_FAILED = TD_MESSAGE_FORK_FAILED, /* worker, error */
    TD_ZYGOTE_EXITED = TD_MESSAGE_EXITED, /* worker, pid, status; it is reaped: its pid may be another's */
    TD_ZYGOTE_FAILED = TD_MESSAGE_FAILED, /* reason */
};

struct td_zygote_news {
    enum td_zygote_event event;
    uint32_t worker; /* as the zygote says: check it against the books, and pid too */
    int32_t pid;
    int pidfd;  /* BORN: the caller's from here on; -1 where pidfds are refused or descriptors ran out */
    int error;  /* FORK_FAILED: errno */
    int status; /* EXITED: as of waitpid(2); -1: not known, somebody else reaped it */
    char reason[TD_MESSAGE_TEXT_BYTES + 1];
};

/* The next news, without waiting.
 *   TD_EAGAIN   none
 *   TD_ECLOSED  the zygote is gone and all its news were read
 *   TD_EPROTO   it talks nonsense: treat it as gone */
td_status td_zygote_receive(int channel, struct td_zygote_news *out);

#endif
