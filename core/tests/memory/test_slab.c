/* Size classes, and slabs that come and go with their slots. */
#include "memory/slab.h"
#include "tests/harness.h"
#include "tests/memory/made_up.h"

#define RANGE (UINT64_C(1) << 30)

TD_TEST(each_class_is_the_smallest_that_fits)
{
    CHECK_EQ(td__slot_stride(0), TD__SLOT_MIN);
    CHECK_EQ(td__slot_stride(TD__CLASSES - 1), TD__SLOT_MAX);
    for (uint32_t bytes = 1; bytes <= TD__SLOT_MAX; bytes++) {
        uint32_t slot_class = td__slot_class(bytes);
        REQUIRE(slot_class < TD__CLASSES);
        REQUIRE(bytes <= td__slot_stride(slot_class));
        REQUIRE(slot_class == 0 || bytes > td__slot_stride(slot_class - 1));
        REQUIRE_EQ(td__slot_stride(slot_class) % TD_BLOCK_ALIGN, 0u);
    }
}

TD_TEST(slots_are_distinct_and_empty_slabs_go_but_for_one)
{
    enum { SLOTS = 2000 };
    static td__slab *slabs_of[SLOTS];
    static uint32_t slots[SLOTS];
    td__spans spans;
    td__slabs slabs;
    made_up machine = {.limit = UINT64_MAX};
    td_arena_backing backing = made_up_backing(&machine);
    td_memfd_kind kind;
    uint64_t state = test_seed;
    int fd;
    REQUIRE_OK(td_memfd_new("test", RANGE, &fd, &kind));
    td__spans_init(&spans, fd, RANGE, &backing);
    td__slabs_init(&slabs);
    uint32_t slot_class = td__slot_class(200);
    for (int i = 0; i < SLOTS; i++) {
        REQUIRE_OK(td__slot_take(&slabs, &spans, slot_class, false, &slabs_of[i], &slots[i]));
        REQUIRE_EQ(slabs_of[i]->words[slots[i]], 0u);
        slabs_of[i]->words[slots[i]] = (uint32_t)i + 1;
    }
    for (int i = 0; i < SLOTS; i++)
        REQUIRE_EQ(slabs_of[i]->words[slots[i]], (uint32_t)i + 1);
    for (uint64_t left = SLOTS; left > 0; left--) {
        uint64_t i = test_random_below(&state, left);
        td__slot_give(&slabs, &spans, slabs_of[i], slots[i]);
        slabs_of[i] = slabs_of[left - 1];
        slots[i] = slots[left - 1];
    }
    CHECK(td__slab_ready(&slabs, slot_class));
    CHECK_EQ(spans.committed - spans.warm, TD__SLAB_GRANULES);
    td__slabs_trim(&slabs, &spans);
    CHECK(!td__slab_ready(&slabs, slot_class));
    CHECK_EQ(spans.committed, spans.warm);
    REQUIRE_OK(td__slot_take(&slabs, &spans, slot_class, false, &slabs_of[0], &slots[0]));
    td__slabs_fini(&slabs, &spans); /* also what is still taken */
    td__spans_fini(&spans);
    close(fd);
}

TD_TEST_MAIN
