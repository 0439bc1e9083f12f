/* named/segment.c: making, attaching, detaching and unlinking a segment.
 *
 * Making      open(O_EXCL, with the mark) ─▶ allocate ─▶ hold. Between open and lock a sweep may take the file for a
 *             dead process's: the link count tells, and it is made again. A file that takes more than a moment to
 *             allocate is under the exclusive lock meanwhile, so that who attaches waits for it, and marked as
 *             unfinished, so that nobody takes what a killed process leaves for a segment.
 * Attaching   open ─▶ hold ─▶ is it linked, and whole? An unfinished one that nobody holds is removed. It is looked at
 *             before it is held, so that who looks is not taken for a holder by the next.
 * Detaching   the path is opened while the segment is still held, when nothing but an explicit unlink can have taken
 *             the name away; then comes munmap, which ends the hold; then the claim.
 * Invariants  S1 no descriptor stays open: the mapping keeps the description, and with it the lock.
 *             S2 every byte is allocated before the segment is handed out; a failure leaves no file.
 *             S3 `mapped` lists the segments that this process maps: at exit they are detached, with zero pages in
 *                their places, since other threads may still be using them.
 *             S4 `end` is written once, by who detaches; td_named_unlink may read it beside that, and nothing with it.
 * Crash       claim.c.   Tests  tests/named/test_segment.c, test_killed.c */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/list.h"
#include "named/claim.h"
#include "named/guard.h"
#include "named/named.h"
#include "os/budget.h"
#include "os/memfd.h"

/* Up to here allocating is one short system call, and asking first whether there is room would take longer: it is done
 * once for as many bytes. */
#define QUICK_BYTES (UINT64_C(4) << 20)

/* Nobody misses as much memory for as long as the guardian takes to close a file. */
#define NEGLIGIBLE_BYTES (UINT64_C(64) << 10)

/* How often a file is looked at that is not whole, and that others hold, or only look at. Then it was truncated. */
#define UNFINISHED_LOOKS 100

enum end {
    END_MAPPED,
    END_LEFT,     /* to those who hold it, or for good: it is not tracked */
    END_REMOVED,  /* it went by itself */
    END_UNLINKED, /* the name was gone while it was still held: somebody said so */
};

struct td_named {
    void *data;
    uint64_t bytes;
    struct td_file_id id;
    bool tracked;
    td_atomic_u32 end;
    td_list link; /* in mapped */
    char path[TD_NAMED_PATH_BYTES];
};

/* ---- What this process maps ---- */

static pthread_mutex_t mapped_lock = PTHREAD_MUTEX_INITIALIZER;
static td_list mapped = {&mapped, &mapped};

static void before_fork(void)
{
    pthread_mutex_lock(&mapped_lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&mapped_lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&mapped_lock, NULL);
    td__guard_after_fork();
}

static void detach_all(void);

static void install_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    atexit(detach_all);
}

/* ---- Making ---- */

static td_atomic_u64 unasked_bytes; /* made since it was last asked whether there is room */

/* Is there room at all? Else allocating would fill what there is before it failed, or call the out-of-memory killer. */
static bool has_room(int fd, uint64_t bytes)
{
    struct statvfs folder;
    if (fstatvfs(fd, &folder) == 0 && folder.f_blocks > 0 && folder.f_bavail < bytes / folder.f_frsize) {
        errno = ENOSPC;
        return false;
    }
    const uint64_t wanted = bytes > QUICK_BYTES ? bytes : bytes + QUICK_BYTES; /* for those that won't ask */
    td_memory_budget budget;
    td_memory_budget_init(&budget, "");
    bool room = td_memory_room(&budget, wanted) >= wanted;
    td_memory_budget_fini(&budget);
    errno = ENOMEM;
    return room;
}

static bool may_take(int fd, uint64_t bytes)
{
    if (bytes <= QUICK_BYTES && td_atomic_fetch_add_relaxed(&unasked_bytes, bytes) + bytes <= QUICK_BYTES)
        return true;
    if (!has_room(fd, bytes))
        return false;
    td_atomic_store_relaxed(&unasked_bytes, 0);
    return true;
}

