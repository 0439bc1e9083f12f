/* tests/os/test_pidfd.c: opening, signalling, waiting. */
#include "os/pidfd.h"

#include <fcntl.h>

#include "base/clock.h"
#include "base/option.h"
#include "tests/harness.h"

static pid_t sleeping_child(void)
{
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    return pid;
}

static int open_or_skip(pid_t pid)
{
    int pidfd = -1;
    td_status status = td_pidfd_open(pid, &pidfd);
    if (status == TD_ENOSYS) {
        kill(pid, SIGKILL);
        test_wait_child(pid);
        SKIP("the kernel refuses pidfds");
    }
    REQUIRE_OK(status);
    return pidfd;
}

TD_TEST(a_living_process_has_not_exited)
{
    pid_t pid = sleeping_child();
    int pidfd = open_or_skip(pid);
    CHECK(fcntl(pidfd, F_GETFD) & FD_CLOEXEC);
    CHECK_STATUS(td_pidfd_wait_until(pidfd, 0), TD_ETIMEDOUT);
    CHECK_OK(td_pidfd_signal(pidfd, SIGKILL));
    CHECK_EQ(test_wait_child(pid), -SIGKILL);
    close(pidfd);
}

TD_TEST(an_exit_is_seen_before_and_after_reaping)
{
    pid_t pid = sleeping_child();
    int pidfd = open_or_skip(pid);
    CHECK_OK(td_pidfd_signal(pidfd, SIGTERM));
    CHECK_OK(td_pidfd_wait_until(pidfd, TD_FOREVER));
    CHECK_EQ(test_wait_child(pid), -SIGTERM);
    CHECK_OK(td_pidfd_wait_until(pidfd, 0));
    CHECK_STATUS(td_pidfd_signal(pidfd, SIGTERM), TD_ECLOSED);
    close(pidfd);
}

TD_TEST(reaping_tells_how_it_ended)
{
    for (int how = 0; how < 2; how++) {
        const pid_t pid = fork();
        if (pid == 0) {
            if (how == 0)
                _exit(200);
            for (;;)
                pause();
        }
        const int pidfd = open_or_skip(pid);
        int status, again;
        if (how == 1)
            CHECK_OK(td_pidfd_signal(pidfd, SIGTERM));
        const td_status reaped = td_pidfd_reap(pidfd, &status);
        if (reaped == TD_ENOSYS) {
            kill(pid, SIGKILL);
            test_wait_child(pid);
            SKIP("the kernel can't wait for a pidfd");
        }
        REQUIRE_OK(reaped);
        CHECK(how == 0 ? WIFEXITED(status) && WEXITSTATUS(status) == 200
                       : WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
        CHECK_STATUS(td_pidfd_reap(pidfd, &again), TD_ECLOSED);
        close(pidfd);
    }
}

TD_TEST(a_reaped_pid_can_not_be_opened)
{
    int pidfd = -7;
    pid_t pid = fork();
    if (pid == 0)
        _exit(3);
    CHECK_EQ(test_wait_child(pid), 3);
    td_status status = td_pidfd_open(pid, &pidfd);
    if (status == TD_ENOSYS)
        SKIP("the kernel refuses pidfds");
    CHECK_STATUS(status, TD_ECLOSED);
    CHECK_EQ(pidfd, -7);
}

TD_TEST(a_refusal_is_told_apart)
{
    int pidfd = -7;
    setenv("TREADLE_NO_PIDFD", "1", 1);
    td_options_reload();
    CHECK_STATUS(td_pidfd_open(getpid(), &pidfd), TD_ENOSYS);
    CHECK_EQ(pidfd, -7);
}

TD_TEST_MAIN
