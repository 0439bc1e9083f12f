/* pool/worker.c: a worker's end of a pool: finds tasks, and hands in results.
 *
 *      STARTING --ready--> SEARCHING <--> BUSY        (doorbell.h has the whole picture, with PARKED and WOKEN)
 *
 * The state tells the parent whether to count on this worker for a task that it announces. It stays BUSY from one task
 * to the next; only when the ring is empty does it say SEARCHING, looks once more, spins for a while, and parks. So
 * under load a task costs no write to the state, and a search that ends in a task, or in anything else, first sees to
 * the tasks that it was counted on for (td_doorbell_stop_searching).
 *
 * Invariants  I1 between next and reply the slot is CLAIMED by this worker, and nobody else writes to it but the
 *                parent, which may cut `range`.
 *             I2 a block of the arena is in one of three hands: the caller's, the slot's (published results), or the
 *                parent's (lent, from reply on). What the slot names is never freed while it is named.
 *             I3 a result's parcels are lent, and stand in the table at the end of its block, before the slot says how
 *                many they are; that only grows, until the block is dropped.
 * Ordering    A and S (ring/) bring the request; C and R carry the reply; T the results of a chunk's items, M the move
 *             of the block that holds them: copy -> release partial_ref -> acquire partial_ref -> read.
 * Crash       at any point: the task claimed is lost, but for the items published, and nothing else.
 * Bad data    a cell, range, or ref that fails its check makes next return TD_EPROTO, and the worker must leave: the
 *             parent learns of the task's fate by its end.
 * Tests       tests/pool/test_worker.c */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/option.h"
#include "base/trace.h"
#include "memory/arena.h"
#include "memory/heap.h"
#include "memory/kin.h"
#include "memory/nursery.h"
#include "memory/rest.h"
#include "os/budget.h"
#include "os/memfd.h"
#include "os/placement.h"
#include "os/process.h"
#include "pool/birth.h"
#include "pool/held.h"
#include "pool/parcel.h"
#include "ring/completion.h"
#include "ring/doorbell.h"
#include "ring/relief.h"
#include "ring/submission.h"

#define SPIN_TURNS_PER_LOOK 16u /* of a spin, between looks at what rarely changes */
#define SPIN_TURNS_PER_CLOCK 64u
#define MOVE_EVERY_NS (4 * TD_NS_PER_MS)
#define CLAIMS_PER_LOOK 16u /* between looks at whether the ring runs low */

struct td_worker {
    struct td_segment_map map;
    struct td_bell_map bell;
    struct td_seat *seat;
    td_atomic_u32 *state;
    uint32_t index;
    int lifeline_fd;
    td_arena *args;          /* the parent's, attached */
    uint64_t told_sum;       /* of the shared blocks that the parent was told of */
    td_arena *results;       /* our own */
    td_nursery *nursery;     /* in it; NULL until somebody wants it */
    uint64_t warm_bytes;     /* of it, at most */
    td_memory_budget memory; /* none until the first block is made */
    bool budgeted;           /* it was made */
    uint64_t from[TD_LANES]; /* in each lane every position below it is claimed */
    bool searching;          /* `state` says SEARCHING, or did until it was parked and woken */
    int64_t move_at_ns;      /* not before, to another CPU */
    bool trimmed;            /* no block was made since the arena was trimmed */
    uint64_t tasks_done, busy_ns;
    /* the assignment */
    struct td_slot *slot;   /* NULL: there is none */
    td_atomic_u64 position; /* 0: there is none. Atomic for signal handlers */
    int64_t started_ns;
    uint64_t partial_ref;
    uint64_t enclosing_ref; /* of the block that has the parcels' table */
};

/* ---- Attach and detach ---------------------------------------------------------------------------------------- */

static int take(int *fd)
{
    const int taken = *fd;
    *fd = -1;
    return taken;
}

