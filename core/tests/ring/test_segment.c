/* tests/ring/test_segment.c: the layout of a pool's shared memory, and the checks when it is attached. */
#include "ring/segment.h"

#include "os/memfd.h"
#include "tests/harness.h"

TD_TEST(parts_are_aligned_disjoint_and_inside)
{
    const uint32_t sizes[][2] = {{2, 1}, {4, 3}, {64, 17}, {4096, 2}, {1024, 1024}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct td_segment_map map;
        REQUIRE_OK(td_segment_new(&map, sizes[i][0], sizes[i][1], 2, 0));
        const uintptr_t base = (uintptr_t)map.head;
        const uintptr_t parts[] = {base + sizeof(struct td_segment),
                                   (uintptr_t)map.states,
                                   (uintptr_t)(map.states + map.worker_count),
                                   (uintptr_t)map.seats,
                                   (uintptr_t)(map.seats + map.worker_count),
                                   (uintptr_t)map.slots,
                                   (uintptr_t)(map.slots + map.slot_count),
                                   (uintptr_t)map.cells,
                                   (uintptr_t)(map.cells + map.slot_count),
                                   (uintptr_t)map.completions,
                                   (uintptr_t)(map.completions + (uint64_t)map.worker_count * map.slot_count),
                                   base + map.bytes};
        for (size_t p = 1; p < sizeof parts / sizeof parts[0]; p++)
            CHECK_LE(parts[p - 1], parts[p]);
        for (size_t p = 1; p <= 9; p += 2)
            CHECK_EQ(parts[p] % TD_CACHELINE, 0u);
        CHECK_EQ(td_segment_bytes(sizes[i][0], sizes[i][1]), map.bytes);
        td_segment_fini(&map);
    }
}

TD_TEST(impossible_sizes_are_refused)
{
    const uint32_t sizes[][2] = {{0, 1}, {1, 1}, {3, 1}, {1u << 21, 1}, {4, 0}, {4, TD_MAX_WORKERS + 1}};
    struct td_segment_map map;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        CHECK_STATUS(td_segment_new(&map, sizes[i][0], sizes[i][1], 2, 0), TD_EINVAL);
}

TD_TEST(both_sides_see_the_same_memory)
{
    struct td_segment_map ours, theirs;
    REQUIRE_OK(td_segment_new(&ours, 8, 2, 3, 77));
    REQUIRE_OK(td_segment_attach(&theirs, dup(ours.fd)));
    CHECK_EQ(theirs.slot_count, 8u);
    CHECK_EQ(theirs.worker_count, 2u);
    CHECK_EQ(theirs.head->spin_ns, 77);
    td_atomic_store_relaxed(&ours.states[1], TD_SEAT_STARTING);
    CHECK_EQ(td_atomic_load_relaxed(&theirs.states[1]), (uint32_t)TD_SEAT_STARTING);
    td_segment_fini(&theirs);
    td_segment_fini(&ours);
}

TD_TEST(a_wrong_header_is_refused_and_leaves_the_descriptor_to_the_caller)
{
    struct td_segment_map ours, theirs;
    REQUIRE_OK(td_segment_new(&ours, 8, 2, 2, 0));
    struct td_segment good = {0};
    memcpy(&good, ours.head, offsetof(struct td_segment, tails));
    struct td_segment bad[6];
    for (size_t i = 0; i < 6; i++)
        memcpy(&bad[i], &good, sizeof good);
    bad[0].magic ^= 1;
    bad[1].version++;
    bad[2].slots = 16;
    bad[3].slots = 7;
    bad[4].workers = 0;
    bad[5].bytes += 64;
    for (size_t i = 0; i < 6; i++) {
        memcpy(ours.head, &bad[i], offsetof(struct td_segment, tails));
        CHECK_STATUS(td_segment_attach(&theirs, ours.fd), TD_EPROTO);
    }
    memcpy(ours.head, &good, offsetof(struct td_segment, tails));
    td_segment_fini(&ours);
    int fd;
    td_memfd_kind kind;
    REQUIRE_OK(td_memfd_new("short", 64, &fd, &kind));
    CHECK_STATUS(td_segment_attach(&theirs, fd), TD_EPROTO);
    close(fd);
}

TD_TEST_MAIN