static td_status allocate(int fd, uint64_t bytes)
{
    if (bytes > INT64_MAX) {
        errno = EFBIG;
        return TD_EOS;
    }
    if (bytes > QUICK_BYTES && flock(fd, LOCK_EX) < 0)
        return errno == EINTR ? TD_EINTR : TD_EOS;
    if (!may_take(fd, bytes))
        return TD_EOS;
    if (td_memfd_commit(fd, 0, bytes) == TD_OK)
        return TD_OK;
    if (errno == EOPNOTSUPP && ftruncate(fd, (off_t)bytes) == 0)
        return TD_OK;
    return TD_EOS;
}

/* Maps the file, which is held. */
static td_status map(int fd, const struct stat *file, const char *path, td_named **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_handlers);
    td_named *named = calloc(1, sizeof *named);
    if (!named)
        return TD_ENOMEM;
    named->bytes = (uint64_t)file->st_size;
    named->data = mmap(NULL, named->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (named->data == MAP_FAILED) {
        int saved = errno;
        free(named);
        errno = saved;
        return TD_EOS;
    }
    named->id = (struct td_file_id){file->st_dev, file->st_ino};
    named->tracked = td__named_is_tracked(file);
    td_atomic_init(&named->end, END_MAPPED);
    strcpy(named->path, path);
    pthread_mutex_lock(&mapped_lock);
    td_list_push_back(&mapped, &named->link);
    pthread_mutex_unlock(&mapped_lock);
    *out = named;
    return TD_OK;
}

/* After a failure: no name of a file that was not handed out. One that is not tracked is removed by nobody else. */
static void abandon(int fd, const char *path)
{
    int saved = errno;
    struct stat file, found;
    if (fstat(fd, &file) == 0 && !td__named_is_tracked(&file) && lstat(path, &found) == 0 &&
        td__named_is_same(&file, &found))
        unlink(path);
    td__named_let_go(fd, path, NULL);
    errno = saved;
}

/* TD_EAGAIN: a sweep took the file away before it was locked. */
static td_status make(const char *path, uint64_t bytes, bool tracked, td_named **out)
{
    const mode_t made = tracked ? 0600 | TD_NAMED_MARK : 0600;
    const mode_t mode = bytes > QUICK_BYTES ? 0600 | TD_NAMED_MARK | TD_NAMED_UNFINISHED : made;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return TD_EOS;
    struct stat file;
    td_status status = allocate(fd, bytes);
    if (status == TD_OK && mode != made && fchmod(fd, made) < 0)
        status = TD_EOS;
    if (status == TD_OK)
        status = td__named_hold(fd, &file);
    if (status == TD_OK && file.st_nlink == 0)
        status = TD_EAGAIN;
    if (status == TD_OK)
        status = map(fd, &file, path, out);
    if (status == TD_OK)
        close(fd);
    else
        abandon(fd, path);
    return status;
}

/* After EEXIST: TD_OK when the name is free now. */
static td_status remove_dead(const char *path)
{
    int fd = td__named_open(path);
    if (fd < 0 && errno == ENOENT)
        return TD_OK;
    struct stat file;
    enum td_claim claim = TD_CLAIM_KEPT;
    if (fd >= 0) {
        if (fstat(fd, &file) == 0 && td__named_is_tracked(&file))
            claim = td__named_claim(fd, path, NULL);
        close(fd);
    }
    errno = EEXIST;
    return claim == TD_CLAIM_REMOVED ? TD_OK : claim == TD_CLAIM_INTERRUPTED ? TD_EINTR : TD_EOS;
}

td_status td_named_create(const char *name, uint64_t bytes, bool tracked, td_named **out)
{
    char path[TD_NAMED_PATH_BYTES];
    td_status status = td__named_path(name, path);
    if (status == TD_OK && bytes == 0) {
        errno = EINVAL;
        status = TD_EOS;
    }
    if (status != TD_OK)
        return status;
    do {
        status = make(path, bytes, tracked, out);
        if (status == TD_EOS && errno == EEXIST) {
            status = remove_dead(path);
            if (status == TD_OK)
                status = TD_EAGAIN;
        }
    } while (status == TD_EAGAIN);
    if (status == TD_OK && tracked)
        td__guard_call();
    return status;
}

/* ---- Attaching ---- */

/* One look at the file. TD_EAGAIN: it is gone; TD_EINVAL: it is not whole. */
static td_status attach_to(int fd, const char *path, td_named **out)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return TD_EOS;
    if (td__named_is_unfinished(&file) && td__named_try_claim(fd, path) == TD_CLAIM_REMOVED)
        return TD_EAGAIN;
    td_status status = td__named_hold(fd, &file);
    if (status != TD_OK)
        return status;
    if (file.st_nlink == 0)
        return TD_EAGAIN;
    if (td__named_is_unfinished(&file) || file.st_size == 0)
        return TD_EINVAL;
    return map(fd, &file, path, out);
}

