/* Random operations on an arena, against a plain table of what should be there. Each live block is filled with
 * a pattern of its own, so that an overlap shows; all of the allocator's tables are walked as it goes. */
#include "memory/arena.h"
#include "tests/harness.h"
#include "tests/memory/made_up.h"

#define MIB (UINT64_C(1) << 20)
#define LIVE 400u

typedef struct held {
    td_block block;
    uint64_t bytes, pattern;
    bool lent, given;
} held;

typedef struct model {
    td_arena *arena, *peer;
    made_up machine;
    held table[LIVE];
    uint64_t state;
    uint64_t failed;
} model;

static uint64_t pattern_at(const held *entry, uint64_t i)
{
    return (entry->pattern ^ i) * UINT64_C(0x9e3779b97f4a7c15);
}

/* Every word of small blocks, some of large ones, and always the first and the last. */
static uint64_t stride_of(uint64_t bytes)
{
    return bytes < 4096 ? 1 : bytes / 8 / 67 + 1;
}

static void fill(held *entry)
{
    uint64_t *words = entry->block.data, count = entry->bytes / 8, stride = stride_of(entry->bytes);
    for (uint64_t i = 0; i < count; i += stride)
        words[i] = pattern_at(entry, i);
    if (count != 0)
        words[count - 1] = pattern_at(entry, count - 1);
}

static void check_filled(const held *entry, const void *data)
{
    const uint64_t *words = data;
    uint64_t count = entry->bytes / 8, stride = stride_of(entry->bytes);
    for (uint64_t i = 0; i < count; i += stride)
        REQUIRE_EQ(words[i], pattern_at(entry, i));
    if (count != 0)
        REQUIRE_EQ(words[count - 1], pattern_at(entry, count - 1));
}

static uint64_t random_bytes(model *m)
{
    uint64_t bits = test_random_below(&m->state, 10) == 0 ? 23 : 17; /* now and then up to 8 MiB */
    return test_random_below(&m->state, UINT64_C(1) << test_random_below(&m->state, bits + 1));
}

static void allocate(model *m, held *entry)
{
    uint64_t bytes = random_bytes(m);
    td_status status = td_arena_alloc(m->arena, bytes, &entry->block);
    if (status == TD_EAGAIN || status == TD_ENOROOM) {
        m->failed++;
        return;
    }
    REQUIRE_OK(status);
    REQUIRE(entry->block.capacity >= bytes && entry->block.capacity % 64 == 0);
    entry->bytes = entry->block.capacity / 8 * 8;
    entry->pattern = test_random(&m->state);
    entry->lent = entry->given = false;
    fill(entry);
}

static void forget(held *entry)
{
    *entry = (held){0};
}

static void touch_owned(model *m, held *entry)
{
    uint64_t ref = entry->block.ref;
    switch (test_random_below(&m->state, 3)) {
    case 0:
        REQUIRE_OK(td_arena_free(m->arena, ref));
        CHECK_STATUS(td_arena_free(m->arena, ref), TD_EINVAL);
        forget(entry);
        break;
    case 1:
        REQUIRE_OK(td_arena_lend(m->arena, ref));
        entry->lent = true;
        break;
    default:
        entry->bytes = test_random_below(&m->state, entry->bytes + 1) / 8 * 8;
        REQUIRE_OK(td_arena_shrink(m->arena, ref, entry->bytes));
        fill(entry);
        break;
    }
}

static void touch_lent(model *m, held *entry)
{
    uint64_t ref = entry->block.ref;
    CHECK_STATUS(td_arena_free(m->arena, ref), TD_EINVAL);
    if (test_random_below(&m->state, 4) == 0) {
        /* Its holder ran wild and died. */
        memset((char *)entry->block.data - 64, (int)test_random(&m->state), 64);
        REQUIRE_OK(td_arena_reclaim(m->arena, ref));
    } else {
        void *data;
        REQUIRE_OK(td_arena_peek(m->peer, ref, entry->bytes, &data));
        check_filled(entry, data);
        REQUIRE_OK(td_block_give(m->peer, ref));
        CHECK_STATUS(td_block_give(m->peer, ref), TD_EPROTO);
    }
    forget(entry); /* the arena may use it from now on */
}

