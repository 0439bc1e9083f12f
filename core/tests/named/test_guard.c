/* tests/named/test_guard.c: one guardian for a user, which comes with the first segment and leaves after the last. */
#include "named/guard.h"

#include <sys/resource.h>

#include "named/named.h"
#include "os/process.h"
#include "tests/named/own_folder.h"

static td_named *make(const char *name)
{
    td_named *named;
    REQUIRE_OK(td_named_create(name, 100, true, &named));
    return named;
}

static bool has_ward(const char *name)
{
    char path[TD_NAMED_PATH_BYTES];
    struct stat file;
    REQUIRE_OK(td__named_path(name, path));
    REQUIRE(stat(path, &file) == 0);
    td__guard_path(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    struct flock ward = td__guard_range(F_WRLCK, file.st_ino);
    REQUIRE(fcntl(fd, F_OFD_GETLK, &ward) == 0);
    close(fd);
    return ward.l_type != F_UNLCK;
}

/* The guardian that was started here: our child by now. */
static pid_t find_guardian(void)
{
    DIR *folder = opendir("/proc");
    REQUIRE(folder != NULL);
    pid_t found = 0;
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        char path[300], comm[32] = "";
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        FILE *file = fopen(path, "re");
        int parent = 0;
        if (file && fscanf(file, "%*d (%31[^)]) %*c %d", comm, &parent) == 2 && parent == getpid() &&
            strcmp(comm, "treadle-guard") == 0)
            found = (pid_t)atoi(entry->d_name);
        if (file)
            fclose(file);
    }
    closedir(folder);
    return found;
}

TD_TEST(it_comes_with_the_first_segment_and_leaves_after_the_last)
{
    own_folder("1m", 0);
    own_guardian();
    CHECK(!td_named_guardian_on_duty());
    td_named *first = make("a"), *second = make("b");
    CHECK(td_named_guardian_on_duty());
    CHECK_EQ(td_named_guardian_problem(), 0);
    td_named_free(first);
    td_named_free(second);
    reap_guardian();
    CHECK(!exists(office_name()));
    CHECK(!td_named_guardian_on_duty());
}

TD_TEST(what_is_not_tracked_calls_no_guardian)
{
    own_folder("1m", 0);
    own_guardian();
    td_named *named;
    REQUIRE_OK(td_named_create("a", 100, false, &named));
    CHECK(!exists(office_name()));
    td_named_free(named);
}

TD_TEST(it_shares_nothing_with_who_started_it)
{
    own_folder("1m", 0);
    own_guardian();
    td_named *named = make("a");
    pid_t guardian = find_guardian();
    REQUIRE(guardian > 0);
    CHECK_NE(getsid(guardian), getsid(0));
    CHECK_NE(getpgid(guardian), getpgid(0));
    for (int fd = 0; fd < 3; fd++) {
        char path[64], target[64] = "";
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)guardian, fd);
        CHECK(readlink(path, target, sizeof target - 1) > 0);
        CHECK_STR(target, "/dev/null");
    }
    char path[64], target[64] = "";
    snprintf(path, sizeof path, "/proc/%d/cwd", (int)guardian);
    CHECK(readlink(path, target, sizeof target - 1) > 0);
    CHECK_STR(target, "/");
    td_named_free(named);
    reap_guardian();
}

