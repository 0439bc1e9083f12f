/* tests/named/own_folder.h: a /dev/shm of the test's own, and meetings with what happens in it. */
#ifndef TD_TESTS_NAMED_OWN_FOLDER_H
#define TD_TESTS_NAMED_OWN_FOLDER_H

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "named/claim.h"
#include "named/guard.h"
#include "named/named.h"
#include "tests/harness.h"

TEST_UNUSED static void own_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0)
            errno = 0;
        close(fd);
    }
}

/* From here on this process has a /dev/shm that nobody else sees, of `bytes` ("16m"), mounted with `flags`; or the test
 * is skipped. */
TEST_UNUSED static void own_folder(const char *bytes, unsigned long flags)
{
    char uids[32], gids[32], options[64];
    snprintf(uids, sizeof uids, "%u %u 1", (unsigned)geteuid(), (unsigned)geteuid());
    snprintf(gids, sizeof gids, "%u %u 1", (unsigned)getegid(), (unsigned)getegid());
    snprintf(options, sizeof options, "mode=1777,size=%s", bytes);
    if (unshare(CLONE_NEWNS) < 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
            SKIP("needs mount namespaces");
        own_write("/proc/self/setgroups", "deny");
        own_write("/proc/self/uid_map", uids);
        own_write("/proc/self/gid_map", gids);
    }
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("treadle-test", TD_NAMED_FOLDER, "tmpfs", flags, options) < 0)
        SKIP("needs to mount a tmpfs");
}

TEST_UNUSED static void own_guardian(void)
{
    if (test_is_emulated())
        SKIP("the emulator runs no second program");
    td_named_set_guardian(TEST_GUARDIAN);
}

TEST_UNUSED static bool exists(const char *name)
{
    char path[TD_NAMED_PATH_BYTES];
    struct stat file;
    REQUIRE_OK(td__named_path(name, path));
    return lstat(path, &file) == 0;
}

/* Waits until the name is there, or is not, in a folder that others change. */
TEST_UNUSED static void wait_until(const char *name, bool there)
{
    char events[4096];
    int changes = inotify_init1(IN_CLOEXEC);
    REQUIRE(changes >= 0);
    REQUIRE(inotify_add_watch(changes, TD_NAMED_FOLDER, IN_CREATE | IN_DELETE | IN_MOVE) >= 0);
    while (exists(name) != there)
        if (read(changes, events, sizeof events) < 0 && errno != EINTR)
            abort();
    close(changes);
}

TEST_UNUSED static const char *office_name(void)
{
    static char path[TD_NAMED_PATH_BYTES];
    td__guard_path(path);
    return path + strlen(TD_NAMED_FOLDER "/");
}

TEST_UNUSED static void count_one(void *ctx, const struct td_named_info *info)
{
    (void)info;
    ++*(unsigned *)ctx;
}

/* How many tracked segments there are. */
TEST_UNUSED static unsigned segments(void)
{
    unsigned count = 0;
    REQUIRE_OK(td_named_sweep(false, count_one, &count));
    return count;
}

/* The guardian that was started here, an orphan, has become a child of this process; it has ended when this returns. */
TEST_UNUSED static void reap_guardian(void)
{
    int status;
    pid_t pid;
    do
        pid = waitpid(-1, &status, 0);
    while (pid < 0 && errno == EINTR);
    CHECK(pid > 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
