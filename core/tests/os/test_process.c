/* tests/os/test_process.c: what a started program gets, and how a lifeline ends it. */
#include "os/process.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "os/pidfd.h"
#include "tests/harness.h"

/* Runs a shell script with `fds` and gives its exit code. */
static int run_shell(const char *script, const td_fd_map *fds, size_t fd_count, char *const *envp,
                     const char *cwd)
{
    char *const argv[] = {(char *)"sh", (char *)"-c", (char *)(uintptr_t)script, NULL};
    td_spawn spawn = {
        .program = "sh", .argv = argv, .envp = envp, .cwd = cwd, .fds = fds, .fd_count = fd_count};
    pid_t pid = -1;
    int pidfd = -1;
    REQUIRE_OK(td_process_spawn(&spawn, &pid, &pidfd));
    if (pidfd >= 0) {
        CHECK_OK(td_pidfd_wait_until(pidfd, TD_FOREVER));
        close(pidfd);
    }
    return test_wait_child(pid);
}

TD_TEST(the_exit_code_comes_back)
{
    CHECK_EQ(run_shell("exit 23", NULL, 0, NULL, NULL), 23);
}

TD_TEST(environment_and_folder_are_given)
{
    char *const envp[] = {(char *)"PATH=/usr/bin:/bin", (char *)"COLOUR=red", NULL};
    CHECK_EQ(run_shell("test \"$COLOUR\" = red && test \"$(pwd)\" = /proc", NULL, 0, envp, "/proc"), 0);
}

