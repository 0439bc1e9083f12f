/* cache/get.c: getting an entry: small ones are read, large ones mapped or read, and all of it is checked once.
 *
 * Invariants  G1 what is given out was checked in this process: an entry of SMALL_BYTES or less every time, a larger
 *                one at its first use. That one is known again by its inode, time, size and head's checksum, which
 *                covers the checksums of its parts: another file in its place, if only by one bit, is looked at anew.
 *             G2 nothing is read through a mapping here: what a disk can't give is an error, not SIGBUS.
 *             G3 an entry that was given out has no more to do with its name. An entry is never written again, so a
 *                mapping shows the same for as long as it is there, evicted or not.
 *             G4 a file is removed for being wrong only while it is what was looked at.
 * The use of an entry is noted in its file's access time, at most once in MARK_NS; its modification time is when it was
 * written.
 * Crash       nothing is held.   Tests  tests/cache/test_get.c */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cache/checksum.h"
#include "cache/entry.h"
#include "cache/folder.h"

#define SMALL_BYTES (UINT64_C(64) << 10)
#define CHUNK_BYTES ((size_t)256 << 10) /* read and checked while it is in the processor's cache */
#define HUGE_BYTES (UINT64_C(4) << 20)  /* memory that huge pages are asked for */
#define MARK_NS INT64_C(1000000000)

struct td_entry {
    void *base; /* the file's bytes */
    uint64_t bytes;
    uint64_t mapped_bytes; /* 0: base is behind this struct */
    uint64_t stamp;
    uint32_t count;
    uint64_t offsets[]; /* of the parts */
};

/* ---- What was checked ---------------------------------------------------------------------------------- */

struct td_seen {
    uint64_t stamp, bytes;
    uint32_t checksum; /* of the head */
};

static bool is_seen(struct td_folder *folder, const struct td_seen *file)
{
    pthread_mutex_lock(&folder->lock);
    const struct td_seen *slot = folder->seen ? &folder->seen[file->stamp / 2 % TD_SEEN_SLOTS] : NULL;
    const bool seen = slot != NULL && slot->stamp == file->stamp && slot->bytes == file->bytes &&
                      slot->checksum == file->checksum;
    pthread_mutex_unlock(&folder->lock);
    return seen;
}

