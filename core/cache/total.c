/* cache/total.c: how many bytes the entries of a folder are, without looking at them.
 *
 * Each put and each removal is added to the number at the head of the state's file.
 * Invariants  T1 the number is a hint: what a process that is killed has not added is missing, and what is put while
 *                all entries are looked at may count twice. Every such look puts it right; nothing else depends on it.
 *             T2 nobody waits for the number's lock: who finds it taken adds his part the next time.
 * Crash       see T1.   Tests  tests/cache/test_prune.c */
#include <errno.h>
#include <unistd.h>

#include "cache/folder.h"

#define MAGIC UINT64_C(0x316c61746f746474)

struct total {
    uint64_t magic;
    int64_t bytes;
};

static bool read_total(int fd, struct total *total)
{
    return pread(fd, total, sizeof *total, 0) == (ssize_t)sizeof *total && total->magic == MAGIC;
}

/* Under the folder's lock, which keeps the threads of this process apart. */
static enum td_total update_locked(struct td_folder *folder, bool set, int64_t bytes, int64_t *result)
{
    struct total total = {0};
    const int fd = folder->readonly == 0 ? td__folder_state_locked(folder) : -1;
    if (fd < 0 || td__lock_try(fd, TD_LOCK_TOTAL) == TD_LOCK_HELD)
        return TD_TOTAL_BUSY;
    bool known = read_total(fd, &total);
    if (set)
        total = (struct total){.magic = MAGIC};
    total.bytes += bytes;
    if (known || set)
        known = pwrite(fd, &total, sizeof total, 0) == (ssize_t)sizeof total;
    td__lock_end(fd, TD_LOCK_TOTAL);
    *result = total.bytes;
    return known ? TD_TOTAL_KNOWN : TD_TOTAL_UNKNOWN;
}

enum td_total td__total_save(struct td_folder *folder, int64_t *total)
{
    const int error = errno;
    pthread_mutex_lock(&folder->lock);
    const int64_t unsaved = (int64_t)td_atomic_exchange_relaxed(&folder->unsaved_bytes, 0);
    const enum td_total saved = update_locked(folder, false, unsaved, total);
    if (saved != TD_TOTAL_KNOWN)
        td_atomic_fetch_add_relaxed(&folder->unsaved_bytes, (uint64_t)unsaved);
    pthread_mutex_unlock(&folder->lock);
    errno = error;
    return saved;
}

void td__total_forget(struct td_folder *folder)
{
    td_atomic_store_relaxed(&folder->unsaved_bytes, 0);
}

void td__total_set(struct td_folder *folder, int64_t bytes)
{
    int64_t total;
    pthread_mutex_lock(&folder->lock);
    (void)update_locked(folder, true, bytes, &total);
    pthread_mutex_unlock(&folder->lock);
}

void td__total_add(td_store *store, int64_t bytes)
{
    struct td_folder *folder = store->folder;
    const uint64_t cap = store->options.cap_bytes;
    td_atomic_fetch_add_relaxed(&folder->unsaved_bytes, (uint64_t)bytes);
    int64_t total;
    const enum td_total saved = td__total_save(folder, &total);
    if (cap == 0 || saved == TD_TOTAL_BUSY || (saved == TD_TOTAL_KNOWN && total <= (int64_t)cap))
        return;
    /* Some room, so that this is not done for every entry. */
    const struct td_limits limits = {.bytes = cap - cap / 10, .items = TD_NO_LIMIT, .age_ns = INT64_MAX};
    uint64_t items, freed;
    const int error = errno;
    (void)td__prune(folder, &limits, &items, &freed);
    errno = error;
}