TD_TEST(a_missing_program_is_reported_and_leaves_no_child)
{
    if (test_is_emulated())
        SKIP("the emulator's vfork is a fork: a program that can't be run is found out too late");
    char *const argv[] = {(char *)"nothing", NULL};
    td_spawn spawn = {.program = "/nonexistent/program", .argv = argv};
    pid_t pid = -7;
    int pidfd = -7;
    CHECK_STATUS(td_process_spawn(&spawn, &pid, &pidfd), TD_EOS);
    CHECK_EQ(errno, ENOENT);
    CHECK_EQ(pid, -7);
    CHECK_EQ(pidfd, -7);
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

TD_TEST(swapped_descriptors_reach_their_places)
{
    int one[2], two[2];
    REQUIRE(pipe2(one, O_CLOEXEC) == 0 && pipe2(two, O_CLOEXEC) == 0);
    const td_fd_map fds[] = {{one[1], two[1]}, {two[1], one[1]}};
    char script[128], text[8] = "";
    snprintf(script, sizeof script, "printf A >&%d; printf B >&%d", two[1], one[1]);
    CHECK_EQ(run_shell(script, fds, 2, NULL, NULL), 0);
    CHECK_EQ(read(one[0], text, sizeof text), 1);
    CHECK_EQ(text[0], 'A');
    CHECK_EQ(read(two[0], text, sizeof text), 1);
    CHECK_EQ(text[0], 'B');
    for (int i = 0; i < 2; i++) {
        close(one[i]);
        close(two[i]);
    }
}

TD_TEST(a_descriptor_mapped_on_itself_survives)
{
    int ends[2];
    char script[64], text[8];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const td_fd_map fds[] = {{ends[1], ends[1]}};
    snprintf(script, sizeof script, "printf C >&%d", ends[1]);
    CHECK_EQ(run_shell(script, fds, 1, NULL, NULL), 0);
    CHECK_EQ(read(ends[0], text, sizeof text), 1);
    close(ends[0]);
    close(ends[1]);
}

TD_TEST(no_other_descriptor_is_inherited)
{
    int careless = open("/dev/null", O_RDONLY), high = fcntl(careless, F_DUPFD, 40); /* without close-on-exec */
    const td_fd_map fds[] = {{careless, 30}};
    /* ls itself holds one for the folder that it lists: the lowest free. */
    CHECK_EQ(run_shell("test \"$(echo $(ls /proc/self/fd))\" = '0 1 2 3 30'", fds, 1, NULL, NULL), 0);
    close(careless);
    close(high);
}

TD_TEST(signals_are_reset)
{
    sigset_t all;
    signal(SIGTERM, SIG_IGN);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    CHECK_EQ(run_shell("kill -TERM $$; exit 0", NULL, 0, NULL, NULL), -SIGTERM);
}

TD_TEST(what_is_ignored_of_a_hangup_stays_ignored)
{
    signal(SIGHUP, SIG_DFL);
    CHECK_EQ(run_shell("kill -HUP $$; exit 6", NULL, 0, NULL, NULL), -SIGHUP);
    signal(SIGHUP, SIG_IGN); /* as nohup(1) does it */
    CHECK_EQ(run_shell("kill -HUP $$; exit 6", NULL, 0, NULL, NULL), 6);
}

TD_TEST(a_held_signal_waits_until_the_program_unblocks_it)
{
    char *const argv[] = {(char *)"sh", (char *)"-c", (char *)"kill -INT $$; exit 5", NULL};
    const td_spawn spawn = {.program = "sh", .argv = argv, .held = SIGINT};
    pid_t pid;
    int pidfd;
    REQUIRE_OK(td_process_spawn(&spawn, &pid, &pidfd));
    CHECK_EQ(test_wait_child(pid), 5);
    if (pidfd >= 0)
        close(pidfd);
}

/* A busy worker: arms its end and never looks at anything again. */
static pid_t fork_armed(int parent_end, int child_end)
{
    int ready[2];
    char byte;
    if (pipe(ready) < 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        close(parent_end);
        if (td_lifeline_arm(child_end) != TD_OK || write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            td_atomic_load_relaxed(&test_failures);
    }
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

TD_TEST(the_end_of_a_lifeline_kills_a_busy_child)
{
    int parent_end, child_end;
    REQUIRE_OK(td_lifeline_new(&parent_end, &child_end));
    pid_t pid = fork_armed(parent_end, child_end);
    close(child_end);
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    close(parent_end);
    CHECK_EQ(test_wait_child(pid), -SIGKILL);
}

TD_TEST(the_death_of_the_parent_kills_a_busy_grandchild)
{
    if (test_is_emulated())
        SKIP("the emulator adopts no orphans");
    int parent_end, child_end, alive[2];
    char byte;
    REQUIRE(pipe2(alive, O_CLOEXEC) == 0);
    pid_t parent = fork();
    if (parent == 0) {
        if (td_lifeline_new(&parent_end, &child_end) != TD_OK)
            _exit(1);
        fork_armed(parent_end, child_end);
        raise(SIGKILL);
    }
    close(alive[1]);
    CHECK_EQ(test_wait_child(parent), -SIGKILL);
    CHECK_EQ(read(alive[0], &byte, 1), 0); /* end of file: the grandchild, who holds a copy, is gone */
    CHECK_EQ(test_wait_child(-1), -SIGKILL);
    close(alive[0]);
}

TD_TEST(arming_after_the_end_is_told)
{
    int parent_end, child_end;
    REQUIRE_OK(td_lifeline_new(&parent_end, &child_end));
    close(parent_end);
    CHECK_STATUS(td_lifeline_arm(child_end), TD_ECLOSED);
    close(child_end);
}

TD_TEST(the_parent_sees_the_end_of_the_child)
{
    int parent_end, child_end;
    REQUIRE_OK(td_lifeline_new(&parent_end, &child_end));
    pid_t pid = fork_armed(parent_end, child_end);
    close(child_end);
    struct pollfd watched = {.fd = parent_end, .events = POLLIN};
    CHECK_EQ(poll(&watched, 1, 0), 0);
    kill(pid, SIGKILL);
    CHECK_EQ(poll(&watched, 1, -1), 1);
    CHECK_EQ(test_wait_child(pid), -SIGKILL);
    close(parent_end);
}

static pthread_barrier_t counted;

static void *stay(void *unused)
{
    pthread_barrier_wait(&counted);
    return unused;
}

TD_TEST(threads_are_counted)
{
    unsigned before = 0, now = 0;
    pthread_t threads[3];
    pthread_barrier_init(&counted, NULL, 4);
    REQUIRE_OK(td_thread_count(&before));
    for (int i = 0; i < 3; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, stay, NULL), 0);
    REQUIRE_OK(td_thread_count(&now));
    CHECK_LE(before + 3, now); /* a sanitizer may add one of its own */
    pthread_barrier_wait(&counted);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&counted);
}

TD_TEST_MAIN
