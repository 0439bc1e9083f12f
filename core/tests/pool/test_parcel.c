/* tests/pool/test_parcel.c: blocks that come with a result: whose they are, what becomes of them, and that their table
 * is checked. */
#include <pthread.h>

#include "memory/arena.h"
#include "tests/pool/crew.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)

static struct td_pool_stats stats_of(const struct crew *crew)
{
    struct td_pool_stats stats;
    td_pool_get_stats(crew->pool, &stats);
    return stats;
}

static void open_crew(struct crew *crew)
{
    crew_open(crew, &(struct td_pool_config){.max_workers = 1});
}

/* A task with so many parcels, each of so many bytes. */
static td_task *submit_parcels(const struct crew *crew, uint64_t count, uint64_t bytes)
{
    td_task *task = crew_submit(crew, &(struct op){.code = OP_PARCELS, .a = count, .b = bytes});
    CHECK_EQ(crew_wait(task), TD_TASK_RESULT);
    return task;
}

static td_parcel_ref *hold_parcel(td_task *task, uint32_t i, uint64_t bytes)
{
    td_parcel_ref *hold = NULL;
    struct td_view view = {0};
    REQUIRE_OK(td_task_parcel(task, i, &hold, &view));
    CHECK_EQ(view.bytes, bytes);
    CHECK_EQ(((const unsigned char *)view.data)[0], (unsigned char)(i + 1));
    CHECK_EQ(((const unsigned char *)view.data)[bytes - 1], (unsigned char)(i + 1));
    return hold;
}

TD_TEST(parcels_come_with_their_result)
{
    struct crew crew;
    open_crew(&crew);
    for (uint64_t count = 0; count <= 1000; count = count * 10 + 1) {
        td_task *task = submit_parcels(&crew, count, 3 * KIB);
        CHECK_EQ(td_task_parcels(task), count);
        CHECK_EQ(td_task_result_bytes(task), sizeof count + count * 3 * KIB);
        for (uint32_t i = 0; i < count; i++)
            td_parcel_unref(hold_parcel(task, i, 3 * KIB));
        CHECK_STATUS(td_task_parcel(task, (uint32_t)count, &(td_parcel_ref *){NULL}, &(struct td_view){0}),
                     TD_EINVAL);
        td_task_unref(task);
        CHECK_EQ(stats_of(&crew).result_bytes_live, 0u);
    }
    crew_close(&crew);
}

TD_TEST(what_moved_and_what_was_copied_is_counted)
{
    struct crew crew;
    open_crew(&crew);
    td_task_unref(submit_parcels(&crew, 4, MIB)); /* every other one says that it is a copy */
    const struct td_pool_stats stats = stats_of(&crew);
    CHECK_EQ(stats.bytes_moved, 2 * MIB);
    CHECK_LE(2 * MIB, stats.bytes_copied);
    CHECK_LT(stats.bytes_copied, 2 * MIB + 200);
    crew_close(&crew);
}

TD_TEST(each_parcel_is_given_back_by_itself)
{
    struct crew crew;
    open_crew(&crew);
    td_task *task = submit_parcels(&crew, 3, MIB);
    td_parcel_ref *first = hold_parcel(task, 0, MIB), *again = hold_parcel(task, 0, MIB);
    td_task_drop_parcels(task);
    td_task_drop_parcels(task);
    CHECK_LT(stats_of(&crew).result_bytes_live, MIB + 200);
    CHECK_STATUS(td_task_parcel(task, 1, &(td_parcel_ref *){NULL}, &(struct td_view){0}), TD_EINVAL);
    td_parcel_unref(hold_parcel(task, 0, MIB));
    td_parcel_unref(first);
    td_task_unref(task);
    CHECK_EQ(stats_of(&crew).result_bytes_live, MIB);
    td_parcel_unref(again);
    CHECK_EQ(stats_of(&crew).result_bytes_live, 0u);
    crew_close(&crew);
}

TD_TEST(parcels_of_a_result_that_nobody_reads_are_given_back)
{
    struct crew crew;
    open_crew(&crew);
    for (uint32_t i = 0; i < 30; i++)
        td_task_unref(crew_submit(&crew, &(struct op){.code = OP_PARCELS, .a = 2, .b = MIB}));
    td_task_unref(submit_parcels(&crew, 1, MIB));
    CHECK_EQ(stats_of(&crew).result_bytes_live, 0u);
    crew_close(&crew);
}

TD_TEST(a_parcel_outlives_its_worker_and_its_pool)
{
    struct crew crew;
    open_crew(&crew);
    td_task *task = submit_parcels(&crew, 2, MIB);
    td_parcel_ref *hold = hold_parcel(task, 1, MIB);
    struct td_view view;
    REQUIRE_OK(td_task_parcel(task, 1, &(td_parcel_ref *){NULL}, &view));
    td_task *dead = crew_submit(&crew, &(struct op){.code = OP_RAISE, .a = SIGKILL});
    CHECK_EQ(crew_wait(dead), TD_TASK_DIED);
    td_task_unref(dead);
    td_parcel_unref(hold_parcel(task, 0, MIB));
    td_task_unref(task);
    crew_close(&crew);
    CHECK_EQ(((const unsigned char *)view.data)[MIB - 1], 2);
    td_parcel_unref(hold);
    td_parcel_unref(hold);
}

