/* sched/loop.c: td_parallel_for: how a loop is cut, run, waited for and ended early.
 *
 * A loop of n units is cut into as many parts as it has threads. The caller puts all but the first into its deque,
 * then the second half of the first, the second quarter, and so on, and begins with the one chunk that is left. Whoever
 * runs a range and has nothing for others in its deque does the same with what is left of it: so nearly all that
 * waits can be taken by others, in large pieces, and where nobody comes, taking it back costs a logarithm of exchanges.
 * When the caller finds its deque empty, others have the rest; it takes from them what belongs to its loop, or is
 * nested in it, spins for a moment, and sleeps.
 *
 * Chunks are what the user's function is called with. With a grain, a chunk is one unit: `grain` iterations from a
 * multiple of it on (and the rest at the end), so that results can be kept by chunk and summed up in an order that does
 * not depend on who ran what. Without one, a unit is one iteration, and a chunk has as many as take some microseconds:
 * it grows, or shrinks, until it does.
 *
 * Ended early (`stop`): by a status that a chunk returns, or the interrupt hook. Chunks that have not begun, of nested
 * loops too, are left out: their units are taken off `left` all the same. The first status wins.
 *
 * Invariants  I1 between publish and the end, left + what hands have done and not taken off yet + ranges in deques and
 *                hands adds up: a unit is taken off once, by whoever took the range it was in.
 *             I2 when td_parallel_for returns, no range of its region is in any deque, and no hand uses the region.
 *             I3 what a nested loop puts into the deque lies above what was there before, and is gone when it returns.
 * Ordering    J (hand.h): chunk -> release left -> acquire left -> return. The caller's own units are not taken off
 *             `left` if nobody else had one.
 * Tests       tests/sched/test_loop.c, test_nested.c, test_callers.c, test_fork.c */
#include "base/clock.h"
#include "sched/park.h"

#define PARTS_MOST (TD_DEQUE_CELLS / 4)
#define CHUNK_SHORT_NS (4 * TD_NS_PER_US)
#define CHUNK_LONG_NS (16 * TD_NS_PER_US)
#define FIRST_CHUNKS                                                                                           \
    32u /* an automatic chunk is this part of a thread's share, until it was seen how long it takes */
#define HOOK_EVERY_NS TD_NS_PER_MS
#define HOOK_SLEEP_NS                                                                                          \
    (5 * TD_NS_PER_MS) /* the first sleep of a caller that has a hook to ask; each is twice as long */
#define TURNS_MOST 1024u

static td_atomic_ptr interrupt_hook; /* td_interrupt_hook * */
static _Thread_local __attribute__((tls_model("initial-exec")))
uint32_t scope; /* of td_threads_enter, inside the chunk that runs; 0: none */

/* ---- How many threads ------------------------------------------------------------------------------------------ */

static uint32_t threads_here(struct td_sched *sched, const struct td_hand *hand)
{
    const uint32_t around =
        hand != NULL && hand->region != NULL ? hand->region->threads : td_atomic_load_relaxed(&sched->threads);
    return scope != 0 && scope < around ? scope : around;
}

uint32_t td_threads(void)
{
    return threads_here(td_sched_get(), td_hand_peek());
}

void td_threads_set(uint32_t threads)
{
    struct td_sched *sched = td_sched_get();
    td_atomic_store_relaxed(&sched->threads, threads == 0 || threads > sched->cpus ? sched->cpus : threads);
}

uint32_t td_threads_enter(uint32_t threads)
{
    const uint32_t before = scope;
    scope = threads;
    return before;
}

void td_threads_leave(uint32_t before)
{
    scope = before;
}

uint32_t td_thread_number(void)
{
    const struct td_hand *hand = td_hand_peek();
    if (hand == NULL || hand->region == NULL || !hand->is_worker)
        return 0;
    return 1 + td_tag_place(hand->region->tag, hand->index, td_sched_get()->workers);
}

/* ---- Ending early ---------------------------------------------------------------------------------------------- */

static void stop(struct td_region *region, td_status status)
{
    uint32_t none = 0;
    td_atomic_cas_strong_relaxed(&region->stop, &none, (uint32_t)-status);
}

