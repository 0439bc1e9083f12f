/* cache/write.c: putting an entry: a file gets its name when it is whole.
 *
 *     O_TMPFILE ─▶ reserve ─▶ write ─▶ (fsync) ─▶ linkat              where there is nothing under the name
 *                                         └─────▶ linkat tmp/x ─▶ rename, or exchange and unlink   else
 *
 * or, where the file system has no O_TMPFILE, a file in tmp/ from the start.
 * Invariants  W1 what is under an entry's name was written to its end before it had it: link, rename are atomic.
 *             W2 who writes a named file holds a lock (flock) on it until it has its last name; td__sweep removes those
 *                that it can lock. A file that it takes before its writer has locked it is made again.
 *             W3 space is reserved before it is written, so a full disk is found out early, and costs nothing.
 * Crash       of the writer: a file without a name is gone with it, a named one waits in tmp/ for a sweep. Of the
 *             machine: with `durable` the data is on the disk before the name is; without, the name may be there and
 *             the data not, which its checksums tell (cache/entry.c).
 * Tests       tests/cache/test_write.c, tests/cache/test_killed.c */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "cache/entry.h"
#include "cache/folder.h"

#define RESERVE_BYTES (UINT64_C(1) << 20) /* below, the write itself says soon enough that there is no room */
#define VECTORS 64
#define ABANDONED_S (24 * 60 * 60)

static const uint8_t zeros[TD_ENTRY_ALIGN];

struct writing {
    td_store *store;
    int fd;
    bool named;
    int64_t before_bytes; /* what it takes the place of */
    char temporary[40];   /* in tmp/ */
    char name[TD_NAME_BYTES];
};

/* ---- Files without the name that they will have -------------------------------------------------------- */

static td_atomic_u64 numbers;

static void make_name(char name[40])
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t number = td_atomic_fetch_add_relaxed(&numbers, 1);
    snprintf(name, 40, "tmp/%x-%llx-%llx", (unsigned)getpid(),
             (unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec,
             (unsigned long long)number);
}

