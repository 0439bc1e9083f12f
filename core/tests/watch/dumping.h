/* tests/watch/dumping.h: a handler that writes a stack, as a language's would: a text with the thread's number. */
#ifndef TD_TESTS_WATCH_DUMPING_H
#define TD_TESTS_WATCH_DUMPING_H

#include <fcntl.h>
#include <sys/syscall.h>

#include "os/event.h"
#include "tests/harness.h"
#include "watch/dump.h"

static int dump_fds[2] = {-1, -1}, dump_bell = -1;
static size_t dump_padding; /* bytes of text before the number */

TEST_UNUSED static int32_t own_tid(void)
{
    return (int32_t)syscall(SYS_gettid);
}

TEST_UNUSED static void write_dump(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    const int saved = errno;
    struct td_dump_mark mark = {.mark = TD_DUMP_MARK, .holds_gil = 1, .tid = own_tid()};
    char text[32];
    for (size_t i = 0; i < dump_padding; i++)
        CHECK_EQ(write(dump_fds[1], "-", 1), 1);
    const int length = snprintf(text, sizeof text, "thread %d", mark.tid);
    CHECK_EQ(write(dump_fds[1], text, (size_t)length), length);
    CHECK_EQ(write(dump_fds[1], &mark, sizeof mark), (ssize_t)sizeof mark);
    CHECK_OK(td_event_ring(dump_bell));
    errno = saved;
}

/* Opens the pipe and its bell, and installs the handler of SIGRTMIN; then td_dump_use or td_watch_use_dumps tells of
 * it. */
TEST_UNUSED static void open_dumps(void)
{
    struct sigaction action = {.sa_sigaction = write_dump, .sa_flags = SA_SIGINFO | SA_RESTART};
    REQUIRE_EQ(pipe2(dump_fds, O_CLOEXEC), 0);
    REQUIRE_EQ(td_event_new(&dump_bell), TD_OK);
    REQUIRE_EQ(fcntl(dump_fds[0], F_SETFL, O_NONBLOCK), 0);
    (void)fcntl(dump_fds[1], F_SETPIPE_SZ, 1 << 18);
    REQUIRE_EQ(sigaction(SIGRTMIN, &action, NULL), 0);
}

TEST_UNUSED static void close_dumps(void)
{
    signal(SIGRTMIN, SIG_IGN);
    close(dump_fds[0]);
    close(dump_fds[1]);
    close(dump_bell);
}

#endif
