/* cache/wait.c: who waits for whom, across processes: so that no cycle of waits comes about.
 *
 * A cycle has only members that are waited for, so only who computes something himself has to be known while he waits:
 * nested calls, which are rare. He is written down twice: in the folder's list, for threads of this process, and as a
 * record in the state's file, for others:
 *
 *     state:  0          4096        8192        12288
 *             │ total    │ record 0  │ record 1  │ ...
 *
 * A record has two locks: its place is somebody's; and it is written. It is valid while the second is held: so what a
 * dead process wrote is not, nor what lies in a place that somebody has taken and not yet written to.
 * Invariants  A1 a wait is written down before its cycle is looked for. Of several that would close one together, the
 *                last to be written sees all others: so one of them computes, perhaps more.
 *             A2 a key has one leader, and who waits waits for one key. So the way from a key, to who leads it, to what
 *                that one waits for, is a line, and is followed until it ends, or comes to the owner.
 *             A3 a record that is read while it is written is seen by its checksum and not believed; its writer looks
 *                after that, and finds this one.
 *             A4 who can't be written down, or can't read the others, does not wait but computes: there is no room on
 *                the disk, no memory, no place, or it leads more than a record holds.
 * Without locks only the threads of this process are seen.
 * Crash       the kernel ends the locks of the records.   Tests  tests/cache/test_flight_processes.c */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/checksum.h"
#include "cache/flight.h"

#define RECORD_BYTES 4096
#define MOST_RECORDS 1024
#define MOST_HELD ((RECORD_BYTES - 16) / 8)

struct record {
    uint32_t checksum; /* of what follows */
    uint32_t held_count;
    uint64_t wanted;
    uint64_t held[MOST_HELD];
};
_Static_assert(sizeof(struct record) == RECORD_BYTES, "a record fills its place");

static uint32_t checksum_of(const struct record *record)
{
    return td_checksum(0, &record->held_count, RECORD_BYTES - sizeof record->checksum);
}

/* ---- This process -------------------------------------------------------------------------------------- */

/* The keys that the owner computes; how many there are may be more than there is room for. */
static void find_held_locked(struct td_folder *folder, uint64_t owner, struct record *record)
{
    for (size_t i = 0; i < TD_FLIGHT_BUCKETS; i++)
        TD_LIST_EACH(node, &folder->flights[i])
        {
            const struct td_flight *flight = TD_LIST_ENTRY(node, struct td_flight, link);
            if (flight->owner != owner)
                continue;
            if (record->held_count < MOST_HELD)
                record->held[record->held_count] = flight->hash;
            record->held_count++;
        }
}

static const struct td_wait *find_wait_locked(struct td_folder *folder, uint64_t owner)
{
    TD_LIST_EACH(node, &folder->waits)
    {
        const struct td_wait *wait = TD_LIST_ENTRY(node, struct td_wait, link);
        if (wait->owner == owner)
            return wait;
    }
    return NULL;
}

static bool is_ours_locked(struct td_folder *folder, int slot)
{
    TD_LIST_EACH(node, &folder->waits)
    if (TD_LIST_ENTRY(node, struct td_wait, link)->slot == slot)
        return true;
    return false;
}

/* ---- Records ------------------------------------------------------------------------------------------- */

static off_t place_of(int slot)
{
    return (off_t)RECORD_BYTES * (1 + slot);
}

/* A place nobody has; -1 where there is none. */
static int take_slot_locked(struct td_folder *folder, int fd)
{
    for (int slot = 0; slot < MOST_RECORDS; slot++) {
        if (is_ours_locked(folder, slot))
            continue;
        const enum td_lock lock = td__lock_try(fd, TD_LOCK_PLACES + slot);
        if (lock != TD_LOCK_HELD)
            return lock == TD_LOCKED ? slot : -1;
    }
    return -1;
}

static void withdraw(int fd, int slot)
{
    td__lock_end(fd, TD_LOCK_WAITS + slot);
    td__lock_end(fd, TD_LOCK_PLACES + slot);
}