/* W2. 0, or -1 (errno). */
static int open_named(struct writing *writing)
{
    const int folder = writing->store->folder->fd, mode = writing->store->options.shared ? 0666 : 0600;
    for (;;) {
        struct stat file;
        make_name(writing->temporary);
        writing->fd =
            openat(folder, writing->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
        if (writing->fd < 0 && errno == ENOENT && mkdirat(folder, "tmp", (mode_t)mode | 0100) == 0)
            continue; /* somebody cleared the folder */
        if (writing->fd < 0)
            return -1;
        writing->named = true;
        const bool locked = flock(writing->fd, LOCK_EX | LOCK_NB) == 0;
        if (fstat(writing->fd, &file) == 0 && file.st_nlink > 0 && (locked || errno != EWOULDBLOCK))
            return 0;
        close(writing->fd);
    }
}

static int open_temporary(struct writing *writing)
{
    const int folder = writing->store->folder->fd, mode = writing->store->options.shared ? 0666 : 0600;
    if (!writing->store->options.no_tmpfile) {
        writing->fd = openat(folder, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
        if (writing->fd >= 0)
            return 0;
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
            return -1;
    }
    return open_named(writing);
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

static int write_all(int fd, struct iovec *vectors, int count)
{
    while (count > 0) {
        const ssize_t written = writev(fd, vectors, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        size_t left = (size_t)written;
        while (count > 0 && left >= vectors->iov_len) {
            left -= vectors->iov_len;
            vectors++;
            count--;
        }
        if (count > 0) {
            vectors->iov_base = (uint8_t *)vectors->iov_base + left;
            vectors->iov_len -= left;
        }
    }
    return 0;
}

static int write_parts(int fd, const void *head, const struct td_part *parts, uint32_t count)
{
    struct iovec vectors[VECTORS];
    int used = 0;
    vectors[used++] =
        (struct iovec){.iov_base = (void *)(uintptr_t)head, .iov_len = td_entry_head_bytes(count)};
    for (uint32_t i = 0; i < count; i++) {
        if (used + 2 > VECTORS) {
            if (write_all(fd, vectors, used) < 0)
                return -1;
            used = 0;
        }
        vectors[used++] =
            (struct iovec){.iov_base = (void *)(uintptr_t)parts[i].data, .iov_len = parts[i].bytes};
        const uint64_t gap = td_entry_align(parts[i].bytes) - parts[i].bytes;
        if (i + 1 < count && gap > 0)
            vectors[used++] = (struct iovec){.iov_base = (void *)(uintptr_t)zeros, .iov_len = gap};
    }
    return write_all(fd, vectors, used);
}

static int reserve(int fd, uint64_t bytes)
{
    if (bytes < RESERVE_BYTES || fallocate(fd, 0, 0, (off_t)bytes) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS || errno == EINTR ? 0 : -1;
}

/* ---- Naming -------------------------------------------------------------------------------------------- */

/* Gives an open file without a name this one. */
static int link_open(int fd, int folder, const char *name)
{
    if (linkat(fd, "", folder, name, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != ENOENT && errno != EPERM && errno != EINVAL)
        return -1;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd); /* older kernels ask for a capability above */
    const int linked = linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW);
    return linked;
}

/* Where something is there already it is exchanged, and goes under the temporary name: a plain rename over it has ext4
 * write the data out first, which takes ten times as long. */
static int take_place(const struct writing *writing, int64_t *before_bytes)
{
    struct stat file;
    const int folder = writing->store->folder->fd;
    if (fstatat(folder, writing->name, &file, AT_SYMLINK_NOFOLLOW) == 0) {
        *before_bytes = file.st_size;
        if (renameat2(folder, writing->temporary, folder, writing->name, RENAME_EXCHANGE) == 0) {
            (void)unlinkat(folder, writing->temporary, 0); /* or by a sweep: nobody has it locked */
            return 0;
        }
    }
    return renameat(folder, writing->temporary, folder, writing->name);
}

static int give_name(struct writing *writing)
{
    const int folder = writing->store->folder->fd;
    if (!writing->named) {
        if (link_open(writing->fd, folder, writing->name) == 0)
            return 0;
        if (errno != EEXIST)
            return -1;
        (void)flock(writing->fd, LOCK_EX | LOCK_NB); /* W2 */
        make_name(writing->temporary);
        if (link_open(writing->fd, folder, writing->temporary) < 0)
            return -1;
        writing->named = true;
    }
    return take_place(writing, &writing->before_bytes);
}

/* The subfolder is made by who first needs it. */
static int name_file(struct writing *writing)
{
    if (give_name(writing) == 0)
        return 0;
    if (errno != ENOENT)
        return -1;
    char folder[3] = {writing->name[0], writing->name[1], '\0'};
    const mode_t mode = writing->store->options.shared ? 0777 : 0700;
    if (mkdirat(writing->store->folder->fd, folder, mode) < 0 && errno != EEXIST)
        return -1;
    return give_name(writing);
}

static int sync_folder(const struct writing *writing)
{
    char folder[3] = {writing->name[0], writing->name[1], '\0'};
    const int fd = openat(writing->store->folder->fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    const int synced = fsync(fd) < 0 ? -1 : fsync(writing->store->folder->fd);
    close(fd);
    return synced;
}

static int write_entry(struct writing *writing, const void *head, uint64_t bytes, const struct td_part *parts,
                       uint32_t count)
{
    const bool durable = writing->store->options.durable;
    if (reserve(writing->fd, bytes) < 0 || write_parts(writing->fd, head, parts, count) < 0)
        return -1;
    if (durable && fsync(writing->fd) < 0)
        return -1;
    if (name_file(writing) < 0)
        return -1;
    writing->named = false;
    return durable ? sync_folder(writing) : 0;
}

/* 0, or -1 (errno). */
static int put_once(struct writing *writing, const void *head, uint64_t bytes, const struct td_part *parts,
                    uint32_t count)
{
    if (open_temporary(writing) < 0)
        return -1;
    const int done = write_entry(writing, head, bytes, parts, count), error = errno;
    if (writing->named)
        (void)unlinkat(writing->store->folder->fd, writing->temporary, 0);
    close(writing->fd);
    errno = error;
    return done;
}

static td_status put(td_store *store, const struct td_key *key, const void *head, uint64_t bytes,
                     const struct td_part *parts, uint32_t count)
{
    struct writing writing = {.store = store, .fd = -1};
    td__entry_name(key, writing.name);
    int done = put_once(&writing, head, bytes, parts, count);
    const int error = errno;
    if (done < 0 && td__folder_revive(store->folder)) {
        writing.named = false;
        done = put_once(&writing, head, bytes, parts, count);
    } else {
        errno = error;
    }
    if (done < 0)
        return td_status_from_errno(errno) == TD_ENOFD ? TD_ENOFD : TD_EOS;
    td__total_add(store, (int64_t)bytes - writing.before_bytes);
    return TD_OK;
}

td_status td_store_put(td_store *store, const struct td_key *key, const char *kind, const struct td_part *parts,
                       uint32_t count, uint64_t *bytes)
{
    if (store->folder->readonly != 0) {
        errno = store->folder->readonly;
        return TD_EOS;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    void *head;
    uint64_t all;
    td_status status =
        td__entry_encode(key, kind, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, parts, count, &head, &all);
    if (status != TD_OK)
        return status;
    status = put(store, key, head, all, parts, count);
    const int error = errno;
    free(head);
    errno = error;
    if (status == TD_OK && bytes != NULL)
        *bytes = all;
    return status;
}

/* ---- What dead writers left ---------------------------------------------------------------------------- */

/* Where the file system has no locks, a file that nobody has written to for a day is taken for a dead writer's. */
static bool is_abandoned(int fd)
{
    struct stat file;
    struct timespec now;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return true;
    clock_gettime(CLOCK_REALTIME, &now);
    return errno != EWOULDBLOCK && fstat(fd, &file) == 0 && file.st_mtim.tv_sec < now.tv_sec - ABANDONED_S;
}

static void sweep_file(int folder, const char *name)
{
    const int fd = openat(folder, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return;
    if (is_abandoned(fd))
        (void)unlinkat(folder, name, 0);
    close(fd);
}

void td__sweep(struct td_folder *folder)
{
    const int fd =
        folder->fd >= 0 ? openat(folder->fd, "tmp", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    DIR *files = fd >= 0 ? fdopendir(fd) : NULL;
    if (files == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (const struct dirent *file; (file = readdir(files)) != NULL;)
        if (file->d_name[0] != '.')
            sweep_file(fd, file->d_name);
    closedir(files);
}
