/* tests/ring/test_relief.c: who lacks room hears from all that could give some, and waits for nobody else. */
#include "ring/relief.h"

#include <poll.h>
#include <pthread.h>

#include "os/event.h"
#include "tests/ring/rig.h"

struct actor {
    struct rig *rig;
    uint32_t who;
    uint32_t rounds;
    td_atomic_u32 *finished;
};

/* A worker with nothing to do: parks, and answers when it is asked. */
static void *idle_worker(void *context)
{
    struct actor *actor = context;
    struct td_segment_map *map = &actor->rig->map;
    while (td_atomic_load_seq(&map->seats[actor->who].leaving) == 0) {
        const uint64_t tails[TD_LANES] = {td_atomic_load_seq(&map->head->tails[TD_LANE_NEW]),
                                          td_atomic_load_seq(&map->head->tails[TD_LANE_AGAIN])};
        const td_status status = td_doorbell_park_until(map, actor->who, tails, TD_FOREVER);
        CHECK(status == TD_OK || status == TD_EINTR);
        if (td_relief_is_due(map, actor->who))
            td_relief_answer(map, actor->who, td_relief_begin(map));
    }
    return NULL;
}

/* The parent's native thread: answers when the event rings. */
static void *parent(void *context)
{
    struct actor *actor = context;
    struct rig *rig = actor->rig;
    while (td_atomic_load_seq(actor->finished) < actor->rounds) {
        struct pollfd event = {.fd = rig->bell.event_fd, .events = POLLIN};
        uint64_t rings;
        CHECK_LE(0, poll(&event, 1, -1));
        td_event_drain(rig->bell.event_fd, &rings);
        if (td_relief_is_due(&rig->map, TD_RELIEF_PARENT))
            td_relief_answer(&rig->map, TD_RELIEF_PARENT, td_relief_begin(&rig->map));
    }
    return NULL;
}

/* A worker whose tasks find no room, so many times. */
static void *asker(void *context)
{
    struct actor *actor = context;
    struct td_segment_map *map = &actor->rig->map;
    td_atomic_store_seq(&map->states[actor->who], TD_SEAT_BUSY);
    for (uint32_t round = 0; round < actor->rounds; round++)
        td_relief_ask_until(map, &actor->rig->bell, actor->who, TD_FOREVER);
    td_atomic_fetch_add_seq(actor->finished, 1);
    return idle_worker(actor);
}

TD_TEST(it_is_due_from_the_question_to_the_answer)
{
    struct rig rig;
    rig_init(&rig, 8, 2);
    CHECK(!td_relief_is_due(&rig.map, 1));
    CHECK(!td_relief_is_due(&rig.map, TD_RELIEF_PARENT));
    td_relief_ask_until(&rig.map, &rig.bell, 0, td_now_ns());
    CHECK(td_relief_is_due(&rig.map, 1));
    CHECK(td_relief_is_due(&rig.map, TD_RELIEF_PARENT));
    CHECK(!td_relief_is_due(&rig.map, 0));
    const uint32_t asked = td_relief_begin(&rig.map);
    td_relief_ask_until(&rig.map, &rig.bell, 0, td_now_ns()); /* while worker 1 trims */
    td_relief_answer(&rig.map, 1, asked);
    CHECK(td_relief_is_due(&rig.map, 1));
    td_relief_answer(&rig.map, 1, td_relief_begin(&rig.map));
    CHECK(!td_relief_is_due(&rig.map, 1));
    rig_fini(&rig);
}

TD_TEST(numbers_wrap)
{
    struct rig rig;
    rig_init(&rig, 8, 1);
    td_atomic_store_seq(&rig.map.head->relief_asked, UINT32_MAX);
    td_atomic_store_seq(&rig.map.head->relieved, UINT32_MAX);
    td_atomic_store_seq(&rig.map.seats[0].relieved, UINT32_MAX);
    CHECK(!td_relief_is_due(&rig.map, 0));
    td_relief_ask_until(&rig.map, &rig.bell, TD_RELIEF_PARENT, td_now_ns());
    CHECK(td_relief_is_due(&rig.map, 0));
    CHECK(!td_relief_is_due(&rig.map, TD_RELIEF_PARENT));
    rig_fini(&rig);
}

TD_TEST(nobody_waits_for_a_seat_without_a_worker_that_could_answer)
{
    struct rig rig;
    rig_init(&rig, 8, 4);
    td_atomic_store_seq(&rig.map.states[1], TD_SEAT_STARTING);
    td_atomic_store_seq(&rig.map.states[2], TD_SEAT_LEAVING);
    td_relief_ask_until(&rig.map, &rig.bell, TD_RELIEF_PARENT, TD_FOREVER);
    rig_fini(&rig);
}

/* Everybody goes: the parent's thread, which is the last, too. */
static void end(struct rig *rig, const pthread_t *threads, uint32_t workers, td_atomic_u32 *finished)
{
    for (uint32_t worker = 0; worker < rig->map.worker_count; worker++) {
        td_atomic_store_seq(&rig->map.seats[worker].leaving, 1);
        td_doorbell_wake_worker(&rig->map, worker);
    }
    for (uint32_t i = 0; i < workers; i++)
        pthread_join(threads[i], NULL);
    td_atomic_fetch_add_seq(finished, 1);
    td_bell_ring_loud(&rig->bell);
    pthread_join(threads[workers], NULL);
    rig_fini(rig);
}

TD_TEST(sleepers_and_the_parent_answer)
{
    struct rig rig;
    td_atomic_u32 finished = 0;
    pthread_t threads[3];
    rig_init(&rig, 8, 3);
    struct actor actors[] = {{&rig, 1, 0, &finished}, {&rig, 2, 0, &finished}, {&rig, 0, 1, &finished}};
    for (uint32_t worker = 0; worker < 3; worker++)
        td_atomic_store_seq(&rig.map.states[worker], worker == 0 ? TD_SEAT_BUSY : TD_SEAT_SEARCHING);
    for (size_t i = 0; i < 3; i++)
        REQUIRE(pthread_create(&threads[i], NULL, i == 2 ? parent : idle_worker, &actors[i]) == 0);
    const uint64_t rounds = test_rounds(2000);
    for (uint64_t round = 0; round < rounds; round++) {
        td_relief_ask_until(&rig.map, &rig.bell, 0, TD_FOREVER);
        for (uint32_t who = 0; who < 3; who++)
            CHECK(!td_relief_is_due(&rig.map, who));
        CHECK(!td_relief_is_due(&rig.map, TD_RELIEF_PARENT));
    }
    end(&rig, threads, 2, &finished);
}

TD_TEST(askers_answer_each_other)
{
    struct rig rig;
    td_atomic_u32 finished = 0;
    pthread_t threads[4];
    rig_init(&rig, 8, 3);
    const uint32_t rounds = (uint32_t)test_rounds(1000);
    struct actor actors[] = {{&rig, 0, rounds, &finished},
                             {&rig, 1, rounds, &finished},
                             {&rig, 2, rounds, &finished},
                             {&rig, 0, 4, &finished}};
    for (size_t i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, i == 3 ? parent : asker, &actors[i]) == 0);
    for (uint32_t turn = 0; td_atomic_load_seq(&finished) < 3;)
        rig_relax(&turn);
    end(&rig, threads, 3, &finished);
}

TD_TEST_MAIN
