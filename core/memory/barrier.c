/* memory/barrier.c: where threads of all processes wait for each other; the death of one that waits is noticed.
 *
 * One that waits owns a slot: a word that the kernel marks, and wakes for, when its owner dies (os/robust.c). But one
 * can sleep on one word only, and a death is seen for sure only by who sleeps on a word of the dead. So each watches
 * its neighbour: the next slot, around the end, that has an owner; one that is alone watches its own. Whatever the
 * neighbour does then, to die or to leave, changes the word that is slept on.
 *
 *   slots   0: A   1: -   2: B   3: C   4: -        A watches B, B watches C, C watches A
 *                                                   D takes slot 1 and nudges B's watcher: A watches D, D watches B
 *
 * A nudge clears WAITED in a word and wakes who sleeps there, in one step of the kernel's (os/futex.c), so that they
 * look again. All else happens under the barrier's lock, an owned word, too: coming, passing, breaking, leaving early.
 *
 *   arrive   [lock] take a slot, WAITING; nudge the neighbour's watcher; the last of the parties: pass [unlock]
 *   wait     until the slot is no longer WAITING: watch the neighbour
 *   pass     number the slots; all that wait are PASSED, or BROKEN; nudge all; one's own comes last
 *   leave    free the slot, and wake who watches it
 *
 * Invariants  B1 a slot's state is changed under the lock, but for its owner's to FREE once it is not WAITING any more.
 *             B2 a waiter that sleeps has WAITED set in the word of its neighbour, and has looked, after it was set,
 *                that this is its neighbour and that its own slot is WAITING.
 *             B3 pass and break are announced (`doing`) before they begin. Who finds the lock's holder dead completes
 *                what was announced, and breaks the barrier otherwise: all pass, or all are told that it is broken.
 *             B4 who passes or breaks has a slot that others watch, WAITING or VISITING until all are nudged.
 * Proof       that none sleeps for ever beside a dead one. By B2 a sleeper's neighbour word can't change unseen. It
 *             changes (a) when the neighbour dies; then the sleeper looks, takes the lock and breaks the barrier (or
 *             completes, B3). (b) when the neighbour leaves, and whoever leaves has been told that all may: the
 *             sleeper's own slot says so, or the one that was saying so died, and its slot is found in the ring, by
 *             this rule. (c) when it is nudged: a slot was taken in between (look again), or all may go. A wake-up
 *             that is lost with the sleeper that it was for is the kernel's to repeat (I2 of os/robust.c).
 * Ordering    T of os/robust.c for all under the lock. S: state -> release -> acquire by the slot's owner: index, and
 *             all that the others did before they came.
 * Crash       see above. One that dies before it has a slot can't be known; if it held the lock, the next to come
 *             finds it.
 * Not covered a barrier with more than its parties at once: those too many wait for a slot to be left.
 * Tests       tests/memory/test_barrier.c, tests/memory/test_sync_killed.c */
#include <limits.h>

#include "memory/sync.h"
#include "os/robust.h"

enum state { FREE = 0, WAITING, VISITING, PASSED, BROKEN };
enum doing { NOTHING = 0, PASSING, BREAKING };

struct slot {
    struct td_robust robust;
    td_atomic_u32 state;
    uint32_t index;
    uint32_t unused[4];
};

struct barrier {
    struct td_sync_head head;
    uint32_t parties;
    td_atomic_u32 broken, doing;
    uint32_t unused;
    struct td_robust lock;
    struct slot
        slots[]; /* twice the parties, so that who comes again finds one before all have left; and a visitor */
};

_Static_assert(sizeof(struct slot) == TD_CACHELINE && sizeof(struct barrier) == TD_CACHELINE,
               "slots are aligned");

/* A barrier as this call has found it: the counts are checked against the block, and not read again. */
struct ring {
    struct barrier *barrier;
    uint32_t parties, count;
};

static uint64_t bytes_of(uint32_t parties)
{
    return sizeof(struct barrier) + (2 * (uint64_t)parties + 1) * sizeof(struct slot);
}

static td_status peek(const td_hold *hold, struct ring *ring)
{
    struct barrier *barrier = td__sync_peek(hold, TD_SYNC_BARRIER, sizeof *barrier);
    if (barrier == NULL)
        return TD_EPROTO;
    const uint32_t parties = barrier->parties;
    if (parties == 0 || parties > TD_MAX_PARTIES || td_hold_bytes(hold) < bytes_of(parties))
        return TD_EPROTO;
    *ring = (struct ring){.barrier = barrier, .parties = parties, .count = 2 * parties + 1};
    return TD_OK;
}

