/* The arena's interface, call by call. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "memory/arena.h"
#include "os/memfd.h"
#include "tests/harness.h"
#include "tests/memory/made_up.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)

static td_arena *new_arena(const td_arena_config *config)
{
    td_arena *arena = NULL;
    REQUIRE_OK(td_arena_new("test", 0, config, &arena));
    return arena;
}

static td_arena_stats stats_of(td_arena *arena)
{
    td_arena_stats stats;
    td_arena_stats_read(arena, &stats);
    return stats;
}

TD_TEST(blocks_of_every_size_are_aligned_writable_and_apart)
{
    static const uint64_t sizes[] = {0,     1,     63,       64,  65,      1000,    4096,
                                     16320, 16321, 64 * KIB, MIB, MIB + 1, 7 * MIB, 40 * MIB};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    td_arena *arena = new_arena(NULL);
    td_block blocks[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        REQUIRE_OK(td_arena_alloc(arena, sizes[i], &blocks[i]));
        CHECK_EQ((uintptr_t)blocks[i].data % TD_BLOCK_ALIGN, 0u);
        CHECK_LE(sizes[i], blocks[i].capacity);
        memset(blocks[i].data, (int)i + 1, blocks[i].capacity);
        CHECK_OK(td_arena_validate(arena));
    }
    for (size_t i = 0; i < COUNT; i++) {
        const unsigned char *bytes = blocks[i].data;
        for (uint64_t k = 0; k < blocks[i].capacity; k += 61)
            REQUIRE_EQ(bytes[k], i + 1);
        CHECK_OK(td_arena_free(arena, blocks[i].ref));
    }
    CHECK_OK(td_arena_validate(arena));
    CHECK_EQ(stats_of(arena).live_bytes, 0u);
    td_arena_unref(arena);
}

TD_TEST(small_blocks_waste_at_most_a_fifth)
{
    td_arena *arena = new_arena(NULL);
    for (uint64_t bytes = 64; bytes <= 16320; bytes += 37) {
        td_block block;
        REQUIRE_OK(td_arena_alloc(arena, bytes, &block));
        CHECK_LE((block.capacity - bytes) * 4, bytes + 64 + 63 * 4);
        CHECK_OK(td_arena_free(arena, block.ref));
    }
    td_arena_unref(arena);
}

TD_TEST(a_warm_block_needs_no_page)
{
    static const uint64_t sizes[] = {100, 3000, 200 * KIB, 3 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        td_arena *arena = new_arena(&(td_arena_config){.warm_bytes = 64 * MIB});
        td_block block, warm;
        CHECK_STATUS(td_arena_alloc_warm(arena, sizes[i], true, &block), TD_EAGAIN);
        REQUIRE_OK(td_arena_alloc(arena, sizes[i], &block));
        REQUIRE_OK(td_arena_free(arena, block.ref));
        const uint64_t committed = stats_of(arena).committed_bytes;
        REQUIRE_OK(td_arena_alloc_warm(arena, sizes[i], false, &warm));
        CHECK_LE(sizes[i], warm.capacity);
        CHECK_STATUS(td_arena_alloc_warm(arena, 60 * MIB, false, &block), TD_EAGAIN);
        CHECK_EQ(stats_of(arena).committed_bytes, committed);
        CHECK_OK(td_arena_validate(arena));
        CHECK_OK(td_arena_free(arena, warm.ref));
        td_arena_unref(arena);
    }
}

TD_TEST(a_block_with_holes_is_no_warm_one)
{
    td_arena *arena = new_arena(&(td_arena_config){.warm_bytes = 64 * MIB});
    td_block whole, front, back;
    REQUIRE_OK(td_arena_alloc(arena, 8 * MIB - 64, &whole));
    REQUIRE_OK(td_arena_free(arena, whole.ref));
    td_arena_trim(arena, 6 * MIB); /* 2 of 8 are gone */
    CHECK_STATUS(td_arena_alloc_warm(arena, 7 * MIB, false, &whole), TD_EAGAIN);
    CHECK_OK(td_arena_validate(arena));
    REQUIRE_OK(td_arena_alloc_warm(arena, 5 * MIB, false, &front));
    CHECK_STATUS(td_arena_alloc_warm(arena, 2 * MIB, false, &back), TD_EAGAIN);
    CHECK_OK(td_arena_validate(arena));
    CHECK_OK(td_arena_free(arena, front.ref));
    td_arena_unref(arena);
}

