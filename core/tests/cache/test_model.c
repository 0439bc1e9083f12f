/* tests/cache/test_model.c: random operations on a store and on a naive table, which agree. */
#include "tests/cache/own_store.h"

#define KEYS 40u

struct row {
    bool there;
    size_t bytes;
    uint64_t seed;
};

static struct row table[KEYS];

static uint64_t count_rows(void)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        count += table[i].there;
    return count;
}

static size_t any_size(uint64_t *seed)
{
    const size_t most[] = {10, 1000, 70000, 300000};
    return test_random_below(seed, most[test_random_below(seed, 4)]);
}

static void step(td_store *store, uint64_t *seed)
{
    const uint64_t number = test_random_below(seed, KEYS);
    const struct td_key key = own_key(number);
    struct row *row = &table[number];
    enum td_role role;
    bool dropped;
    switch (test_random_below(seed, 8)) {
    case 0:
    case 1:
    case 2:
        *row = (struct row){true, any_size(seed), test_random(seed)};
        CHECK_OK(own_put(store, number, row->bytes, row->seed));
        break;
    case 3:
        CHECK_OK(td_store_drop(store, &key, &dropped));
        CHECK_EQ(dropped, row->there);
        row->there = false;
        break;
    case 4:
        CHECK_OK(td_store_enter_until(store, &key, 0, 0, 0, &role));
        CHECK_EQ(role, row->there ? TD_ROLE_LANDED : TD_ROLE_LEADER);
        CHECK_STATUS(td_store_leave(store, &key, 0), row->there ? TD_ENOTHELD : TD_OK);
        break;
    default:
        CHECK_EQ(own_has(store, number, row->bytes, row->seed), row->there);
        break;
    }
}

TD_TEST(a_store_is_a_table)
{
    uint64_t seed = test_seed;
    td_store *store = own_store();
    const uint64_t rounds = test_rounds(5000);
    for (uint64_t i = 0; i < rounds; i++) {
        step(store, &seed);
        if (i % 500 == 499) {
            CHECK_EQ(own_entries(store), count_rows());
            td_store_close(store);
            store = own_open((struct td_store_options){.no_tmpfile = i % 1000 == 999});
        }
    }
    own_close(store);
}

TD_TEST_MAIN
