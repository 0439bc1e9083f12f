/* An arena between threads, for ThreadSanitizer: its edges are G and R of memory/arena.c, and both have a test
 * that fails under it when they are weakened (arena_G, arena_R). */
#include <pthread.h>
#include <sched.h>

#include "memory/arena.h"
#include "tests/harness.h"

#define MIB (UINT64_C(1) << 20)

/* One ref at a time, from one thread to another. It orders only what happened before sending: taking is
 * relaxed, so what the taker does afterwards reaches the sender by the arena's own edges or not at all. */
typedef struct mailbox {
    td_arena *arena;
    td_atomic_u64 ref;
    uint64_t count;
} mailbox;

static void send(mailbox *box, uint64_t ref)
{
    while (td_atomic_load_relaxed(&box->ref) != 0)
        sched_yield();
    td_atomic_store_release(&box->ref, ref);
}

static uint64_t receive(mailbox *box)
{
    uint64_t ref;
    while ((ref = td_atomic_load_acquire(&box->ref)) == 0)
        sched_yield();
    td_atomic_store_relaxed(&box->ref, 0);
    return ref;
}

static void *scribble_and_give(void *context)
{
    mailbox *box = context;
    for (uint64_t i = 0; i < box->count; i++) {
        uint64_t ref = receive(box);
        void *data;
        REQUIRE_OK(td_arena_peek(box->arena, ref, 64, &data));
        memset(data, (int)i, 64);
        REQUIRE_OK(td_block_give(box->arena, ref));
    }
    return NULL;
}

TD_TEST(a_given_block_is_reused_only_after_its_holder_is_done) /* arena_G */
{
    mailbox box = {.count = test_rounds(20000)};
    pthread_t thread;
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 16 * MIB}, &box.arena));
    REQUIRE(pthread_create(&thread, NULL, scribble_and_give, &box) == 0);
    for (uint64_t i = 0; i < box.count; i++) {
        td_block block;
        REQUIRE_OK(td_arena_alloc(box.arena, i % 4 ? 64 : 20000, &block));
        memset(block.data, 1, 64);
        REQUIRE_OK(td_arena_lend(box.arena, block.ref));
        send(&box, block.ref);
    }
    pthread_join(thread, NULL);
    td_arena_sweep(box.arena);
    CHECK_OK(td_arena_validate(box.arena));
    td_arena_unref(box.arena);
}

static void *look_and_unref(void *context)
{
    td_arena *arena = context;
    CHECK_LT(0u, td_arena_size(arena));
    td_arena_unref(arena);
    return NULL;
}

TD_TEST(the_last_reference_goes_after_every_use) /* arena_R */
{
    enum { THREADS = 4 };
    for (uint64_t i = 0; i < test_rounds(200); i++) {
        td_arena *arena = NULL;
        pthread_t threads[THREADS];
        REQUIRE_OK(td_arena_new("test", 0, NULL, &arena));
        for (int k = 0; k < THREADS; k++)
            REQUIRE(pthread_create(&threads[k], NULL, look_and_unref, td_arena_ref(arena)) == 0);
        td_arena_unref(arena);
        for (int k = 0; k < THREADS; k++)
            pthread_join(threads[k], NULL);
    }
}

static void *allocate_lend_free(void *context)
{
    td_arena *arena = context;
    uint64_t state = test_seed ^ (uintptr_t)&state;
    td_block held[20] = {{0}};
    for (uint64_t i = 0; i < test_rounds(5000); i++) {
        td_block *block = &held[test_random_below(&state, 20)];
        if (block->ref == 0) {
            REQUIRE_OK(td_arena_alloc(arena, test_random_below(&state, i % 8 ? 3000 : 200000), block));
            memset(block->data, (int)(block->ref >> 40), block->capacity < 64 ? block->capacity : 64);
        } else {
            CHECK_EQ(*(unsigned char *)block->data, block->ref >> 40 & 0xff);
            if (i % 3 == 0) {
                REQUIRE_OK(td_arena_lend(arena, block->ref));
                REQUIRE_OK(td_block_give(arena, block->ref));
            } else {
                REQUIRE_OK(td_arena_free(arena, block->ref));
            }
            block->ref = 0;
        }
    }
    for (int i = 0; i < 20; i++)
        if (held[i].ref != 0)
            REQUIRE_OK(td_arena_free(arena, held[i].ref));
    return NULL;
}

TD_TEST(threads_of_the_owner_share_it)
{
    enum { THREADS = 4 };
    td_arena *arena = NULL;
    pthread_t threads[THREADS];
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.warm_bytes = MIB}, &arena));
    for (int k = 0; k < THREADS; k++)
        REQUIRE(pthread_create(&threads[k], NULL, allocate_lend_free, arena) == 0);
    for (int i = 0; i < 20; i++) {
        CHECK_OK(td_arena_validate(arena));
        td_arena_trim(arena, MIB / 2);
        sched_yield();
    }
    for (int k = 0; k < THREADS; k++)
        pthread_join(threads[k], NULL);
    td_arena_sweep(arena);
    td_arena_stats stats;
    td_arena_stats_read(arena, &stats);
    CHECK_EQ(stats.live_blocks, 0u);
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST_MAIN
