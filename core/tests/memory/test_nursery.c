/* tests/memory/test_nursery.c: blocks that are born, claimed, given and adopted; and what a fork makes of them. */
#include "memory/nursery.h"

#include <pthread.h>
#include <sys/resource.h>

#include "tests/harness.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)

struct nest {
    td_arena *arena;
    td_nursery *nursery;
};

/* `warm_bytes` of it are warm, in one piece. */
static struct nest open_nest(uint64_t warm_bytes)
{
    struct nest nest;
    td_block block;
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 64 * MIB}, &nest.arena));
    REQUIRE_OK(td_nursery_new(nest.arena, 64 * MIB, &nest.nursery));
    if (warm_bytes > 0) {
        REQUIRE_OK(td_arena_alloc(nest.arena, warm_bytes, &block));
        REQUIRE_OK(td_arena_free(nest.arena, block.ref));
    }
    return nest;
}

static td_arena_stats stats_of(const struct nest *nest)
{
    td_arena_stats stats;
    td_arena_stats_read(nest->arena, &stats);
    return stats;
}

static void close_nest(struct nest *nest)
{
    td_nursery_free(nest->nursery);
    CHECK_EQ(stats_of(nest).live_blocks, 0u);
    CHECK_OK(td_arena_validate(nest->arena));
    td_arena_unref(nest->arena);
}

static void *take(const struct nest *nest, uint64_t bytes)
{
    void *data = td_nursery_take(nest->nursery, bytes);
    REQUIRE(data != NULL);
    CHECK(td_nursery_owns(nest->nursery, data));
    CHECK_LE(bytes, td_nursery_capacity(nest->nursery, data));
    CHECK_EQ((uintptr_t)data % TD_BLOCK_ALIGN, 0u);
    return data;
}

static bool claims(const struct nest *nest, const void *data, uint64_t bytes, struct td_claim *claim)
{
    return td_nursery_claim(nest->nursery, data, bytes, claim);
}

/* ---- Taking ---- */

TD_TEST(only_warm_memory_is_taken)
{
    struct nest nest = open_nest(0);
    CHECK(td_nursery_take(nest.nursery, MIB) == NULL);
    CHECK_EQ(stats_of(&nest).live_blocks, 0u);
    close_nest(&nest);
    nest = open_nest(2 * MIB);
    const uint64_t committed = stats_of(&nest).committed_bytes;
    void *data = take(&nest, MIB);
    memset(data, 1, MIB);
    CHECK(td_nursery_take(nest.nursery, 8 * MIB) == NULL);
    CHECK_EQ(stats_of(&nest).committed_bytes, committed);
    td_nursery_give(nest.nursery, data);
    CHECK(take(&nest, MIB) == data);
    CHECK_EQ(stats_of(&nest).committed_bytes, committed);
    close_nest(&nest);
}

TD_TEST(what_was_missed_may_take_fresh_pages_once)
{
    struct nest nest = open_nest(0);
    td_nursery_miss(nest.nursery, 3 * MIB);
    CHECK(td_nursery_take(nest.nursery, 4 * MIB) == NULL);
    void *first = take(&nest, 2 * MIB);
    CHECK(td_nursery_take(nest.nursery, 2 * MIB) == NULL);
    void *second = take(&nest, MIB);
    td_nursery_give(nest.nursery, first);
    td_nursery_give(nest.nursery, second);
    close_nest(&nest);
}

TD_TEST(what_was_missed_takes_no_more_than_is_kept_warm)
{
    struct nest nest = open_nest(0);
    td_nursery_miss(nest.nursery, 1000 * MIB);
    CHECK(td_nursery_take(nest.nursery, 65 * MIB) == NULL);
    take(&nest, 40 * MIB);
    CHECK(td_nursery_take(nest.nursery, 40 * MIB) == NULL);
    take(&nest, 20 * MIB);
    close_nest(&nest);
}

TD_TEST(a_block_that_came_back_is_taken_after_a_look)
{
    struct nest nest = open_nest(0);
    td_block block;
    REQUIRE_OK(td_arena_alloc(nest.arena, MIB, &block));
    REQUIRE_OK(td_arena_lend(nest.arena, block.ref));
    CHECK(td_nursery_take(nest.nursery, MIB) == NULL); /* this was the first look */
    REQUIRE_OK(td_block_give(nest.arena, block.ref));
    CHECK(td_nursery_take(nest.nursery, MIB) == NULL);
    td_nursery_look(nest.nursery);
    CHECK(take(&nest, MIB) == block.data);
    close_nest(&nest);
}

