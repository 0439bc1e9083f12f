/* cache/folder.c: opening a store's folder: whose it may be, what it is made of, one for a process, and its locks.
 *
 * Locks are those of open file descriptions (F_OFD_SETLK), each on a byte of the state's file; the bytes need not be
 * there. The kernel ends them with the last process that has the description, however that ends. Not the record locks
 * of POSIX: any descriptor of the file that any code of the process closes ends all of those, and their check for
 * deadlocks takes processes for what threads do (docs/decisions/0020).
 * Invariants  F1 a folder is open once in a process: threads find each other in its table (flight.c), and only
 *                processes meet in the locks.
 *             F2 a forked child closes its copy of the description before anything else is done there, so that it keeps
 *                no lock alive whose holder dies; it holds none, leads nothing, and opens the state anew at need.
 *             F3 a folder that is removed while it is open is made again by the next put, under the same descriptors.
 *             F4 whoever could put a file there could have it unpickled: so the folder is this user's, and nobody
 *                else's to write, unless the caller says otherwise. From then on it is known by descriptor.
 * Crash       the kernel ends the locks; td__sweep removes unfinished files.
 * Tests       tests/cache/test_folder.c */
#include "cache/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION_NAME "store-1"

/* ---- Names --------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t hash)
{
    hash = (hash ^ (hash >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    hash = (hash ^ (hash >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    return hash ^ (hash >> 32);
}

uint64_t td__key_hash(const struct td_key *key)
{
    uint64_t hash = key->length;
    for (uint32_t at = 0; at < key->length; at += 8) {
        uint64_t word = 0;
        memcpy(&word, key->bytes + at, key->length - at < 8 ? key->length - at : 8);
        hash = mix(hash ^ word);
    }
    return hash;
}

void td__entry_name(const struct td_key *key, char name[TD_NAME_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    const unsigned folder = (unsigned)(td__key_hash(key) >> 56);
    *name++ = digits[folder >> 4];
    *name++ = digits[folder & 15];
    *name++ = '/';
    for (uint32_t i = 0; i < key->length; i++) {
        *name++ = digits[key->bytes[i] >> 4];
        *name++ = digits[key->bytes[i] & 15];
    }
    *name = '\0';
}

static int digit_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool td__entry_key(const char *name, struct td_key *key)
{
    const size_t length = strlen(name);
    if (length == 0 || length % 2 != 0 || length > 2 * (size_t)TD_KEY_BYTES)
        return false;
    memset(key, 0, sizeof *key);
    key->length = (uint32_t)(length / 2);
    for (uint32_t i = 0; i < key->length; i++) {
        const int high = digit_of(name[2 * i]), low = digit_of(name[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

uint64_t td__stamp(const struct stat *file)
{
    const uint64_t time =
        (uint64_t)file->st_mtim.tv_sec * UINT64_C(1000000000) + (uint64_t)file->st_mtim.tv_nsec;
    return mix(mix((uint64_t)file->st_ino) ^ time) | 1;
}

/* ---- Locks --------------------------------------------------------------------------------------------- */

static struct flock range(short type, int64_t at)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
}

static enum td_lock lock(int fd, int64_t at, int command)
{
    struct flock wanted = range(F_WRLCK, at);
    while (fcntl(fd, command, &wanted) < 0)
        if (errno != EINTR)
            return errno == EAGAIN || errno == EACCES ? TD_LOCK_HELD : TD_LOCK_NONE;
    return TD_LOCKED;
}

enum td_lock td__lock_try(int fd, int64_t at)
{
    return lock(fd, at, F_OFD_SETLK);
}

enum td_lock td__lock_wait(int fd, int64_t at)
{
    return lock(fd, at, F_OFD_SETLKW);
}

void td__lock_end(int fd, int64_t at)
{
    struct flock wanted = range(F_UNLCK, at);
    (void)fcntl(fd, F_OFD_SETLK, &wanted);
}

bool td__lock_is_held(int fd, int64_t at)
{
    struct flock wanted = range(F_WRLCK, at);
    return fcntl(fd, F_OFD_GETLK, &wanted) == 0 && wanted.l_type != F_UNLCK;
}

/* ---- The folders of this process, and forks ------------------------------------------------------------ */

static pthread_mutex_t folders_lock = PTHREAD_MUTEX_INITIALIZER; /* taken before a folder's */
static td_list folders = {&folders, &folders};

static void before_fork(void)
{
    pthread_mutex_lock(&folders_lock);
    TD_LIST_EACH(node, &folders)
    pthread_mutex_lock(&TD_LIST_ENTRY(node, struct td_folder, link)->lock);
}

static void after_fork_in_parent(void)
{
    TD_LIST_EACH(node, &folders)
    pthread_mutex_unlock(&TD_LIST_ENTRY(node, struct td_folder, link)->lock);
    pthread_mutex_unlock(&folders_lock);
}

