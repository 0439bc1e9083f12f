/* tests/pool/small_pool.h: the parent's side of a pool in its simplest form: one thread, tasks that multiply a number,
 * seats with everything that a worker is born with; and a worker that does the multiplying. */
#ifndef TD_TESTS_POOL_SMALL_POOL_H
#define TD_TESTS_POOL_SMALL_POOL_H

#include "base/clock.h"
#include "memory/arena.h"
#include "os/process.h"
#include "pool/zygote.h"
#include "tests/ring/rig.h"

#define SMALL_WORKERS 4u
#define SMALL_ARENA_BYTES (UINT64_C(64) << 20)
#define PATIENCE_NS test_patience_ns()

struct small_seat {
    int arena_fd, lifeline, lifeline_child;
    td_arena *results;
    uint64_t head;
};

struct small_pool {
    struct rig rig;
    td_arena *args;
    struct small_seat seats[SMALL_WORKERS];
};

TEST_UNUSED static void small_pool_init(struct small_pool *pool, uint32_t slots, uint32_t workers)
{
    memset(pool, 0, sizeof *pool);
    rig_init(&pool->rig, slots, workers);
    const td_arena_config config = {.warm_bytes = 1 << 20};
    REQUIRE_OK(td_arena_new("arguments", SMALL_ARENA_BYTES, &config, &pool->args));
    for (uint32_t i = 0; i < SMALL_WORKERS; i++)
        pool->seats[i] = (struct small_seat){.arena_fd = -1, .lifeline = -1, .lifeline_child = -1};
}

/* Makes what a worker in that seat is born with. */
TEST_UNUSED static void seat_open(struct small_pool *pool, uint32_t worker)
{
    struct small_seat *seat = &pool->seats[worker];
    uint64_t size;
    REQUIRE_OK(td_arena_create("results", SMALL_ARENA_BYTES, &seat->arena_fd, &size));
    REQUIRE_OK(td_arena_attach(seat->arena_fd, size, &seat->results));
    REQUIRE_OK(td_lifeline_new(&seat->lifeline, &seat->lifeline_child));
    td_atomic_store_relaxed(&pool->rig.map.seats[worker].dismissed, 0);
    td_atomic_store_seq(&pool->rig.map.states[worker], TD_SEAT_STARTING);
}

