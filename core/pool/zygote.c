/* pool/zygote.c: both ends of the channel between a pool's parent and its zygote.
 *
 *      parent (crew.c)                         zygote (Python around td_zygote_serve)
 *      BIRTH + descriptors  ---------------->  td_zygote_serve returns a birth
 *                                              fork; td_zygote_forked in both
 *                           <----------------  BORN + pidfd, or FORK_FAILED
 *                           <----------------  EXITED, once it has been reaped
 *
 * The zygote has one thread and blocks in poll on its channel and on a signalfd for SIGCHLD, which it keeps blocked;
 * its children get the mask and the disposition back that were there before. It reaps its own births by number, so that
 * children of modules it has loaded stay theirs.
 *
 * Invariants  I1 BORN is sent before its child can be reaped, so the pid in it, and its pidfd, are the child's.
 *             I2 each BIRTH gets exactly one BORN or FORK_FAILED, each BORN one EXITED, in that order.
 *             I3 the parent never blocks in a send, so the zygote may: one of them always reads.
 * Crash       zygote dies: the parent reads the end of the channel; children live on, watched by pidfd and lifeline.
 *             parent dies: the zygote reads the end of the channel and leaves, the lifelines end its children.
 * Tests       tests/pool/test_zygote.c */
#include "pool/zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/trace.h"
#include "os/channel.h"
#include "os/pidfd.h"

/* ---- The parent's end ---------------------------------------------------------------------------------------- */

/* Tries once, but for signals: a handler that runs meanwhile is no reason to give up. */
static td_status post(int channel, struct td_message *head, const int *fds)
{
    td_status status;
    do
        status = td__message_send_until(channel, head, fds, NULL, 0);
    while (status == TD_EINTR);
    return status;
}

td_status td_zygote_send_birth(int channel, const struct td_birth_order *order)
{
    struct td_message head = {
        .kind = TD_MESSAGE_BIRTH,
        .worker = order->worker,
        .context_ref = order->context_ref,
        .context_bytes = order->context_bytes,
    };
    if (order->worker >= TD_MAX_WORKERS)
        return TD_EINVAL;
    for (uint32_t i = 0; i < TD_BIRTH_FDS; i++) {
        if (order->fds[i] >= 0)
            head.fds |= 1u << i;
        else if (i < TD_BIRTH_REQUIRED)
            return TD_EINVAL;
    }
    return post(channel, &head, order->fds);
}

td_status td_zygote_send_leave(int channel)
{
    struct td_message head = {.kind = TD_MESSAGE_LEAVE};
    return post(channel, &head, NULL);
}

td_status td_zygote_receive(int channel, struct td_zygote_news *out)
{
    struct td_letter letter;
    td_status status;
    do
        status = td__message_receive_until(channel, &letter, 0);
    while (status == TD_EINTR);
    if (status != TD_OK)
        return status;
    const struct td_message *head = &letter.head;
    if (head->kind == TD_MESSAGE_BIRTH || head->kind == TD_MESSAGE_LEAVE) {
        td__letter_close(&letter);
        return TD_EPROTO;
    }
    out->event = (enum td_zygote_event)head->kind;
    out->worker = head->worker;
    out->pid = head->pid;
    out->pidfd = letter.fds[0];
    out->error = head->kind == TD_MESSAGE_FORK_FAILED ? head->value : 0;
    out->status = head->kind == TD_MESSAGE_EXITED ? head->value : 0;
    memcpy(out->reason, letter.text, sizeof out->reason);
    return TD_OK;
}

/* ---- The zygote's end ---------------------------------------------------------------------------------------- */

struct child {
    uint32_t worker;
    int32_t pid;
};

/* A process is the zygote of one pool, in one thread. */
static struct zygote {
    bool serving;
    bool leaving;
    int signal_fd;
    sigset_t mask_before;
    struct sigaction action_before;
    struct child *children; /* not reaped yet */
    size_t count, capacity;
} zygote;