static void after_fork_in_child(void)
{
    TD_LIST_EACH(node, &folders)
    {
        struct td_folder *folder = TD_LIST_ENTRY(node, struct td_folder, link);
        if (folder->state_fd >= 0)
            close(folder->state_fd); /* F2 */
        folder->state_fd = -1;
        td_atomic_fetch_sub_relaxed(&folder->refs, td__flights_forget_locked(folder));
        td_atomic_store_relaxed(&folder->unsaved_bytes, 0);
        folder->pruning = false;
        pthread_mutex_unlock(&folder->lock);
    }
    pthread_mutex_unlock(&folders_lock);
}

/* Not with the first store: a fork that has begun by then would not know of it. */
__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

int td__folder_state_locked(struct td_folder *folder)
{
    if (folder->state_fd < 0 && folder->fd >= 0 && folder->readonly == 0)
        folder->state_fd = openat(folder->fd, "state", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return folder->state_fd;
}

void td__folder_ref(struct td_folder *folder)
{
    td_atomic_fetch_add_relaxed(&folder->refs, 1);
}

static void folder_free(struct td_folder *folder)
{
    int64_t total;
    (void)td__total_save(folder, &total);
    pthread_mutex_lock(&folder->lock);
    (void)td__flights_forget_locked(folder);
    pthread_mutex_unlock(&folder->lock);
    if (folder->state_fd >= 0)
        close(folder->state_fd);
    if (folder->fd >= 0)
        close(folder->fd);
    free(folder->path);
    free(folder->seen);
    pthread_mutex_destroy(&folder->lock);
    free(folder);
}

void td__folder_unref(struct td_folder *folder)
{
    pthread_mutex_lock(&folders_lock);
    const bool last = td_atomic_fetch_sub_acqrel(&folder->refs, 1) == 1;
    if (last)
        td_list_remove(&folder->link);
    pthread_mutex_unlock(&folders_lock);
    if (last)
        folder_free(folder);
}

/* ---- Opening ------------------------------------------------------------------------------------------- */

/* mkdir -p; the last one with this mode. 0, or -1 (errno). */
static int make_folders(const char *path, mode_t mode)
{
    char part[PATH_MAX];
    const size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (mkdir(path, mode) == 0 || errno == EEXIST)
        return 0;
    if (errno != ENOENT)
        return -1;
    for (size_t i = 1; i < length; i++) {
        if (path[i] != '/')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
            return -1;
    }
    return mkdir(path, mode) == 0 || errno == EEXIST ? 0 : -1;
}

static td_status check_owner(int fd, bool shared)
{
    struct stat folder;
    if (fstat(fd, &folder) < 0)
        return TD_EOS;
    if (!shared && (folder.st_uid != geteuid() || (folder.st_mode & (S_IWGRP | S_IWOTH))))
        return TD_EFOREIGN;
    return TD_OK;
}

static bool is_readonly(int error)
{
    return error == EROFS || error == EACCES || error == EPERM;
}

/* The folder of the version, made where it is missing. -1 with TD_OK: it is not there, and can't be made. */
static td_status open_version(const char *path, bool shared, int *out, int *readonly)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    const mode_t mode = shared ? 0777 : 0700;
    const int made = make_folders(path, mode), error = errno;
    const int parent = open(path, flags);
    if (parent < 0) {
        errno = made < 0 ? error : errno;
        return td_status_from_errno(errno) == TD_ENOFD ? TD_ENOFD : TD_EOS;
    }
    td_status status = check_owner(parent, shared);
    int fd = -1;
    if (status == TD_OK) {
        if (mkdirat(parent, VERSION_NAME, mode) < 0 && errno != EEXIST)
            *readonly = errno;
        fd = openat(parent, VERSION_NAME, flags | O_NOFOLLOW);
        if (fd < 0 && !is_readonly(*readonly))
            status = TD_EOS;
    }
    if (status == TD_OK && fd >= 0)
        status = check_owner(fd, shared);
    const int saved = errno;
    if (status != TD_OK && fd >= 0)
        close(fd);
    close(parent);
    errno = saved;
    *out = fd;
    return status;
}

/* The files that a writer needs. 0, or why it can't write, as errno. */
static int open_state(int fd, bool shared, int *state_fd)
{
    *state_fd = openat(fd, "state", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, shared ? 0666 : 0600);
    if (*state_fd < 0)
        return errno;
    return mkdirat(fd, "tmp", shared ? 0777 : 0700) < 0 && errno != EEXIST ? errno : 0;
}

static char *absolute(const char *path)
{
    char folder[PATH_MAX], *joined = NULL;
    if (path[0] == '/')
        return strdup(path);
    if (getcwd(folder, sizeof folder) == NULL || asprintf(&joined, "%s/%s", folder, path) < 0)
        return NULL;
    return joined;
}