static void step(model *m)
{
    held *entry = &m->table[test_random_below(&m->state, LIVE)];
    uint64_t dice = test_random_below(&m->state, 200);
    if (dice == 0)
        td_arena_trim(m->arena, test_random_below(&m->state, 4 * MIB));
    else if (dice == 1)
        td_arena_sweep(m->arena);
    if (entry->block.ref == 0) {
        allocate(m, entry);
        return;
    }
    check_filled(entry, entry->block.data);
    if (entry->lent)
        touch_lent(m, entry);
    else
        touch_owned(m, entry);
}

static void finish(model *m)
{
    td_arena_stats stats;
    for (uint32_t i = 0; i < LIVE; i++) {
        held *entry = &m->table[i];
        if (entry->block.ref == 0)
            continue;
        check_filled(entry, entry->block.data);
        if (entry->lent)
            REQUIRE_OK(td_block_give(m->peer, entry->block.ref));
        else
            REQUIRE_OK(td_arena_free(m->arena, entry->block.ref));
    }
    td_arena_trim(m->arena, 0);
    REQUIRE_OK(td_arena_validate(m->arena));
    td_arena_stats_read(m->arena, &stats);
    CHECK_EQ(stats.live_blocks, 0u);
    CHECK_EQ(stats.live_bytes, 0u);
    CHECK_EQ(stats.warm_bytes, 0u);
    CHECK_LE(stats.committed_bytes, 64u * 1024);
    CHECK_EQ(m->machine.committed, stats.committed_bytes);
    td_arena_unref(m->peer);
    td_arena_unref(m->arena);
}

static void run(uint64_t seed, uint64_t limit, td_arena_config config, uint64_t rounds, bool must_fail)
{
    static model m;
    m = (model){.machine = {.limit = limit}, .state = seed};
    td_arena_backing backing = made_up_backing(&m.machine);
    config.backing = &backing;
    REQUIRE_OK(td_arena_new("test", 0, &config, &m.arena));
    REQUIRE_OK(td_arena_attach(td_arena_fd(m.arena), td_arena_size(m.arena), &m.peer));
    /* Chance has it how soon an allocation fails: at some seeds later than in so many rounds. */
    for (uint64_t i = 0; i < rounds || (must_fail && m.failed == 0); i++) {
        step(&m);
        if (i % 16 == 0)
            REQUIRE_OK(td_arena_validate(m.arena));
        CHECK_LE(m.machine.committed, limit);
        if (config.cap_bytes != 0) {
            td_arena_stats stats;
            td_arena_stats_read(m.arena, &stats);
            CHECK_LE(stats.live_bytes, config.cap_bytes);
        }
    }
    finish(&m);
}

TD_TEST(random_operations_agree_with_a_plain_table)
{
    run(test_seed, UINT64_C(1) << 40, (td_arena_config){.warm_bytes = 32 * MIB}, test_rounds(20000), false);
}

TD_TEST(they_do_when_nothing_is_kept_warm)
{
    run(test_seed + 1, UINT64_C(1) << 40, (td_arena_config){0}, test_rounds(4000), false);
}

TD_TEST(they_do_under_a_cap)
{
    run(test_seed + 2, UINT64_C(1) << 40, (td_arena_config){.warm_bytes = 32 * MIB, .cap_bytes = 12 * MIB},
        test_rounds(8000), true);
}

TD_TEST(they_do_when_the_machine_has_little_room)
{
    run(test_seed + 3, 14 * MIB, (td_arena_config){.warm_bytes = 64 * MIB}, test_rounds(8000), true);
}

TD_TEST_MAIN