/* Why the loop, or one around it, is to end; TD_OK: it is not. */
static td_status stopped(const struct td_region *region)
{
    for (; region != NULL; region = region->parent) {
        const uint32_t why = td_atomic_load_relaxed(&region->stop);
        if (why != 0)
            return (td_status) - (int32_t)why;
    }
    return TD_OK;
}

void td_set_interrupt_hook(td_interrupt_hook *hook)
{
    td_atomic_store_relaxed(&interrupt_hook, (void *)(uintptr_t)hook);
}

static td_interrupt_hook *hook_of(const struct td_hand *hand)
{
    return hand->is_worker ? NULL : (td_interrupt_hook *)(uintptr_t)td_atomic_load_relaxed(&interrupt_hook);
}

/* What it says ends all the loops that this thread is in. */
static void ask_hook(struct td_hand *hand, struct td_region *region, int64_t now)
{
    td_interrupt_hook *hook = hook_of(hand);
    hand->looked_ns = now;
    if (hook == NULL || stopped(region) != TD_OK)
        return;
    const td_status status = hook();
    if (status == TD_OK)
        return;
    while (region->parent != NULL)
        region = region->parent;
    stop(region, status);
}

/* After a chunk of a loop with a grain: asks the hook now and then, and reads the clock not much more often. */
static void heed(struct td_hand *hand, struct td_region *region)
{
    if (++hand->turns < hand->turns_per_look || hook_of(hand) == NULL)
        return;
    const int64_t now = td_now_ns(), passed = now - hand->looked_ns;
    hand->turns = 0;
    if (passed < HOOK_EVERY_NS / 4 && hand->turns_per_look < TURNS_MOST)
        hand->turns_per_look = hand->turns_per_look * 2 + 1;
    else if (passed >= HOOK_EVERY_NS)
        hand->turns_per_look /= 2;
    if (passed >= HOOK_EVERY_NS)
        ask_hook(hand, region, now);
}

/* ---- Chunks ---------------------------------------------------------------------------------------------------- */

static td_status call(const struct td_region *region, uint64_t first, uint64_t last)
{
    const uint64_t grain = region->grain == 0 ? 1 : region->grain;
    const uint64_t begin = (uint64_t)region->begin + first * grain;
    const uint64_t end = last == region->units ? (uint64_t)region->end : (uint64_t)region->begin + last * grain;
    scope = 0; /* what a chunk has entered ends with it */
    return region->fn((int64_t)begin, (int64_t)end, region->context);
}

/* How many units the next chunk has, by how long the one before took; `start` moves on. */
static uint64_t pace(struct td_hand *hand, struct td_region *region, uint64_t chunk, int64_t *start)
{
    const int64_t now = td_now_ns(), took = now - *start;
    *start = now;
    if (now - hand->looked_ns >= HOOK_EVERY_NS)
        ask_hook(hand, region, now);
    if (took < CHUNK_SHORT_NS ? chunk > region->units / 2 : took <= CHUNK_LONG_NS || chunk == 1)
        return chunk;
    const uint64_t next = took < CHUNK_SHORT_NS ? chunk * 2 : chunk / 2;
    td_atomic_store_relaxed(&region->pace, next);
    return next;
}

/* Puts a range into the deque, `staged` others being there for the same publish. */
static bool stage(struct td_hand *hand, struct td_region *region, uint32_t staged, uint64_t first,
                  uint64_t last)
{
    const struct td_range range = {.region = region, .first = first, .last = last, .tag = region->tag};
    return td_deque_stage(&hand->deque, staged, &range);
}

static void publish(struct td_sched *sched, struct td_hand *hand, const struct td_region *region,
                    uint32_t staged)
{
    if (staged == 0)
        return;
    td_deque_publish(&hand->deque, staged);
    td_park_announce(sched, region->tag);
}

/* Stages the second half of [first, last), that of the rest, and so on, down to a chunk. Where the rest ends. */
static uint64_t stage_halves(struct td_hand *hand, struct td_region *region, uint32_t *staged, uint64_t first,
                             uint64_t last, uint64_t chunk)
{
    while (last - first > chunk) {
        const uint64_t middle = first + (last - first) / 2;
        if (!stage(hand, region, *staged, middle, last))
            break;
        ++*staged;
        last = middle;
    }
    return last;
}