/* What is not noted, for lack of memory or of a place, is checked again. */
static void note_seen(struct td_folder *folder, const struct td_seen *file)
{
    pthread_mutex_lock(&folder->lock);
    if (folder->seen == NULL)
        folder->seen = calloc(TD_SEEN_SLOTS, sizeof *folder->seen);
    if (folder->seen != NULL)
        folder->seen[file->stamp / 2 % TD_SEEN_SLOTS] = *file;
    pthread_mutex_unlock(&folder->lock);
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

/* TD_ECORRUPT: the file ends before. */
static td_status read_all(int fd, void *to, uint64_t bytes, uint64_t offset)
{
    while (bytes > 0) {
        const ssize_t got = pread(fd, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return TD_EOS;
        if (got == 0)
            return TD_ECORRUPT;
        to = (uint8_t *)to + got;
        bytes -= (uint64_t)got;
        offset += (uint64_t)got;
    }
    return TD_OK;
}

/* An open entry and its head. */
struct reading {
    int fd;
    struct stat file;
    void *head; /* malloc'ed */
    uint64_t head_bytes;
};

static td_status read_head(struct reading *reading, const struct td_key *key)
{
    uint8_t first[TD_ENTRY_HEADER_BYTES];
    const uint64_t bytes = (uint64_t)reading->file.st_size;
    td_status status = read_all(reading->fd, first, sizeof first, 0);
    if (status == TD_OK)
        status = td__entry_measure(first, bytes, key, &reading->head_bytes);
    if (status != TD_OK)
        return status;
    uint8_t *head = reading->head = malloc(reading->head_bytes);
    if (head == NULL)
        return TD_ENOMEM;
    memcpy(head, first, sizeof first); /* read once: the lengths below are those that were measured */
    status = read_all(reading->fd, head + sizeof first, reading->head_bytes - sizeof first, sizeof first);
    return status == TD_OK ? td__entry_check_head(reading->head, reading->head_bytes) : status;
}

static uint32_t count_of(const void *head)
{
    struct td_entry_header header;
    memcpy(&header, head, sizeof header);
    return header.parts;
}

static uint32_t checksum_of(const void *head, uint32_t i)
{
    struct td_entry_row row;
    memcpy(&row, (const uint8_t *)head + TD_ENTRY_HEADER_BYTES + (size_t)i * sizeof row, sizeof row);
    return row.checksum;
}

/* Reads a part and what its checksum covers: to where it stays, or, with `to` NULL, through a buffer. */
static td_status read_part(int fd, uint64_t offset, uint64_t bytes, uint8_t *to, void *buffer, bool check,
                           uint32_t expected)
{
    uint32_t checksum = 0;
    while (bytes > 0) {
        const size_t chunk = bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES;
        void *place = to != NULL ? to : buffer;
        const td_status status = read_all(fd, place, chunk, offset);
        if (status != TD_OK)
            return status;
        if (check)
            checksum = td_checksum(checksum, place, chunk);
        to = to != NULL ? to + chunk : NULL;
        bytes -= chunk;
        offset += chunk;
    }
    return !check || checksum == expected ? TD_OK : TD_ECORRUPT;
}

/* All parts; `base` (or NULL) is where the file is to be in memory. */
static td_status read_parts(const struct reading *reading, uint8_t *base, bool check)
{
    void *buffer = base == NULL ? malloc(CHUNK_BYTES) : NULL;
    if (base == NULL && buffer == NULL)
        return TD_ENOMEM;
    td_status status = TD_OK;
    uint64_t offset = reading->head_bytes;
    const uint32_t count = count_of(reading->head);
    for (uint32_t i = 0; i < count && status == TD_OK; i++) {
        uint64_t bytes, covered;
        td__entry_place(reading->head, i, offset, &bytes, &covered);
        status = read_part(reading->fd, offset, covered, base != NULL ? base + offset : NULL, buffer, check,
                           checksum_of(reading->head, i));
        offset += covered;
    }
    const int error = errno;
    free(buffer);
    errno = error;
    return status;
}

/* ---- Entries ------------------------------------------------------------------------------------------- */

static uint64_t struct_bytes(uint32_t count)
{
    return td_entry_align(sizeof(struct td_entry) + (uint64_t)count * sizeof(uint64_t));
}

static void place_parts(td_entry *entry, const void *head, uint64_t head_bytes)
{
    uint64_t offset = head_bytes;
    for (uint32_t i = 0; i < entry->count; i++) {
        uint64_t bytes, covered;
        td__entry_place(head, i, offset, &bytes, &covered);
        entry->offsets[i] = offset;
        offset += covered;
    }
}

static td_entry *entry_new(const struct stat *file, const void *head, uint64_t room)
{
    const uint32_t count = count_of(head);
    td_entry *entry = aligned_alloc(TD_ENTRY_ALIGN, struct_bytes(count) + td_entry_align(room));
    if (entry == NULL)
        return NULL;
    *entry = (struct td_entry){.base = (uint8_t *)entry + struct_bytes(count),
                               .bytes = (uint64_t)file->st_size,
                               .stamp = td__stamp(file),
                               .count = count};
    return entry;
}

/* One read, all checked. */
static td_status read_small(int fd, const struct stat *file, const struct td_key *key, td_entry **out)
{
    uint8_t bytes[SMALL_BYTES];
    struct reading reading = {.fd = fd, .file = *file, .head = bytes};
    const uint64_t size = (uint64_t)file->st_size;
    td_status status = read_all(fd, bytes, size, 0);
    if (status == TD_OK)
        status = td__entry_measure(bytes, size, key, &reading.head_bytes);
    if (status == TD_OK)
        status = td__entry_check_head(bytes, reading.head_bytes);
    if (status != TD_OK)
        return status;
    td_entry *entry = entry_new(file, bytes, size);
    if (entry == NULL)
        return TD_ENOMEM;
    place_parts(entry, bytes, reading.head_bytes);
    for (uint32_t i = 0; i < entry->count; i++) {
        const uint64_t end = i + 1 < entry->count ? entry->offsets[i + 1] : size;
        const uint32_t checksum = td_checksum(0, bytes + entry->offsets[i], end - entry->offsets[i]);
        if (checksum != checksum_of(bytes, i)) {
            free(entry);
            return TD_ECORRUPT;
        }
    }
    memcpy(entry->base, bytes, size);
    *out = entry;
    return TD_OK;
}

/* Memory for a file's bytes, or a mapping of them. */
static td_status map_large(const struct reading *reading, enum td_access access, void **base)
{
    const size_t bytes = (size_t)reading->file.st_size;
    const bool own = access == TD_ACCESS_COPY || access == TD_ACCESS_PRIVATE;
    const int shown = own ? PROT_READ | PROT_WRITE : PROT_READ;
    const int flags = access == TD_ACCESS_COPY ? MAP_PRIVATE | MAP_ANONYMOUS
                      : own                    ? MAP_PRIVATE | MAP_NORESERVE
                                               : MAP_SHARED;
    *base = mmap(NULL, bytes, shown, flags, access == TD_ACCESS_COPY ? -1 : reading->fd, 0);
    if (*base == MAP_FAILED)
        return errno == ENOMEM ? TD_ENOMEM : TD_EOS;
    if (access == TD_ACCESS_COPY && bytes >= HUGE_BYTES)
        (void)madvise(*base, bytes, MADV_HUGEPAGE);
    return TD_OK;
}

static td_status fill_large(const struct reading *reading, enum td_access access, void *base, bool check)
{
    if (access == TD_ACCESS_COPY) {
        memcpy(base, reading->head, reading->head_bytes);
        return read_parts(reading, base, check);
    }
    return check ? read_parts(reading, NULL, true) : TD_OK;
}

static td_status get_large(td_store *store, struct reading *reading, const struct td_key *key,
                           enum td_access access, td_entry **out)
{
    td_status status = read_head(reading, key);
    if (status != TD_OK)
        return status;
    struct td_entry_header header;
    memcpy(&header, reading->head, sizeof header);
    const struct td_seen seen = {td__stamp(&reading->file), header.bytes, header.checksum};
    const bool check = !store->options.heads_only && access != TD_ACCESS_PEEK && !is_seen(store->folder, &seen);
    td_entry *entry = entry_new(&reading->file, reading->head, 0);
    if (entry == NULL)
        return TD_ENOMEM;
    place_parts(entry, reading->head, reading->head_bytes);
    status = map_large(reading, access, &entry->base);
    if (status == TD_OK) {
        entry->mapped_bytes = entry->bytes;
        status = fill_large(reading, access, entry->base, check);
    }
    if (status != TD_OK) {
        const int error = errno;
        td_entry_free(entry);
        errno = error;
        return status;
    }
    if (check)
        note_seen(store->folder, &seen);
    *out = entry;
    return TD_OK;
}

/* ---- Getting ------------------------------------------------------------------------------------------- */

/* Reading is no use of its own; whose file it is not may not say so. */
static int open_entry(int folder, const char *name)
{
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    const int fd = openat(folder, name, flags | O_NOATIME);
    return fd < 0 && errno == EPERM ? openat(folder, name, flags) : fd;
}

static void mark_used(int fd, const struct stat *file)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t age =
        (int64_t)(now.tv_sec - file->st_atim.tv_sec) * 1000000000 + now.tv_nsec - file->st_atim.tv_nsec;
    const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
    if (age > MARK_NS || age < 0)
        (void)futimens(fd, times);
}

bool td__entry_remove(struct td_folder *folder, const char *name, const struct stat *file)
{
    struct stat found;
    if (fstatat(folder->fd, name, &found, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT;
    if (found.st_ino != file->st_ino || found.st_dev != file->st_dev)
        return true;
    return unlinkat(folder->fd, name, 0) == 0 || errno == ENOENT;
}

static td_status check_file(const td_store *store, const struct stat *file)
{
    if (!S_ISREG(file->st_mode) || file->st_size < (off_t)TD_ENTRY_HEADER_BYTES)
        return TD_ECORRUPT;
    return store->options.shared || file->st_uid == geteuid() ? TD_OK : TD_EFOREIGN;
}

static td_status get_open(td_store *store, struct reading *reading, const struct td_key *key,
                          enum td_access access, td_entry **out)
{
    td_status status = fstat(reading->fd, &reading->file) < 0 ? TD_EOS : check_file(store, &reading->file);
    if (status != TD_OK)
        return status;
    if ((uint64_t)reading->file.st_size <= SMALL_BYTES)
        status = read_small(reading->fd, &reading->file, key, out);
    else
        status = get_large(store, reading, key, access, out);
    if (status == TD_OK && access != TD_ACCESS_PEEK)
        mark_used(reading->fd, &reading->file);
    return status;
}

td_status td_store_get(td_store *store, const struct td_key *key, enum td_access access, td_entry **out)
{
    char name[TD_NAME_BYTES];
    struct td_folder *folder = store->folder;
    if (key->length == 0 || key->length > TD_KEY_BYTES)
        return TD_EINVAL;
    td__entry_name(key, name);
    struct reading reading = {.fd = -1};
    errno = ENOENT;
    if (folder->fd >= 0)
        reading.fd = open_entry(folder->fd, name);
    if (reading.fd < 0 && (errno == ENOENT || errno == ELOOP)) {
        *out = NULL;
        return TD_OK;
    }
    if (reading.fd < 0)
        return td_status_from_errno(errno) == TD_ENOFD ? TD_ENOFD : TD_EOS;
    const td_status status = get_open(store, &reading, key, access, out);
    const int error = errno;
    if (status == TD_ECORRUPT && access != TD_ACCESS_PEEK && folder->readonly == 0 &&
        td__entry_remove(folder, name, &reading.file))
        td__total_add(store, -(int64_t)reading.file.st_size);
    free(reading.head);
    close(reading.fd);
    errno = error;
    return status;
}

td_status td__entry_examine(struct td_folder *folder, const char *name, const struct td_key *key)
{
    struct reading reading = {.fd = open_entry(folder->fd, name)};
    if (reading.fd < 0)
        return errno == ENOENT ? TD_OK : TD_EOS;
    td_status status = fstat(reading.fd, &reading.file) < 0 ? TD_EOS : TD_OK;
    if (status == TD_OK &&
        (!S_ISREG(reading.file.st_mode) || reading.file.st_size < (off_t)TD_ENTRY_HEADER_BYTES))
        status = TD_ECORRUPT;
    if (status == TD_OK)
        status = read_head(&reading, key);
    if (status == TD_OK)
        status = read_parts(&reading, NULL, true);
    const int error = errno;
    free(reading.head);
    close(reading.fd);
    errno = error;
    return status;
}

/* ---- What is in an entry ------------------------------------------------------------------------------- */

void td_entry_free(td_entry *entry)
{
    if (entry == NULL)
        return;
    if (entry->mapped_bytes > 0)
        munmap(entry->base, entry->mapped_bytes);
    free(entry);
}

uint32_t td_entry_count(const td_entry *entry)
{
    return entry->count;
}

void *td_entry_part(const td_entry *entry, uint32_t i, uint64_t *bytes)
{
    struct td_entry_row row;
    memcpy(&row, (const uint8_t *)entry->base + TD_ENTRY_HEADER_BYTES + (size_t)i * sizeof row, sizeof row);
    *bytes = row.bytes;
    return (uint8_t *)entry->base + entry->offsets[i];
}

uint64_t td_entry_bytes(const td_entry *entry)
{
    return entry->bytes;
}

static struct td_entry_header header_of(const td_entry *entry)
{
    struct td_entry_header header;
    memcpy(&header, entry->base, sizeof header);
    return header;
}

int64_t td_entry_created_ns(const td_entry *entry)
{
    return header_of(entry).created_ns;
}

void td_entry_kind(const td_entry *entry, char kind[TD_KIND_BYTES + 1])
{
    const struct td_entry_header header = header_of(entry);
    memcpy(kind, header.kind, TD_KIND_BYTES);
    kind[TD_KIND_BYTES] = '\0';
}

uint64_t td_entry_stamp(const td_entry *entry)
{
    return entry->stamp;
}
