/* What td_arena_fill copies is there, in fresh pages and in warm ones, and where the kernel refuses to write. */
#include <stdlib.h>
#include <sys/resource.h>

#include "memory/arena.h"
#include "tests/harness.h"

#define RANGE (UINT64_C(256) << 20)
#define MB (UINT64_C(1) << 20)

static unsigned char *make_source(size_t bytes)
{
    unsigned char *source = malloc(bytes);
    uint64_t state = test_seed;
    REQUIRE(source != NULL);
    for (size_t i = 0; i < bytes; i++)
        source[i] = (unsigned char)test_random(&state);
    return source;
}

static void check_fill(td_arena *arena, const unsigned char *source, uint64_t shift, uint64_t bytes)
{
    struct td_block block;
    REQUIRE_OK(td_arena_alloc(arena, bytes + 256, &block));
    unsigned char *to = block.data;
    to[shift] = 1;
    to[shift + bytes + 1] = 2;
    td_arena_fill(arena, to + shift + 1, source, bytes);
    CHECK_MEM(to + shift + 1, source, bytes);
    CHECK_EQ(to[shift], 1);
    CHECK_EQ(to[shift + bytes + 1], 2);
    CHECK_OK(td_arena_free(arena, block.ref));
}

TD_TEST(blocks_of_all_sizes_are_filled_fresh_and_warm)
{
    static const uint64_t sizes[] = {1, 100, 5000, 16384, 40000, 100000, MB, 5 * MB + 3};
    td_arena *arena;
    unsigned char *source = make_source(6 * MB);
    REQUIRE_OK(td_arena_new("fill", RANGE, NULL, &arena));
    for (int turn = 0; turn < 3; turn++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            check_fill(arena, source, i * 7 % 100, sizes[i]);
        if (turn == 1)
            CHECK_LT(0u, td_arena_trim(arena, 0)); /* fresh again */
    }
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
    free(source);
}

TD_TEST(a_part_of_a_block_can_be_filled_while_the_rest_stays)
{
    td_arena *arena;
    struct td_block block;
    unsigned char *source = make_source(MB);
    REQUIRE_OK(td_arena_new("fill", RANGE, NULL, &arena));
    REQUIRE_OK(td_arena_alloc(arena, 3 * MB, &block));
    unsigned char *to = block.data;
    memset(to, 7, 3 * MB);
    td_arena_fill(arena, to + MB, source, MB);
    CHECK_MEM(to + MB, source, MB);
    for (size_t i = 0; i < MB; i++)
        if (to[i] != 7 || to[2 * MB + i] != 7)
            test_fail(__FILE__, __LINE__, "byte %zu was overwritten", i);
    td_arena_unref(arena);
    free(source);
}

TD_TEST(random_blocks_hold_what_they_were_filled_with)
{
    enum { BLOCKS = 20 };
    struct td_block blocks[BLOCKS] = {{0}};
    uint64_t state = test_seed, bytes[BLOCKS] = {0}, from[BLOCKS] = {0};
    td_arena *arena;
    const td_arena_config config = {.warm_bytes = 2 * MB};
    unsigned char *source = make_source(2 * MB);
    REQUIRE_OK(td_arena_new("fill", RANGE, &config, &arena));
    for (uint64_t round = test_rounds(300); round > 0; round--) {
        const size_t i = test_random_below(&state, BLOCKS);
        if (blocks[i].ref != 0) {
            CHECK_MEM(blocks[i].data, source + from[i], bytes[i]);
            CHECK_OK(td_arena_free(arena, blocks[i].ref));
        }
        bytes[i] = test_random_below(&state, MB) >> test_random_below(&state, 16);
        from[i] = test_random_below(&state, MB);
        REQUIRE_OK(td_arena_alloc(arena, bytes[i], &blocks[i]));
        td_arena_fill(arena, blocks[i].data, source + from[i], bytes[i]);
    }
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
    free(source);
}

static bool is_zero(const unsigned char *data, uint64_t bytes)
{
    return bytes == 0 || (data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0);
}

/* Blocks that were written to come back, in other pieces, and in pages that were released meanwhile. */
TD_TEST(what_is_cleared_is_zeros_whatever_it_was)
{
    enum { BLOCKS = 24 };
    const td_arena_config config = {.warm_bytes = 8 * MB};
    struct td_block blocks[BLOCKS] = {{0}};
    uint64_t random = test_seed;
    td_arena *arena;
    REQUIRE_OK(td_arena_new("clear", RANGE, &config, &arena));
    for (uint64_t round = 0; round < test_rounds(3000); round++) {
        struct td_block *block = &blocks[test_random_below(&random, BLOCKS)];
        const uint64_t limit = test_random_below(&random, 4) == 0 ? MB : 60000;
        const uint64_t bytes = 1 + test_random_below(&random, limit);
        if (block->ref != 0)
            CHECK_OK(td_arena_free(arena, block->ref));
        if (test_random_below(&random, 50) == 0)
            td_arena_trim(arena, 0);
        REQUIRE_OK(td_arena_alloc(arena, bytes, block));
        if (test_random_below(&random, 3) == 0) {
            td_arena_mark(arena, block->data, bytes);
        } else {
            td_arena_clear(arena, block->data, bytes);
            CHECK(is_zero(block->data, bytes));
        }
        memset(block->data, 0xa5, bytes);
    }
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(fresh_pages_are_not_cleared_again)
{
    td_arena *arena;
    struct td_block block;
    struct rusage before, after;
    REQUIRE_OK(td_arena_new("clear", RANGE, NULL, &arena));
    REQUIRE_OK(td_arena_alloc(arena, 32 * MB, &block));
    getrusage(RUSAGE_SELF, &before);
    td_arena_clear(arena, block.data, 32 * MB);
    getrusage(RUSAGE_SELF, &after);
    CHECK_LT(after.ru_minflt - before.ru_minflt, 200);
    CHECK(is_zero(block.data, 32 * MB));
    td_arena_unref(arena);
}

TD_TEST(a_limit_of_file_sizes_that_came_later_does_not_matter)
{
    td_arena *arena;
    unsigned char *source = make_source(5 * MB);
    REQUIRE_OK(td_arena_new("fill", RANGE, NULL, &arena));
    signal(SIGXFSZ, SIG_IGN); /* as Python has it */
    const struct rlimit low = {MB, MB};
    struct td_block block;
    REQUIRE_OK(td_arena_alloc(arena, 5 * MB, &block)); /* in which the limit lies */
    REQUIRE(setrlimit(RLIMIT_FSIZE, &low) == 0);
    td_arena_fill(arena, block.data, source, 5 * MB);
    CHECK_MEM(block.data, source, 5 * MB);
    td_arena_unref(arena);
    free(source);
}

TD_TEST_MAIN