static bool has_forked(const struct td_sched *sched, const struct td_region *region)
{
    return td_atomic_load_relaxed(&sched->forks) != region->forks;
}

/* A worker that has no loop below this one can go when the budget has no room for it. */
static bool must_make_way(const struct td_sched *sched, const struct td_hand *hand,
                          const struct td_region *outer)
{
    return hand->is_worker && outer == NULL && !td_hand_is_within_budget(sched, hand);
}

/* Runs the units that nobody takes meanwhile. How many that were, with those that were left out. */
static uint64_t run_chunks(struct td_sched *sched, struct td_hand *hand, struct td_region *region,
                           const struct td_region *outer, uint64_t first, uint64_t last)
{
    const uint64_t begin = first;
    const bool automatic = region->grain == 0, is_shared = td_tag_count(region->tag) != 0;
    uint64_t chunk = td_atomic_load_relaxed(&region->pace);
    int64_t start = automatic && last - first > 1 ? td_now_ns() : 0;
    while (first < last) {
        if (stopped(region) != TD_OK)
            return last - begin;
        if (last - first > chunk && is_shared && td_deque_count(&hand->deque) == 0) {
            uint32_t staged = 0;
            last = stage_halves(hand, region, &staged, first, last, chunk);
            publish(sched, hand, region, staged);
        }
        const uint64_t now = chunk < last - first ? chunk : last - first;
        const td_status status = call(region, first, first + now);
        if (has_forked(sched, region))
            return 0;
        first += now;
        if (status != TD_OK)
            stop(region, status);
        if (first == last)
            break;
        if (automatic)
            chunk = pace(hand, region, chunk, &start);
        else
            heed(hand, region);
        if (must_make_way(sched, hand, outer) && stage(hand, region, 0, first, last)) {
            publish(sched, hand, region, 1);
            return first - begin;
        }
    }
    return last - begin;
}

/* Runs a range that this hand has taken. */
static void run_range(struct td_sched *sched, struct td_hand *hand, struct td_region *region, uint64_t first,
                      uint64_t last)
{
    struct td_region *const outer = hand->region;
    struct td_hand *const caller = region->caller; /* the region may be gone when its last unit is done */
    const uint32_t scope_before = scope;
    hand->region = region;
    const uint64_t done = run_chunks(sched, hand, region, outer, first, last);
    scope = scope_before;
    if (has_forked(sched, region))
        return;
    hand->region = outer;
    if (hand == caller)
        region->own += done;
    else if (TD_EDGE(loop_J, td_atomic_fetch_sub_seq, td_atomic_fetch_sub_relaxed)(&region->left, done) ==
             done) /* J, J3 */
        td_park_wake(sched, caller);
}

/* ---- Looking for work ------------------------------------------------------------------------------------------ */

/* Takes a range from others that `hand` may take: any, or for the rest of the loop with the tag `*mine`. */
static bool steal(struct td_sched *sched, struct td_hand *hand, const uint64_t *mine, struct td_range *range)
{
    const uint32_t count = td_atomic_load_acquire(&sched->hand_count); /* H */
    uint32_t victim = hand->next_victim;
    for (uint32_t i = 0; i < count; i++, victim++) {
        if (victim >= count)
            victim = 0;
        struct td_deque *deque = &td_hand_at(sched, victim)->deque;
        uint64_t place;
        if (!td_deque_peek(deque, range, &place))
            continue;
        const bool may =
            mine != NULL ? td_may_take_waiting(*mine, range->tag) : td_may_take_free(sched, hand, range->tag);
        if (may && td_deque_take(deque, place)) {
            hand->next_victim = victim;
            return true;
        }
    }
    return false;
}

/* ---- Workers --------------------------------------------------------------------------------------------------- */

/* Its own first: what it left there when it made way. */
static bool find(struct td_sched *sched, struct td_hand *hand, struct td_range *range)
{
    if (!td_hand_is_within_budget(sched, hand))
        return false;
    return td_deque_pop(&hand->deque, range) || steal(sched, hand, NULL, range);
}

