/* An arena between processes: what survives whose death. */
#include <pthread.h>

#include "memory/arena.h"
#include "tests/harness.h"

#define MIB (UINT64_C(1) << 20)

static td_arena *attach_or_exit(int fd, uint64_t size)
{
    td_arena *peer = NULL;
    if (td_arena_attach(fd, size, &peer) != TD_OK)
        _exit(3);
    return peer;
}

static bool read_ref(int fd, uint64_t *ref)
{
    return read(fd, ref, sizeof *ref) == (ssize_t)sizeof *ref;
}

static void send_ref(int fd, uint64_t ref)
{
    if (write(fd, &ref, sizeof ref) != (ssize_t)sizeof ref)
        abort();
}

/* Checks each block it is sent, writes its answer into it, reports it, and gives it back: in this order, so
 * that it can be killed between any two. */
static void answer_blocks(int fd, uint64_t size, int in, int out)
{
    td_arena *peer = attach_or_exit(fd, size);
    uint64_t ref;
    while (read_ref(in, &ref)) {
        void *data;
        if (td_arena_peek(peer, ref, 8, &data) != TD_OK || *(uint64_t *)data != ~ref)
            _exit(4);
        *(uint64_t *)data = ref ^ 0xabcdef;
        send_ref(out, ref);
        if (td_block_give(peer, ref) != TD_OK)
            _exit(5);
    }
    td_arena_unref(peer);
    _exit(0);
}

typedef struct child {
    pid_t pid;
    int to, from;
} child;

static child start_child(td_arena *arena)
{
    int down[2], up[2];
    REQUIRE(pipe(down) == 0 && pipe(up) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        close(down[1]);
        close(up[0]);
        answer_blocks(td_arena_fd(arena), td_arena_size(arena), down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    return (child){pid, down[1], up[0]};
}

static void end_child(child *peer)
{
    close(peer->to);
    close(peer->from);
}

static void lend_to(td_arena *arena, const child *peer, uint64_t bytes, td_block *block)
{
    REQUIRE_OK(td_arena_alloc(arena, bytes, block));
    *(uint64_t *)block->data = ~block->ref;
    REQUIRE_OK(td_arena_lend(arena, block->ref));
    send_ref(peer->to, block->ref);
}

TD_TEST(blocks_go_to_another_process_and_come_back)
{
    td_arena *arena = NULL;
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 16 * MIB}, &arena));
    child peer = start_child(arena);
    uint64_t state = test_seed, ref;
    for (uint64_t i = 0; i < test_rounds(3000); i++) {
        td_block block;
        lend_to(arena, &peer, 8 + test_random_below(&state, 100000), &block);
        REQUIRE(read_ref(peer.from, &ref) && ref == block.ref);
    }
    close(peer.to);
    CHECK_EQ(test_wait_child(peer.pid), 0);
    close(peer.from);
    td_arena_sweep(arena);
    td_arena_stats stats;
    td_arena_stats_read(arena, &stats);
    CHECK_EQ(stats.live_blocks, 0u);
    CHECK_OK(td_arena_validate(arena));
    td_arena_unref(arena);
}

TD_TEST(what_a_killed_peer_held_is_reclaimed_and_nothing_else)
{
    enum { OUT = 64 };
    td_arena *arena = NULL;
    uint64_t state = test_seed;
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 16 * MIB}, &arena));
    td_block kept;
    REQUIRE_OK(td_arena_alloc(arena, 5000, &kept));
    memset(kept.data, 0x77, kept.capacity);
    for (uint64_t round = 0; round < test_rounds(20); round++) {
        child peer = start_child(arena);
        td_block blocks[OUT];
        uint64_t answered = test_random_below(&state, OUT), ref;
        for (uint64_t i = 0; i < OUT; i++)
            lend_to(arena, &peer, 8 + test_random_below(&state, 50000), &blocks[i]);
        for (uint64_t i = 0; i < answered; i++)
            REQUIRE(read_ref(peer.from, &ref) && ref == blocks[i].ref);
        kill(peer.pid, SIGKILL);
        CHECK_EQ(test_wait_child(peer.pid), -SIGKILL); /* confirmed dead */
        for (uint64_t i = 0; i < OUT; i++) {
            td_status status = td_arena_reclaim(arena, blocks[i].ref);
            CHECK(status == TD_OK || status == TD_EINVAL); /* held when it died, or given back and swept */
        }
        end_child(&peer);
        td_arena_sweep(arena);
        td_arena_stats stats;
        td_arena_stats_read(arena, &stats);
        REQUIRE_EQ(stats.live_blocks, 1u);
        REQUIRE_OK(td_arena_validate(arena));
    }
    for (uint64_t i = 0; i < kept.capacity; i++)
        REQUIRE_EQ(((unsigned char *)kept.data)[i], 0x77u);
    td_arena_unref(arena);
}