TD_TEST(taking_and_giving_stir)
{
    struct nest nest = open_nest(2 * MIB);
    CHECK(!td_nursery_stirred(nest.nursery));
    void *data = take(&nest, MIB);
    CHECK(td_nursery_stirred(nest.nursery) && !td_nursery_stirred(nest.nursery));
    td_nursery_give(nest.nursery, data);
    CHECK(td_nursery_stirred(nest.nursery) && !td_nursery_stirred(nest.nursery));
    close_nest(&nest);
}

TD_TEST(memory_from_elsewhere_is_not_its_own)
{
    struct nest nest = open_nest(MIB);
    struct td_claim claim;
    td_block block;
    int elsewhere = 0;
    REQUIRE_OK(td_arena_alloc(nest.arena, MIB, &block));
    CHECK(!td_nursery_owns(nest.nursery, &elsewhere) && !td_nursery_owns(nest.nursery, NULL));
    CHECK(!claims(&nest, &elsewhere, sizeof elsewhere, &claim));
    CHECK(!claims(&nest, block.data, block.capacity, &claim)); /* the arena's, but not born here */
    CHECK_EQ(td_nursery_capacity(nest.nursery, block.data), 0u);
    REQUIRE_OK(td_arena_free(nest.arena, block.ref));
    close_nest(&nest);
}

/* ---- Claims ---- */

TD_TEST(a_claimed_block_that_is_given_is_adopted)
{
    struct nest nest = open_nest(2 * MIB);
    struct td_claim claim;
    char *data = take(&nest, MIB);
    data[777] = 42;
    REQUIRE(claims(&nest, data + 640, MIB - 640, &claim));
    CHECK_EQ(claim.offset, 640u);
    CHECK(!td_nursery_adopt(nest.nursery, claim.ref)); /* somebody has it */
    td_nursery_give(nest.nursery, data);
    CHECK_EQ(data[777], 42);
    CHECK_EQ(stats_of(&nest).live_blocks, 1u);
    CHECK(td_nursery_adopt(nest.nursery, claim.ref));
    CHECK(!td_nursery_adopt(nest.nursery, claim.ref));
    CHECK(!claims(&nest, data, MIB, &claim));
    CHECK_OK(td_arena_lend(nest.arena, claim.ref));
    CHECK_OK(td_block_give(nest.arena, claim.ref));
    CHECK_EQ(td_arena_sweep(nest.arena), 1u);
    close_nest(&nest);
}

TD_TEST(a_claim_that_ends_leaves_the_block_as_it_would_be_without)
{
    struct nest nest = open_nest(4 * MIB);
    struct td_claim kept, given;
    void *first = take(&nest, MIB), *second = take(&nest, MIB);
    REQUIRE(claims(&nest, first, MIB, &kept) && claims(&nest, second, MIB, &given));
    td_nursery_give(nest.nursery, second);
    CHECK_EQ(stats_of(&nest).live_blocks, 2u);
    td_nursery_unclaim(nest.nursery, given.ref);
    td_nursery_unclaim(nest.nursery, kept.ref);
    CHECK_EQ(stats_of(&nest).live_blocks, 1u);
    REQUIRE(claims(&nest, first, MIB, &kept));
    td_nursery_unclaim(nest.nursery, kept.ref);
    td_nursery_give(nest.nursery, first);
    CHECK_EQ(stats_of(&nest).live_blocks, 0u);
    close_nest(&nest);
}

TD_TEST(one_claim_to_a_block_and_none_to_a_small_part_of_it)
{
    struct nest nest = open_nest(2 * MIB);
    struct td_claim claim, second;
    char *data = take(&nest, MIB);
    const uint64_t capacity = td_nursery_capacity(nest.nursery, data);
    CHECK(!claims(&nest, data, 0, &claim));
    CHECK(!claims(&nest, data, capacity / 2 - 1, &claim));
    CHECK(!claims(&nest, data + 1, capacity, &claim));
    CHECK(!claims(&nest, data + capacity, capacity, &claim));
    REQUIRE(claims(&nest, data + capacity / 2, capacity - capacity / 2, &claim));
    CHECK(!claims(&nest, data, capacity / 2, &second));
    td_nursery_unclaim(nest.nursery, claim.ref);
    REQUIRE(claims(&nest, data, capacity / 2, &claim));
    td_nursery_unclaim(nest.nursery, claim.ref);
    close_nest(&nest);
}

/* ---- Against a naive table ---- */

#define HELD 64u

