/* tests/watch/test_beat.c: the word between a loop's thread and the native thread. */
#include "watch/beat.h"

#include <pthread.h>

#include "tests/harness.h"
#include "tests/ring/rig.h"

TD_TEST(a_turn_is_told_from_the_next_and_from_waiting)
{
    struct td_beat beat = {0};
    CHECK_EQ(td_atomic_load_seq(&beat.turn), 0u);
    CHECK(!td_beat_turn(&beat));
    const uint64_t first = td_atomic_load_seq(&beat.turn);
    CHECK(first != 0);
    CHECK(!td_beat_rest(&beat));
    CHECK_EQ(td_atomic_load_seq(&beat.turn), 0u);
    CHECK(!td_beat_turn(&beat));
    CHECK_LE(first, td_atomic_load_seq(&beat.turn));
}

TD_TEST(the_end_of_a_turn_that_was_noticed_is_told_and_of_others_not)
{
    struct td_beat beat = {0};
    (void)td_beat_turn(&beat);
    const uint64_t turn = td_atomic_load_seq(&beat.turn);
    CHECK(td_beat_notice(&beat, turn));
    CHECK_EQ(td_beat_end(&beat, turn, INT64_MAX), INT64_MAX);
    CHECK(td_beat_rest(&beat));
    const int64_t ended = td_beat_end(&beat, turn, INT64_MAX);
    CHECK_LE((int64_t)turn, ended);
    CHECK_LE(ended, td_now_ns());
    CHECK(!td_beat_rest(&beat));
    CHECK(!td_beat_notice(&beat, turn));
}

/* ---- The loop's thread and the native thread at the same moment ---- */

struct duel {
    struct td_beat beat;
    struct rounds rounds;
    bool (*loop_does)(struct td_beat *beat);
    uint64_t round_count;
    bool told; /* what the loop's thread did in this round was to wake the other one */
};

static void *loop_of(void *argument)
{
    struct duel *duel = argument;
    uint64_t random = test_seed + 1;
    uint32_t mine = 0;
    for (uint64_t round = 0; round < duel->round_count; round++) {
        rounds_meet(&duel->rounds, &mine);
        rig_dither(&random, 64);
        duel->told = duel->loop_does(&duel->beat);
        rounds_meet(&duel->rounds, &mine);
    }
    return NULL;
}

static void begin(struct duel *duel, pthread_t *thread, bool (*loop_does)(struct td_beat *beat))
{
    *duel = (struct duel){.loop_does = loop_does, .round_count = test_rounds(50000)};
    REQUIRE_EQ(pthread_create(thread, NULL, loop_of, duel), 0);
}

/* Edges N1 and N2. */
TD_TEST(a_turn_that_ends_while_it_is_noticed_is_told_or_known_to_have_ended)
{
    struct duel duel;
    pthread_t thread;
    uint64_t random = test_seed + 2, missed = 0;
    uint32_t mine = 0;
    begin(&duel, &thread, td_beat_rest);
    for (uint64_t round = 0; round < duel.round_count; round++) {
        const uint64_t turn = round + 1;
        td_atomic_store_seq(&duel.beat.turn, turn);
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 64);
        const bool goes_on = td_beat_notice(&duel.beat, turn);
        rounds_meet(&duel.rounds, &mine);
        missed += goes_on && !duel.told;
    }
    pthread_join(thread, NULL);
    CHECK_EQ(missed, 0u);
}

/* Edges P1 and P2. */
TD_TEST(a_turn_that_begins_while_nobody_looks_any_more_is_told_or_seen)
{
    struct duel duel;
    pthread_t thread;
    uint64_t random = test_seed + 2, missed = 0;
    uint32_t mine = 0;
    begin(&duel, &thread, td_beat_turn);
    for (uint64_t round = 0; round < duel.round_count; round++) {
        td_atomic_store_seq(&duel.beat.parked, 0);
        td_atomic_store_seq(&duel.beat.turn, 0);
        rounds_meet(&duel.rounds, &mine);
        rig_dither(&random, 64);
        const bool asleep = td_beat_park(&duel.beat);
        rounds_meet(&duel.rounds, &mine);
        missed += asleep && !duel.told;
    }
    pthread_join(thread, NULL);
    CHECK_EQ(missed, 0u);
}

TD_TEST_MAIN