/* To the parent, waiting for as long as it takes. TD_ECLOSED when it is gone. */
static td_status tell(int channel, struct td_message *head, const int *fds, const char *text)
{
    td_status status;
    do
        status = td__message_send_until(channel, head, fds, text, TD_FOREVER);
    while (status == TD_EINTR);
    return status;
}

static td_status begin(int channel)
{
    sigset_t child_signal;
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    /* Neither a handler nor SIG_IGN, under which children vanish without a status. */
    if (sigaction(SIGCHLD, &by_default, &zygote.action_before) < 0)
        return td_status_from_errno(errno);
    sigprocmask(SIG_BLOCK, &child_signal, &zygote.mask_before);
    zygote.signal_fd = signalfd(-1, &child_signal, SFD_CLOEXEC | SFD_NONBLOCK);
    if (zygote.signal_fd < 0) {
        const int error = errno;
        sigprocmask(SIG_SETMASK, &zygote.mask_before, NULL);
        sigaction(SIGCHLD, &zygote.action_before, NULL);
        errno = error;
        return td_status_from_errno(error);
    }
    zygote.serving = true;
    struct td_message head = {.kind = TD_MESSAGE_READY};
    return tell(channel, &head, NULL, NULL);
}

/* Back to what was there before begin; for the zygote when it leaves, and for a child. */
static void end(void)
{
    if (!zygote.serving)
        return;
    close(zygote.signal_fd);
    free(zygote.children);
    sigaction(SIGCHLD, &zygote.action_before, NULL);
    sigprocmask(SIG_SETMASK, &zygote.mask_before, NULL);
    memset(&zygote, 0, sizeof zygote);
}

/* Room for one more child, before it is forked. */
static bool reserve_child(void)
{
    if (zygote.count < zygote.capacity)
        return true;
    const size_t capacity = zygote.capacity == 0 ? 16 : 2 * zygote.capacity;
    struct child *children = realloc(zygote.children, capacity * sizeof *children);
    if (children == NULL)
        return false;
    zygote.children = children;
    zygote.capacity = capacity;
    return true;
}

static td_status reap(int channel)
{
    struct signalfd_siginfo ignored;
    while (read(zygote.signal_fd, &ignored, sizeof ignored) > 0)
        continue;
    for (size_t i = 0; i < zygote.count;) {
        const struct child child = zygote.children[i];
        int wait_status = -1;
        const pid_t reaped = waitpid(child.pid, &wait_status, WNOHANG);
        if (reaped == 0 || (reaped < 0 && errno != ECHILD)) {
            i++;
            continue;
        }
        zygote.children[i] = zygote.children[--zygote.count];
        TD_TRACE(EXIT, child.worker, (uint32_t)wait_status);
        struct td_message head = {
            .kind = TD_MESSAGE_EXITED, .worker = child.worker, .pid = child.pid, .value = wait_status};
        const td_status status = tell(channel, &head, NULL, NULL);
        if (status != TD_OK)
            return status;
    }
    return TD_OK;
}

static td_status report_fork_failed(int channel, uint32_t worker, int error)
{
    struct td_message head = {.kind = TD_MESSAGE_FORK_FAILED, .worker = worker, .value = error};
    return tell(channel, &head, NULL, NULL);
}

static int error_of(td_status status)
{
    switch (status) {
    case TD_ENOMEM:
        return ENOMEM;
    case TD_ENOFD:
        return EMFILE;
    case TD_EOS:
        return errno;
    default:
        return EPROTO;
    }
}