struct held {
    unsigned char *data;
    uint64_t bytes;
    struct td_claim claim;
    bool claimed, given;
    unsigned char mark;
};

static void check_marks(const struct held *held)
{
    for (uint32_t i = 0; i < HELD; i++)
        if (held[i].data != NULL)
            REQUIRE(held[i].data[0] == held[i].mark && held[i].data[held[i].bytes - 1] == held[i].mark);
}

static void step(const struct nest *nest, struct held *one, unsigned char mark, uint64_t *random)
{
    if (one->data == NULL) {
        one->bytes = 20000 + test_random_below(random, 300 * KIB);
        one->data = td_nursery_take(nest->nursery, one->bytes);
        if (one->data == NULL) {
            td_nursery_miss(nest->nursery, one->bytes);
            return;
        }
        *one = (struct held){.data = one->data, .bytes = one->bytes, .mark = mark};
        one->data[0] = one->data[one->bytes - 1] = mark;
    } else if (!one->claimed && test_random_below(random, 2) == 0) {
        const uint64_t skip = test_random_below(random, one->bytes / 4);
        one->claimed = claims(nest, one->data + skip, one->bytes - skip, &one->claim);
        CHECK(!one->claimed || one->claim.offset == skip);
    } else if (!one->given) {
        td_nursery_give(nest->nursery, one->data);
        one->given = true;
        if (!one->claimed)
            one->data = NULL;
    } else if (test_random_below(random, 2) == 0) {
        REQUIRE(td_nursery_adopt(nest->nursery, one->claim.ref));
        REQUIRE_OK(td_arena_free(nest->arena, one->claim.ref));
        one->data = NULL;
    } else {
        td_nursery_unclaim(nest->nursery, one->claim.ref);
        one->data = NULL;
    }
}

TD_TEST(random_births_claims_and_ends_agree_with_a_naive_table)
{
    struct nest nest = open_nest(8 * MIB);
    struct held held[HELD] = {0};
    uint64_t random = test_seed;
    for (uint64_t i = 0; i < test_rounds(20000); i++) {
        step(&nest, &held[test_random_below(&random, HELD)], (unsigned char)i, &random);
        if (i % 97 == 0) {
            uint64_t live = 0;
            for (uint32_t k = 0; k < HELD; k++)
                live += held[k].data != NULL;
            REQUIRE_EQ(stats_of(&nest).live_blocks, live);
            REQUIRE_OK(td_arena_validate(nest.arena));
            check_marks(held);
        }
    }
    close_nest(&nest); /* whatever its state, each block ends with the nursery */
}

/* ---- Threads ---- */

static void *take_and_give(void *context)
{
    const struct nest *nest = context;
    for (uint64_t i = 0; i < test_rounds(3000); i++) {
        uint64_t *data = td_nursery_take(nest->nursery, 20000 + i % 7 * 16 * KIB);
        struct td_claim claim;
        if (data == NULL)
            continue;
        *data = i;
        const bool claimed = i % 3 == 0 && claims(nest, data, td_nursery_capacity(nest->nursery, data), &claim);
        REQUIRE_EQ(*data, i);
        td_nursery_give(nest->nursery, data);
        if (claimed && i % 2 == 0)
            td_nursery_unclaim(nest->nursery, claim.ref);
        else if (claimed && td_nursery_adopt(nest->nursery, claim.ref))
            REQUIRE_OK(td_arena_free(nest->arena, claim.ref));
    }
    return NULL;
}

TD_TEST(any_thread_may_take_and_give)
{
    enum { THREADS = 4 };
    struct nest nest = open_nest(4 * MIB);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, take_and_give, &nest) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(stats_of(&nest).live_blocks, 0u);
    close_nest(&nest);
}

/* ---- Fork ---- */

static bool is_all(const unsigned char *data, uint64_t bytes, unsigned char value)
{
    for (uint64_t i = 0; i < bytes; i += 509)
        if (data[i] != value)
            return false;
    return data[bytes - 1] == value;
}

/* Waits for the parent's byte at the pipe. */
static void await_byte(int fd)
{
    char byte;
    if (read(fd, &byte, 1) != 1)
        _exit(9);
}