static void close_once(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* After the worker is gone: closing the lifeline kills whoever has armed it. */
TEST_UNUSED static void seat_close(struct small_pool *pool, uint32_t worker)
{
    struct small_seat *seat = &pool->seats[worker];
    td_arena_unref(seat->results);
    seat->results = NULL;
    close_once(&seat->arena_fd);
    close_once(&seat->lifeline_child);
    close_once(&seat->lifeline);
    td_atomic_store_seq(&pool->rig.map.states[worker], TD_SEAT_EMPTY);
}

TEST_UNUSED static void small_pool_fini(struct small_pool *pool)
{
    for (uint32_t i = 0; i < pool->rig.map.worker_count; i++)
        if (pool->seats[i].lifeline >= 0)
            seat_close(pool, i);
    td_arena_unref(pool->args);
    rig_fini(&pool->rig);
}

TEST_UNUSED static void seat_order(const struct small_pool *pool, uint32_t worker, struct td_birth_order *out)
{
    *out = (struct td_birth_order){
        .worker = worker,
        .fds = {[TD_BIRTH_SEGMENT] = pool->rig.map.fd,
                [TD_BIRTH_ARGS] = td_arena_fd(pool->args),
                [TD_BIRTH_BELL] = pool->rig.bell.fd,
                [TD_BIRTH_EVENT] = pool->rig.bell.event_fd,
                [TD_BIRTH_LOOP] = pool->rig.bell.loop_fd,
                [TD_BIRTH_ARENA] = pool->seats[worker].arena_fd,
                [TD_BIRTH_LIFELINE] = pool->seats[worker].lifeline_child,
                [TD_BIRTH_STACK] = -1,
                [TD_BIRTH_STDIN] = -1,
                [TD_BIRTH_STDOUT] = 1,
                [TD_BIRTH_STDERR] = 2},
    };
}

/* A birth without a zygote: copies of all descriptors. */
TEST_UNUSED static void seat_birth(const struct small_pool *pool, uint32_t worker, struct td_birth *out)
{
    struct td_birth_order order;
    seat_order(pool, worker, &order);
    *out = (struct td_birth){
        .worker = worker,
        .arena_fd = dup(order.fds[TD_BIRTH_ARENA]),
        .lifeline_fd = dup(order.fds[TD_BIRTH_LIFELINE]),
        .control_fd = dup(order.fds[TD_BIRTH_SEGMENT]),
        .args_fd = dup(order.fds[TD_BIRTH_ARGS]),
        .bell_fd = dup(order.fds[TD_BIRTH_BELL]),
        .event_fd = dup(order.fds[TD_BIRTH_EVENT]),
        .loop_fd = dup(order.fds[TD_BIRTH_LOOP]),
        .stack_fd = -1,
        .stdio_fds = {-1, -1, -1},
    };
}

/* A worker in this process. */
TEST_UNUSED static td_worker *worker_here(struct small_pool *pool, uint32_t index)
{
    struct td_birth birth;
    td_worker *worker = NULL;
    seat_open(pool, index);
    seat_birth(pool, index, &birth);
    REQUIRE_OK(td_worker_attach(&birth, &worker));
    td_birth_fini(&birth);
    REQUIRE_OK(td_worker_ready(worker));
    return worker;
}

/* A pool, and its first worker in this process. */
TEST_UNUSED static td_worker *small_pool_with_worker(struct small_pool *pool, uint32_t slots, uint32_t workers)
{
    small_pool_init(pool, slots, workers);
    return worker_here(pool, 0);
}

/* The worker, then its pool. */
TEST_UNUSED static void small_pool_end(struct small_pool *pool, td_worker *worker)
{
    td_worker_detach(worker);
    small_pool_fini(pool);
}

/* ---- Tasks: fn is the factor, the first 8 bytes of the arguments the number ---- */

/* With `args`, a lent block, in place of inline arguments when its ref is not 0. */
TEST_UNUSED static td_status push_task(struct small_pool *pool, uint32_t factor, uint64_t number,
                                       const struct td_block *args, uint32_t flags, uint64_t *position)
{
    if (pool->rig.free_count == 0)
        return TD_EAGAIN;
    const uint32_t index = pool->rig.free_slots[pool->rig.free_count - 1];
    struct td_slot *slot = &pool->rig.map.slots[index];
    td_atomic_store_relaxed(&slot->range, 0);
    td_atomic_store_relaxed(&slot->started_ns, 0);
    td_atomic_store_relaxed(&slot->partial_items, 0);
    td_atomic_store_relaxed(&slot->partial_ref, 0);
    slot->fn = factor;
    slot->fn_ref = 0;
    slot->request_flags = (uint16_t)flags;
    slot->args_ref = args != NULL ? args->ref : 0;
    slot->args_bytes = sizeof number;
    memcpy(args != NULL ? args->data : slot->args, &number, sizeof number);
    const td_status status = td_submission_push(&pool->rig.map, TD_LANE_NEW, index, position);
    if (status == TD_OK)
        pool->rig.free_count--;
    return status;
}

TEST_UNUSED static td_status push_number(struct small_pool *pool, uint32_t factor, uint64_t number)
{
    uint64_t position;
    const td_status status = push_task(pool, factor, number, NULL, 0, &position);
    if (status == TD_OK)
        td_doorbell_wake_workers(&pool->rig.map);
    return status;
}

TEST_UNUSED static uint64_t number_of(const struct td_assignment *assignment)
{
    uint64_t number;
    memcpy(&number, assignment->args.data, sizeof number);
    return number;
}

/* Runs tasks until there is a reason to leave: a product fits the slot; a factor of 0 asks for an error. */
TEST_UNUSED static td_status multiply_until_closed(td_worker *worker)
{
    for (;;) {
        struct td_assignment assignment;
        td_status status = td_worker_next(worker, &assignment);
        if (status == TD_EINTR)
            continue;
        if (status != TD_OK)
            return status;
        const uint64_t product = number_of(&assignment) * assignment.fn;
        status = td_worker_reply(worker, assignment.fn != 0, &product, NULL, sizeof product, false);
        if (status != TD_OK)
            return status;
    }
}

/* The next finished task of any seat, asleep until there is one; false when the patience is over. */
TEST_UNUSED static bool wait_for_task(struct small_pool *pool, uint32_t *worker, uint32_t *slot)
{
    for (;;) {
        const uint32_t seen = td_bell_listen(&pool->rig.bell);
        for (uint32_t i = 0; i < pool->rig.map.worker_count; i++) {
            uint64_t entry;
            if (td_completion_pop(&pool->rig.map, i, &pool->seats[i].head, &entry)) {
                td_bell_unlisten(&pool->rig.bell);
                *worker = i;
                *slot = td_cell_slot(entry);
                return true;
            }
        }
        if (td_bell_sleep_until(&pool->rig.bell, seen, td_deadline_after(PATIENCE_NS)) == TD_ETIMEDOUT)
            return false;
    }
}

/* The product of the next finished task, whose slot is free again. */
TEST_UNUSED static uint64_t wait_for_product(struct small_pool *pool)
{
    uint32_t worker = 0, slot = 0;
    uint64_t product;
    REQUIRE(wait_for_task(pool, &worker, &slot));
    memcpy(&product, pool->rig.map.slots[slot].result, sizeof product);
    rig_free_slot(&pool->rig, slot);
    return product;
}

#endif