static td_status attach_segment(td_worker *worker, struct td_birth *birth)
{
    td_status status = td_segment_attach(&worker->map, birth->control_fd);
    if (status != TD_OK)
        return status;
    take(&birth->control_fd);
    if (birth->worker >= worker->map.worker_count)
        return TD_EPROTO;
    worker->index = birth->worker;
    worker->seat = &worker->map.seats[birth->worker];
    worker->state = &worker->map.states[birth->worker];
    struct td_kin parent = {.count = worker->map.head->kin_count};
    _Static_assert(sizeof parent.pids == sizeof worker->map.head->kin, "one for each");
    memcpy(parent.pids, worker->map.head->kin, sizeof parent.pids);
    td_kin_enter(&parent);
    return TD_OK;
}

/* The sizes are those of files that another process sent: an impossible one is its mistake, not our caller's. */
static td_status blame_sender(td_status status)
{
    return status == TD_EINVAL ? TD_EPROTO : status;
}

static td_status attach_arenas(td_worker *worker, struct td_birth *birth)
{
    uint64_t size;
    td_status status = td_memfd_size(birth->args_fd, &size);
    if (status == TD_OK)
        status = td_arena_attach(birth->args_fd, size, &worker->args);
    if (status != TD_OK)
        return blame_sender(status);
    td_arena_keep_fd(worker->args, take(&birth->args_fd));
    status = td_memfd_size(birth->arena_fd, &size);
    if (status != TD_OK)
        return status;
    td_memory_budget_none(&worker->memory);
    if (worker->map.head->memory_bytes != 0)
        worker->memory.total = worker->map.head->memory_bytes;
    worker->warm_bytes = td_memory_share(&worker->memory, (uint64_t)TD_WARM_PARTS * worker->map.worker_count,
                                         (uint64_t)td_option_int(TD_OPT_WARM_BYTES));
    const td_arena_config config = {
        .warm_bytes = worker->warm_bytes,
        .budget = &worker->memory,
    };
    status = td_arena_own(birth->arena_fd, size, &config, &worker->results);
    if (status == TD_OK)
        take(&birth->arena_fd);
    return blame_sender(status);
}

td_status td_worker_attach(struct td_birth *birth, td_worker **out)
{
    td_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return TD_ENOMEM;
    worker->map.fd = worker->bell.fd = worker->lifeline_fd = -1;
    td_status status = td_lifeline_arm(birth->lifeline_fd);
    if (status != TD_OK)
        goto failed;
    worker->lifeline_fd = take(&birth->lifeline_fd);
    status = attach_segment(worker, birth);
    if (status != TD_OK)
        goto failed;
    status = td_bell_attach(&worker->bell, birth->bell_fd, birth->event_fd, birth->loop_fd);
    if (status != TD_OK)
        goto failed;
    take(&birth->bell_fd);
    take(&birth->event_fd);
    take(&birth->loop_fd);
    status = attach_arenas(worker, birth);
    if (status != TD_OK)
        goto failed;
    worker->trimmed = true;
    td_thread_wake_gently();
    td_atomic_store_relaxed(&worker->seat->leaving, 0);
    td_atomic_store_relaxed(&worker->seat->current, 0);
    td_atomic_store_relaxed(&worker->seat->failure, 0);
    td_atomic_store_relaxed(&worker->seat->tasks_done, 0);
    td_atomic_store_relaxed(&worker->seat->busy_ns, 0);
    td_atomic_store_relaxed(&worker->seat->pid, (uint32_t)getpid());
    td_atomic_store_relaxed(&worker->seat->relieved, td_relief_begin(&worker->map));
    td_atomic_store_seq(worker->state, TD_SEAT_STARTING);
    *out = worker;
    return TD_OK;
failed:
    td_worker_detach(worker);
    return status;
}

void td_worker_detach(td_worker *worker)
{
    if (worker == NULL)
        return;
    td_nursery_free(worker->nursery);
    if (worker->results != NULL) {
        td_arena_unref(worker->results);
        td_memory_budget_fini(&worker->memory);
    }
    td_arena_unref(worker->args);
    if (worker->bell.fd >= 0)
        td_bell_fini(&worker->bell);
    if (worker->map.fd >= 0)
        td_segment_fini(&worker->map);
    if (worker->lifeline_fd >= 0)
        close(worker->lifeline_fd);
    free(worker);
}