td_status td_named_attach(const char *name, td_named **out)
{
    char path[TD_NAMED_PATH_BYTES];
    td_status status = td__named_path(name, path);
    if (status != TD_OK)
        return status;
    int looks = 0;
    for (;;) {
        int fd = td__named_open(path);
        if (fd < 0)
            return TD_EOS;
        status = attach_to(fd, path, out);
        if (status == TD_OK) {
            close(fd);
            if ((*out)->tracked)
                td__guard_call();
            return TD_OK;
        }
        td__named_let_go(fd, path, NULL);
        if (status == TD_EINVAL && ++looks < UNFINISHED_LOOKS)
            sched_yield();
        else if (status != TD_EAGAIN)
            return status;
    }
}

void *td_named_data(const td_named *named)
{
    return named->data;
}

uint64_t td_named_bytes(const td_named *named)
{
    return named->bytes;
}

/* ---- Detaching ---- */

static void unmap(const td_named *named)
{
    munmap(named->data, named->bytes);
}

/* The mapping goes, its addresses stay taken. */
static void blank(const td_named *named)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mmap(named->data, named->bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED)
        unmap(named);
}

/* What was opened under the segment's path while it was still held is the segment, or the name was taken away. */
static enum end end_mapping(const td_named *named, void (*unmapping)(const td_named *))
{
    if (!named->tracked) {
        unmapping(named);
        return END_LEFT;
    }
    int fd = td__named_open(named->path);
    int error = errno;
    unmapping(named);
    if (fd < 0)
        return error == ENOENT ? END_UNLINKED : END_LEFT;
    switch (td__named_let_go(fd, named->path, &named->id)) {
    case TD_CLAIM_REMOVED:
        if (named->bytes > NEGLIGIBLE_BYTES)
            td__guard_wait(named->id.inode);
        return END_REMOVED;
    case TD_CLAIM_ANOTHER:
        return END_UNLINKED;
    default:
        return END_LEFT;
    }
}

static void detach(td_named *named, void (*unmapping)(const td_named *))
{
    enum end end = end_mapping(named, unmapping);
    td_atomic_store_relaxed(&named->end, end);
}

void td_named_detach(td_named *named)
{
    pthread_mutex_lock(&mapped_lock);
    bool is_mapped = !td_list_empty(&named->link);
    td_list_remove(&named->link);
    pthread_mutex_unlock(&mapped_lock);
    if (!is_mapped)
        return;
    detach(named, unmap);
    named->data = NULL;
}

static void detach_all(void)
{
    pthread_mutex_lock(&mapped_lock);
    TD_LIST_EACH(node, &mapped)
    {
        td_list_remove(node);
        detach(TD_LIST_ENTRY(node, td_named, link), blank);
    }
    pthread_mutex_unlock(&mapped_lock);
}

void td_named_free(td_named *named)
{
    if (!named)
        return;
    td_named_detach(named);
    free(named);
}

/* ---- Unlinking ---- */

static td_status missing(bool went_by_itself)
{
    errno = ENOENT;
    return went_by_itself ? TD_OK : TD_EOS;
}

td_status td_named_unlink(td_named *named, const char *name)
{
    char path[TD_NAMED_PATH_BYTES];
    td_status status = td__named_path(name, path);
    if (status != TD_OK)
        return status;
    uint32_t end = td_atomic_load_relaxed(&named->end);
    bool by_itself = named->tracked && (end == END_LEFT || end == END_REMOVED);
    if (end == END_REMOVED && strcmp(path, named->path) == 0)
        return TD_OK;
    int fd = td__named_open(path);
    if (fd < 0)
        return errno == ENOENT && by_itself ? TD_OK : TD_EOS;
    struct stat file;
    if (fstat(fd, &file) < 0 || !td__named_is(&file, &named->id)) {
        close(fd);
        return missing(by_itself);
    }
    do
        status = td__named_hold(fd, &file); /* so that nobody removes it beside us (claim.c, N1) */
    while (status == TD_EINTR);
    if (status == TD_OK && file.st_nlink == 0)
        status = missing(by_itself);
    else if (status == TD_OK && unlink(path) < 0)
        status = TD_EOS;
    td__named_let_go(fd, path, NULL);
    return status;
}
