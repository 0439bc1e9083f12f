/* os/channel.h: messages with descriptors between two processes, over an unnamed SOCK_SEQPACKET pair.
 * A message arrives whole or not at all. Nothing here allocates. */
#ifndef TD_OS_CHANNEL_H
#define TD_OS_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/status.h"

#define TD_CHANNEL_FDS_MAX 16u

/* Two connected ends, close-on-exec, blocking. */
td_status td_channel_new(int ends[2]);

/* Sends one message of 1 byte or more, with copies of `fd_count` descriptors (at most TD_CHANNEL_FDS_MAX; they stay the
 * caller's). Never raises SIGPIPE.
 *   TD_ETIMEDOUT  the other side doesn't read (deadline 0: tries once)
 *   TD_EINTR      a signal was handled; nothing was sent
 *   TD_ECLOSED    the other side is closed
 *   TD_EINVAL     empty, too many descriptors, or longer than the socket's buffer
 *   TD_ENOFD      too many descriptors are under way */
td_status td_channel_send_until(int fd, const void *data, size_t bytes, const int *fds, size_t fd_count,
                                int64_t deadline_ns);

/* The same without a deadline, going on after signals. */
td_status td_channel_send(int fd, const void *data, size_t bytes, const int *fds, size_t fd_count);

/* Receives one message. *fd_count is the room in `fds` on entry and the number received on return; received
 * descriptors are the caller's and close-on-exec.
 *   TD_ECLOSED    the other side is closed and everything was read
 *   TD_EPROTO     the message is longer than `capacity`, or carries more descriptors than there is room (or than this
 *                 process may open): it is dropped and its descriptors are closed
 *   TD_ETIMEDOUT, TD_EINTR (deadline 0: tries once) */
td_status td_channel_recv_until(int fd, void *data, size_t capacity, size_t *bytes, int *fds, size_t *fd_count,
                                int64_t deadline_ns);

#endif
