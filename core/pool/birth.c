/* pool/birth.c: the messages between parent and zygote, and a birth made of one; see birth.h.
 * Invariants  I1 a received descriptor is in its place of td_letter.fds, or closed.
 * Crash       a message arrives whole or not at all (os/channel.h); the descriptors of one that nobody reads are closed
 *             by the kernel.
 * Tests       tests/pool/test_birth.c */
#include "pool/birth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/arena.h"
#include "os/channel.h"
#include "os/memfd.h"

_Static_assert(sizeof(struct td_message) == 40, "the layout is fixed");
_Static_assert(TD_BIRTH_FDS <= TD_CHANNEL_FDS_MAX, "a birth fits one message");

#define REQUIRED_FDS ((1u << TD_BIRTH_REQUIRED) - 1)

static uint32_t count_bits(uint32_t bits)
{
    return (uint32_t)__builtin_popcount(bits);
}

td_status td__message_send_until(int channel, struct td_message *head, const int *fds, const char *text,
                                 int64_t deadline_ns)
{
    head->magic = TD_MESSAGE_MAGIC;
    head->version = TD_MESSAGE_VERSION;
    int packed[TD_BIRTH_FDS];
    size_t fd_count = 0;
    for (uint32_t i = 0; i < TD_BIRTH_FDS; i++)
        if ((head->fds >> i & 1) != 0)
            packed[fd_count++] = fds[i];
    char buffer[sizeof *head + TD_MESSAGE_TEXT_BYTES];
    const size_t text_bytes = text != NULL ? strnlen(text, TD_MESSAGE_TEXT_BYTES) : 0;
    memcpy(buffer, head, sizeof *head);
    if (text_bytes > 0)
        memcpy(buffer + sizeof *head, text, text_bytes);
    const td_status status =
        td_channel_send_until(channel, buffer, sizeof *head + text_bytes, packed, fd_count, deadline_ns);
    return status == TD_ETIMEDOUT || status == TD_ENOFD ? TD_EAGAIN : status;
}

static bool is_message(const struct td_message *head, size_t bytes)
{
    if (head->magic != TD_MESSAGE_MAGIC || head->version != TD_MESSAGE_VERSION)
        return false;
    if (head->worker >= TD_MAX_WORKERS || head->fds >> TD_BIRTH_FDS != 0)
        return false;
    switch (head->kind) {
    case TD_MESSAGE_BIRTH:
        return bytes == sizeof *head && (head->fds & REQUIRED_FDS) == REQUIRED_FDS;
    case TD_MESSAGE_BORN:
        return bytes == sizeof *head && head->pid > 0 && head->fds <= 1;
    case TD_MESSAGE_EXITED:
        return bytes == sizeof *head && head->pid > 0 && head->fds == 0;
    case TD_MESSAGE_LEAVE:
    case TD_MESSAGE_READY:
    case TD_MESSAGE_FORK_FAILED:
        return bytes == sizeof *head && head->fds == 0;
    case TD_MESSAGE_FAILED:
        return bytes >= sizeof *head && head->fds == 0;
    default:
        return false;
    }
}