uint32_t td_worker_index(const td_worker *worker)
{
    return worker->index;
}

td_status td_worker_nursery(td_worker *worker, td_nursery **out)
{
    if (worker->nursery == NULL) {
        const td_status status = td_nursery_new(worker->results, worker->warm_bytes, &worker->nursery);
        if (status != TD_OK)
            return status;
    }
    *out = worker->nursery;
    return TD_OK;
}

/* ---- Coming and going ------------------------------------------------------------------------------------------ */

td_status td_worker_ready(td_worker *worker)
{
    td_atomic_store_seq(worker->state, TD_SEAT_SEARCHING);
    worker->searching = true;
    return TD_OK;
}

static void stop_searching(td_worker *worker, enum td_seat_state next)
{
    td_doorbell_stop_searching(&worker->map, worker->index, next);
    worker->searching = false;
}

td_status td_worker_failed(td_worker *worker, const char *reason)
{
    struct td_block block;
    const uint64_t bytes = strlen(reason);
    td_status status = td_arena_alloc(worker->results, bytes, &block);
    if (status == TD_OK) {
        memcpy(block.data, reason, bytes);
        worker->seat->failure_bytes = bytes;
        td_atomic_store_release(&worker->seat->failure, block.ref);
    }
    td_atomic_store_seq(&worker->seat->leaving, 1);
    stop_searching(worker, TD_SEAT_LEAVING);
    td_bell_ring_loud(&worker->bell);
    return status;
}

/* Async-signal-safe. A handler that runs before the worker sleeps keeps it awake; one that runs later interrupts. */
void td_worker_leave(td_worker *worker)
{
    td_atomic_store_seq(&worker->seat->leaving, 1);
    td_doorbell_stay_awake(&worker->map, worker->index);
}

static bool must_leave(const td_worker *worker)
{
    const struct td_seat *seat = worker->seat;
    return td_atomic_load_seq(&seat->dismissed) != 0 || /* K (cancel.c) */
           td_atomic_load_relaxed(&seat->leaving) != 0 ||
           (seat->max_tasks != 0 && worker->tasks_done >= seat->max_tasks);
}

static bool is_closing(const td_worker *worker)
{
    return td_atomic_load_acquire(&worker->map.head->closing) != 0;
}

/* Another process of the pool lacks room for a block: what is kept here for later goes back to the kernel. */
static void relieve(td_worker *worker)
{
    const uint32_t asked = td_relief_begin(&worker->map);
    td_arena_trim(worker->results, 0);
    td_heap_trim();
    td_relief_answer(&worker->map, worker->index, asked);
}

static void relieve_if_asked(td_worker *worker)
{
    if (td_relief_is_due(&worker->map, worker->index))
        relieve(worker);
}

/* ---- Searching ------------------------------------------------------------------------------------------------- */

static td_status claim(td_worker *worker, uint32_t *slot, uint64_t *position)
{
    return td_submission_claim(&worker->map, worker->index, worker->from, slot, position);
}

/* Rings for the parent if it waits, among `kinds`, for the ring to run low or empty. Whoever clears the bit rings. */
static void answer_wants(td_worker *worker, uint32_t kinds)
{
    struct td_segment *head = worker->map.head;
    const uint32_t wants = td_atomic_load_seq(&head->wants) & kinds;
    if (wants == 0)
        return;
    const uint64_t waiting = td_submission_waiting(&worker->map);
    uint32_t answered = 0;
    if (waiting <= worker->map.slot_count / 4)
        answered |= wants & TD_WANT_LOW;
    if (waiting == 0)
        answered |= wants & TD_WANT_HUNGRY;
    if (answered != 0 && (td_atomic_fetch_and_seq(&head->wants, ~answered) & answered) != 0)
        td_bell_ring_loud(&worker->bell);
}

/* Spinning on the CPU of the thread that waits for us would only keep it from what it waits for. The scheduler puts a
 * woken thread next to its waker, and leaves the two together for tens of milliseconds; so we move, if we may. */
