/* tests/sched/test_deque.c: units, random operations against an array, and thieves.
 *
 * Edge P shows under ThreadSanitizer, as a loop that is read while it is written. O1 shows on the machine itself: the
 * owner and a thief both take the last range. */
#include "sched/deque.h"

#include <pthread.h>

#include "base/clock.h"
#include "tests/harness.h"
#include "tests/ring/rig.h"

/* What stands behind a range, in a field that is not atomic: ThreadSanitizer watches it. */
struct td_region {
    uint64_t number;
};

static struct td_range numbered(uint64_t number)
{
    return (struct td_range){.first = number, .last = number * 3, .tag = ~number};
}

static void check_range(const struct td_range *range, uint64_t number)
{
    CHECK_EQ(range->first, number);
    CHECK_EQ(range->last, number * 3);
    CHECK_EQ(range->tag, ~number);
}

static bool put(struct td_deque *deque, uint64_t number)
{
    const struct td_range range = numbered(number);
    if (!td_deque_stage(deque, 0, &range))
        return false;
    td_deque_publish(deque, 1);
    return true;
}

static struct td_deque *deque_new(void)
{
    struct td_deque *deque = aligned_alloc(TD_CACHELINE, sizeof *deque);
    REQUIRE(deque != NULL);
    td_deque_init(deque);
    return deque;
}

/* ---- Units ---- */

TD_TEST(the_owner_takes_the_newest_and_others_the_oldest)
{
    struct td_deque *deque = deque_new();
    struct td_range range;
    uint64_t place = 0;
    CHECK(!td_deque_pop(deque, &range));
    CHECK(!td_deque_peek(deque, &range, &place));
    for (uint64_t number = 1; number <= 3; number++)
        CHECK(put(deque, number));
    CHECK_EQ(td_deque_count(deque), 3u);
    CHECK(td_deque_pop(deque, &range));
    check_range(&range, 3);
    CHECK(td_deque_peek(deque, &range, &place));
    check_range(&range, 1);
    CHECK(td_deque_take(deque, place));
    CHECK(!td_deque_take(deque, place)); /* it is gone */
    CHECK(td_deque_pop(deque, &range));
    check_range(&range, 2);
    CHECK(!td_deque_pop(deque, &range));
    CHECK_EQ(td_deque_count(deque), 0u);
    free(deque);
}

TD_TEST(ranges_are_seen_when_they_are_published_together)
{
    struct td_deque *deque = deque_new();
    struct td_range range;
    uint64_t place = 0;
    for (uint32_t staged = 0; staged < 4; staged++) {
        const struct td_range next = numbered(staged);
        CHECK(td_deque_stage(deque, staged, &next));
    }
    CHECK(!td_deque_peek(deque, &range, &place));
    td_deque_publish(deque, 4);
    CHECK(td_deque_peek(deque, &range, &place));
    check_range(&range, 0);
    for (uint64_t number = 4; number > 0; number--) {
        CHECK(td_deque_pop(deque, &range));
        check_range(&range, number - 1);
    }
    free(deque);
}

TD_TEST(a_full_deque_refuses_more)
{
    struct td_deque *deque = deque_new();
    struct td_range range = numbered(7);
    uint64_t place = 0;
    for (uint64_t number = 0; number < TD_DEQUE_CELLS; number++)
        CHECK(put(deque, number));
    CHECK(!put(deque, 0));
    CHECK(!td_deque_stage(deque, 1, &range));
    CHECK(td_deque_peek(deque, &range, &place));
    CHECK(td_deque_take(deque, place));
    CHECK(put(deque, TD_DEQUE_CELLS));
    CHECK(!put(deque, 0));
    for (uint64_t number = TD_DEQUE_CELLS; number >= 1; number--) {
        CHECK(td_deque_pop(deque, &range));
        check_range(&range, number);
    }
    free(deque);
}

/* ---- Model ---- */

TD_TEST(random_operations_agree_with_an_array)
{
    struct td_deque *deque = deque_new();
    uint64_t model[TD_DEQUE_CELLS], first = 0, count = 0, next = 1, random = test_seed;
    struct td_range range;
    uint64_t place = 0;
    for (uint64_t round = test_rounds(200000); round > 0; round--) {
        const uint64_t choice = test_random_below(&random, 5);
        if (choice < 2 + round / 256 % 2) { /* it fills and empties by turns */
            const bool room = count < TD_DEQUE_CELLS;
            CHECK_EQ(put(deque, next), room);
            if (room)
                model[(first + count++) % TD_DEQUE_CELLS] = next++;
        } else if (choice == 3) {
            REQUIRE_EQ(td_deque_pop(deque, &range), count > 0);
            if (count > 0)
                check_range(&range, model[(first + --count) % TD_DEQUE_CELLS]);
        } else {
            REQUIRE_EQ(td_deque_peek(deque, &range, &place), count > 0);
            if (count > 0) {
                CHECK(td_deque_take(deque, place));
                check_range(&range, model[first++ % TD_DEQUE_CELLS]);
                count--;
            }
        }
        CHECK_EQ(td_deque_count(deque), count);
    }
    free(deque);
}

/* ---- Thieves ---- */

#define THIEVES 2u