static struct td_folder *folder_new(const char *path, int fd, int readonly, bool shared)
{
    struct td_folder *folder = calloc(1, sizeof *folder);
    char *copy = absolute(path);
    if (folder == NULL || copy == NULL) {
        free(folder);
        free(copy);
        return NULL;
    }
    *folder =
        (struct td_folder){.path = copy, .shared = shared, .fd = fd, .readonly = readonly, .state_fd = -1};
    td_atomic_init(&folder->refs, 1);
    pthread_mutex_init(&folder->lock, NULL);
    td_list_init(&folder->link);
    td_list_init(&folder->waits);
    for (size_t i = 0; i < TD_FLIGHT_BUCKETS; i++)
        td_list_init(&folder->flights[i]);
    if (fd >= 0)
        folder->readonly = open_state(fd, shared, &folder->state_fd);
    return folder;
}

/* Needs the folder's lock. The descriptors keep their numbers, so that threads may use them meanwhile. */
static bool revive_locked(struct td_folder *folder)
{
    struct stat file;
    int fd = -1, state_fd = -1, readonly = 0;
    if (fstat(folder->fd, &file) < 0 || file.st_nlink > 0 || td__folder_state_locked(folder) < 0)
        return false;
    if (open_version(folder->path, folder->shared, &fd, &readonly) != TD_OK || fd < 0)
        return false;
    const bool revived = open_state(fd, folder->shared, &state_fd) == 0 && fstat(fd, &file) == 0 &&
                         dup3(state_fd, folder->state_fd, O_CLOEXEC) >= 0 &&
                         dup3(fd, folder->fd, O_CLOEXEC) >= 0;
    if (revived) {
        folder->device = file.st_dev;
        folder->inode = file.st_ino;
    }
    if (state_fd >= 0)
        close(state_fd);
    close(fd);
    return revived;
}

bool td__folder_revive(struct td_folder *folder)
{
    pthread_mutex_lock(&folders_lock);
    pthread_mutex_lock(&folder->lock);
    const bool revived = revive_locked(folder);
    pthread_mutex_unlock(&folder->lock);
    pthread_mutex_unlock(&folders_lock);
    return revived;
}

/* Needs folders_lock. */
static struct td_folder *find_locked(const struct stat *file)
{
    TD_LIST_EACH(node, &folders)
    {
        struct td_folder *folder = TD_LIST_ENTRY(node, struct td_folder, link);
        if (folder->fd >= 0 && folder->device == file->st_dev && folder->inode == file->st_ino)
            return folder;
    }
    return NULL;
}

td_status td__folder_open(const char *path, bool shared, struct td_folder **out)
{
    int fd = -1, readonly = 0;
    td_status status = open_version(path, shared, &fd, &readonly);
    if (status != TD_OK)
        return status;
    struct stat file = {0};
    if (fd >= 0 && fstat(fd, &file) < 0) {
        close(fd);
        return TD_EOS;
    }
    pthread_mutex_lock(&folders_lock);
    struct td_folder *folder = fd >= 0 ? find_locked(&file) : NULL;
    if (folder != NULL) {
        td__folder_ref(folder); /* F1 */
        close(fd);
    } else {
        folder = folder_new(path, fd, readonly, shared);
        if (folder != NULL) {
            folder->device = file.st_dev;
            folder->inode = file.st_ino;
            td_list_push_back(&folders, &folder->link);
        } else if (fd >= 0) {
            close(fd);
        }
    }
    pthread_mutex_unlock(&folders_lock);
    if (folder == NULL)
        return TD_ENOMEM;
    *out = folder;
    return TD_OK;
}

td_status td_store_open(const char *path, const struct td_store_options *options, td_store **out)
{
    struct td_folder *folder;
    td_store *store = malloc(sizeof *store);
    if (store == NULL)
        return TD_ENOMEM;
    const td_status status = td__folder_open(path, options->shared, &folder);
    if (status != TD_OK) {
        const int error = errno;
        free(store);
        errno = error;
        return status;
    }
    *store = (struct td_store){.folder = folder, .options = *options};
    *out = store;
    return TD_OK;
}

void td_store_close(td_store *store)
{
    if (store == NULL)
        return;
    td__folder_unref(store->folder);
    free(store);
}

int td_store_readonly(const td_store *store)
{
    return store->folder->readonly;
}

bool td_store_has_locks(const td_store *store)
{
    struct td_folder *folder = store->folder;
    pthread_mutex_lock(&folder->lock);
    const bool has = !store->options.no_locks && !folder->no_locks && td__folder_state_locked(folder) >= 0;
    pthread_mutex_unlock(&folder->lock);
    return has;
}