/* Until there is something; a searching worker is searching again, or still. */
static void await_work(struct td_sched *sched, struct td_hand *hand, struct td_range *range)
{
    for (struct td_spin spin = {0};;) {
        if (find(sched, hand, range))
            return;
        if (td_hand_is_within_budget(sched, hand) && td_spin_turn(sched, &spin))
            continue;
        td_park_keep_off_waker(hand);
        const bool last = td_park_begin(sched, hand);
        const bool found = find(sched, hand, range); /* S2 */
        if (last)
            td_park_wake_for_any(sched); /* W2 */
        if (found) {
            td_park_cancel(sched, hand);
            td_park_roam(hand);
            return;
        }
        (void)td_park_sleep_until(sched, hand, TD_FOREVER);
        td_park_roam(hand);
        spin = (struct td_spin){0};
    }
}

void td_hand_work(struct td_hand *hand)
{
    struct td_sched *sched = td_sched_get();
    const uint32_t forks = td_atomic_load_relaxed(&sched->forks);
    td_atomic_store_seq(&hand->state, TD_HAND_AWAKE);
    while (td_atomic_load_relaxed(&sched->forks) == forks) {
        struct td_range range;
        await_work(sched, hand, &range);
        td_park_found(sched); /* W */
        run_range(sched, hand, range.region, range.first, range.last);
        td_park_search(sched);
    }
}

/* ---- Callers --------------------------------------------------------------------------------------------------- */

static bool is_done(struct td_region *region)
{
    return td_atomic_load_seq(&region->left) == 0; /* J, J2 */
}

/* Something of the loop that nobody runs: in our own deque, as far as it is not older than the loop; or others'. */
static bool find_rest(struct td_sched *sched, struct td_hand *hand, struct td_region *region, uint64_t base,
                      struct td_range *range)
{
    if (td_atomic_load_relaxed(&hand->deque.bottom) > base && td_deque_pop(&hand->deque, range))
        return true;
    return td_tag_count(region->tag) != 0 && steal(sched, hand, &region->tag, range);
}

/* Sleeps until nothing is left, or there is something to be done. */
static void sleep_for_rest(struct td_sched *sched, struct td_hand *hand, struct td_region *region,
                           uint64_t base, int64_t *sleep_ns)
{
    struct td_range range;
    td_park_begin_wait(sched, hand, region->tag); /* J1, S1 */
    const bool found = !is_done(region) && find_rest(sched, hand, region, base, &range);
    if (found || is_done(region)) {
        td_park_cancel(sched, hand);
        if (found)
            run_range(sched, hand, range.region, range.first, range.last);
        return;
    }
    const bool hooked = hook_of(hand) != NULL;
    const int64_t deadline_ns = hooked ? td_deadline_after(*sleep_ns) : TD_FOREVER;
    const td_status status = td_park_sleep_until(sched, hand, deadline_ns);
    if (!hooked || status == TD_OK)
        return;
    *sleep_ns *= 2;
    ask_hook(hand, region, td_now_ns());
}

/* Until all units are done. What it does itself counts at once, from here on. */
static void finish(struct td_sched *sched, struct td_hand *hand, struct td_region *region, uint64_t base)
{
    struct td_range range;
    struct td_spin spin = {0};
    int64_t sleep_ns = HOOK_SLEEP_NS;
    while (!has_forked(sched, region)) {
        if (region->own != 0) {
            if (region->own == region->units)
                return;
            td_atomic_fetch_sub_seq(&region->left, region->own);
            region->own = 0;
        }
        if (is_done(region))
            return;
        if (find_rest(sched, hand, region, base, &range)) {
            run_range(sched, hand, range.region, range.first, range.last);
            spin = (struct td_spin){0};
        } else if (!td_spin_turn(sched, &spin)) {
            sleep_for_rest(sched, hand, region, base, &sleep_ns);
            spin = (struct td_spin){0};
        }
    }
}

/* Where part i of n begins. */
static uint64_t part_begin(uint64_t units, uint64_t i, uint64_t n)
{
    const uint64_t rest = units % n;
    return units / n * i + (i < rest ? i : rest);
}

/* Puts all parts but the first into the deque, the last one on top, and most of the first. How many units are left of
 * that. */
