/* tests/pool/test_intern.c: functions by number. */
#include "pool/pool.h"
#include "tests/harness.h"

#define ARENA_BYTES (UINT64_C(256) << 20)

struct rig {
    struct td_intern intern;
    td_arena *arena;
};

static void rig_open(struct rig *rig)
{
    const td_arena_config config = {.warm_bytes = 1 << 20};
    REQUIRE_OK(td_arena_new("arguments", ARENA_BYTES, &config, &rig->arena));
    REQUIRE_OK(td__intern_init(&rig->intern));
}

static void rig_close(struct rig *rig)
{
    td__intern_fini(&rig->intern, rig->arena);
    td_arena_stats stats;
    td_arena_stats_read(rig->arena, &stats);
    CHECK_EQ(stats.live_blocks, 0u);
    td_arena_unref(rig->arena);
}

static uint32_t add(struct rig *rig, const void *bytes, uint64_t len)
{
    uint32_t fn = 0;
    CHECK_OK(td__intern_add_locked(&rig->intern, rig->arena, bytes, len, NULL, 0, &fn));
    return fn;
}

static void unref(struct rig *rig, uint32_t fn)
{
    td__intern_unref_locked(&rig->intern, rig->arena, fn);
}

static bool is_known(const struct rig *rig, uint32_t fn)
{
    uint64_t ref, len;
    struct td_intern intern = rig->intern;
    return td__intern_find_locked(&intern, fn, &ref, &len);
}

TD_TEST(the_same_bytes_have_the_same_number_and_others_another)
{
    struct rig rig;
    rig_open(&rig);
    const uint32_t one = add(&rig, "one", 3), two = add(&rig, "two", 3);
    CHECK_NE(one, two);
    CHECK_NE(one, 0u);
    CHECK_EQ(add(&rig, "one", 3), one);
    CHECK_NE(add(&rig, "on", 2), one);
    CHECK_NE(add(&rig, "", 0), one);
    uint64_t ref, len;
    void *data;
    CHECK(td__intern_find_locked(&rig.intern, two, &ref, &len));
    CHECK_EQ(len, 3u);
    CHECK_OK(td_arena_peek(rig.arena, ref, len, &data));
    CHECK_MEM(data, "two", 3);
    rig_close(&rig);
}

TD_TEST(a_number_lasts_while_it_is_held_and_somewhat_longer)
{
    struct rig rig;
    rig_open(&rig);
    const uint32_t held = add(&rig, "held", 4), idle = add(&rig, "idle", 4);
    CHECK(td__intern_ref_locked(&rig.intern, held));
    unref(&rig, held);
    unref(&rig, idle);
    CHECK(is_known(&rig, idle));
    CHECK_EQ(add(&rig, "idle", 4), idle); /* it came back from among the idle */
    unref(&rig, idle);
    for (uint32_t i = 0; i < 1000; i++)
        unref(&rig, add(&rig, &i, sizeof i));
    CHECK(is_known(&rig, held));
    CHECK(!is_known(&rig, idle));
    CHECK(!td__intern_ref_locked(&rig.intern, idle));
    rig_close(&rig);
}

TD_TEST(idle_functions_take_bounded_room)
{
    struct rig rig;
    rig_open(&rig);
    char *big = calloc(1, 8 << 20);
    REQUIRE(big != NULL);
    for (uint32_t i = 0; i < 100; i++) {
        memcpy(big, &i, sizeof i);
        unref(&rig, add(&rig, big, 8 << 20));
    }
    td_arena_stats stats;
    td_arena_stats_read(rig.arena, &stats);
    CHECK_LE(stats.live_bytes, UINT64_C(80) << 20);
    free(big);
    rig_close(&rig);
}

TD_TEST(numbers_come_back_late_and_never_as_they_were)
{
    struct rig rig;
    rig_open(&rig);
    uint32_t first = add(&rig, "first", 5);
    unref(&rig, first);
    for (uint32_t i = 0; i < 200000; i++) {
        const uint32_t fn = add(&rig, &i, sizeof i);
        CHECK_NE(fn, 0u);
        if (fn == first && i < 60000)
            test_fail(__FILE__, __LINE__, "number %#x came back after %u others", fn, i);
        unref(&rig, fn);
    }
    CHECK(!is_known(&rig, first));
    rig_close(&rig);
}

TD_TEST(as_many_as_there_are_numbers_can_be_held)
{
    struct rig rig;
    uint32_t fn;
    rig_open(&rig);
    for (uint32_t i = 0; i < 65536; i++)
        add(&rig, &i, sizeof i);
    CHECK_STATUS(td__intern_add_locked(&rig.intern, rig.arena, "more", 4, NULL, 0, &fn), TD_ENOMEM);
    const uint32_t again = 7;
    CHECK(is_known(&rig, add(&rig, &again, sizeof again)));
    rig_close(&rig);
}

TD_TEST(random_use_agrees_with_a_table)
{
    enum { KINDS = 600 };
    struct rig rig;
    uint32_t users[KINDS] = {0}, numbers[KINDS] = {0};
    uint64_t random = test_seed;
    rig_open(&rig);
    for (uint64_t i = 0; i < test_rounds(200000); i++) {
        const uint32_t kind = (uint32_t)test_random_below(&random, KINDS);
        if (users[kind] > 0 && test_random_below(&random, 2) == 0) {
            CHECK(is_known(&rig, numbers[kind]));
            unref(&rig, numbers[kind]);
            users[kind]--;
            continue;
        }
        const uint32_t fn = add(&rig, &kind, sizeof kind);
        if (users[kind] > 0)
            CHECK_EQ(fn, numbers[kind]);
        numbers[kind] = fn;
        users[kind]++;
    }
    rig_close(&rig);
}

TD_TEST_MAIN
