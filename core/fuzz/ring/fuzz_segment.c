/* fuzz/ring/fuzz_segment.c: a pool's shared memory with a header that somebody else wrote: it is refused, or every part
 * that it speaks of lies inside of it. */
#include "fuzz/harness.h"
#include "os/memfd.h"
#include "ring/segment.h"

static struct td_segment_map own;
static uint8_t header[sizeof(struct td_segment)];

static void touch(const void *first, uint64_t bytes)
{
    volatile const uint8_t *part = first;
    (void)part[0];
    (void)part[bytes - 1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (own.head == NULL) {
        FUZZ_CHECK(td_segment_new(&own, 8, 2, 2, 0) == TD_OK);
        memcpy(header, own.head, sizeof header);
    }
    fuzz_input input = {data, bytes};
    const uint8_t flags = fuzz_byte(&input);
    fuzz_take(&input, own.head, sizeof header);
    if ((flags & 1) == 0) /* magic, version and sizes hold; the rest of the header is the input's */
        memcpy(own.head, header, offsetof(struct td_segment, spin_ns));

    const int before = fuzz_lowest_fd();
    const int fd = dup(own.fd);
    struct td_segment_map map;
    if (td_segment_attach(&map, fd) == TD_OK) {
        touch(map.head, map.bytes);
        touch(map.states, map.worker_count * sizeof *map.states);
        touch(map.seats, map.worker_count * sizeof *map.seats);
        touch(map.slots, map.slot_count * sizeof *map.slots);
        touch(map.cells, map.slot_count * sizeof *map.cells);
        touch(map.completions, (uint64_t)map.worker_count * map.slot_count * sizeof *map.completions);
        td_segment_fini(&map);
    } else {
        close(fd);
    }
    FUZZ_CHECK(fuzz_lowest_fd() == before);
    return 0;
}