static uint64_t deal(struct td_sched *sched, struct td_hand *hand, struct td_region *region)
{
    uint64_t parts = region->threads < PARTS_MOST ? region->threads : PARTS_MOST, last = region->units;
    uint32_t staged = 0;
    if (parts > region->units)
        parts = region->units;
    for (uint64_t i = parts - 1; i > 0; i--) {
        const uint64_t first = part_begin(region->units, i, parts);
        if (!stage(hand, region, staged, first, last))
            break;
        staged++;
        last = first;
    }
    last = stage_halves(hand, region, &staged, 0, last, td_atomic_load_relaxed(&region->pace));
    publish(sched, hand, region, staged);
    return last;
}

/* Sets up the region: as many threads as are allowed here, within the window of the loop around it. */
static void region_init(struct td_sched *sched, struct td_hand *hand, struct td_region *region)
{
    const struct td_region *parent = hand->region;
    const uint64_t n = (uint64_t)region->end - (uint64_t)region->begin;
    const uint32_t depth = parent != NULL ? td_tag_depth(parent->tag) + 1 : 0;
    const uint32_t root = parent != NULL ? td_tag_root(parent->tag) : hand->index;
    const uint32_t from = parent != NULL       ? td_tag_from(parent->tag)
                          : sched->workers > 0 ? hand->index % sched->workers
                                               : 0;
    const uint32_t most = parent != NULL ? td_tag_count(parent->tag) : sched->workers;
    region->threads = threads_here(sched, hand);
    const uint32_t count = depth > TD_DEPTH_MOST ? 0 : region->threads - 1;
    region->units = region->grain == 0 ? n : n / region->grain + (n % region->grain != 0);
    region->tag = td_tag(root, depth, from, count < most ? count : most);
    region->forks = td_atomic_load_relaxed(&sched->forks);
    region->parent = hand->region;
    region->caller = hand;
    td_atomic_init(&region->left, region->units);
    const uint64_t first_chunk = region->grain == 0 ? n / region->threads / FIRST_CHUNKS : 1;
    td_atomic_init(&region->pace, first_chunk == 0 ? 1 : first_chunk);
    td_atomic_init(&region->stop, 0);
}

static td_status run_loop(struct td_sched *sched, struct td_hand *hand, struct td_region *region)
{
    region_init(sched, hand, region);
    const uint64_t base = td_atomic_load_relaxed(&hand->deque.bottom);
    const bool alone = td_tag_count(region->tag) == 0, counted = region->parent == NULL && !alone;
    if (counted)
        td_atomic_fetch_add_relaxed(&sched->callers, 1);
    const uint64_t first_part = alone ? region->units : deal(sched, hand, region);
    run_range(sched, hand, region, 0, first_part);
    finish(sched, hand, region, base);
    if (has_forked(sched, region))
        return TD_EFORKED;
    if (counted && td_atomic_fetch_sub_relaxed(&sched->callers, 1) > 1)
        td_park_wake_for_any(sched);
    return stopped(region);
}

/* The same chunks as of a loop with that grain, one by one. */
static td_status run_without_hand(int64_t begin, int64_t end, uint64_t grain, td_range_fn *fn, void *context)
{
    for (;;) {
        const bool is_last = grain == 0 || (uint64_t)end - (uint64_t)begin <= grain;
        const int64_t until = is_last ? end : begin + (int64_t)grain;
        const td_status status = fn(begin, until, context);
        if (status != TD_OK || is_last)
            return status;
        begin = until;
    }
}

td_status td_parallel_for(int64_t begin, int64_t end, int64_t grain, td_range_fn *fn, void *context)
{
    if (grain < 0 || fn == NULL)
        return TD_EINVAL;
    if (begin >= end)
        return TD_OK;
    struct td_sched *sched = td_sched_get();
    struct td_hand *hand = td_hand_self(sched);
    if (hand == NULL) /* no memory, or too many threads have one */
        return run_without_hand(begin, end, (uint64_t)grain, fn, context);
    struct td_region region = {
        .fn = fn, .context = context, .begin = begin, .end = end, .grain = (uint64_t)grain, .own = 0};
    return run_loop(sched, hand, &region);
}