static uint32_t state_of(const struct slot *slot)
{
    return td_atomic_load_acquire(&slot->state); /* S */
}

static void set_state(struct slot *slot, enum state state)
{
    TD_EDGE(barrier_S, td_atomic_store_release, td_atomic_store_relaxed)(&slot->state, (uint32_t)state); /* S */
}

static uint32_t word_of(const struct slot *slot)
{
    return td_atomic_load_acquire(&slot->robust.word);
}

/* Has its owner died before it was told how it ends? */
static bool is_news(const struct slot *slot)
{
    const uint32_t word = word_of(slot), state = state_of(slot);
    return td_robust_owner(word) == 0 && (word & TD_ROBUST_DIED) != 0 &&
           (state == WAITING || state == VISITING);
}

/* ---- Under the lock ---------------------------------------------------------------------------------------- */

static void tell(struct ring *ring, const struct slot *mine, enum state end, bool last)
{
    for (uint32_t i = 0; i < ring->count; i++) {
        struct slot *slot = &ring->barrier->slots[i];
        const bool is_last = slot == mine || td_robust_owner(word_of(slot)) == 0; /* B4 */
        if (is_last != last)
            continue;
        if (state_of(slot) == WAITING)
            set_state(slot, end);
        else if (state_of(slot) == VISITING && slot != mine)
            set_state(slot, FREE);
    }
}

static void end_locked(struct ring *ring, const struct slot *mine, enum doing doing)
{
    const enum state end = doing == PASSING ? PASSED : BROKEN;
    td_atomic_store_release(&ring->barrier->doing, (uint32_t)doing); /* B3 */
    if (doing == BREAKING)
        td_atomic_store_release(&ring->barrier->broken, 1);
    tell(ring, mine, end, false);
    for (uint32_t i = 0; i < ring->count; i++)
        if (word_of(&ring->barrier->slots[i]) != 0)
            td_robust_nudge(&ring->barrier->slots[i].robust);
    tell(ring, mine, end, true);
    td_atomic_store_release(&ring->barrier->doing, NOTHING);
}

static uint32_t count_locked(const struct ring *ring)
{
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < ring->count; i++)
        waiting += state_of(&ring->barrier->slots[i]) == WAITING;
    return waiting;
}

static void pass_locked(struct ring *ring, const struct slot *mine)
{
    uint32_t index = 0;
    for (uint32_t i = 0; i < ring->count; i++)
        if (state_of(&ring->barrier->slots[i]) == WAITING)
            ring->barrier->slots[i].index = index++;
    end_locked(ring, mine, PASSING);
}

/* Sees to what the dead have left. */
static void mend_locked(struct ring *ring, const struct slot *mine, bool holder_died)
{
    const bool passing = td_atomic_load_acquire(&ring->barrier->doing) == PASSING;
    bool news = holder_died;
    for (uint32_t i = 0; i < ring->count && !news; i++)
        news = is_news(&ring->barrier->slots[i]);
    if (news)
        end_locked(ring, mine, holder_died && passing ? PASSING : BREAKING);
}

static td_status enter(struct ring *ring, const struct slot *mine, int64_t deadline_ns)
{
    const td_status status = td_robust_take_until(&ring->barrier->lock, deadline_ns);
    if (status != TD_OK && status != TD_EHOLDER)
        return status;
    mend_locked(ring, mine, status == TD_EHOLDER);
    return TD_OK;
}

/* What is done under the lock ends by itself, so that this wait does. */
static void enter_surely(struct ring *ring, const struct slot *mine)
{
    while (enter(ring, mine, TD_FOREVER) == TD_EINTR) {
    }
}

static void leave(struct ring *ring)
{
    (void)td_robust_free(&ring->barrier->lock, 1, false);
}

/* ---- Slots ------------------------------------------------------------------------------------------------- */

static struct slot *after(const struct ring *ring, const struct slot *slot)
{
    const uint32_t next = (uint32_t)(slot - ring->barrier->slots) + 1;
    return &ring->barrier->slots[next < ring->count ? next : 0];
}

/* The next slot that has an owner, perhaps this one itself; NULL: one before it has news. */
static struct slot *neighbour(const struct ring *ring, const struct slot *mine, uint32_t *word)
{
    struct slot *slot = after(ring, mine);
    for (;; slot = after(ring, slot)) {
        *word = word_of(slot);
        if (td_robust_owner(*word) != 0 || slot == mine)
            return slot;
        if (is_news(slot))
            return NULL;
    }
}

