/* ring/segment.c: making and mapping a pool's shared memory; see segment.h for its layout.
 * Crash  the memory has no name and goes with its last mapping.   Tests  tests/ring/test_segment.c */
#include "ring/segment.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/memfd.h"

static uint64_t line_up(uint64_t bytes)
{
    return (bytes + TD_CACHELINE - 1) & ~(uint64_t)(TD_CACHELINE - 1);
}

/* Fills in the addresses of the parts; returns the bytes of the whole. base NULL only measures. */
static uint64_t lay_out(struct td_segment_map *map, uint8_t *base, uint32_t slots, uint32_t workers)
{
    uint64_t at = sizeof(struct td_segment);
    const uint64_t states = at;
    at += line_up(workers * sizeof(td_atomic_u32));
    const uint64_t seats = at;
    at += (uint64_t)workers * sizeof(struct td_seat);
    const uint64_t slot_table = at;
    at += (uint64_t)slots * sizeof(struct td_slot);
    const uint64_t cells = at;
    at += line_up((uint64_t)TD_LANES * slots * sizeof(td_atomic_u64));
    const uint64_t completions = at;
    at += (uint64_t)workers * slots * sizeof(td_atomic_u64);
    if (base != NULL) {
        map->head = (struct td_segment *)base;
        map->states = (td_atomic_u32 *)(base + states);
        map->seats = (struct td_seat *)(base + seats);
        map->slots = (struct td_slot *)(base + slot_table);
        map->cells = (td_atomic_u64 *)(base + cells);
        map->completions = (td_atomic_u64 *)(base + completions);
        map->slot_count = slots;
        map->worker_count = workers;
        map->bytes = at;
    }
    return at;
}

uint64_t td_segment_bytes(uint32_t slots, uint32_t workers)
{
    return lay_out(NULL, NULL, slots, workers);
}

static bool is_size(uint32_t slots, uint32_t workers)
{
    return slots >= 2 && slots <= 1u << 20 && (slots & (slots - 1)) == 0 && workers >= 1 &&
           workers <= TD_MAX_WORKERS;
}

static uint64_t offset_of(const struct td_segment_map *map, const void *part)
{
    return (uint64_t)((const uint8_t *)part - (const uint8_t *)map->head);
}

td_status td_segment_commit_slots(const struct td_segment_map *map, uint32_t first, uint32_t count)
{
    return td_memfd_commit(map->fd, offset_of(map, &map->slots[first]),
                           (uint64_t)count * sizeof(struct td_slot));
}

td_status td_segment_new(struct td_segment_map *map, uint32_t slots, uint32_t workers, uint32_t cpu_budget,
                         int64_t spin_ns)
{
    if (!is_size(slots, workers))
        return TD_EINVAL;
    const uint64_t bytes = td_segment_bytes(slots, workers);
    int fd;
    td_memfd_kind kind;
    td_status status = td_memfd_new("treadle-pool", bytes, &fd, &kind);
    if (status != TD_OK)
        return status;
    void *base;
    status = td_map_shared(fd, bytes, true, &base);
    if (status != TD_OK) {
        close(fd);
        return status;
    }
    lay_out(map, base, slots, workers);
    map->fd = fd;
    /* The completion rings are committed but stay untouched, so they cost no page table, only room. */
    const uint64_t slots_at = offset_of(map, map->slots), cells_at = offset_of(map, map->cells);
    status = td_memfd_commit(fd, 0, slots_at);
    if (status == TD_OK)
        status = td_memfd_commit(fd, cells_at, bytes - cells_at);
    if (status != TD_OK) {
        td_segment_fini(map);
        return status;
    }
    struct td_segment *head = map->head;
    head->version = TD_SEGMENT_VERSION;
    head->slots = slots;
    head->workers = workers;
    head->cpu_budget = cpu_budget;
    head->spin_ns = spin_ns;
    head->bytes = bytes;
    head->magic = TD_SEGMENT_MAGIC;
    /* Positions start at slot_count, so that a zeroed cell never looks like an announced one. */
    for (uint32_t lane = 0; lane < TD_LANES; lane++) {
        td_atomic_init(&head->tails[lane], td_lane_position((enum td_lane)lane, slots));
        td_atomic_init(&head->head_hints[lane], td_lane_position((enum td_lane)lane, slots));
    }
    return TD_OK;
}

td_status td_segment_attach(struct td_segment_map *map, int fd)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return TD_EOS;
    const uint64_t bytes = (uint64_t)info.st_size;
    if (bytes < sizeof(struct td_segment))
        return TD_EPROTO;
    void *base;
    td_status status = td_map_shared(fd, bytes, true, &base);
    if (status != TD_OK)
        return status;
    struct td_segment head;
    memcpy(&head, base, sizeof head);
    if (head.magic != TD_SEGMENT_MAGIC || head.version != TD_SEGMENT_VERSION || head.bytes != bytes ||
        !is_size(head.slots, head.workers) || td_segment_bytes(head.slots, head.workers) != bytes) {
        td_unmap(base, bytes);
        return TD_EPROTO;
    }
    lay_out(map, base, head.slots, head.workers);
    map->fd = fd;
    return TD_OK;
}

void td_segment_fini(struct td_segment_map *map)
{
    td_unmap(map->head, map->bytes);
    close(map->fd);
    map->fd = -1;
    map->head = NULL;
}