static bool stands_in_the_way(td_worker *worker)
{
    if (!td_bell_shares_cpu(&worker->bell))
        return false;
    const int64_t now = td_now_ns();
    if (now < worker->move_at_ns)
        return true;
    worker->move_at_ns = now + MOVE_EVERY_NS;
    return !td_cpu_leave();
}

/* Waits awake until there is something to look at; false: the time is up, or others need the CPU more. */
static bool spin(td_worker *worker, int64_t until_ns)
{
    if (!td_doorbell_may_spin(&worker->map, &worker->bell) || td_now_ns() >= until_ns ||
        stands_in_the_way(worker))
        return false;
    for (uint32_t turn = 1;; turn++) {
        if (td_submission_is_ahead(&worker->map, TD_LANE_NEW, worker->from) ||
            td_submission_is_ahead(&worker->map, TD_LANE_AGAIN, worker->from))
            return true;
        if (turn % SPIN_TURNS_PER_LOOK == 0 &&
            (must_leave(worker) || is_closing(worker) || td_relief_is_due(&worker->map, worker->index) ||
             td_atomic_load_relaxed(&worker->map.head->wants) != 0))
            return true;
        if (turn % SPIN_TURNS_PER_CLOCK == 0 &&
            (td_now_ns() >= until_ns || !td_doorbell_may_spin(&worker->map, &worker->bell)))
            return false;
        td_pause();
    }
}

/* Sleeps until woken. A worker that made blocks gives their memory back once, after a while. */
static td_status park(td_worker *worker)
{
    TD_TRACE(SLEEP, worker->index, worker->from[TD_LANE_NEW]);
    if (worker->nursery != NULL && td_nursery_stirred(worker->nursery))
        worker->trimmed = false;
    const int64_t now = td_now_ns(), heap_ns = td_heap_keep(now);
    const int64_t trim_ns = worker->trimmed ? TD_FOREVER : now + TD_REST_AFTER_NS;
    const td_status status = td_doorbell_park_until(&worker->map, worker->index, worker->from,
                                                    heap_ns < trim_ns ? heap_ns : trim_ns);
    if (status != TD_ETIMEDOUT)
        return status;
    if (!worker->trimmed && td_now_ns() >= trim_ns) {
        td_arena_trim(worker->results, TD_REST_KEEP_BYTES);
        worker->trimmed = true;
    }
    return TD_OK;
}

static td_status search(td_worker *worker, uint32_t *slot, uint64_t *position)
{
    const int64_t spin_until_ns = td_deadline_after(worker->map.head->spin_ns);
    for (;;) {
        if (!worker->searching) {
            td_atomic_store_seq(worker->state, TD_SEAT_SEARCHING);
            worker->searching = true;
        }
        if (must_leave(worker))
            return TD_ECLOSED;
        relieve_if_asked(worker);
        answer_wants(worker, TD_WANT_LOW | TD_WANT_HUNGRY);
        td_status status = claim(worker, slot, position);
        if (status != TD_EAGAIN)
            return status;
        if (is_closing(worker)) { /* tasks were announced before it, so this look finds the last */
            status = claim(worker, slot, position);
            return status == TD_EAGAIN ? TD_ECLOSED : status;
        }
        answer_wants(worker,
                     TD_WANT_LOW | TD_WANT_HUNGRY); /* that walk found what was cancelled to be no work */
        if (spin(worker, spin_until_ns))
            continue;
        status = park(worker);
        if (status != TD_OK)
            return status;
    }
}

/* ---- Parcels --------------------------------------------------------------------------------------------------- */

/* How many parcels are written down at the end of this block. */
static uint32_t parcels_in(const td_worker *worker, const struct td_block *block)
{
    return worker->slot != NULL && block->ref != 0 && worker->enclosing_ref == block->ref
               ? td_atomic_load_relaxed(&worker->slot->parcels)
               : 0;
}

static void forget_parcels(td_worker *worker)
{
    worker->enclosing_ref = 0;
    td_atomic_store_relaxed(&worker->slot->parcels, 0);
}

/* ---- Assignments ----------------------------------------------------------------------------------------------- */