/* Takes one message. TD_OK: *out is a birth; TD_EAGAIN: go on. */
static td_status take_order(int channel, struct td_birth *out)
{
    struct td_letter letter;
    td_status status = td__message_receive_until(channel, &letter, 0);
    if (status != TD_OK)
        return status == TD_EINTR ? TD_EAGAIN : status;
    switch (letter.head.kind) {
    case TD_MESSAGE_LEAVE:
        zygote.leaving = true;
        return TD_EAGAIN;
    case TD_MESSAGE_BIRTH:
        if (!reserve_child()) {
            td__letter_close(&letter);
            status = TD_ENOMEM;
        } else {
            status = td__birth_open(&letter, out);
        }
        if (status == TD_OK)
            return TD_OK;
        status = report_fork_failed(channel, letter.head.worker, error_of(status));
        return status == TD_OK ? TD_EAGAIN : status;
    default:
        td__letter_close(&letter);
        return TD_EPROTO;
    }
}

static td_status serve(int channel, struct td_birth *out)
{
    while (!zygote.leaving || zygote.count > 0) {
        struct pollfd watched[2] = {{.fd = channel, .events = POLLIN},
                                    {.fd = zygote.signal_fd, .events = POLLIN}};
        if (poll(watched, 2, -1) < 0)
            return td_status_from_errno(errno);
        td_status status = TD_EAGAIN;
        if (watched[1].revents != 0)
            status = reap(channel) == TD_OK ? TD_EAGAIN : TD_ECLOSED;
        if (status == TD_EAGAIN && watched[0].revents != 0)
            status = take_order(channel, out);
        if (status != TD_EAGAIN)
            return status;
    }
    return TD_ECLOSED;
}

td_status td_zygote_doze(int channel)
{
    struct pollfd watched = {.fd = channel, .events = POLLIN};
    struct td_message head = {.kind = TD_MESSAGE_LEAVE};
    ssize_t got;
    do {
        (void)poll(&watched, 1, -1);
        got = recv(channel, &head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
    } while (got < 0 && (errno == EINTR || errno == EAGAIN));
    return got > 0 && head.kind != TD_MESSAGE_LEAVE ? TD_OK : TD_ECLOSED;
}

td_status td_zygote_serve(int channel, struct td_birth *out)
{
    td_status status = zygote.serving ? TD_OK : begin(channel);
    if (status == TD_OK)
        status = serve(channel, out);
    if (status != TD_OK && status != TD_EINTR)
        end();
    return status;
}

static td_status report_born(int channel, uint32_t worker, int32_t pid)
{
    int pidfd = -1;
    struct td_message head = {.kind = TD_MESSAGE_BORN, .worker = worker, .pid = pid};
    if (td_pidfd_open(pid, &pidfd) == TD_OK)
        head.fds = 1;
    td_status status = tell(channel, &head, &pidfd, NULL);
    if (status == TD_EAGAIN) { /* too many descriptors are under way: the pid alone */
        head.fds = 0;
        status = tell(channel, &head, NULL, NULL);
    }
    if (pidfd >= 0)
        close(pidfd);
    return status;
}

td_status td_zygote_forked(int channel, struct td_birth *birth, int32_t pid)
{
    if (pid == 0) {
        end();
        close(channel);
        return TD_OK;
    }
    const uint32_t worker = birth->worker;
    td_birth_fini(birth);
    if (pid < 0)
        return report_fork_failed(channel, worker, -pid);
    zygote.children[zygote.count++] = (struct child){worker, pid};
    TD_TRACE(SPAWN, worker, pid);
    return report_born(channel, worker, pid);
}

td_status td_zygote_fail(int channel, const char *reason)
{
    struct td_message head = {.kind = TD_MESSAGE_FAILED};
    return tell(channel, &head, NULL, reason);
}

/* ---- A single worker ------------------------------------------------------------------------------------------ */

td_status td_birth_receive(int channel, struct td_birth *out)
{
    struct td_letter letter;
    td_status status = td__message_receive_until(channel, &letter, TD_FOREVER);
    if (status != TD_OK)
        return status;
    if (letter.head.kind == TD_MESSAGE_LEAVE)
        return TD_ECLOSED;
    status = td__birth_open(&letter, out);
    if (status == TD_OK)
        (void)fcntl(channel, F_SETFD, FD_CLOEXEC); /* stays open: its end tells ours if there are no pidfds */
    return status;
}