static void free_slot(struct slot *slot)
{
    set_state(slot, FREE);
    (void)td_robust_free(&slot->robust, INT_MAX, false);
}

/* NULL: all are owned, or one had news: try again. */
static struct slot *take_slot_locked(struct ring *ring, enum state state)
{
    for (uint32_t i = 0; i < ring->count; i++) {
        struct slot *slot = &ring->barrier->slots[i];
        const td_status status = td_robust_take_until(&slot->robust, 0);
        if (status != TD_OK && status != TD_EHOLDER)
            continue;
        if (status == TD_EHOLDER && state_of(slot) == WAITING) { /* died just now */
            end_locked(ring, slot, BREAKING);
            free_slot(slot);
            return NULL;
        }
        set_state(slot, state);
        uint32_t word;
        struct slot *next = neighbour(ring, slot, &word);
        if (next != NULL)
            td_robust_nudge(&next->robust);
        return slot;
    }
    return NULL;
}

/* Sleeps on a slot's word, if that is still what it was. */
static td_status watch(struct slot *slot, uint32_t word, int64_t deadline_ns)
{
    return deadline_ns > 0 ? td_robust_watch_until(&slot->robust, word, deadline_ns) : TD_ETIMEDOUT;
}

/* Sets WAITED. False: the word has changed. */
static bool set_waited(struct slot *slot, uint32_t *word)
{
    uint32_t seen = *word;
    *word = seen | TD_ROBUST_WAITED;
    return td_atomic_cas_strong_acqrel(&slot->robust.word, &seen, seen | TD_ROBUST_WAITED);
}

/* Until somebody has left, where those of generations before still have all the slots. */
static td_status await_room(struct ring *ring, int64_t deadline_ns)
{
    for (uint32_t i = 0; i < ring->count; i++) {
        struct slot *slot = &ring->barrier->slots[i];
        uint32_t word = word_of(slot);
        if (state_of(slot) == WAITING || state_of(slot) == VISITING)
            continue;
        if (td_robust_owner(word) != 0 && set_waited(slot, &word))
            return watch(slot, word, deadline_ns);
        break;
    }
    return TD_OK;
}

/* ---- Waiting ----------------------------------------------------------------------------------------------- */

static td_status arrive_once(struct ring *ring, struct slot **mine)
{
    td_status status = enter(ring, NULL, TD_FOREVER);
    if (status != TD_OK)
        return status;
    if (td_atomic_load_acquire(&ring->barrier->broken) != 0)
        status = TD_EBARRIER;
    else if ((*mine = take_slot_locked(ring, WAITING)) == NULL)
        status = TD_EAGAIN;
    else if (count_locked(ring) == ring->parties)
        pass_locked(ring, *mine);
    leave(ring);
    return status;
}

static td_status arrive(struct ring *ring, int64_t deadline_ns, struct slot **mine)
{
    for (;;) {
        td_status status = arrive_once(ring, mine);
        if (status != TD_EAGAIN)
            return status;
        status = await_room(ring, deadline_ns);
        if (status != TD_OK)
            return status;
    }
}

/* Until the slot is not WAITING any more: TD_OK; TD_ETIMEDOUT, TD_EINTR. */
static td_status await_end(struct ring *ring, struct slot *mine, int64_t deadline_ns)
{
    while (state_of(mine) == WAITING) {
        uint32_t word, again;
        struct slot *next = neighbour(ring, mine, &word);
        if (next == NULL) {
            enter_surely(ring, mine);
            leave(ring);
            continue;
        }
        if (!set_waited(next, &word) || neighbour(ring, mine, &again) != next || again != word ||
            state_of(mine) != WAITING) /* B2 */
            continue;
        const td_status status = watch(next, word, deadline_ns);
        if (status != TD_OK)
            return status;
    }
    return TD_OK;
}

/* The end of a wait: the index, or what was told instead. */
static td_status depart(struct slot *mine, uint32_t *index)
{
    const bool passed = state_of(mine) == PASSED;
    if (passed)
        *index = mine->index;
    free_slot(mine);
    return passed ? TD_OK : TD_EBARRIER;
}