static td_status view_block(td_worker *worker, uint64_t ref, uint64_t bytes, struct td_view *out, void **data)
{
    const td_status status = td_arena_peek(worker->args, ref, bytes, data);
    if (status == TD_OK)
        *out = (struct td_view){.data = *data, .bytes = bytes, .ref = ref};
    return status;
}

static td_status open_request(td_worker *worker, struct td_slot *slot, struct td_assignment *out)
{
    const uint64_t range = td_atomic_load_relaxed(&slot->range);
    void *data;
    *out = (struct td_assignment){
        .fn = slot->fn,
        .begin = td_range_next(range),
        .end = td_range_end(range),
        .attempt = slot->attempt,
        .fn_holds = (slot->request_flags & TD_SLOT_FN_HOLDS) != 0,
        .position = td_atomic_load_relaxed(&worker->position),
    };
    if (out->begin > out->end)
        return TD_EPROTO;
    if (slot->fn_ref != 0) {
        const td_status status = view_block(worker, slot->fn_ref, slot->fn_bytes, &out->fn_bytes, &data);
        if (status != TD_OK)
            return status;
    }
    if (slot->args_ref == 0) {
        if (slot->args_bytes > TD_INLINE_ARGS)
            return TD_EPROTO;
        out->args = (struct td_view){.data = slot->args, .bytes = slot->args_bytes};
        return TD_OK;
    }
    const td_status status = view_block(worker, slot->args_ref, slot->args_bytes, &out->args, &data);
    if (status == TD_OK && (slot->request_flags & TD_SLOT_SOLE_ARGS) != 0)
        out->args_data = data;
    return status;
}

static td_status begin(td_worker *worker, uint32_t index, uint64_t position, struct td_assignment *out)
{
    struct td_slot *slot = &worker->map.slots[index];
    TD_TRACE(CLAIM, index, worker->index);
    worker->slot = slot;
    worker->partial_ref = 0;
    forget_parcels(worker);
    worker->started_ns = td_now_ns();
    td_atomic_store_relaxed(&slot->started_ns, (uint64_t)worker->started_ns);
    td_atomic_store_seq(&worker->position, position);
    td_atomic_store_relaxed(&worker->seat->current, td_cell(position, index));
    if (td_atomic_load_seq(&worker->seat->interrupt) ==
        position) /* its signal came before the position was known */
        raise(SIGURG);
    if (worker->nursery != NULL)
        td_nursery_look(worker->nursery);
    if (position % CLAIMS_PER_LOOK == 0) /* not each time: the parent writes to that line */
        answer_wants(worker, TD_WANT_LOW);
    return open_request(worker, slot, out);
}

td_status td_worker_next(td_worker *worker, struct td_assignment *out)
{
    if (worker->slot != NULL)
        return TD_EINVAL;
    uint32_t slot;
    uint64_t position;
    td_status status = TD_ECLOSED;
    relieve_if_asked(worker);
    if (!must_leave(worker)) {
        status = claim(worker, &slot, &position);
        if (status == TD_EAGAIN)
            status = search(worker, &slot, &position);
    }
    if (status == TD_OK) {
        if (worker->searching)
            stop_searching(worker, TD_SEAT_BUSY);
        return begin(worker, slot, position, out);
    }
    if (status == TD_EINTR) { /* a handler may run for long, so nobody should count on us meanwhile */
        stop_searching(worker, TD_SEAT_BUSY);
    } else {
        if (status == TD_ECLOSED)
            td_atomic_store_relaxed(&worker->seat->leaving, 1); /* of its own will: its end is no crash */
        stop_searching(worker, TD_SEAT_LEAVING);
    }
    return status;
}

td_status td_worker_take_item(td_worker *worker, uint32_t *item)
{
    if (worker->slot == NULL)
        return TD_EINVAL;
    td_atomic_u64 *word = &worker->slot->range;
    uint64_t range = td_atomic_load_relaxed(word);
    do
        if (td_range_next(range) >= td_range_end(range))
            return TD_ECLOSED;
    while (!td_atomic_cas_weak_relaxed(word, &range, range + 1)); /* below end, the low half never carries */
    *item = td_range_next(range);
    relieve_if_asked(worker);
    if ((td_atomic_load_relaxed(&worker->map.head->wants) & TD_WANT_HUNGRY) != 0 &&
        td_doorbell_is_any_parked(&worker->map))
        answer_wants(worker, TD_WANT_HUNGRY); /* they fell asleep before the parent wanted to know */
    return TD_OK;
}

