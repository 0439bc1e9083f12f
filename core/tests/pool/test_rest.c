/* tests/pool/test_rest.c: what a pool's processes keep of shared memory for the next blocks: they give it back when
 * they are idle, and when another one asks for room. */
#include <pthread.h>

#include "memory/heap.h"
#include "pool/pool.h"
#include "tests/pool/crew.h"
#include "tests/pool/small_pool.h"

static uint64_t committed(void)
{
    struct td_heap_info info;
    td_heap_get_info(&info);
    return info.committed_bytes;
}

/* Nobody holds a block, but the heap keeps its memory. */
static void use_heap(void)
{
    td_hold *hold = NULL;
    REQUIRE_OK(td_hold_new(UINT64_C(20) << 20, true, &hold));
    CHECK_NE(committed(), 0u);
    td_hold_unref(hold);
}

static void ask_for_room(struct td_segment_map *map)
{
    td_atomic_fetch_add_seq(&map->head->relief_asked, 1);
}

TD_TEST(a_parent_that_is_asked_for_room_gives_what_its_heap_keeps)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    use_heap();
    ask_for_room(&crew.pool->map);
    pthread_mutex_lock(&crew.pool->lock);
    td__pool_drain_locked(crew.pool);
    td__pool_unlock(crew.pool);
    CHECK_EQ(committed(), 0u);
    crew_close(&crew);
}

TD_TEST(a_worker_that_is_asked_for_room_gives_what_its_heap_keeps)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_assignment assignment;
    use_heap();
    REQUIRE_OK(push_number(&pool, 2, 21));
    ask_for_room(&pool.rig.map);
    REQUIRE_OK(td_worker_next(worker, &assignment));
    CHECK_EQ(committed(), 0u);
    small_pool_end(&pool, worker);
}

static void *push_once_given_back(void *pool)
{
    while (committed() != 0)
        sched_yield();
    CHECK_OK(push_number(pool, 2, 21));
    return NULL;
}

TD_TEST(a_worker_that_sleeps_gives_back_what_its_heap_keeps)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_assignment assignment;
    pthread_t pusher;
    use_heap();
    REQUIRE_EQ(pthread_create(&pusher, NULL, push_once_given_back, &pool), 0);
    REQUIRE_OK(td_worker_next(worker, &assignment));
    CHECK_EQ(number_of(&assignment), 21u);
    pthread_join(pusher, NULL);
    small_pool_end(&pool, worker);
}

CREW_TEST_MAIN