/* One that goes before the end, unless that has come meanwhile. */
static td_status give_up(struct ring *ring, struct slot *mine, bool breaking, uint32_t *index)
{
    td_status status = TD_EINTR;
    enter_surely(ring, mine);
    if (breaking && state_of(mine) == WAITING)
        end_locked(ring, mine, BREAKING);
    if (state_of(mine) == WAITING)
        free_slot(mine);
    else
        status = depart(mine, index);
    leave(ring);
    return status;
}

/* The slot of a party that has come; NULL: it is not this thread's. */
static struct slot *slot_of(const struct ring *ring, uint32_t party)
{
    struct slot *slot = party < ring->count ? &ring->barrier->slots[party] : NULL;
    return slot != NULL && td_robust_is_mine(&slot->robust) ? slot : NULL;
}

td_status td_barrier_stay_until(td_hold *hold, int64_t deadline_ns, int64_t look_ns, uint32_t *party,
                                uint32_t *index)
{
    struct ring ring;
    struct slot *mine = NULL;
    td_status status = peek(hold, &ring);
    if (status != TD_OK)
        return status;
    if (*party != TD_NO_PARTY && (mine = slot_of(&ring, *party)) == NULL)
        return TD_EINVAL;
    if (mine == NULL)
        status = arrive(&ring, deadline_ns, &mine);
    if (status == TD_ETIMEDOUT) {
        (void)td_barrier_abort(hold);
        return TD_EBARRIER;
    }
    if (status != TD_OK)
        return status;
    *party = (uint32_t)(mine - ring.barrier->slots);
    status = await_end(&ring, mine, look_ns < deadline_ns ? look_ns : deadline_ns);
    if (status == TD_ETIMEDOUT && look_ns < deadline_ns)
        return TD_EAGAIN;
    if (status == TD_EINTR)
        return status;
    *party = TD_NO_PARTY;
    return status == TD_OK ? depart(mine, index) : give_up(&ring, mine, true, index);
}

td_status td_barrier_leave(td_hold *hold, uint32_t party, uint32_t *index)
{
    struct ring ring;
    const td_status status = peek(hold, &ring);
    struct slot *mine = status == TD_OK ? slot_of(&ring, party) : NULL;
    return mine != NULL ? give_up(&ring, mine, false, index) : TD_EINVAL;
}

td_status td_barrier_wait_until(td_hold *hold, int64_t deadline_ns, uint32_t *index)
{
    uint32_t party = TD_NO_PARTY;
    const td_status status = td_barrier_stay_until(hold, deadline_ns, TD_FOREVER, &party, index);
    return party != TD_NO_PARTY ? td_barrier_leave(hold, party, index) : status;
}

/* ---- Visiting ---------------------------------------------------------------------------------------------- */

/* What is done to a barrier by one that does not wait there: it has a slot all the same (B4). */
static td_status visit(td_hold *hold, bool broken)
{
    struct ring ring;
    struct slot *mine;
    td_status status = peek(hold, &ring);
    if (status == TD_OK)
        status = td_robust_check();
    if (status != TD_OK)
        return status;
    for (;;) {
        enter_surely(&ring, NULL);
        mine = take_slot_locked(&ring, VISITING);
        if (mine != NULL)
            break;
        leave(&ring);
        (void)await_room(&ring, TD_FOREVER);
    }
    end_locked(&ring, mine, BREAKING);
    td_atomic_store_release(&ring.barrier->broken, broken);
    free_slot(mine);
    leave(&ring);
    return TD_OK;
}

td_status td_barrier_abort(td_hold *hold)
{
    return visit(hold, true);
}

td_status td_barrier_reset(td_hold *hold)
{
    return visit(hold, false);
}

td_status td_barrier_new(uint32_t parties, td_hold **out)
{
    if (parties == 0 || parties > TD_MAX_PARTIES)
        return TD_EINVAL;
    td_status status = td_robust_check();
    if (status == TD_OK)
        status = td__sync_new(TD_SYNC_BARRIER, bytes_of(parties), out);
    if (status == TD_OK)
        ((struct barrier *)td_hold_data(*out))->parties = parties;
    return status;
}

td_status td_barrier_get_info(td_hold *hold, struct td_barrier_info *out)
{
    struct ring ring;
    const td_status status = peek(hold, &ring);
    if (status != TD_OK)
        return status;
    *out = (struct td_barrier_info){
        .parties = ring.parties,
        .waiting = count_locked(&ring),
        .broken = td_atomic_load_acquire(&ring.barrier->broken) != 0,
    };
    return TD_OK;
}
