/* tests/pool/test_killed.c: worker processes killed at random moments, with what the parent then does: nothing is lost,
 * and nothing is done twice but what was lost. The workers keep a log of what they ran, in memory that outlives
 * them. */
#include <sys/mman.h>

#include "tests/pool/small_pool.h"

#define WORKERS 3u
#define SLOTS 16u
#define FACTOR 11u

struct battle {
    struct small_pool pool;
    uint32_t task_count;
    td_atomic_u32 *log; /* how often each task was run; shared with the workers */
    uint32_t *lost;     /* how often each was */
    uint32_t *completed;
    uint32_t *again; /* a stack of lost tasks */
    uint32_t again_count, pushed, done, kills;
    pid_t pids[WORKERS];
    uint64_t random;
};

/* ---- A worker ---- */

static void fight(struct battle *battle, uint32_t index)
{
    struct td_birth birth;
    td_worker *worker;
    seat_birth(&battle->pool, index, &birth);
    close_once(&battle->pool.seats[index].lifeline);
    if (td_worker_attach(&birth, &worker) != TD_OK || td_worker_ready(worker) != TD_OK)
        _exit(1);
    for (;;) {
        struct td_assignment assignment;
        const td_status status = td_worker_next(worker, &assignment);
        if (status != TD_OK)
            _exit(status == TD_ECLOSED ? 0 : 2);
        const uint64_t number = number_of(&assignment), product = number * FACTOR;
        td_atomic_fetch_add_relaxed(&battle->log[number], 1);
        struct td_block block = {0};
        if (number % 3 == 0) { /* some results in a block */
            if (td_worker_block(worker, 4096, &block) != TD_OK)
                _exit(3);
            memcpy(block.data, &product, sizeof product);
        }
        if (td_worker_reply(worker, true, &product, &block, sizeof product, false) != TD_OK)
            _exit(4);
    }
}

static void recruit(struct battle *battle, uint32_t index)
{
    seat_open(&battle->pool, index);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        fight(battle, index);
    battle->pids[index] = pid;
}

/* ---- The parent ---- */

static void complete(struct battle *battle, uint32_t worker, uint32_t index)
{
    const struct td_slot *slot = &battle->pool.rig.map.slots[index];
    uint64_t number, product;
    memcpy(&number, slot->args, sizeof number);
    if (slot->result_ref != 0) {
        void *data;
        REQUIRE_OK(
            td_arena_peek(battle->pool.seats[worker].results, slot->result_ref, slot->result_bytes, &data));
        memcpy(&product, data, sizeof product);
        REQUIRE_OK(td_block_give(battle->pool.seats[worker].results, slot->result_ref));
    } else {
        memcpy(&product, slot->result, sizeof product);
    }
    CHECK_EQ(product, number * FACTOR);
    battle->completed[number]++;
    battle->done++;
    rig_free_slot(&battle->pool.rig, index);
}

static bool drain_worker(struct battle *battle, uint32_t worker)
{
    uint64_t entry;
    bool any = false;
    while (td_completion_pop(&battle->pool.rig.map, worker, &battle->pool.seats[worker].head, &entry)) {
        const uint64_t word = td_atomic_load_acquire(&battle->pool.rig.map.slots[td_cell_slot(entry)].word);
        CHECK_EQ(word, td_word(td_cell_position(entry), worker, TD_SLOT_DONE));
        complete(battle, worker, td_cell_slot(entry));
        any = true;
    }
    return any;
}

/* Once the worker is confirmed dead: its ring first, then what it had claimed, or finished and not reported. */
static void bury(struct battle *battle, uint32_t worker)
{
    drain_worker(battle, worker);
    uint32_t claimed = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct td_slot *slot = &battle->pool.rig.map.slots[i];
        const uint64_t word = td_atomic_load_acquire(&slot->word);
        if (td_word_state(word) == TD_SLOT_DONE && td_word_worker(word) == worker) {
            complete(battle, worker, i);
            claimed++;
        } else if (td_word_state(word) == TD_SLOT_CLAIMED && td_word_worker(word) == worker) {
            uint64_t number;
            memcpy(&number, slot->args, sizeof number);
            battle->lost[number]++;
            battle->again[battle->again_count++] = (uint32_t)number;
            rig_free_slot(&battle->pool.rig, i);
            claimed++;
        }
    }
    CHECK_LE(claimed, 1u);
}