TD_TEST(a_table_that_cannot_be_costs_its_task_and_its_worker)
{
    for (uint64_t way = ROGUE_PARCEL_REF; way <= ROGUE_PARCEL_COUNT; way++) {
        struct crew crew;
        open_crew(&crew);
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = way});
        CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
        CHECK_EQ(td_task_parcels(task), 0u);
        CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "failed its checks");
        td_task_unref(task);
        CHECK_EQ(stats_of(&crew).result_bytes_live, 0u);
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 4})), 4);
        crew_close(&crew);
    }
}

/* Each item's result is a number, and a parcel of a KiB. */
static td_task *submit_items(const struct crew *crew, uint32_t items, uint32_t deadly)
{
    const struct op op = {.code = OP_ITEM_PARCELS, .a = KIB, .b = deadly};
    struct td_call call = crew_call(crew, &op);
    td_task *task = NULL;
    call.items = items;
    REQUIRE_OK(td_pool_submit(crew->pool, &call, &task));
    return task;
}

TD_TEST(a_chunks_parcels_come_with_it)
{
    struct crew crew;
    open_crew(&crew);
    td_task *task = submit_items(&crew, 100, UINT32_MAX);
    CHECK_EQ(crew_wait(task), TD_TASK_RESULT);
    CHECK_EQ(td_task_parcels(task), 100u);
    for (uint32_t i = 0; i < 100; i++)
        td_parcel_unref(hold_parcel(task, i, KIB));
    td_task_unref(task);
    CHECK_EQ(stats_of(&crew).result_bytes_live, 0u);
    crew_close(&crew);
}

TD_TEST(a_chunks_parcels_that_were_published_survive_the_worker)
{
    struct crew crew;
    open_crew(&crew);
    td_task *task = submit_items(&crew, 100, 60);
    CHECK_EQ(crew_wait(task), TD_TASK_RESULT);
    uint32_t begin, end;
    td_task_range(task, &begin, &end);
    CHECK_EQ(end, 60u);
    CHECK_LE(60u, td_task_parcels(task));
    for (uint32_t i = 0; i < 60; i++)
        td_parcel_unref(hold_parcel(task, i, KIB));
    for (td_task *part = td_task_rest(task); part != NULL; part = td_task_rest(part))
        crew_wait(part);
    td_task_unref(task);
    CHECK_EQ(stats_of(&crew).result_bytes_live, 0u);
    crew_close(&crew);
}

TD_TEST(a_forked_child_gives_no_parcel_back)
{
    struct crew crew;
    open_crew(&crew);
    td_task *task = submit_parcels(&crew, 1, MIB);
    td_parcel_ref *hold = hold_parcel(task, 0, MIB);
    const pid_t child = fork();
    if (child == 0) {
        td_task_drop_parcels(task);
        td_parcel_unref(hold);
        _exit(0);
    }
    CHECK_EQ(test_wait_child(child), 0);
    td_parcel_unref(hold_parcel(task, 0, MIB));
    CHECK_LE(MIB, stats_of(&crew).result_bytes_live);
    td_parcel_unref(hold);
    td_task_unref(task);
    crew_close(&crew);
}

struct letting_go {
    td_parcel_ref *hold;
    td_atomic_u32 ready;
};

static void *let_go(void *context)
{
    struct letting_go *one = context;
    td_atomic_fetch_add_relaxed(&one->ready, 1);
    while (td_atomic_load_relaxed(&one->ready) < 2)
        sched_yield();
    td_parcel_unref(one->hold);
    return NULL;
}

/* Each of the two comes last sometimes. */
static void let_go_beside(struct letting_go *one, td_parcel_ref *other, uint64_t turn)
{
    while (td_atomic_load_relaxed(&one->ready) < 1)
        sched_yield();
    td_atomic_fetch_add_relaxed(&one->ready, 1);
    for (uint64_t spin = 0; spin < turn * 50; spin++)
        td_pause();
    td_parcel_unref(other);
}

/* Of a result with so many parcels, the first and the last are let go of at the same time by two threads. */
static void let_go_at_once(uint64_t parcels)
{
    struct crew crew;
    open_crew(&crew);
    for (uint64_t i = 0; i < test_rounds(100); i++) {
        pthread_t thread;
        td_task *task = submit_parcels(&crew, parcels, KIB);
        struct letting_go one = {.hold = hold_parcel(task, 0, KIB)};
        td_parcel_ref *other = hold_parcel(task, (uint32_t)parcels - 1, KIB);
        td_task_unref(task);
        REQUIRE(pthread_create(&thread, NULL, let_go, &one) == 0);
        let_go_beside(&one, other, i);
        pthread_join(thread, NULL);
    }
    CHECK_EQ(stats_of(&crew).result_bytes_live, 0u);
    crew_close(&crew);
}

TD_TEST(a_parcel_may_be_let_go_of_by_any_thread) /* parcel_H */
{
    let_go_at_once(1);
}

TD_TEST(the_last_parcel_of_a_table_goes_after_every_use) /* parcel_U */
{
    let_go_at_once(2);
}

CREW_TEST_MAIN
