/* pool/held.c: shared blocks of other processes that a worker holds, told to the parent and held by it in turn.
 *
 * A shared block that a task's arguments name is held by the task until that is final. By then its worker has told, in
 * the reply, which blocks it still looks at: whenever those are others than it last told, it sends all of them, as a
 * list in a block of its arena. The parent takes a hold on each, gives up what it held for the last list, and only then
 * what the task held; so there is no moment at which a block that a worker sees is held by nobody.
 *
 *   worker   tell: list into a block, its ref into the slot's reply ---.
 *   parent   hear: hold all of the new list, unref the old one <-------'   forget: the worker is dead, unref all
 *
 * Invariants  I1 member->holds are the blocks of the last list heard.
 *             I2 a list that could not be sent strands what the task held: it stays held while the pool lives, for the
 *                worker may look at it for ever. So does its function, which may name blocks as well.
 *             I3 what a list names and is not held here any more is passed over: a worker can't bring a block back.
 * Ordering    R of slot.h carries the list; it is read under the pool's lock.
 * Crash       a worker's list dies with it, once its death is confirmed: it can't write there after that. What
 *             its family could, the workers of its own pools and children that it forked, is mourned (heap.h): the
 *             blocks of its list, and those of the task and the function that it ran.
 * Tests       tests/pool/test_held.c */
#include "pool/held.h"

#include <stdlib.h>

#include "pool/pool.h"

/* ---- The worker ------------------------------------------------------------------------------------------------ */

uint32_t td__tell_held(struct td_slot *slot, td_arena *results, uint64_t *told_sum)
{
    if (*told_sum == td_heap_foreign_sum())
        return 0;
    struct td_block list = {0};
    uint64_t sum, count = td_heap_list(NULL, 0, &sum);
    while (count >
           list.capacity / sizeof(struct td_held)) { /* another thread of the task may hold more by then */
        if (list.ref != 0)
            td_arena_free(results, list.ref);
        list = (struct td_block){0};
        if (count > UINT32_MAX || td_arena_alloc(results, count * sizeof(struct td_held), &list) != TD_OK)
            return TD_SLOT_UNTOLD;
        count = td_heap_list(list.data, list.capacity / sizeof(struct td_held), &sum);
    }
    if (count == 0 && list.ref != 0) {
        td_arena_free(results, list.ref);
        list.ref = 0;
    }
    if (list.ref != 0)
        td_arena_lend(results, list.ref);
    slot->held_ref = list.ref;
    slot->held_count = (uint32_t)count;
    *told_sum = sum;
    return TD_SLOT_HELD;
}

/* ---- The parent ------------------------------------------------------------------------------------------------ */

static void unref_all(td_hold **holds, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        td_hold_unref(holds[i]);
    free(holds);
}

/* Holds what the list names. False when the list is wrong, or there is no memory for it. */
static bool hold_all(struct td_member *member, const struct td_held *list, uint64_t count)
{
    td_hold **holds = malloc(count * sizeof *holds);
    if (holds == NULL)
        return false;
    uint64_t found = 0;
    for (uint64_t i = 0; i < count; i++) {
        const struct td_held held = list[i]; /* read once: the worker could still write there */
        td_hold *hold = td_heap_find(&held);
        if (hold != NULL)
            holds[found++] = hold;
    }
    unref_all(member->holds, member->hold_count);
    member->holds = holds;
    member->hold_count = found;
    return true;
}

static void forget(struct td_member *member)
{
    unref_all(member->holds, member->hold_count);
    member->holds = NULL;
    member->hold_count = 0;
}

static bool hear_list(struct td_member *member, const struct td_slot *slot)
{
    const uint64_t count = slot->held_count;
    void *list;
    if (count == 0) {
        forget(member);
        return true;
    }
    if (td_arena_peek(member->arena, slot->held_ref, count * sizeof(struct td_held), &list) != TD_OK)
        return false;
    const bool heard = hold_all(member, list, count);
    td_block_give(member->arena, slot->held_ref);
    return heard;
}

void td__held_hear_locked(td_pool *pool, struct td_member *member, const td_task *task,
                          const struct td_slot *slot)
{
    bool heard = true;
    if ((slot->reply_flags & TD_SLOT_HELD) != 0)
        heard = hear_list(member, slot);
    if (heard && (slot->reply_flags & TD_SLOT_UNTOLD) == 0)
        return;
    td__held_strand_locked(pool, member, task);
}

void td__held_mourn_locked(const struct td_pool *pool, const struct td_member *member, const td_task *task)
{
    uint32_t count;
    td_hold *const *holds = td__intern_holds_locked(&pool->intern, task->fn, &count);
    td_heap_mourn(member->pid, holds, count);
    if (task->args != NULL)
        td_heap_mourn(member->pid, task->args->holds, task->args->hold_count);
}

void td__held_strand_locked(td_pool *pool, const struct td_member *member, const td_task *task)
{
    struct td_args *args = task->args;
    if (args != NULL)
        args->stranded = td__strand(args->stranded, member->pid);
    td__intern_strand_locked(&pool->intern, task->fn, member->pid);
}

void td__held_bury_locked(struct td_member *member)
{
    td_heap_mourn(member->pid, member->holds, member->hold_count);
    forget(member);
}

void td__held_fini(td_pool *pool)
{
    while (pool->stranded != NULL) {
        struct td_args *args = pool->stranded;
        pool->stranded = args->next;
        td_heap_mourn(args->stranded, args->holds, args->hold_count);
        td__args_free(args);
    }
}