struct heist {
    struct td_deque *deque;
    struct td_region *regions;
    td_atomic_u32 *taken; /* of each region, how often */
    td_atomic_u32 over;
};

static void take_note(struct heist *heist, const struct td_range *range)
{
    CHECK_EQ(range->region->number, range->first);
    CHECK_EQ(range->last, range->first * 3);
    CHECK_EQ(range->tag, ~range->first);
    CHECK_EQ(td_atomic_fetch_add_relaxed(&heist->taken[range->first], 1), 0u);
}

static void *steal_all(void *argument)
{
    struct heist *heist = argument;
    struct td_range range;
    uint64_t place = 0;
    for (uint32_t turn = 0;;) {
        const bool over = td_atomic_load_seq(&heist->over) != 0;
        if (!td_deque_peek(heist->deque, &range, &place)) {
            if (over)
                return NULL;
            rig_relax(&turn);
        } else if (td_deque_take(heist->deque, place)) {
            take_note(heist, &range);
        }
    }
}

/* Edge P. */
TD_TEST(each_range_is_taken_once_and_read_whole)
{
    const uint64_t count = test_rounds(200000);
    struct heist heist = {.deque = deque_new(),
                          .regions = calloc(count, sizeof *heist.regions),
                          .taken = calloc(count, sizeof *heist.taken)};
    REQUIRE(heist.regions != NULL && heist.taken != NULL);
    pthread_t thieves[THIEVES];
    for (uint32_t i = 0; i < THIEVES; i++)
        REQUIRE_EQ(pthread_create(&thieves[i], NULL, steal_all, &heist), 0);
    uint64_t random = test_seed;
    uint32_t turn = 0;
    struct td_range range;
    for (uint64_t number = 0; number < count;) {
        uint32_t staged = 0;
        for (uint64_t batch = 1 + test_random_below(&random, 4); staged < batch && number < count; staged++) {
            struct td_range next = numbered(number);
            next.region = &heist.regions[number];
            if (!td_deque_stage(heist.deque, staged, &next))
                break;
            heist.regions[number].number = number;
            number++;
        }
        td_deque_publish(heist.deque, staged);
        if (staged == 0)
            rig_relax(&turn);
        /* At first not: a thief shall see what publishing alone brings. */
        for (uint64_t pops = number < count / 4 ? 0 : test_random_below(&random, 4); pops > 0; pops--)
            if (td_deque_pop(heist.deque, &range))
                take_note(&heist, &range);
    }
    while (td_deque_pop(heist.deque, &range))
        take_note(&heist, &range);
    td_atomic_store_seq(&heist.over, 1);
    for (uint32_t i = 0; i < THIEVES; i++)
        pthread_join(thieves[i], NULL);
    for (uint64_t number = 0; number < count; number++)
        CHECK_EQ(td_atomic_load_relaxed(&heist.taken[number]), 1u);
    free(heist.deque);
    free(heist.regions);
    free(heist.taken);
}

/* ---- O: two threads run into each other at the last ranges ---- */

struct duel {
    struct td_deque *deque;
    struct rounds rounds;
    uint64_t round_count;
    td_atomic_u32 takes;
    td_atomic_u32 broken; /* both sides stop after the round */
};

static void *thieve_each_round(void *argument)
{
    struct duel *duel = argument;
    struct td_range range;
    uint64_t place = 0, random = test_seed + 1;
    uint32_t mine = 0;
    for (uint64_t round = 0; round < duel->round_count && td_atomic_load_seq(&duel->broken) == 0; round++) {
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 32);
        for (uint32_t tries = 0; tries < 2; tries++)
            if (td_deque_peek(duel->deque, &range, &place) && td_deque_take(duel->deque, place))
                td_atomic_fetch_add_seq(&duel->takes, 1);
        rounds_meet(&duel->rounds, &mine);
        rounds_meet(&duel->rounds, &mine); /* the owner has counted */
    }
    return NULL;
}

/* Edge O1. */
TD_TEST(the_last_ranges_are_taken_once_by_owner_and_thief_together)
{
    struct duel duel = {.deque = deque_new(), .round_count = test_rounds(60000)};
    uint64_t random = test_seed;
    uint32_t mine = 0;
    struct td_range range;
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, thieve_each_round, &duel), 0);
    for (uint64_t round = 0; round < duel.round_count && td_atomic_load_seq(&duel.broken) == 0; round++) {
        td_atomic_store_seq(&duel.takes, 0);
        CHECK(put(duel.deque, 1));
        CHECK(put(duel.deque, 2));
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 32);
        for (uint32_t tries = 0; tries < 2; tries++)
            if (td_deque_pop(duel.deque, &range))
                td_atomic_fetch_add_seq(&duel.takes, 1);
        rounds_meet(&duel.rounds, &mine);
        while (td_deque_pop(duel.deque, &range))
            td_atomic_fetch_add_seq(&duel.takes, 1);
        CHECK_EQ(td_atomic_load_seq(&duel.takes), 2u);
        td_atomic_store_seq(&duel.broken, td_atomic_load_seq(&duel.takes) != 2);
        rounds_meet(&duel.rounds, &mine);
    }
    pthread_join(thread, NULL);
    free(duel.deque);
}

TD_TEST_MAIN
