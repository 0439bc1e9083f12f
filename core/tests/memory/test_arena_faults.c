/* What is left when the n-th call for heap memory, or the n-th call to the kernel for pages, fails: for each n,
 * a status that says so, whole tables, and an arena that goes on working. The files under test are compiled in
 * here, so that their calls for heap memory come by a gate. */
#include <stdlib.h>

static unsigned long heap_calls, heap_fail_at;

static int heap_fails(void)
{
    return ++heap_calls == heap_fail_at;
}

static void *gated_malloc(size_t bytes)
{
    return heap_fails() ? NULL : malloc(bytes);
}

static void *gated_calloc(size_t count, size_t bytes)
{
    return heap_fails() ? NULL : calloc(count, bytes);
}

static void *gated_realloc(void *old, size_t bytes)
{
    return heap_fails() ? NULL : realloc(old, bytes);
}

#define malloc gated_malloc
#define calloc gated_calloc
#define realloc gated_realloc
#include "memory/arena.c"
#include "memory/owner.c"
#include "memory/slab.c"
#include "memory/span.c"
#undef malloc
#undef calloc
#undef realloc

#include "tests/harness.h"
#include "tests/memory/made_up.h"

#define MIB (UINT64_C(1) << 20)
#define BLOCKS 40u

/* Allocates, lends, frees and trims; every failure must be `expected`. How many there were. */
static unsigned exercise(td_arena *arena, td_status expected)
{
    td_block blocks[BLOCKS];
    unsigned failures = 0;
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks[i] = (td_block){0};
        uint64_t bytes = i % 3 == 0 ? 100 + 700 * i : i % 3 == 1 ? 40000 * (uint64_t)i : 2 * MIB + 9;
        td_status status = td_arena_alloc(arena, bytes, &blocks[i]);
        REQUIRE(status == TD_OK || status == expected);
        failures += status != TD_OK;
        if (status == TD_OK)
            memset(blocks[i].data, (int)i, blocks[i].capacity);
        else
            CHECK_EQ(blocks[i].ref, 0u);
        REQUIRE_OK(td_arena_validate(arena));
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (blocks[i].ref == 0)
            continue;
        CHECK_EQ(*(unsigned char *)blocks[i].data, i);
        if (i % 2) {
            REQUIRE_OK(td_arena_lend(arena, blocks[i].ref));
            REQUIRE_OK(td_block_give(arena, blocks[i].ref));
        } else {
            REQUIRE_OK(td_arena_free(arena, blocks[i].ref));
        }
        if (i % 5 == 0)
            td_arena_trim(arena, 0);
        REQUIRE_OK(td_arena_validate(arena));
    }
    td_arena_sweep(arena);
    return failures;
}

static void expect_empty(td_arena *arena)
{
    td_arena_stats stats;
    uint64_t resident;
    td_arena_trim(arena, 0);
    REQUIRE_OK(td_arena_validate(arena));
    td_arena_stats_read(arena, &stats);
    CHECK_EQ(stats.live_blocks, 0u);
    CHECK_EQ(stats.warm_bytes, 0u);
    REQUIRE_OK(td_memfd_resident(td_arena_fd(arena), &resident));
    CHECK_LE(resident, stats.committed_bytes); /* no page is there that nobody knows of */
}

TD_TEST(each_failing_heap_call_is_reported_and_leaves_the_arena_whole)
{
    unsigned failures = 0, refused = 0;
    bool reached = true;
    for (unsigned long n = 1; reached; n++) {
        td_arena *arena = NULL;
        heap_calls = 0;
        heap_fail_at = n;
        td_status status = td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 4 * MIB}, &arena);
        if (status != TD_OK) {
            CHECK_STATUS(status, TD_ENOMEM);
            refused++;
            continue;
        }
        failures += exercise(arena, TD_ENOMEM);
        reached = heap_calls >= n;
        heap_fail_at = 0;
        CHECK_EQ(exercise(arena, TD_OK), 0u);
        expect_empty(arena);
        td_arena_unref(arena);
    }
    CHECK_EQ(refused, 4u); /* the arena, the owner, the table of segments and the first of them */
    CHECK_LT(5u, failures);
}

TD_TEST(each_failing_page_call_is_reported_and_leaves_the_arena_whole)
{
    unsigned failures = 0;
    for (uint64_t n = 2, calls = 2; n <= calls; n++) {
        made_up machine = {.limit = UINT64_MAX};
        td_arena_backing backing = made_up_backing(&machine);
        td_arena *arena = NULL;
        REQUIRE_OK(
            td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 4 * MIB, .backing = &backing}, &arena));
        machine.fail_at = n;
        machine.failure = TD_EOS;
        failures += exercise(arena, TD_EOS);
        calls = machine.calls;
        expect_empty(arena);
        td_arena_unref(arena);
    }
    CHECK_LT(0u, failures);
}

TD_TEST(lack_of_pages_is_overcome_where_free_blocks_have_some)
{
    for (uint64_t n = 2, calls = 2; n <= calls; n++) {
        made_up machine = {.limit = UINT64_MAX};
        td_arena_backing backing = made_up_backing(&machine);
        td_arena *arena = NULL;
        REQUIRE_OK(
            td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 4 * MIB, .backing = &backing}, &arena));
        machine.fail_at = n;
        machine.failure = TD_ENOROOM; /* once: the second attempt finds room */
        CHECK_EQ(exercise(arena, TD_OK), 0u);
        calls = machine.calls;
        expect_empty(arena);
        td_arena_unref(arena);
    }
}

static td_status commit_nothing(void *context, int fd, uint64_t offset, uint64_t bytes)
{
    (void)context, (void)fd, (void)offset, (void)bytes;
    return TD_ENOROOM;
}

TD_TEST(a_new_arena_without_a_first_page_is_refused)
{
    made_up machine = {.limit = UINT64_MAX};
    td_arena_backing backing = made_up_backing(&machine);
    td_arena *arena = NULL;
    backing.commit = commit_nothing;
    CHECK_STATUS(td_arena_new("test", 0, &(td_arena_config){.backing = &backing}, &arena), TD_ENOROOM);
}

TD_TEST(a_new_arena_can_be_made_where_little_room_is_left)
{
    made_up machine = {.limit = 0};
    td_arena_backing backing = made_up_backing(&machine);
    td_arena *arena = NULL;
    td_block block;
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.backing = &backing}, &arena));
    CHECK_STATUS(td_arena_alloc(arena, MIB, &block), TD_ENOROOM);
    td_arena_unref(arena);
    machine = (made_up){.limit = UINT64_MAX, .fail_at = 1, .failure = TD_ENOROOM};
    /* A step can't be had, but a page can. */
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.backing = &backing}, &arena));
    td_arena_unref(arena);
}

TD_TEST_MAIN