TD_TEST(it_removes_what_a_killed_process_held)
{
    own_folder("1m", 0);
    own_guardian();
    int ready[2];
    REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
    td_named *mine = make("mine");
    pid_t child = fork();
    if (child == 0) {
        make("theirs");
        td_named *both;
        REQUIRE_OK(td_named_attach("mine", &both));
        if (write(ready[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    char byte;
    REQUIRE_EQ(read(ready[0], &byte, 1), 1);
    kill(child, SIGKILL);
    CHECK_EQ(test_wait_child(child), -SIGKILL);
    wait_until("theirs", false);
    CHECK(exists("mine"));
    td_named_free(mine);
    reap_guardian();
    CHECK_EQ(segments(), 0);
    close(ready[0]);
    close(ready[1]);
}

TD_TEST(a_segment_passed_on_goes_with_the_one_who_has_it_last)
{
    own_folder("1m", 0);
    own_guardian();
    int ready[2];
    REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
    td_named *named = make("a");
    pid_t child = fork();
    if (child == 0) {
        td_named *mine;
        REQUIRE_OK(td_named_attach("a", &mine));
        if (write(ready[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    char byte;
    REQUIRE_EQ(read(ready[0], &byte, 1), 1);
    td_named_free(named);
    CHECK(exists("a"));
    kill(child, SIGKILL);
    CHECK_EQ(test_wait_child(child), -SIGKILL);
    wait_until("a", false);
    reap_guardian();
    close(ready[0]);
    close(ready[1]);
}

TD_TEST(many_that_start_at_once_leave_one_on_duty)
{
    own_folder("1m", 0);
    own_guardian();
    td_named *named;
    REQUIRE_OK(td_named_create("a", 100, false, &named));
    REQUIRE(chmod(TD_NAMED_FOLDER "/a", 0600 | TD_NAMED_MARK) == 0);
    char *argv[] = {(char *)(uintptr_t)TEST_GUARDIAN, NULL};
    td_spawn spawn = {.program = argv[0], .argv = argv};
    pid_t pids[8];
    int pidfds[8];
    for (int i = 0; i < 8; i++)
        REQUIRE_OK(td_process_spawn(&spawn, &pids[i], &pidfds[i]));
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(test_wait_child(pids[i]), 0);
        close(pidfds[i]);
    }
    CHECK(td_named_guardian_on_duty());
    CHECK(find_guardian() > 0);
    td_named_free(named);
    reap_guardian();
    CHECK(waitpid(-1, NULL, 0) < 0 && errno == ECHILD);
    CHECK(!exists("a"));
}

TD_TEST(one_that_was_killed_is_replaced_and_nothing_is_lost)
{
    own_folder("1m", 0);
    own_guardian();
    td_named *first = make("a");
    pid_t guardian = find_guardian();
    REQUIRE(guardian > 0);
    kill(guardian, SIGKILL);
    CHECK_EQ(test_wait_child(guardian), -SIGKILL);
    CHECK(!td_named_guardian_on_duty());
    CHECK(exists(office_name()));
    td_named_set_guardian("/nonexistent/guardian");
    pid_t child = fork();
    if (child == 0) {
        make("left");
        _exit(0);
    }
    CHECK_EQ(test_wait_child(child), 0);
    CHECK(exists("left"));
    own_guardian();
    td_named *second = make("b");
    CHECK(td_named_guardian_on_duty());
    wait_until("left", false);
    td_named_free(first);
    td_named_free(second);
    reap_guardian();
    CHECK(!exists(office_name()));
}

TD_TEST(it_goes_on_when_somebody_removes_its_office_file)
{
    own_folder("1m", 0);
    own_guardian();
    td_named *named = make("a");
    char path[TD_NAMED_PATH_BYTES];
    td__guard_path(path);
    REQUIRE(unlink(path) == 0);
    wait_until(office_name(), true);
    td_named_free(named);
    reap_guardian();
    CHECK(!exists(office_name()));
}

TD_TEST(without_a_guardian_a_sweep_is_made_and_the_reason_is_told)
{
    own_folder("1m", 0);
    pid_t child = fork();
    if (child == 0) {
        make("left");
        _exit(0);
    }
    CHECK_EQ(test_wait_child(child), 0);
    CHECK(exists("left"));
    td_named_set_guardian("/nonexistent/guardian");
    td_named *named = make("a");
    CHECK_EQ(td_named_guardian_problem(),
             test_is_emulated() ? 127 : ENOENT); /* an emulator's vfork is a fork */
    CHECK(!exists("left"));
    td_named_free(named);
    CHECK_EQ(segments(), 0);
}

TD_TEST(an_office_file_that_others_could_open_is_not_used)
{
    own_folder("1m", 0);
    own_guardian();
    char path[TD_NAMED_PATH_BYTES];
    td__guard_path(path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0 && fchmod(fd, 0644) == 0);
    close(fd);
    td_named *named = make("a");
    CHECK_EQ(td_named_guardian_problem(), EPERM);
    td_named_free(named);
    CHECK_EQ(segments(), 0);
    CHECK(exists(office_name()));
}

TD_TEST(two_hundred_segments_of_a_killed_process_are_all_removed)
{
    own_folder("16m", 0);
    own_guardian();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 200; i++) {
            char name[16];
            snprintf(name, sizeof name, "a%d", i);
            make(name);
        }
        raise(SIGKILL);
    }
    CHECK_EQ(test_wait_child(child), -SIGKILL);
    reap_guardian();
    CHECK_EQ(segments(), 0);
    CHECK(!exists(office_name()));
}

TD_TEST(the_memory_is_free_when_the_last_holder_has_let_go)
{
    own_folder("4m", 0);
    own_guardian();
    td_named *keep = make("keep");
    for (int i = 0; i < 5; i++) {
        td_named *named;
        REQUIRE_OK(td_named_create("a", 3u << 20, true, &named));
        while (!has_ward("a"))
            sched_yield();
        td_named_free(named);
    }
    td_named_free(keep);
    reap_guardian();
}

TD_TEST(more_segments_than_the_guardian_has_descriptors_for_are_all_removed)
{
    own_folder("16m", 0);
    own_guardian();
    const struct rlimit few = {16, 16};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 60; i++) {
            char name[16];
            snprintf(name, sizeof name, "a%d", i);
            make(name);
        }
        raise(SIGKILL);
    }
    CHECK_EQ(test_wait_child(child), -SIGKILL);
    reap_guardian();
    CHECK_EQ(segments(), 0);
}

TD_TEST_MAIN
