/* cache/prune.c: looking at all entries: to list them, to make room, to verify them.
 *
 * Invariants  P1 an entry goes by its name alone: who has it mapped, or open, goes on with it. What was put anew under
 *                the name since it was looked at goes with it, and is computed again: a pity, but not wrong.
 *             P2 one thread of one process makes room at a time; who finds that somebody does goes on.
 *             P3 what is no entry's name is left alone.
 * Crash       some entries are gone, the total is of before (cache/total.c).   Tests  tests/cache/test_prune.c */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache/folder.h"

/* ---- All entries --------------------------------------------------------------------------------------- */

static int64_t nanoseconds(const struct timespec *time)
{
    return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

static DIR *open_folder(int parent, const char *name)
{
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (folder == NULL && fd >= 0)
        close(fd);
    return folder;
}

typedef bool tell_entry(void *ctx, const struct td_entry_info *info);

/* False: it is enough. */
static bool walk_subfolder(DIR *files, tell_entry *tell, void *ctx)
{
    for (const struct dirent *each; (each = readdir(files)) != NULL;) {
        struct td_entry_info info;
        struct stat file;
        if (!td__entry_key(each->d_name, &info.key) ||
            fstatat(dirfd(files), each->d_name, &file, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(file.st_mode))
            continue;
        info.bytes = (uint64_t)file.st_size;
        info.created_ns = nanoseconds(&file.st_mtim);
        info.used_ns = nanoseconds(&file.st_atim);
        if (info.used_ns < info.created_ns)
            info.used_ns = info.created_ns;
        if (!tell(ctx, &info))
            return false;
    }
    return true;
}

static td_status walk(struct td_folder *folder, tell_entry *tell, void *ctx)
{
    if (folder->fd < 0)
        return TD_OK;
    DIR *all = open_folder(folder->fd, ".");
    if (all == NULL)
        return TD_EOS;
    struct td_key key;
    bool more = true;
    for (const struct dirent *each; more && (each = readdir(all)) != NULL;) {
        DIR *files = strlen(each->d_name) == 2 && td__entry_key(each->d_name, &key)
                         ? open_folder(folder->fd, each->d_name)
                         : NULL;
        if (files == NULL)
            continue;
        more = walk_subfolder(files, tell, ctx);
        closedir(files);
    }
    closedir(all);
    return TD_OK;
}

td_status td_store_walk(td_store *store, tell_entry *tell, void *ctx)
{
    return walk(store->folder, tell, ctx);
}

td_status td_store_drop(td_store *store, const struct td_key *key, bool *dropped)
{
    char name[TD_NAME_BYTES];
    struct stat file;
    struct td_folder *folder = store->folder;
    if (key->length == 0 || key->length > TD_KEY_BYTES)
        return TD_EINVAL;
    td__entry_name(key, name);
    const bool there = folder->fd >= 0 && fstatat(folder->fd, name, &file, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && unlinkat(folder->fd, name, 0) == 0) {
        td__total_add(store, -(int64_t)file.st_size);
        *dropped = true;
        return TD_OK;
    }
    if (there && errno != ENOENT)
        return TD_EOS;
    *dropped = false;
    return TD_OK;
}

/* ---- Making room --------------------------------------------------------------------------------------- */

struct list {
    struct td_entry_info *entries;
    size_t count, room;
    bool failed; /* no memory */
};

static bool collect(void *ctx, const struct td_entry_info *info)
{
    struct list *list = ctx;
    if (list->count == list->room) {
        const size_t room = list->room ? 2 * list->room : 256;
        struct td_entry_info *entries = realloc(list->entries, room * sizeof *entries);
        list->failed = entries == NULL;
        if (list->failed)
            return false;
        list->entries = entries;
        list->room = room;
    }
    list->entries[list->count++] = *info;
    return true;
}

static int by_use(const void *left, const void *right)
{
    const struct td_entry_info *a = left, *b = right;
    return a->used_ns != b->used_ns ? (a->used_ns < b->used_ns ? -1 : 1)
                                    : memcmp(a->key.bytes, b->key.bytes, sizeof a->key.bytes);
}

/* From the least recently used one on. What remains is of *left bytes. */
static td_status remove_entries(struct td_folder *folder, struct list *list, const struct td_limits *limits,
                                uint64_t *items, uint64_t *bytes, uint64_t *left)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t left_items = list->count;
    qsort(list->entries, list->count, sizeof *list->entries, by_use);
    for (size_t i = 0; i < list->count; i++) {
        const struct td_entry_info *entry = &list->entries[i];
        const bool old = limits->age_ns < INT64_MAX && nanoseconds(&now) - entry->used_ns > limits->age_ns;
        if (!old && *left <= limits->bytes && left_items <= limits->items)
            break;
        char name[TD_NAME_BYTES];
        td__entry_name(&entry->key, name);
        const bool removed = unlinkat(folder->fd, name, 0) == 0;
        if (!removed && errno != ENOENT)
            return TD_EOS;
        *items += removed;
        *bytes += removed ? entry->bytes : 0;
        *left -= entry->bytes;
        left_items--;
    }
    return TD_OK;
}

static td_status make_room(struct td_folder *folder, const struct td_limits *limits, uint64_t *items,
                           uint64_t *bytes)
{
    struct list list = {0};
    uint64_t left = 0;
    td__sweep(folder);
    td__total_forget(folder);
    td_status status = walk(folder, collect, &list);
    if (status == TD_OK && list.failed)
        status = TD_ENOMEM;
    for (size_t i = 0; i < list.count; i++)
        left += list.entries[i].bytes;
    if (status == TD_OK && list.count > 0)
        status = remove_entries(folder, &list, limits, items, bytes, &left);
    const int error = errno;
    if (!list.failed)
        td__total_set(folder, (int64_t)left);
    free(list.entries);
    errno = error;
    return status;
}

static bool begin_pruning(struct td_folder *folder)
{
    pthread_mutex_lock(&folder->lock);
    const int fd = td__folder_state_locked(folder);
    const bool begun = !folder->pruning && (fd < 0 || td__lock_try(fd, TD_LOCK_PRUNE) != TD_LOCK_HELD);
    folder->pruning |= begun;
    pthread_mutex_unlock(&folder->lock);
    return begun;
}

static void end_pruning(struct td_folder *folder)
{
    pthread_mutex_lock(&folder->lock);
    folder->pruning = false;
    if (folder->state_fd >= 0)
        td__lock_end(folder->state_fd, TD_LOCK_PRUNE);
    pthread_mutex_unlock(&folder->lock);
}

td_status td__prune(struct td_folder *folder, const struct td_limits *limits, uint64_t *items, uint64_t *bytes)
{
    *items = *bytes = 0;
    if (!begin_pruning(folder))
        return TD_OK; /* P2 */
    const td_status status = make_room(folder, limits, items, bytes);
    const int error = errno;
    end_pruning(folder);
    errno = error;
    return status;
}

/* Who asks for it does not leave it to another, whose limits may be others: there is nothing that two would break. */
td_status td_store_prune(td_store *store, const struct td_limits *limits, uint64_t *items, uint64_t *bytes)
{
    if (store->folder->readonly != 0) {
        errno = store->folder->readonly;
        return TD_EOS;
    }
    *items = *bytes = 0;
    return make_room(store->folder, limits, items, bytes);
}

/* ---- Verifying ----------------------------------------------------------------------------------------- */

td_status td_store_verify(td_store *store, bool remove, void (*tell)(void *ctx, const struct td_key *key),
                          void *ctx, uint64_t *checked)
{
    struct td_folder *folder = store->folder;
    struct list list = {0};
    td_status status = walk(folder, collect, &list);
    if (status == TD_OK && list.failed)
        status = TD_ENOMEM;
    *checked = 0;
    for (size_t i = 0; i < list.count && status == TD_OK; i++) {
        char name[TD_NAME_BYTES];
        td__entry_name(&list.entries[i].key, name);
        status = td__entry_examine(folder, name, &list.entries[i].key);
        ++*checked;
        if (status != TD_ECORRUPT)
            continue;
        status = TD_OK;
        tell(ctx, &list.entries[i].key);
        if (remove && unlinkat(folder->fd, name, 0) == 0)
            td__total_add(store, -(int64_t)list.entries[i].bytes);
    }
    const int error = errno;
    free(list.entries);
    errno = error;
    return status;
}