TD_TEST(a_freed_block_is_the_next_one_handed_out)
{
    static const uint64_t sizes[] = {100, 3000, 200 * KIB, 3 * MIB};
    td_arena *arena = new_arena(&(td_arena_config){.warm_bytes = 64 * MIB});
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        td_block first, second;
        REQUIRE_OK(td_arena_alloc(arena, sizes[i], &first));
        REQUIRE_OK(td_arena_free(arena, first.ref));
        REQUIRE_OK(td_arena_alloc(arena, sizes[i], &second));
        CHECK(first.data == second.data);
        CHECK_NE(first.ref, second.ref);
        CHECK_OK(td_arena_free(arena, second.ref));
    }
    td_arena_unref(arena);
}

TD_TEST(pages_are_committed_only_under_what_was_asked_for)
{
    td_arena *arena = new_arena(NULL);
    td_block block;
    uint64_t resident;
    REQUIRE_OK(td_arena_alloc(arena, 9 * MIB, &block)); /* of a block of 16 MiB */
    REQUIRE_OK(td_memfd_resident(td_arena_fd(arena), &resident));
    CHECK_EQ(resident, stats_of(arena).committed_bytes);
    CHECK_LE(resident, 9 * MIB + 128 * KIB);
    td_arena_unref(arena);
}

TD_TEST(freed_pages_stay_up_to_the_warm_limit_and_trim_gives_them_back)
{
    td_arena *arena = new_arena(&(td_arena_config){.warm_bytes = 8 * MIB});
    td_block blocks[6];
    for (int i = 0; i < 6; i++) {
        REQUIRE_OK(td_arena_alloc(arena, 4 * MIB - 64, &blocks[i]));
        memset(blocks[i].data, 1, blocks[i].capacity);
    }
    CHECK_LE(24 * MIB, stats_of(arena).committed_bytes);
    for (int i = 0; i < 6; i++)
        CHECK_OK(td_arena_free(arena, blocks[i].ref));
    CHECK_OK(td_arena_validate(arena));
    CHECK_LE(stats_of(arena).warm_bytes, 8 * MIB);
    CHECK_LE(4 * MIB, stats_of(arena).warm_bytes);
    CHECK_LT(0u, td_arena_trim(arena, 2 * MIB));
    CHECK_EQ(stats_of(arena).warm_bytes, 2 * MIB);
    CHECK_LT(0u, td_arena_trim(arena, 0));
    CHECK_EQ(td_arena_trim(arena, 0), 0u);
    CHECK_OK(td_arena_validate(arena));
    uint64_t resident;
    REQUIRE_OK(td_memfd_resident(td_arena_fd(arena), &resident));
    CHECK_LE(resident, 64 * KIB);
    REQUIRE_OK(td_arena_alloc(arena, 4 * MIB, &blocks[0])); /* and they come back */
    memset(blocks[0].data, 1, blocks[0].capacity);
    td_arena_unref(arena);
}

TD_TEST(shrinking_returns_the_tail_for_others)
{
    td_arena *arena = new_arena(NULL);
    td_block block;
    void *data;
    REQUIRE_OK(td_arena_alloc(arena, 8 * MIB, &block));
    memset(block.data, 7, 100 * KIB);
    uint64_t before = stats_of(arena).live_bytes;
    CHECK_STATUS(td_arena_shrink(arena, block.ref, block.capacity + 1), TD_EINVAL);
    CHECK_OK(td_arena_shrink(arena, block.ref, 100 * KIB));
    CHECK_OK(td_arena_validate(arena));
    CHECK_LT(stats_of(arena).live_bytes + 7 * MIB, before);
    CHECK_OK(td_arena_peek(arena, block.ref, 100 * KIB, &data));
    CHECK_STATUS(td_arena_peek(arena, block.ref, 200 * KIB, &data), TD_EPROTO);
    CHECK_OK(td_arena_shrink(arena, block.ref, 0));
    CHECK_OK(td_arena_free(arena, block.ref));
    CHECK_OK(td_arena_validate(arena));
    REQUIRE_OK(td_arena_alloc(arena, 100, &block));
    CHECK_OK(td_arena_shrink(arena, block.ref, 1));
    CHECK_OK(td_arena_free(arena, block.ref));
    td_arena_unref(arena);
}

