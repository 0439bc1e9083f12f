/* Ranges of addresses in a skip list, against a plain table. */
#include "memory/index.h"
#include "tests/harness.h"

#define PLACES 300u
#define STEP 100u

static struct td__range ranges[PLACES];
static bool there[PLACES];

static struct td__range *naive_find(uintptr_t address, uint64_t bytes)
{
    for (uint32_t i = 0; i < PLACES; i++)
        if (there[i] && address >= ranges[i].start && address + bytes <= ranges[i].start + ranges[i].bytes)
            return &ranges[i];
    return NULL;
}

/* Is there one with any of these bytes, and is this such a one? */
static bool naive_meets(uintptr_t address, uint64_t bytes, const struct td__range *found)
{
    bool any = false, right = found == NULL;
    for (uint32_t i = 0; i < PLACES; i++) {
        const bool meets =
            there[i] && address < ranges[i].start + ranges[i].bytes && ranges[i].start < address + bytes;
        any = any || meets;
        right = right || (meets && found == &ranges[i]);
    }
    return right && any == (found != NULL);
}

TD_TEST(an_index_finds_what_a_table_finds)
{
    struct td__index index = {0};
    uint64_t random = test_seed;
    for (uint64_t round = 0; round < test_rounds(20000); round++) {
        const uint32_t place = (uint32_t)test_random_below(&random, PLACES);
        if (there[place]) {
            td__index_remove(&index, &ranges[place]);
        } else {
            ranges[place] =
                (struct td__range){.start = 1000 + place * STEP, .bytes = 1 + test_random_below(&random, STEP)};
            td__index_add(&index, &ranges[place]);
        }
        there[place] = !there[place];
        const uintptr_t address = 900 + test_random_below(&random, PLACES * STEP + 200);
        const uint64_t bytes = 1 + test_random_below(&random, STEP + 20);
        REQUIRE_EQ((uintptr_t)td__index_find(&index, address, bytes), (uintptr_t)naive_find(address, bytes));
        REQUIRE(naive_meets(address, bytes, td__index_meets(&index, address, bytes)));
    }
    for (uint32_t place = 0; place < PLACES; place++)
        if (there[place])
            td__index_remove(&index, &ranges[place]);
    for (uint32_t level = 0; level < TD__INDEX_LEVELS; level++)
        CHECK(index.heads[level] == NULL);
}

TD_TEST(no_bytes_are_found_at_a_ranges_end_and_many_nowhere)
{
    struct td__index index = {0};
    struct td__range range = {.start = 1000, .bytes = 10};
    td__index_add(&index, &range);
    CHECK(td__index_find(&index, 1000, 10) == &range);
    CHECK(td__index_find(&index, 1010, 0) == &range);
    CHECK(td__index_find(&index, 1010, 1) == NULL);
    CHECK(td__index_find(&index, 999, 1) == NULL);
    CHECK(td__index_find(&index, 1005, UINT64_MAX) == NULL);
    CHECK(td__index_find(&index, UINTPTR_MAX, 1) == NULL);
}

TD_TEST_MAIN
