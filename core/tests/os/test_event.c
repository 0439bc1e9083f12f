/* tests/os/test_event.c: bells and alarms. */
#include "os/event.h"

#include <fcntl.h>
#include <poll.h>

#include "tests/harness.h"

static bool readable(int fd, int timeout_ms)
{
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    return poll(&watched, 1, timeout_ms) == 1;
}

TD_TEST(rings_are_counted_until_drained)
{
    int fd;
    uint64_t rings = 99;
    REQUIRE_OK(td_event_new(&fd));
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(!readable(fd, 0));
    CHECK_OK(td_event_drain(fd, &rings));
    CHECK_EQ(rings, 0);
    for (int i = 0; i < 3; i++)
        CHECK_OK(td_event_ring(fd));
    CHECK(readable(fd, 0));
    CHECK_OK(td_event_drain(fd, &rings));
    CHECK_EQ(rings, 3);
    CHECK(!readable(fd, 0));
    close(fd);
}

TD_TEST(a_full_bell_counts_as_rung)
{
    int fd;
    const uint64_t full = UINT64_MAX - 1;
    REQUIRE_OK(td_event_new(&fd));
    CHECK_EQ(write(fd, &full, sizeof full), (ssize_t)sizeof full);
    CHECK_OK(td_event_ring(fd));
    CHECK(readable(fd, 0));
    close(fd);
}

TD_TEST(a_bell_works_between_processes)
{
    int fd;
    REQUIRE_OK(td_event_new(&fd));
    pid_t pid = fork();
    if (pid == 0)
        _exit(td_event_ring(fd) == TD_OK ? 0 : 1);
    CHECK(readable(fd, -1));
    CHECK_EQ(test_wait_child(pid), 0);
    close(fd);
}

TD_TEST(a_passed_deadline_rings_the_alarm)
{
    int fd;
    REQUIRE_OK(td_timer_new(&fd));
    CHECK(!readable(fd, 0));
    CHECK_OK(td_timer_set(fd, 0));
    CHECK(readable(fd, -1));
    CHECK_OK(td_timer_set(fd, td_deadline_after(TD_NS_PER_MS)));
    CHECK(readable(fd, -1));
    close(fd);
}

TD_TEST(setting_again_replaces_and_disarms)
{
    int fd;
    REQUIRE_OK(td_timer_new(&fd));
    CHECK_OK(td_timer_set(fd, 0));
    CHECK(readable(fd, -1));
    CHECK_OK(td_timer_set(fd, TD_FOREVER));
    CHECK(!readable(fd, 0));
    CHECK_OK(td_timer_set(fd, td_deadline_after(3600 * TD_NS_PER_S)));
    CHECK(!readable(fd, 0));
    close(fd);
}

TD_TEST(wrong_descriptors_are_reported)
{
    uint64_t rings;
    CHECK_STATUS(td_event_ring(-1), TD_EOS);
    CHECK_STATUS(td_event_drain(-1, &rings), TD_EOS);
    CHECK_STATUS(td_timer_set(-1, 0), TD_EOS);
}

TD_TEST_MAIN