/* Its place; -1: it could not be written down. */
static int publish_locked(struct td_folder *folder, int fd, struct record *record)
{
    const int slot = record->held_count <= MOST_HELD ? take_slot_locked(folder, fd) : -1;
    if (slot < 0)
        return -1;
    record->checksum = checksum_of(record);
    if (pwrite(fd, record, sizeof *record, place_of(slot)) == (ssize_t)sizeof *record &&
        td__lock_try(fd, TD_LOCK_WAITS + slot) == TD_LOCKED)
        return slot;
    withdraw(fd, slot);
    return -1;
}

static bool has(const struct record *record, uint64_t key)
{
    for (uint32_t i = 0; i < record->held_count; i++)
        if (record->held[i] == key)
            return true;
    return false;
}

/* The records of other processes, malloc'ed; false: they can't be read. */
static bool read_records_locked(struct td_folder *folder, int fd, struct record **records, uint32_t *count)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return false;
    const int slots =
        (int)(file.st_size / RECORD_BYTES < MOST_RECORDS ? file.st_size / RECORD_BYTES : MOST_RECORDS);
    *records = malloc((size_t)(slots + 1) * sizeof **records);
    if (*records == NULL)
        return false;
    for (int slot = 0; slot < slots; slot++) {
        struct record *record = &(*records)[*count];
        if (!is_ours_locked(folder, slot) && td__lock_is_held(fd, TD_LOCK_WAITS + slot) &&
            pread(fd, record, sizeof *record, place_of(slot)) == (ssize_t)sizeof *record &&
            record->held_count <= MOST_HELD && record->checksum == checksum_of(record)) /* A3 */
            ++*count;
    }
    return true;
}

/* ---- Cycles -------------------------------------------------------------------------------------------- */

/* What the one who leads this key waits for; false: nothing, as far as is known. */
static bool step_locked(struct td_folder *folder, const struct record *records, uint32_t count, uint64_t *key)
{
    const struct td_flight *flight = td__flight_find_locked(folder, *key);
    if (flight != NULL && flight->owner != 0) {
        const struct td_wait *wait = find_wait_locked(folder, flight->owner);
        if (wait != NULL)
            *key = wait->wanted;
        return wait != NULL;
    }
    for (uint32_t i = 0; i < count; i++)
        if (has(&records[i], *key)) {
            *key = records[i].wanted;
            return true;
        }
    return false;
}

/* A2. Others' cycles, which they are about to leave, end by the count. `fd` is the state's; -1: there are no locks. */
static bool closes_cycle_locked(struct td_folder *folder, const struct td_wait *self, int fd)
{
    uint32_t count = 0, steps = 0;
    struct record *records = NULL;
    if (fd >= 0 && !read_records_locked(folder, fd, &records, &count))
        return true; /* A4 */
    TD_LIST_EACH(node, &folder->waits)
    steps++;
    bool cycle = false;
    uint64_t key = self->wanted;
    for (uint32_t left = steps + count + 1; left > 0 && !cycle; left--) {
        const struct td_flight *flight = td__flight_find_locked(folder, key);
        cycle = flight != NULL && flight->owner == self->owner;
        if (!cycle && !step_locked(folder, records, count, &key))
            break;
    }
    free(records);
    return cycle;
}

bool td__wait_begin_locked(struct td_folder *folder, bool locks, struct td_wait *wait, uint64_t owner,
                           uint64_t wanted)
{
    struct record record = {.wanted = wanted};
    *wait = (struct td_wait){.owner = owner, .wanted = wanted, .slot = -1, .made = true};
    td_list_init(&wait->link);
    find_held_locked(folder, owner, &record);
    if (record.held_count == 0)
        return false;
    const int fd = locks ? td__folder_state_locked(folder) : -1;
    if (fd >= 0)
        wait->slot = publish_locked(folder, fd, &record);
    if (fd >= 0 && wait->slot < 0)
        return true; /* A4 */
    td_list_push_back(&folder->waits, &wait->link);
    return closes_cycle_locked(folder, wait, fd); /* A1 */
}

void td__wait_end_locked(struct td_folder *folder, struct td_wait *wait)
{
    if (!wait->made)
        return;
    td_list_remove(&wait->link);
    if (wait->slot >= 0 && folder->state_fd >= 0)
        withdraw(folder->state_fd, wait->slot);
    wait->made = false;
}
