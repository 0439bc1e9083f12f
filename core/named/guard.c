/* named/guard.c: finding and starting the guardian, from the side of the processes that use segments.
 *
 * Invariants  G1 the office file is looked for after the segment was made (guard.h says why). Seen within the last
 *                TD_GUARD_LEASE_NS it need not be looked for again: a guardian that unlinks it stays for longer than
 *                that before its last look.
 *             G2 a guardian that was killed leaves its file: so at times the lock on it is looked at, too, which
 *                the kernel ends with the guardian. Looking takes no lock, which would be taken for a guardian's.
 *             G3 a guardian has a segment's file open, and with it the memory, for some moments after it was
 *                removed. It says so by a lock on a range of the office file, from before the open until after the
 *                close, and who removes a large segment waits for that.
 *             G4 a guardian belongs to nobody: it has no parent here, no descriptors, an empty environment, and a
 *                session of its own, so that neither Ctrl-C nor the end of a terminal reaches it.
 * Crash       of the one who starts it: the guardian is on its own from the first instruction.
 * Tests       tests/named/test_guard.c, test_killed.c */
#include "named/guard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "named/named.h"
#include "os/process.h"

#define LOOK_AGAIN_NS TD_NS_PER_S

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of program, and of starting */
static char program[PATH_MAX];
static td_atomic_u64 seen_ns;   /* when the office file was last there */
static td_atomic_u64 looked_ns; /* when it was last seen alive, or could not be started */
static td_atomic_u32 problem;   /* errno */

void td__guard_path(char path[TD_NAMED_PATH_BYTES])
{
    snprintf(path, TD_NAMED_PATH_BYTES, TD_NAMED_FOLDER "/treadle-%u", (unsigned)geteuid());
}

/* Locks need no bytes: the file stays empty. */
struct flock td__guard_range(short type, ino_t purpose)
{
    return (struct flock){
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)(purpose & (INT64_MAX >> 1)), .l_len = 1};
}

bool td__guard_is_office(const struct stat *file)
{
    return S_ISREG(file->st_mode) && file->st_uid == geteuid() && (file->st_mode & 077) == 0;
}

/* ---- Looking ---- */

static bool office_is_there(void)
{
    char path[TD_NAMED_PATH_BYTES];
    struct stat file;
    td__guard_path(path);
    return lstat(path, &file) == 0 && td__guard_is_office(&file);
}

bool td_named_guardian_on_duty(void)
{
    char path[TD_NAMED_PATH_BYTES];
    struct stat file;
    td__guard_path(path);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    struct flock wanted = td__guard_range(F_WRLCK, TD_GUARD_DUTY);
    bool locked = fstat(fd, &file) == 0 && td__guard_is_office(&file) && fcntl(fd, F_OFD_GETLK, &wanted) == 0 &&
                  wanted.l_type != F_UNLCK;
    close(fd);
    return locked;
}

void td__guard_wait(ino_t inode)
{
    char path[TD_NAMED_PATH_BYTES];
    td__guard_path(path);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    struct flock ward = td__guard_range(F_RDLCK, inode);
    (void)fcntl(fd, F_OFD_SETLKW, &ward); /* a signal ends it: nothing is lost but the certainty */
    close(fd);
}

/* ---- Starting ---- */

/* Returns when the guardian is on duty: the program is over as soon as that has left it. */
static int start_and_wait(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return errno;
    const td_fd_map fds[] = {{null, 0}, {null, 1}, {null, 2}};
    char *argv[] = {program, NULL}, *envp[] = {NULL};
    td_spawn spawn = {.program = program, .argv = argv, .envp = envp, .cwd = "/", .fds = fds, .fd_count = 3};
    pid_t pid;
    int pidfd, code = 0;
    td_status status = td_process_spawn(&spawn, &pid, &pidfd);
    int error = status == TD_OK ? 0 : errno != 0 ? errno : EAGAIN;
    close(null);
    if (status != TD_OK)
        return error;
    if (pidfd >= 0)
        close(pidfd);
    pid_t ended;
    do
        ended = waitpid(pid, &code, 0);
    while (ended < 0 && errno == EINTR);
    /* Reaped by somebody else, with waitpid(-1) or by ignoring SIGCHLD: it is over, which is all that matters. */
    if (ended < 0)
        return td_named_guardian_on_duty() ? 0 : ECHILD;
    return WIFEXITED(code) ? WEXITSTATUS(code) : ECHILD;
}