static void kill_one(struct battle *battle)
{
    const uint32_t worker = (uint32_t)test_random_below(&battle->random, WORKERS);
    rig_dither(&battle->random, 2000);
    kill(battle->pids[worker], SIGKILL);
    CHECK_EQ(test_wait_child(battle->pids[worker]), -SIGKILL);
    bury(battle, worker);
    seat_close(&battle->pool, worker);
    td_doorbell_wake_workers(&battle->pool.rig.map); /* the dead one may have been counted on */
    battle->kills++;
    recruit(battle, worker);
}

static bool push_more(struct battle *battle)
{
    bool any = false;
    for (;;) {
        const bool is_retry = battle->again_count > 0;
        if (!is_retry && battle->pushed == battle->task_count)
            return any;
        const uint32_t number = is_retry ? battle->again[battle->again_count - 1] : battle->pushed;
        if (push_number(&battle->pool, FACTOR, number) != TD_OK)
            return any;
        if (is_retry)
            battle->again_count--;
        else
            battle->pushed++;
        any = true;
    }
}

static void step(struct battle *battle)
{
    const uint32_t seen = td_bell_listen(&battle->pool.rig.bell);
    bool any = push_more(battle);
    for (uint32_t i = 0; i < WORKERS; i++)
        any |= drain_worker(battle, i);
    if (!any)
        REQUIRE_EQ(td_bell_sleep_until(&battle->pool.rig.bell, seen, td_deadline_after(PATIENCE_NS)), TD_OK);
}

static void battle_init(struct battle *battle, uint32_t task_count)
{
    memset(battle, 0, sizeof *battle);
    small_pool_init(&battle->pool, SLOTS, WORKERS);
    battle->task_count = task_count;
    battle->log =
        mmap(NULL, task_count * sizeof *battle->log, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(battle->log != MAP_FAILED);
    battle->lost = calloc(task_count, sizeof *battle->lost);
    battle->completed = calloc(task_count, sizeof *battle->completed);
    battle->again = calloc(task_count, sizeof *battle->again);
    battle->random = test_seed;
    for (uint32_t i = 0; i < WORKERS; i++)
        recruit(battle, i);
}

static void battle_fini(struct battle *battle)
{
    td_atomic_store_seq(&battle->pool.rig.map.head->closing, 1);
    for (uint32_t i = 0; i < WORKERS; i++)
        td_doorbell_wake_worker(&battle->pool.rig.map, i);
    for (uint32_t i = 0; i < WORKERS; i++)
        CHECK_EQ(test_wait_child(battle->pids[i]), 0);
    munmap(battle->log, battle->task_count * sizeof *battle->log);
    free(battle->lost);
    free(battle->completed);
    free(battle->again);
    small_pool_fini(&battle->pool);
}

TD_TEST(nothing_is_lost_or_doubled_when_workers_are_killed_at_random_moments)
{
    struct battle battle;
    battle_init(&battle, (uint32_t)test_rounds(10000));
    while (battle.done < battle.task_count)
        if (test_random_below(&battle.random, 20) == 0) {
            push_more(&battle); /* so that they are at work */
            kill_one(&battle);  /* and what it had done is taken over, which may be the last */
        } else {
            step(&battle);
        }
    uint32_t lost = 0, run = 0;
    for (uint32_t i = 0; i < battle.task_count; i++) {
        const uint32_t runs = td_atomic_load_relaxed(&battle.log[i]);
        CHECK_EQ(battle.completed[i], 1u);
        CHECK_LE(1u, runs);
        CHECK_LE(runs, 1 + battle.lost[i]); /* fewer: killed between the claim and the log */
        lost += battle.lost[i];
        run += runs;
    }
    CHECK_LE(run, battle.task_count + lost);
    CHECK_LE(lost, battle.kills);
    battle_fini(&battle);
}

TD_TEST_MAIN
