/* An arena at rest: when it is trimmed, and who is to wake whom. */
#include <pthread.h>

#include "memory/rest.h"
#include "tests/harness.h"

TD_TEST(nothing_is_trimmed_that_was_never_used)
{
    td_rest rest = {0};
    int64_t next = 0;
    CHECK(!td_rest_keep(&rest, 100 * TD_NS_PER_S, &next));
    CHECK_EQ(next, TD_FOREVER);
}

TD_TEST(it_is_trimmed_once_a_second_after_its_last_use)
{
    td_rest rest = {0};
    int64_t next = 0;
    CHECK(td_rest_stir(&rest));
    CHECK(!td_rest_stir(&rest));
    CHECK(!td_rest_keep(&rest, 5, &next));
    CHECK_EQ(next, 5 + TD_REST_AFTER_NS);
    CHECK(!td_rest_keep(&rest, 5 + TD_REST_AFTER_NS - 1, &next));
    CHECK_EQ(next, 5 + TD_REST_AFTER_NS);
    CHECK(!td_rest_stir(&rest)); /* the keeper has a deadline: it need not be woken */
    CHECK(!td_rest_keep(&rest, 5 + TD_REST_AFTER_NS, &next));
    CHECK_EQ(next, 5 + 2 * TD_REST_AFTER_NS);
    CHECK(td_rest_keep(&rest, 5 + 2 * TD_REST_AFTER_NS, &next));
    CHECK_EQ(next, TD_FOREVER);
    CHECK(!td_rest_keep(&rest, 9 * TD_REST_AFTER_NS, &next));
    CHECK(td_rest_stir(&rest)); /* now it must be */
}

#define STIRS 20000

static td_rest contested;
static td_atomic_u32 wakes, over;

static void *use(void *unused)
{
    for (int i = 0; i < STIRS; i++)
        if (td_rest_stir(&contested))
            td_atomic_fetch_add_relaxed(&wakes, 1);
    return unused;
}

static void *keep(void *unused)
{
    uint64_t *trims = unused;
    int64_t next, now = 0;
    while (td_atomic_load_acquire(&over) == 0 || td_atomic_load_relaxed(&contested.state) != TD_REST_RESTING)
        *trims += td_rest_keep(&contested, now += TD_REST_AFTER_NS, &next);
    return NULL;
}

TD_TEST(each_rest_is_ended_by_exactly_one_wake)
{
    pthread_t users[2], keeper;
    uint64_t trims = 0;
    REQUIRE_EQ(pthread_create(&keeper, NULL, keep, &trims), 0);
    for (int i = 0; i < 2; i++)
        REQUIRE_EQ(pthread_create(&users[i], NULL, use, NULL), 0);
    for (int i = 0; i < 2; i++)
        REQUIRE_EQ(pthread_join(users[i], NULL), 0);
    td_atomic_store_release(&over, 1);
    REQUIRE_EQ(pthread_join(keeper, NULL), 0);
    CHECK_EQ(td_atomic_load_relaxed(&wakes), trims); /* it began at rest, and ends so */
}

TD_TEST_MAIN