static void start_locked(int64_t now)
{
    int error = program[0] == '\0' ? ENOENT : start_and_wait();
    td_atomic_store_relaxed(&problem, (uint32_t)error);
    td_atomic_store_relaxed(&looked_ns, (uint64_t)now);
    if (error)
        td_named_sweep(true, NULL, NULL);
}

static bool is_lately(td_atomic_u64 *when, int64_t now, int64_t lately_ns)
{
    const int64_t then = (int64_t)td_atomic_load_relaxed(when);
    return then != 0 && now - then < lately_ns;
}

/* Is all well, without a closer look? */
static bool is_guarded(int64_t now)
{
    if (!is_lately(&looked_ns, now, LOOK_AGAIN_NS))
        return false;
    if (is_lately(&seen_ns, now, TD_GUARD_LEASE_NS) || td_atomic_load_relaxed(&problem) != 0)
        return true;
    if (!office_is_there())
        return false;
    td_atomic_store_relaxed(&seen_ns, (uint64_t)now);
    return true;
}

void td__guard_call(void)
{
    const int64_t now = td_now_ns();
    if (is_guarded(now))
        return;
    pthread_mutex_lock(&lock);
    if (td_named_guardian_on_duty()) {
        td_atomic_store_relaxed(&problem, 0);
        td_atomic_store_relaxed(&looked_ns, (uint64_t)now);
    } else {
        start_locked(now);
    }
    pthread_mutex_unlock(&lock);
}

void td__guard_after_fork(void)
{
    pthread_mutex_init(&lock, NULL);
}

void td_named_set_guardian(const char *path)
{
    pthread_mutex_lock(&lock);
    snprintf(program, sizeof program, "%s", path);
    td_atomic_store_relaxed(&problem, 0);
    td_atomic_store_relaxed(&looked_ns, 0);
    td_atomic_store_relaxed(&seen_ns, 0);
    pthread_mutex_unlock(&lock);
}

int td_named_guardian_problem(void)
{
    return (int)td_atomic_load_relaxed(&problem);
}

/* ---- Going through the folder ---- */

int td__guard_look(void (*tell)(void *ctx, const char *name, const struct stat *file), void *ctx)
{
    DIR *folder = opendir(TD_NAMED_FOLDER);
    if (!folder)
        return -1;
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        struct stat file;
        if ((entry->d_type != DT_REG && entry->d_type != DT_UNKNOWN) ||
            fstatat(dirfd(folder), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (td__named_is_tracked(&file) && file.st_uid == geteuid())
            tell(ctx, entry->d_name, &file);
    }
    closedir(folder);
    return 0;
}

struct sweep {
    bool clean;
    void (*tell)(void *ctx, const struct td_named_info *info);
    void *ctx;
};

static void sweep_one(void *ctx, const char *name, const struct stat *file)
{
    const struct sweep *sweep = ctx;
    struct td_named_info info = {.name = name, .bytes = (uint64_t)file->st_size, .held = true};
    char path[TD_NAMED_PATH_BYTES];
    if (td__named_path(name, path) != TD_OK)
        return;
    int fd = td__named_open(path);
    if (fd < 0 && errno == ENOENT)
        return;
    if (fd >= 0) {
        info.removed = sweep->clean && td__named_try_claim(fd, path) == TD_CLAIM_REMOVED;
        info.held = !info.removed && td__named_is_held(fd);
        close(fd);
    }
    if (sweep->tell)
        sweep->tell(sweep->ctx, &info);
}

td_status td_named_sweep(bool clean, void (*tell)(void *ctx, const struct td_named_info *info), void *ctx)
{
    struct sweep sweep = {clean, tell, ctx};
    return td__guard_look(sweep_one, &sweep) < 0 ? TD_EOS : TD_OK;
}