bool td_worker_interrupted(td_worker *worker)
{
    uint64_t position = td_atomic_load_relaxed(&worker->position);
    return position != 0 && td_atomic_cas_strong_acqrel(&worker->seat->interrupt, &position, 0);
}

void td_worker_interrupt_again(td_worker *worker)
{
    td_atomic_store_release(&worker->seat->interrupt, td_atomic_load_relaxed(&worker->position));
}

/* ---- Results --------------------------------------------------------------------------------------------------- */

static td_status try_block(td_worker *worker, uint64_t bytes, struct td_block *out)
{
    if (!worker->budgeted) { /* most workers never need it, and it opens a dozen files */
        td_memory_budget_init(&worker->memory, "");
        worker->budgeted = true;
    }
    worker->trimmed = false;
    const td_status status = td_arena_alloc(worker->results, bytes, out);
    return status == TD_EAGAIN ? TD_ENOROOM : status;
}

/* Waits for what others keep for later, but not for the parent to free results: it may wait for this very task. */
td_status td_worker_block(td_worker *worker, uint64_t bytes, struct td_block *out)
{
    td_status status = try_block(worker, bytes, out);
    if (status == TD_ENOROOM && bytes < td_memory_budget_bytes(&worker->memory)) {
        td_heap_trim();
        td_relief_ask_until(&worker->map, &worker->bell, worker->index, td_deadline_after(TD_RELIEF_NS));
        status = try_block(worker, bytes, out);
    }
    return status;
}

td_status td_worker_block_grow(td_worker *worker, struct td_block *block, uint64_t used, uint64_t bytes)
{
    if (used > block->capacity)
        return TD_EINVAL;
    if (bytes <= block->capacity)
        return TD_OK;
    /* Half as much again, so that growing byte by byte copies each byte a few times only. */
    const uint64_t ample = block->capacity + block->capacity / 2;
    struct td_block grown;
    td_status status = TD_ENOROOM;
    if (ample > bytes)
        status = try_block(worker, ample, &grown);
    if (status != TD_OK)
        status = td_worker_block(worker, bytes, &grown);
    if (status != TD_OK)
        return status;
    memcpy(grown.data, block->data, used);
    const uint32_t parcels = parcels_in(worker, block);
    memcpy(td__parcel_table(&grown, parcels), td__parcel_table(block, parcels),
           td__parcel_table_bytes(parcels));
    if (parcels != 0)
        worker->enclosing_ref = grown.ref;
    if (worker->partial_ref == block->ref && worker->slot != NULL) {
        TD_EDGE(slot_M, td_atomic_store_release, td_atomic_store_relaxed)
        (&worker->slot->partial_ref, grown.ref); /* M */
        worker->partial_ref = grown.ref;
    }
    td_arena_free(worker->results, block->ref);
    *block = grown;
    return TD_OK;
}

void td_worker_block_drop(td_worker *worker, struct td_block *block)
{
    if (block->ref == 0)
        return;
    if (worker->partial_ref == block->ref && worker->slot != NULL) {
        td_atomic_store_release(&worker->slot->partial_items, 0);
        td_atomic_store_release(&worker->slot->partial_ref, 0);
        worker->partial_ref = 0;
    }
    const uint32_t parcels = parcels_in(worker, block);
    td__parcels_reclaim(worker->results, block, parcels);
    if (parcels != 0)
        forget_parcels(worker);
    td_arena_free(worker->results, block->ref);
    block->ref = 0;
}

void td_worker_block_fill(td_worker *worker, void *to, const void *from, uint64_t bytes)
{
    td_arena_fill(worker->results, to, from, bytes);
}