static void child_of_fork(const struct nest *nest, unsigned char *kept, unsigned char *other,
                          const int *pipe_ends)
{
    struct td_claim claim;
    close(pipe_ends[1]);
    await_byte(pipe_ends[0]); /* the parent has written to both since */
    if (!is_all(kept, MIB, 1) || !is_all(other, MIB, 2))
        _exit(1);
    memset(kept, 9, MIB);
    td_nursery_give(nest->nursery, other);
    if (td_nursery_take(nest->nursery, MIB) != NULL || claims(nest, kept, MIB, &claim))
        _exit(2);
    const pid_t grandchild = fork();
    if (grandchild == 0)
        _exit(is_all(kept, MIB, 9) && is_all(other, MIB, 2) ? 0 : 3);
    _exit(test_wait_child(grandchild) == 0 ? 0 : 4);
}

static void limit_addresses(rlim_t bytes)
{
    REQUIRE(setrlimit(RLIMIT_AS, &(struct rlimit){bytes, RLIM_INFINITY}) == 0);
}

static rlim_t used_addresses(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    REQUIRE(file != NULL && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static void fork_over(bool room)
{
    struct nest nest = open_nest(8 * MIB);
    unsigned char *kept = take(&nest, MIB), *other = take(&nest, MIB);
    int pipe_ends[2];
    memset(kept, 1, MIB);
    memset(other, 2, MIB);
    REQUIRE(pipe(pipe_ends) == 0);
    if (!room)
        limit_addresses(used_addresses());
    const pid_t child = fork();
    limit_addresses(RLIM_INFINITY);
    REQUIRE(child >= 0);
    if (child == 0)
        child_of_fork(&nest, kept, other, pipe_ends);
    if (room) { /* where pages become private one by one, what is written here may show there */
        memset(kept, 3, MIB);
        memset(other, 4, MIB);
    }
    CHECK_EQ(write(pipe_ends[1], "x", 1), 1);
    CHECK_EQ(test_wait_child(child), 0);
    CHECK(is_all(kept, MIB, room ? 3 : 1) && is_all(other, MIB, room ? 4 : 2));
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    struct td_claim claim;
    REQUIRE(claims(&nest, kept, MIB, &claim)); /* nothing has changed here */
    td_nursery_give(nest.nursery, kept);
    CHECK(td_nursery_adopt(nest.nursery, claim.ref));
    CHECK_OK(td_arena_free(nest.arena, claim.ref));
    close_nest(&nest);
}

TD_TEST(a_forked_child_has_the_blocks_as_they_were_and_for_itself)
{
    fork_over(true);
}

TD_TEST(without_room_for_copies_a_childs_writes_stay_its_own)
{
    fork_over(false);
}

TD_TEST(a_child_has_blocks_of_every_size_for_itself)
{
    enum { BLOCKS = 40 };
    struct nest nest = open_nest(0);
    unsigned char *blocks[BLOCKS];
    td_nursery_miss(nest.nursery, 64 * MIB);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        blocks[i] = td_nursery_take(nest.nursery, (i + 1) * 1000);
        if (blocks[i] != NULL)
            memset(blocks[i], 1, (i + 1) * 1000);
    }
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        for (uint64_t i = 0; i < BLOCKS; i++)
            if (blocks[i] != NULL)
                memset(blocks[i], 2, (i + 1) * 1000);
        _exit(0);
    }
    CHECK_EQ(test_wait_child(child), 0);
    for (uint64_t i = 0; i < BLOCKS; i++)
        CHECK(blocks[i] == NULL || is_all(blocks[i], (i + 1) * 1000, 1));
    CHECK(blocks[BLOCKS - 1] != NULL);
    close_nest(&nest);
}

static void *write_until_told(void *context)
{
    td_atomic_u64 *words = context;
    while (td_atomic_load_relaxed(&words[1]) == 0)
        td_atomic_fetch_add_relaxed(&words[0], 1);
    return NULL;
}

TD_TEST(what_threads_write_during_a_fork_is_not_lost)
{
    struct nest nest = open_nest(2 * MIB);
    td_atomic_u64 *words = take(&nest, MIB);
    pthread_t thread;
    uint64_t before = 0;
    td_atomic_store_relaxed(&words[0], 0);
    td_atomic_store_relaxed(&words[1], 0);
    REQUIRE(pthread_create(&thread, NULL, write_until_told, words) == 0);
    for (uint64_t i = 0; i < test_forks_beside_work(50); i++) {
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0)
            _exit(0);
        const uint64_t now = td_atomic_load_relaxed(&words[0]);
        CHECK_LE(before, now);
        before = now;
        REQUIRE_EQ(test_wait_child(child), 0);
    }
    td_atomic_store_relaxed(&words[1], 1);
    pthread_join(thread, NULL);
    close_nest(&nest);
}

TD_TEST_MAIN
