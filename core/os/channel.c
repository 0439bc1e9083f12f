/* os/channel.c: messages with descriptors over SOCK_SEQPACKET.
 * Invariants  I1 a message is taken whole, with all its descriptors, or refused and all its descriptors are closed.
 *             I2 every received descriptor is close-on-exec from its first moment.
 * Crash       a side that dies mid-way has sent its message whole or not at all; the other then reads end of file.
 * Tests       tests/os/test_channel.c */
#include "os/channel.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A union, so that the buffer is aligned for the header it begins with. */
typedef union control_buffer {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(TD_CHANNEL_FDS_MAX * sizeof(int))];
} control_buffer;

td_status td_channel_new(int ends[2])
{
    int made[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, made) < 0)
        return td_status_from_errno(errno);
    ends[0] = made[0];
    ends[1] = made[1];
    return TD_OK;
}

static td_status wait_ready(int fd, short events, int64_t deadline_ns)
{
    struct pollfd watched = {.fd = fd, .events = events};
    for (;;) {
        int ready = poll(&watched, 1, td_deadline_left_ms(deadline_ns));
        if (ready > 0)
            return TD_OK;
        if (ready < 0)
            return td_status_from_errno(errno);
        if (td_deadline_left(deadline_ns) == 0)
            return TD_ETIMEDOUT;
    }
}

static td_status send_status(int error)
{
    switch (error) {
    case EMSGSIZE:
    case ENOBUFS:
        return TD_EINVAL;
    case ENOTCONN:
        return TD_ECLOSED;
    default:
        return td_status_from_errno(error);
    }
}

td_status td_channel_send_until(int fd, const void *data, size_t bytes, const int *fds, size_t fd_count,
                                int64_t deadline_ns)
{
    if (bytes == 0 || fd_count > TD_CHANNEL_FDS_MAX) /* an empty message would read as end of file */
        return TD_EINVAL;
    struct iovec part = {.iov_base = (void *)(uintptr_t)data,
                         .iov_len = bytes}; /* sendmsg doesn't write to it */
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    control_buffer control;
    if (fd_count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
    }
    for (;;) {
        if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return TD_OK;
        if (errno != EAGAIN)
            return send_status(errno);
        td_status status = wait_ready(fd, POLLOUT, deadline_ns);
        if (status != TD_OK)
            return status;
    }
}

td_status td_channel_send(int fd, const void *data, size_t bytes, const int *fds, size_t fd_count)
{
    td_status status;
    do
        status = td_channel_send_until(fd, data, bytes, fds, fd_count, TD_FOREVER);
    while (status == TD_EINTR);
    return status;
}

/* Moves the descriptors of a message into `fds`, at most *count. When there are more, or the message is `spoilt`
 * anyway, closes them all and gives false. */
static bool take_fds(struct msghdr *message, bool spoilt, int *fds, size_t *count)
{
    size_t taken = 0, found = 0, room = *count;
    int held[TD_CHANNEL_FDS_MAX];
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t many = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < many; i++, found++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            if (found < room && found < TD_CHANNEL_FDS_MAX)
                held[taken++] = fd;
            else
                close(fd);
        }
    }
    if (found > taken || spoilt) {
        while (taken > 0)
            close(held[--taken]);
        return false;
    }
    for (size_t i = 0; i < taken; i++)
        fds[i] = held[i];
    *count = taken;
    return true;
}

td_status td_channel_recv_until(int fd, void *data, size_t capacity, size_t *bytes, int *fds, size_t *fd_count,
                                int64_t deadline_ns)
{
    control_buffer control;
    struct iovec part = {.iov_base = data, .iov_len = capacity};
    struct msghdr message;
    ssize_t length;
    for (bool reset = false;;) {
        message = (struct msghdr){.msg_iov = &part,
                                  .msg_iovlen = 1,
                                  .msg_control = control.bytes,
                                  .msg_controllen = sizeof control.bytes};
        length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (length >= 0)
            break;
        if (errno == ECONNRESET && !reset) { /* it left messages of ours unread, but its own are still here */
            reset = true;
            continue;
        }
        if (errno != EAGAIN)
            return td_status_from_errno(errno);
        td_status status = wait_ready(fd, POLLIN, deadline_ns);
        if (status != TD_OK)
            return status;
    }
    if (length == 0 && message.msg_controllen == 0)
        return TD_ECLOSED;
    size_t count = fds ? *fd_count : 0;
    bool spoilt = length == 0 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    if (!take_fds(&message, spoilt, fds, &count))
        return TD_EPROTO;
    if (fd_count)
        *fd_count = count;
    *bytes = (size_t)length;
    return TD_OK;
}