td_status td__message_receive_until(int channel, struct td_letter *letter, int64_t deadline_ns)
{
    char buffer[sizeof letter->head + TD_MESSAGE_TEXT_BYTES];
    int packed[TD_BIRTH_FDS];
    size_t bytes = 0, fd_count = TD_BIRTH_FDS;
    memset(buffer, 0, sizeof letter->head);
    const td_status status =
        td_channel_recv_until(channel, buffer, sizeof buffer, &bytes, packed, &fd_count, deadline_ns);
    if (status == TD_ETIMEDOUT)
        return TD_EAGAIN;
    if (status != TD_OK && status != TD_EPROTO)
        return status;
    struct td_message head;
    memcpy(&head, buffer, sizeof head);
    letter->fds_lost = status == TD_EPROTO;
    if (letter->fds_lost) {
        /* This process may open no more descriptors. The bytes are here all the same, and only messages that carry
         * descriptors, of fixed length, come this way. */
        bytes = sizeof head;
        fd_count = 0;
    }
    const uint32_t expected = letter->fds_lost ? 0 : count_bits(head.fds);
    if (!is_message(&head, bytes) || expected != fd_count || (letter->fds_lost && head.fds == 0)) {
        while (fd_count > 0)
            close(packed[--fd_count]);
        return TD_EPROTO;
    }
    letter->head = head;
    memcpy(letter->text, buffer + sizeof head, bytes - sizeof head);
    letter->text[bytes - sizeof head] = '\0';
    size_t next = 0;
    for (uint32_t i = 0; i < TD_BIRTH_FDS; i++)
        letter->fds[i] = fd_count > 0 && (head.fds >> i & 1) != 0 ? packed[next++] : -1;
    return TD_OK;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void td__letter_close(struct td_letter *letter)
{
    for (uint32_t i = 0; i < TD_BIRTH_FDS; i++)
        close_fd(&letter->fds[i]);
}

/* ---- The context --------------------------------------------------------------------------------------------- */

/* Reads it out of the arena's file: no need to map a terabyte for a few kilobytes. */
static td_status read_context(int fd, uint64_t ref, uint64_t bytes, void **out)
{
    const uint64_t offset = td_ref_offset(ref);
    uint64_t size;
    td_status status = td_memfd_size(fd, &size);
    if (status != TD_OK)
        return status;
    if (offset > size || bytes > size - offset)
        return TD_EPROTO;
    char *context = malloc(bytes > 0 ? bytes : 1);
    if (context == NULL)
        return TD_ENOMEM;
    for (uint64_t done = 0; done < bytes;) {
        const ssize_t got = pread(fd, context + done, bytes - done, (off_t)(offset + done));
        if (got > 0) {
            done += (uint64_t)got;
        } else if (got == 0 || errno != EINTR) {
            status = got == 0 ? TD_EPROTO : td_status_from_errno(errno);
            free(context);
            return status;
        }
    }
    *out = context;
    return TD_OK;
}

td_status td__birth_open(struct td_letter *letter, struct td_birth *out)
{
    void *context = NULL;
    td_status status = TD_OK;
    if (letter->head.kind != TD_MESSAGE_BIRTH)
        status = TD_EPROTO;
    else if (letter->fds_lost)
        status = TD_ENOFD;
    else if (letter->head.context_ref != 0)
        status = read_context(letter->fds[TD_BIRTH_ARGS], letter->head.context_ref, letter->head.context_bytes,
                              &context);
    if (status != TD_OK) {
        const int saved = errno;
        td__letter_close(letter);
        errno = saved;
        return status;
    }
    const int *fds = letter->fds;
    *out = (struct td_birth){
        .worker = letter->head.worker,
        .arena_fd = fds[TD_BIRTH_ARENA],
        .lifeline_fd = fds[TD_BIRTH_LIFELINE],
        .control_fd = fds[TD_BIRTH_SEGMENT],
        .args_fd = fds[TD_BIRTH_ARGS],
        .bell_fd = fds[TD_BIRTH_BELL],
        .event_fd = fds[TD_BIRTH_EVENT],
        .loop_fd = fds[TD_BIRTH_LOOP],
        .stack_fd = fds[TD_BIRTH_STACK],
        .stdio_fds = {fds[TD_BIRTH_STDIN], fds[TD_BIRTH_STDOUT], fds[TD_BIRTH_STDERR]},
        .context = context,
        .context_bytes = context != NULL ? letter->head.context_bytes : 0,
    };
    return TD_OK;
}

void td_birth_fini(struct td_birth *birth)
{
    int *const fds[] = {&birth->arena_fd,     &birth->lifeline_fd,  &birth->control_fd,  &birth->args_fd,
                        &birth->bell_fd,      &birth->event_fd,     &birth->loop_fd,     &birth->stack_fd,
                        &birth->stdio_fds[0], &birth->stdio_fds[1], &birth->stdio_fds[2]};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        close_fd(fds[i]);
    free((void *)(uintptr_t)birth->context); /* malloc'ed by td__birth_open; const is for its readers */
    birth->context = NULL;
    birth->context_bytes = 0;
}