TD_TEST(lent_blocks_live_until_given_back_and_swept)
{
    td_arena *arena = new_arena(NULL);
    td_block blocks[100];
    for (int i = 0; i < 100; i++) {
        REQUIRE_OK(td_arena_alloc(arena, i % 2 ? 100 : 50 * KIB, &blocks[i]));
        CHECK_STATUS(td_block_give(arena, blocks[i].ref), TD_EPROTO); /* not lent yet */
        REQUIRE_OK(td_arena_lend(arena, blocks[i].ref));
        CHECK_STATUS(td_arena_lend(arena, blocks[i].ref), TD_EINVAL);
        CHECK_STATUS(td_arena_free(arena, blocks[i].ref), TD_EINVAL);
    }
    CHECK_EQ(td_arena_sweep(arena), 0u);
    for (int i = 0; i < 100; i += 3) {
        CHECK_OK(td_block_give(arena, blocks[i].ref));
        CHECK_STATUS(td_block_give(arena, blocks[i].ref), TD_EPROTO);
    }
    CHECK_EQ(td_arena_sweep(arena), 34u);
    CHECK_EQ(stats_of(arena).lent_blocks, 66u);
    CHECK_OK(td_arena_validate(arena));
    for (int i = 0; i < 100; i++)
        CHECK_STATUS(td_block_give(arena, blocks[i].ref), i % 3 ? TD_OK : TD_EPROTO);
    CHECK_EQ(td_arena_sweep(arena), 66u);
    CHECK_EQ(stats_of(arena).live_blocks, 0u);
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(allocating_sweeps_by_itself)
{
    td_arena *arena = new_arena(NULL);
    for (int i = 0; i < 20000; i++) {
        td_block block;
        REQUIRE_OK(td_arena_alloc(arena, i % 2 ? 100 : 300 * KIB, &block));
        REQUIRE_OK(td_arena_lend(arena, block.ref));
        REQUIRE_OK(td_block_give(arena, block.ref));
    }
    CHECK_LE(stats_of(arena).committed_bytes, 16 * MIB);
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(a_stale_ref_is_refused_when_its_place_lives_again)
{
    td_arena *arena = new_arena(NULL);
    td_block old, block;
    void *data;
    REQUIRE_OK(td_arena_alloc(arena, 100, &old));
    REQUIRE_OK(td_arena_free(arena, old.ref));
    CHECK_STATUS(td_arena_free(arena, old.ref), TD_EINVAL);
    CHECK_STATUS(td_arena_peek(arena, old.ref, 1, &data), TD_EPROTO);
    REQUIRE_OK(td_arena_alloc(arena, 100, &block));
    REQUIRE_EQ(td_ref_offset(block.ref), td_ref_offset(old.ref));
    REQUIRE_OK(td_arena_lend(arena, block.ref));
    CHECK_STATUS(td_block_give(arena, old.ref), TD_EPROTO);
    CHECK_STATUS(td_arena_reclaim(arena, old.ref), TD_EINVAL);
    CHECK_STATUS(td_arena_peek(arena, old.ref, 1, &data), TD_EPROTO);
    CHECK_OK(td_arena_peek(arena, block.ref, 1, &data));
    CHECK(data == block.data);
    td_arena_unref(arena);
}

TD_TEST(made_up_refs_are_refused_everywhere)
{
    td_arena *arena = new_arena(NULL);
    uint64_t state = test_seed;
    void *data;
    td_block block;
    REQUIRE_OK(td_arena_alloc(arena, 3 * MIB, &block));
    memset(block.data, 0x5a, block.capacity);
    uint64_t near[] = {0,
                       1,
                       64,
                       128,
                       block.ref + 64,
                       block.ref - 64,
                       block.ref + 1,
                       block.ref ^ UINT64_C(1) << 40,
                       td_arena_size(arena),
                       td_arena_size(arena) - 64,
                       UINT64_MAX,
                       UINT64_C(1) << 39};
    for (size_t i = 0; i < 200; i++) {
        uint64_t ref = i < sizeof near / sizeof near[0] ? near[i] : test_random(&state) % (8 * MIB);
        if (ref == block.ref)
            continue;
        CHECK_STATUS(td_arena_peek(arena, ref, 1, &data), TD_EPROTO);
        CHECK_STATUS(td_block_give(arena, ref), TD_EPROTO);
        CHECK_STATUS(td_arena_free(arena, ref), TD_EINVAL);
        CHECK_STATUS(td_arena_lend(arena, ref), TD_EINVAL);
        CHECK_STATUS(td_arena_reclaim(arena, ref), TD_EINVAL);
        CHECK_STATUS(td_arena_shrink(arena, ref, 0), TD_EINVAL);
    }
    CHECK_STATUS(td_arena_peek(arena, block.ref, block.capacity + 1, &data), TD_EPROTO);
    CHECK_STATUS(td_arena_peek(arena, block.ref, UINT64_MAX, &data), TD_EPROTO);
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(over_the_cap_says_whether_waiting_helps)
{
    td_arena *arena = new_arena(&(td_arena_config){.cap_bytes = 10 * MIB});
    td_block first, second, third;
    CHECK_STATUS(td_arena_alloc(arena, 10 * MIB, &first), TD_ENOROOM); /* not with its header */
    REQUIRE_OK(td_arena_alloc(arena, 6 * MIB, &first));
    REQUIRE_OK(td_arena_lend(arena, first.ref));
    CHECK_STATUS(td_arena_alloc(arena, 6 * MIB, &second), TD_EAGAIN);
    CHECK_STATUS(td_arena_alloc(arena, 11 * MIB, &second), TD_ENOROOM);
    REQUIRE_OK(td_arena_alloc(arena, 3 * MIB, &third));
    CHECK_OK(td_block_give(arena, first.ref));
    CHECK_OK(td_arena_alloc(arena, 6 * MIB, &second)); /* sweeps */
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(absurd_sizes_are_refused_at_once)
{
    td_arena *arena = new_arena(NULL);
    made_up machine = {.limit = GIB};
    td_arena_backing backing = made_up_backing(&machine);
    td_arena *small = new_arena(&(td_arena_config){.backing = &backing});
    td_block block = {.ref = 77};
    CHECK_STATUS(td_arena_alloc(arena, UINT64_MAX, &block), TD_ENOROOM);
    CHECK_STATUS(td_arena_alloc(arena, td_arena_size(arena), &block), TD_ENOROOM);
    CHECK_STATUS(td_arena_alloc(small, td_arena_size(small) / 2, &block), TD_ENOROOM);
    CHECK_EQ(block.ref, 77u);
    CHECK_LE(stats_of(small).range_bytes, 8 * MIB);
    td_arena_unref(arena);
    td_arena_unref(small);
}

TD_TEST(without_room_the_answer_says_whether_waiting_helps)
{
    made_up machine = {.limit = 16 * MIB};
    td_arena_backing backing = made_up_backing(&machine);
    td_arena *arena = new_arena(&(td_arena_config){.backing = &backing, .warm_bytes = GIB});
    td_block first, second;
    CHECK_STATUS(td_arena_alloc(arena, 20 * MIB, &first), TD_ENOROOM);
    REQUIRE_OK(td_arena_alloc(arena, 10 * MIB, &first));
    CHECK_STATUS(td_arena_alloc(arena, 10 * MIB, &second), TD_EAGAIN);
    CHECK_STATUS(td_arena_alloc(arena, 20 * MIB, &second), TD_ENOROOM);
    CHECK_OK(td_arena_validate(arena));
    CHECK_OK(td_arena_free(arena, first.ref));
    CHECK_OK(td_arena_alloc(arena, 12 * MIB, &second));
    CHECK_OK(td_arena_free(arena, second.ref));
    /* Warm memory in pieces elsewhere is given up for a large block. */
    td_block pieces[12];
    for (int i = 0; i < 12; i++)
        REQUIRE_OK(td_arena_alloc(arena, MIB - 64, &pieces[i]));
    for (int i = 0; i < 12; i++)
        CHECK_OK(td_arena_free(arena, pieces[i].ref));
    CHECK_OK(td_arena_alloc(arena, 14 * MIB, &second));
    CHECK_LE(machine.committed, machine.limit);
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(reclaiming_takes_back_what_a_dead_holder_scribbled_on)
{
    td_arena *arena = new_arena(NULL);
    td_block block;
    REQUIRE_OK(td_arena_alloc(arena, 1000, &block));
    CHECK_STATUS(td_arena_reclaim(arena, block.ref), TD_EINVAL); /* the owner's own */
    REQUIRE_OK(td_arena_lend(arena, block.ref));
    memset((char *)block.data - 64, 0xff, 64);
    CHECK_STATUS(td_block_give(arena, block.ref), TD_EPROTO);
    CHECK_EQ(td_arena_sweep(arena), 0u);
    CHECK_OK(td_arena_reclaim(arena, block.ref));
    CHECK_EQ(td_arena_sweep(arena), 1u);
    CHECK_STATUS(td_arena_reclaim(arena, block.ref), TD_EINVAL);
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(attaching_checks_size_magic_and_the_single_owner)
{
    int fd, other;
    uint64_t size;
    td_memfd_kind kind;
    td_arena *arena = NULL, *peer = NULL;
    REQUIRE_OK(td_arena_create("test", 64 * MIB, &fd, &size));
    CHECK_EQ(size, 64 * MIB);
    CHECK_STATUS(td_arena_attach(fd, 32 * MIB, &peer), TD_EPROTO);
    CHECK_STATUS(td_arena_attach(fd, 128 * MIB, &peer), TD_EPROTO);
    CHECK_STATUS(td_arena_attach(fd, 0, &peer), TD_EINVAL);
    CHECK_STATUS(td_arena_attach(fd, MIB, &peer), TD_EINVAL);
    CHECK_STATUS(td_arena_attach(fd, UINT64_C(1) << 41, &peer), TD_EINVAL);
    REQUIRE_OK(td_arena_attach(fd, size, &peer));
    REQUIRE_OK(td_arena_own(fd, size, NULL, &arena));
    td_arena *second = NULL;
    CHECK_STATUS(td_arena_own(fd, size, NULL, &second), TD_EPROTO);
    CHECK(second == NULL);
    CHECK(td_arena_is_owner(arena) && !td_arena_is_owner(peer));
    CHECK_EQ(td_arena_fd(arena), fd);
    CHECK_EQ(td_arena_fd(peer), -1);
    td_block block;
    CHECK_STATUS(td_arena_alloc(peer, 1, &block), TD_EINVAL);
    CHECK_STATUS(td_arena_free(peer, 1), TD_EINVAL);
    CHECK_EQ(td_arena_trim(peer, 0), 0u);
    CHECK_STATUS(td_arena_validate(peer), TD_EINVAL);
    REQUIRE_OK(td_memfd_new("test", 64 * MIB, &other, &kind));
    CHECK_STATUS(td_arena_attach(other, 64 * MIB, &second), TD_EPROTO);
    close(other);
    td_arena_unref(peer);
    td_arena_unref(arena);
    td_arena_unref(NULL);
}

TD_TEST(peers_see_blocks_at_their_own_addresses)
{
    td_arena *arena = new_arena(NULL), *peer = NULL;
    REQUIRE_OK(td_arena_attach(td_arena_fd(arena), td_arena_size(arena), &peer));
    td_block block;
    void *data;
    for (int i = 0; i < 30; i++) { /* through many growths */
        REQUIRE_OK(td_arena_alloc(arena, UINT64_C(50000) * (unsigned)(i + 1), &block));
        memset(block.data, i, block.capacity);
        REQUIRE_OK(td_arena_lend(arena, block.ref));
        REQUIRE_OK(td_arena_peek(peer, block.ref, block.capacity, &data));
        CHECK(data != block.data);
        CHECK_MEM(data, block.data, block.capacity);
        if (i % 2)
            CHECK_OK(td_block_give(peer, block.ref));
    }
    REQUIRE_OK(td_arena_alloc(arena, 1000, &block));
    memset(block.data, 29, 1000);
    REQUIRE_OK(td_arena_peek(peer, block.ref, 1000, &data));
    td_arena_unref(arena); /* the peer's view outlives the owner's */
    CHECK_EQ(*(unsigned char *)data, 29u);
    td_arena_unref(peer);
}

TD_TEST(references_keep_the_mapping)
{
    td_arena *arena = new_arena(NULL);
    td_block block;
    REQUIRE_OK(td_arena_alloc(arena, 100, &block));
    CHECK(td_arena_ref(arena) == arena);
    td_arena_unref(arena);
    memset(block.data, 1, 100);
    td_arena_unref(arena);
}

TD_TEST(a_small_address_space_gets_a_smaller_arena)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("the sanitizer needs the address space");
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    SKIP("the sanitizer needs the address space");
#endif
#endif
    if (test_is_emulated())
        SKIP("the emulator keeps no limit of addresses");
    struct rlimit limit = {GIB, GIB};
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    td_arena *arena = new_arena(NULL);
    CHECK_LE(td_arena_size(arena), GIB);
    CHECK_LE(256 * MIB, td_arena_size(arena));
    td_block block;
    CHECK_OK(td_arena_alloc(arena, 20 * MIB, &block));
    memset(block.data, 1, block.capacity);
    CHECK_STATUS(td_arena_alloc(arena, 2 * GIB, &block), TD_ENOROOM);
    limit.rlim_cur = 32 * MIB;
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    td_arena *none = NULL;
    CHECK_STATUS(td_arena_new("test", 0, NULL, &none), TD_ENOROOM);
    td_arena_unref(arena);
}

TD_TEST_MAIN