TD_TEST(what_a_killed_owner_lent_can_still_be_read)
{
    int fd, pipes[2];
    uint64_t size, ref;
    td_arena *peer = NULL;
    REQUIRE_OK(td_arena_create("test", 0, &fd, &size));
    REQUIRE_OK(td_arena_attach(fd, size, &peer));
    REQUIRE(pipe(pipes) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) { /* a worker: the file came from its parent, it alone allocates */
        td_arena *arena = NULL;
        td_block block;
        if (td_arena_own(fd, size, NULL, &arena) != TD_OK || td_arena_alloc(arena, 3 * MIB, &block) != TD_OK)
            _exit(3);
        memset(block.data, 0x42, 3 * MIB);
        if (td_arena_lend(arena, block.ref) != TD_OK)
            _exit(4);
        send_ref(pipes[1], block.ref);
        for (;;)
            pause();
    }
    close(fd);
    REQUIRE(read_ref(pipes[0], &ref));
    kill(pid, SIGKILL);
    CHECK_EQ(test_wait_child(pid), -SIGKILL);
    void *data;
    REQUIRE_OK(td_arena_peek(peer, ref, 3 * MIB, &data));
    for (uint64_t i = 0; i < 3 * MIB; i++)
        REQUIRE_EQ(((unsigned char *)data)[i], 0x42u);
    td_arena_cut(peer, td_ref_offset(ref) + 3 * MIB); /* what is held stays, what lies behind goes */
    CHECK_OK(td_arena_peek(peer, ref, 3 * MIB, &data));
    CHECK_EQ(((unsigned char *)data)[3 * MIB - 1], 0x42u);
    CHECK_STATUS(td_arena_peek(peer, ref + 64 * MIB, 1, &data), TD_EPROTO);
    CHECK_EQ(td_arena_size(peer), size);
    td_arena_cut(peer, size); /* never grows again */
    CHECK_STATUS(td_arena_peek(peer, ref + 64 * MIB, 1, &data), TD_EPROTO);
    CHECK_OK(td_block_give(peer, ref)); /* nobody will sweep it; that is all right */
    td_arena_unref(peer);
    close(pipes[0]);
    close(pipes[1]);
}

typedef struct hammer {
    td_arena *arena;
    td_atomic_u32 stop;
} hammer;

static void *allocate_on(void *context)
{
    hammer *h = context;
    while (!td_atomic_load_relaxed(&h->stop)) {
        td_block block;
        if (td_arena_alloc(h->arena, 100000, &block) == TD_OK)
            td_arena_free(h->arena, block.ref);
    }
    return NULL;
}

TD_TEST(a_forked_child_reads_and_unrefs_whoever_holds_the_lock)
{
    hammer h = {0};
    td_block block;
    pthread_t thread;
    REQUIRE_OK(td_arena_new("test", 0, &(td_arena_config){.warm_bytes = 16 * MIB}, &h.arena));
    REQUIRE_OK(td_arena_alloc(h.arena, 1000, &block));
    memset(block.data, 5, 1000);
    REQUIRE(pthread_create(&thread, NULL, allocate_on, &h) == 0);
    for (uint64_t i = 0; i < test_forks_beside_work(50); i++) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            void *data;
            bool good = td_arena_peek(h.arena, block.ref, 1000, &data) == TD_OK && *(char *)data == 5;
            td_arena_unref(h.arena);
            _exit(good ? 0 : 3);
        }
        REQUIRE_EQ(test_wait_child(pid), 0);
    }
    td_atomic_store_relaxed(&h.stop, 1);
    pthread_join(thread, NULL);
    CHECK_OK(td_arena_validate(h.arena));
    td_arena_unref(h.arena);
}

TD_TEST_MAIN