td_status td_worker_enclose(td_worker *worker, const struct td_block *block, uint64_t used,
                            const struct td_parcel *parcels, uint32_t count)
{
    const uint32_t before = parcels_in(worker, block);
    if (count == 0)
        return TD_OK;
    if (worker->slot == NULL || block->ref == 0 || used > block->capacity || before > UINT32_MAX - count ||
        td__parcel_table_bytes(before + count) > block->capacity - used)
        return TD_EINVAL;
    const td_status status = td__parcels_lend(worker->results, block, before, parcels, count);
    if (status != TD_OK)
        return status;
    worker->enclosing_ref = block->ref;
    td_atomic_store_relaxed(&worker->slot->parcels, before + count); /* T and R carry it */
    return TD_OK;
}

void td_worker_publish(td_worker *worker, const struct td_block *block, uint64_t used_bytes,
                       uint32_t items_done)
{
    struct td_slot *slot = worker->slot;
    if (slot == NULL)
        return;
    slot->result_bytes = used_bytes; /* may run ahead of the items: it is a bound, and all of it is written */
    if (worker->partial_ref != block->ref) {
        td_atomic_store_release(&slot->partial_ref, block->ref); /* M */
        worker->partial_ref = block->ref;
    }
    TD_EDGE(slot_T, td_atomic_store_release, td_atomic_store_relaxed)(&slot->partial_items, items_done); /* T */
}

/* Fills in where the result is; the block passes to the parent. */
static td_status hand_over(td_worker *worker, const void *bytes, struct td_block *block, uint64_t len)
{
    struct td_slot *slot = worker->slot;
    if (block == NULL || block->ref == 0) {
        if (len > TD_INLINE_RESULT)
            return TD_EINVAL;
        if (len > 0)
            memcpy(slot->result, bytes, len);
        slot->result_ref = 0;
    } else {
        const uint32_t parcels = parcels_in(worker, block);
        if (len > block->capacity - td__parcel_table_bytes(parcels))
            return TD_EINVAL;
        if (len < block->capacity && parcels == 0) /* their table is at the end */
            td_arena_shrink(worker->results, block->ref, len);
        const td_status status = td_arena_lend(worker->results, block->ref);
        if (status != TD_OK)
            return status;
        slot->result_ref = block->ref;
        block->ref = 0;
    }
    slot->result_bytes = len;
    return TD_OK;
}

td_status td_worker_reply(td_worker *worker, bool ok, const void *bytes, struct td_block *block, uint64_t len,
                          bool keep_args)
{
    struct td_slot *slot = worker->slot;
    if (slot == NULL)
        return TD_EINVAL;
    const td_status status = hand_over(worker, bytes, block, len);
    if (status != TD_OK)
        return status;
    const uint64_t position = td_atomic_load_relaxed(&worker->position);
    const uint32_t index = (uint32_t)(slot - worker->map.slots);
    const int64_t now = td_now_ns();
    slot->reply_flags =
        (uint16_t)((ok ? 0 : TD_SLOT_ERROR) | (keep_args && slot->args_ref != 0 ? TD_SLOT_KEEP_ARGS : 0) |
                   td__tell_held(slot, worker->results, &worker->told_sum));
    slot->ended_ns = now;
    worker->slot = NULL;
    td_atomic_store_relaxed(&worker->position, 0);
    worker->busy_ns += (uint64_t)(now - worker->started_ns);
    worker->tasks_done++;
    td_atomic_store_relaxed(&worker->seat->busy_ns, worker->busy_ns);
    td_atomic_store_relaxed(&worker->seat->tasks_done, worker->tasks_done);
    td_atomic_store_relaxed(&worker->seat->current, 0);
    TD_TRACE(FINISH, index, worker->index);
    td_completion_push(&worker->map, worker->index, index, position);
    td_bell_ring(&worker->bell);
    return TD_OK;
}

td_status td_worker_map_private(td_worker *worker, const void *data, uint64_t bytes, struct td_private *out)
{
    return td_arena_map_private(worker->args, data, bytes, out);
}

bool td_worker_has_fn(td_worker *worker, uint64_t ref)
{
    void *data;
    return td_arena_peek(worker->args, ref, 0, &data) == TD_OK;
}

void td_worker_give_args(td_worker *worker, uint64_t ref)
{
    td_block_give(worker->args, ref);
}
