/* Runs of granules: merging, warmth, and what is committed when. */
#include <stdlib.h>

#include "memory/span.h"
#include "tests/harness.h"
#include "tests/memory/made_up.h"

#define RANGE (UINT64_C(1) << 30)

typedef struct fixture {
    td__spans spans;
    made_up machine;
    int fd;
} fixture;

static void set_up(fixture *f, uint64_t limit)
{
    td_memfd_kind kind;
    f->machine = (made_up){.limit = limit};
    REQUIRE_OK(td_memfd_new("test", RANGE, &f->fd, &kind));
    td_arena_backing backing = made_up_backing(&f->machine);
    td__spans_init(&f->spans, f->fd, RANGE, &backing);
}

static void tear_down(fixture *f)
{
    td__spans_fini(&f->spans);
    close(f->fd);
}

static uint32_t take(fixture *f, uint32_t count)
{
    uint32_t start = TD__NO_GRANULE;
    REQUIRE_OK(td__span_take(&f->spans, count, false, &start));
    CHECK_EQ(start % (1u << td__order_of(count)), 0u);
    CHECK_EQ(td__span_committed(&f->spans, start, count), count);
    return start;
}

TD_TEST(orders_are_powers_of_two_rounded_up)
{
    static const uint32_t counts[] = {0, 1, 2, 3, 4, 5, 255, 256, 257, 1u << 26},
                          orders[] = {0, 0, 1, 2, 2, 3, 8, 8, 9, 26};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        CHECK_EQ(td__order_of(counts[i]), orders[i]);
}

TD_TEST(the_tail_of_a_rounded_block_is_used)
{
    fixture f;
    set_up(&f, UINT64_MAX);
    uint32_t first = take(&f, 129), second = take(&f, 64); /* both of one block of 256 */
    CHECK_EQ(f.spans.top, 256u);
    CHECK(second >= first + 129);
    td__span_give(&f.spans, first, 129);
    td__span_give(&f.spans, second, 64);
    CHECK_EQ(f.spans.filled[1], 1u << 8); /* one block again */
    CHECK_EQ(f.spans.warm, f.spans.committed);
    tear_down(&f);
}

TD_TEST(freeing_in_any_order_merges_everything)
{
    enum { RUNS = 200 };
    fixture f;
    uint32_t starts[RUNS], counts[RUNS];
    uint64_t state = test_seed;
    set_up(&f, UINT64_MAX);
    for (int i = 0; i < RUNS; i++) {
        counts[i] = 1 + (uint32_t)test_random_below(&state, 20);
        starts[i] = take(&f, counts[i]);
    }
    for (int left = RUNS; left > 0; left--) {
        uint64_t i = test_random_below(&state, (uint64_t)left);
        td__span_give(&f.spans, starts[i], counts[i]);
        starts[i] = starts[left - 1];
        counts[i] = counts[left - 1];
    }
    CHECK_EQ(f.spans.warm, f.spans.committed);
    unsigned blocks = 0;
    for (uint32_t i = 0; i < f.spans.top; i += 1u << td__granule_at(&f.spans, i)->order) {
        REQUIRE_EQ((unsigned)td__granule_at(&f.spans, i)->kind, (unsigned)TD__FREE);
        blocks++;
    }
    CHECK_EQ(blocks, (unsigned)__builtin_popcount(f.spans.top));
    tear_down(&f);
}

TD_TEST(a_warm_block_is_preferred_to_a_cold_one)
{
    fixture f;
    set_up(&f, UINT64_MAX);
    uint32_t a = take(&f, 64), fence = take(&f, 1), b = take(&f, 64);
    td__span_give(&f.spans, a, 64);
    CHECK_LT(0u, td__span_trim(&f.spans, 0));
    td__span_give(&f.spans, b, 64);
    CHECK(td__span_ready(&f.spans, 64));
    CHECK_EQ(take(&f, 64), b);
    CHECK(!td__span_ready(&f.spans, 64));
    td__span_give(&f.spans, fence, 1);
    tear_down(&f);
}

TD_TEST(a_large_warm_block_is_broken_up_only_by_the_thrifty)
{
    fixture f;
    set_up(&f, UINT64_MAX);
    uint32_t large = take(&f, 4096), start; /* 64 MiB */
    td__span_give(&f.spans, large, 4096);
    uint32_t small = take(&f, 4);
    CHECK(small < large || small >= large + 4096);
    CHECK(td__span_ready(&f.spans, 4096));
    REQUIRE_OK(td__span_take(&f.spans, 300, true, &start));
    CHECK(start >= large && start < large + 4096);
    tear_down(&f);
}

TD_TEST(small_growth_commits_ahead_in_doubling_steps)
{
    fixture f;
    set_up(&f, UINT64_MAX);
    for (int i = 0; i < 1024; i++)
        take(&f, 1); /* 16 MiB by 16 KiB */
    CHECK_LE(f.machine.calls, 12u);
    CHECK_LE(f.spans.committed, 1024u + 256u);
    tear_down(&f);
}

TD_TEST(without_room_for_a_step_exactly_what_is_needed_is_committed)
{
    fixture f;
    set_up(&f, 7 * TD__GRANULE);
    for (int i = 0; i < 7; i++)
        take(&f, 1);
    uint32_t start = 77;
    CHECK_STATUS(td__span_take(&f.spans, 1, false, &start), TD_ENOROOM);
    CHECK_EQ(start, 77u);
    CHECK_EQ(f.spans.committed, 7u);
    tear_down(&f);
}

TD_TEST(trimming_keeps_the_most_recent_and_stops_at_the_limit)
{
    fixture f;
    uint32_t starts[16];
    set_up(&f, UINT64_MAX);
    for (int i = 0; i < 16; i++)
        starts[i] = take(&f, 64);
    for (int i = 0; i < 16; i += 2)
        td__span_give(&f.spans, starts[i], 64);
    CHECK_EQ(f.spans.warm, 8u * 64);
    CHECK_EQ(td__span_trim(&f.spans, 100), 8u * 64 - 100);
    CHECK_EQ(f.spans.warm, 100u);
    CHECK_EQ(td__span_committed(&f.spans, starts[14], 64), 64u);
    CHECK_EQ(td__span_committed(&f.spans, starts[12], 64), 36u);
    CHECK_EQ(td__span_trim(&f.spans, 100), 0u);
    tear_down(&f);
}

TD_TEST(the_range_ends_where_it_ends)
{
    fixture f;
    set_up(&f, UINT64_MAX);
    uint32_t all = (uint32_t)(RANGE >> TD__GRANULE_SHIFT), start;
    CHECK_STATUS(td__span_take(&f.spans, all + 1, false, &start), TD_ENOROOM);
    CHECK_STATUS(td__span_take(&f.spans, UINT32_MAX, false, &start), TD_ENOROOM);
    take(&f, 1);
    CHECK_STATUS(td__span_take(&f.spans, all, false, &start), TD_ENOROOM);
    CHECK_STATUS(td__span_take(&f.spans, 0, false, &start), TD_ENOROOM);
    tear_down(&f);
}

TD_TEST_MAIN
