/* named/claim.c: who may remove a segment.
 *
 * A segment is *held* by every open file description that has a shared flock on it. A mapping keeps its description
 * open, forked children share it, and the kernel ends it with the last process that has it, however that ends. So no
 * count is kept that a death could falsify, and no process is looked for by its number.
 *
 *     made ──hold──▶ held ──last holder lets go──▶ free ──claim──▶ removed
 *                     ▲                              │
 *                     └────────── hold ──────────────┘
 *
 * Invariants  N1 a name is removed automatically only under the exclusive lock of its file, taken on a description
 *                of its own: the lock of a shared one would be granted beside a forked child that uses it.
 *             N2 who holds looks at the link count afterwards: 0, and the file was removed before.
 *             N3 whoever ends a lock, for whatever reason it had it, claims; a claim that fails leaves the duty to
 *                those who made it fail. So the last one always succeeds.
 *             N4 a descriptor's lock is ended before it is closed, unless the file is gone: a child forked meanwhile by
 *                another thread has a copy.
 * Not covered two processes that unlink the same name explicitly, and a third that makes it anew between the look and
 *             the unlink of the second: unlink(2) takes names, not files.
 * Crash       at any point: the kernel ends the locks; what is free is found by the guardian or a sweep.
 * Tests       tests/named/test_claim.c */
#include "named/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

td_status td__named_path(const char *name, char path[TD_NAMED_PATH_BYTES])
{
    while (*name == '/')
        name++;
    size_t length = strlen(name);
    errno = length == 0 || strchr(name, '/') ? EINVAL : ENAMETOOLONG;
    if (errno == EINVAL || length > 255)
        return TD_EOS;
    memcpy(path, TD_NAMED_FOLDER "/", sizeof TD_NAMED_FOLDER);
    memcpy(path + sizeof TD_NAMED_FOLDER, name, length + 1);
    return TD_OK;
}

bool td__named_is_tracked(const struct stat *file)
{
    return S_ISREG(file->st_mode) && (file->st_mode & TD_NAMED_MARK);
}

bool td__named_is_unfinished(const struct stat *file)
{
    return td__named_is_tracked(file) && ((file->st_mode & TD_NAMED_UNFINISHED) || file->st_size == 0);
}

bool td__named_is(const struct stat *file, const struct td_file_id *id)
{
    return file->st_ino == id->inode && file->st_dev == id->device;
}

bool td__named_is_same(const struct stat *file, const struct stat *other)
{
    return file->st_ino == other->st_ino && file->st_dev == other->st_dev;
}

int td__named_open(const char *path)
{
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == EISDIR)
        errno = EINVAL; /* as shm_open tells it */
    return fd;
}

td_status td__named_hold(int fd, struct stat *file)
{
    if (flock(fd, LOCK_SH) < 0)
        return errno == EINTR ? TD_EINTR : TD_EOS;
    return fstat(fd, file) < 0 ? TD_EOS : TD_OK;
}

enum td_claim td__named_remove_locked(int fd, const char *path, const struct td_file_id *expected)
{
    struct stat file, named;
    if (fstat(fd, &file) < 0)
        return TD_CLAIM_KEPT;
    if (expected && !td__named_is(&file, expected))
        return TD_CLAIM_ANOTHER;
    if (file.st_nlink == 0)
        return TD_CLAIM_REMOVED;
    if (!td__named_is_tracked(&file))
        return TD_CLAIM_KEPT;
    /* The only name it has is the one under which it was: another file may come there only after this one has none. */
    bool found = expected && file.st_nlink == 1;
    if (!found)
        found = lstat(path, &named) == 0 && td__named_is_same(&file, &named);
    return found && (unlink(path) == 0 || errno == ENOENT) ? TD_CLAIM_REMOVED : TD_CLAIM_KEPT;
}

static enum td_claim remove_and_unlock(int fd, const char *path, const struct td_file_id *expected)
{
    enum td_claim claim = td__named_remove_locked(fd, path, expected);
    if (claim != TD_CLAIM_REMOVED)
        flock(fd, LOCK_UN);
    return claim;
}

/* The exclusive lock may be refused by who removes the file, or makes it, or asks whether it is held: that is waited
 * for with a shared one, so that a name is gone when the call returns that let its last holder go. Beside a shared lock
 * there is no exclusive one, and the kernel converts it in one step: what refuses that is another shared lock, whose
 * owner has the duty (N3). */
enum td_claim td__named_claim(int fd, const char *path, const struct td_file_id *expected)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return remove_and_unlock(fd, path, expected);
    struct stat file;
    if (fstat(fd, &file) < 0)
        return TD_CLAIM_KEPT;
    if (expected && !td__named_is(&file, expected))
        return TD_CLAIM_ANOTHER;
    td_status status = td__named_hold(fd, &file);
    if (status == TD_EINTR)
        return TD_CLAIM_INTERRUPTED;
    if (status == TD_OK && file.st_nlink > 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return remove_and_unlock(fd, path, expected);
    flock(fd, LOCK_UN);
    return status != TD_OK ? TD_CLAIM_KEPT : file.st_nlink == 0 ? TD_CLAIM_REMOVED : TD_CLAIM_HELD;
}

/* Who had no lock has no duty (N3), and is in nobody's way: no shared lock is taken here, which would make another's
 * claim fail. */
enum td_claim td__named_try_claim(int fd, const char *path)
{
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ? remove_and_unlock(fd, path, NULL) : TD_CLAIM_HELD;
}

/* A claim that this makes fail waits for it, and tries again. */
bool td__named_is_held(int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return true;
    flock(fd, LOCK_UN);
    return false;
}

enum td_claim td__named_let_go(int fd, const char *path, const struct td_file_id *expected)
{
    int saved = errno;
    enum td_claim claim;
    do
        claim = td__named_claim(fd, path, expected);
    while (claim == TD_CLAIM_INTERRUPTED);
    close(fd);
    errno = saved;
    return claim;
}
