/* tests/loop/test_drain.c: threads that wait for conditions, and who drains meanwhile. Sources are made up: a counter
 * that one side raises, ringing the bell as a worker does, and that draining moves over. */
#include "loop/drain.h"

#include <pthread.h>
#include <sched.h>

#include "base/clock.h"
#include "tests/harness.h"

struct tap {
    struct td_source source;
    pthread_mutex_t lock;
    td_atomic_u64 in, out;
    bool may_spin;
};

static bool tap_drain(struct td_source *source)
{
    struct tap *tap = TD_LIST_ENTRY(source, struct tap, source);
    pthread_mutex_lock(&tap->lock);
    const uint64_t in = td_atomic_load_seq(&tap->in);
    const bool news = in != td_atomic_load_seq(&tap->out);
    td_atomic_store_seq(&tap->out, in);
    pthread_mutex_unlock(&tap->lock);
    return news;
}

static bool tap_waits(struct td_source *source)
{
    struct tap *tap = TD_LIST_ENTRY(source, struct tap, source);
    return td_atomic_load_seq(&tap->in) != td_atomic_load_seq(&tap->out);
}

static bool tap_may_spin(struct td_source *source)
{
    return TD_LIST_ENTRY(source, struct tap, source)->may_spin;
}

static void tap_open(struct tap *tap, bool may_spin)
{
    *tap = (struct tap){.source = {.drain = tap_drain, .waits = tap_waits, .may_spin = tap_may_spin},
                        .may_spin = may_spin};
    pthread_mutex_init(&tap->lock, NULL);
    REQUIRE_OK(td_drain_add_source(&tap->source));
}

static void tap_close(struct tap *tap)
{
    td_drain_remove_source(&tap->source);
    pthread_mutex_destroy(&tap->lock);
}

/* As a worker does it. */
static void tap_pour(struct tap *tap)
{
    td_atomic_fetch_add_seq(&tap->in, 1);
    td_bell_ring(td_drain_bell());
}

struct wish {
    struct tap *tap;
    uint64_t count;
    td_status status;
    pthread_t thread;
};

static bool is_fulfilled(void *context)
{
    const struct wish *wish = context;
    return td_atomic_load_seq(&wish->tap->out) >= wish->count;
}

static void *wait_for_wish(void *context)
{
    struct wish *wish = context;
    wish->status = td_drain_wait_until(is_fulfilled, wish, td_deadline_after(test_patience_ns()));
    return NULL;
}

TD_TEST(a_condition_that_holds_needs_no_wait_and_a_deadline_is_kept)
{
    struct tap tap;
    tap_open(&tap, true);
    struct wish wish = {.tap = &tap, .count = 0};
    CHECK_OK(td_drain_wait_until(is_fulfilled, &wish, 0));
    wish.count = 1;
    CHECK_STATUS(td_drain_wait_until(is_fulfilled, &wish, 0), TD_ETIMEDOUT);
    const int64_t deadline = td_deadline_after(2 * TD_NS_PER_MS);
    CHECK_STATUS(td_drain_wait_until(is_fulfilled, &wish, deadline), TD_ETIMEDOUT);
    CHECK_LE(deadline, td_now_ns());
    tap_pour(&tap);
    CHECK_OK(td_drain_wait_until(is_fulfilled, &wish, 0)); /* it drains once */
    CHECK(!td_drain_has_waiter());
    tap_close(&tap);
    td_drain_forget();
}

TD_TEST(waiting_without_any_source_works)
{
    struct tap tap = {.may_spin = true};
    struct wish wish = {.tap = &tap, .count = 1};
    CHECK_STATUS(td_drain_wait_until(is_fulfilled, &wish, td_deadline_after(TD_NS_PER_MS)), TD_ETIMEDOUT);
    td_drain_forget();
}

/* Waiters of two sources; each leaves when its own count has come, and hands the token on. */
TD_TEST(every_waiter_leaves_when_its_own_condition_comes_true)
{
    enum { WAITERS = 8 };
    for (uint64_t round = 0; round < test_rounds(100); round++) {
        struct tap taps[2];
        struct wish wishes[WAITERS];
        tap_open(&taps[0], round % 2 == 0);
        tap_open(&taps[1], true);
        for (uint32_t i = 0; i < WAITERS; i++) {
            wishes[i] = (struct wish){.tap = &taps[i % 2], .count = 1 + i / 2};
            REQUIRE_EQ(pthread_create(&wishes[i].thread, NULL, wait_for_wish, &wishes[i]), 0);
        }
        for (uint32_t i = 0; i < WAITERS; i++) {
            tap_pour(&taps[i % 2]);
            if (round % 3 == 0) { /* in step with each, or all at once */
                pthread_join(wishes[i].thread, NULL);
                CHECK_OK(wishes[i].status);
            }
        }
        for (uint32_t i = 0; i < WAITERS && round % 3 != 0; i++) {
            pthread_join(wishes[i].thread, NULL);
            CHECK_OK(wishes[i].status);
        }
        CHECK(!td_drain_has_waiter());
        tap_close(&taps[0]);
        tap_close(&taps[1]);
    }
    td_drain_forget();
}

struct flag {
    td_atomic_u32 up;
};

static bool is_up(void *context)
{
    return td_atomic_load_seq(&((struct flag *)context)->up) != 0;
}

static void *wait_for_flag(void *context)
{
    CHECK_OK(td_drain_wait_until(is_up, context, td_deadline_after(test_patience_ns())));
    return NULL;
}

TD_TEST(what_comes_true_by_other_means_is_heard_of_by_notifying)
{
    enum { WAITERS = 4 };
    for (uint64_t round = 0; round < test_rounds(300); round++) {
        struct flag flags[WAITERS] = {0};
        pthread_t threads[WAITERS];
        for (uint32_t i = 0; i < WAITERS; i++)
            REQUIRE_EQ(pthread_create(&threads[i], NULL, wait_for_flag, &flags[i]), 0);
        for (uint32_t i = 0; i < WAITERS; i++) { /* whoever holds the token is one of them */
            td_atomic_store_seq(&flags[i].up, 1);
            td_drain_notify();
        }
        for (uint32_t i = 0; i < WAITERS; i++)
            pthread_join(threads[i], NULL);
    }
    td_drain_forget();
}

/* Many rounds of one pouring while one waits: a lost wake-up would end in the deadline. */
struct duel {
    struct tap *tap;
    uint64_t rounds;
    td_atomic_u64 seen;
};

static void *pour_on_demand(void *context)
{
    struct duel *duel = context;
    for (uint64_t i = 0; i < duel->rounds; i++) {
        while (td_atomic_load_seq(&duel->seen) < i)
            sched_yield();
        tap_pour(duel->tap);
    }
    return NULL;
}

TD_TEST(no_wake_up_is_lost_between_a_look_and_a_sleep)
{
    for (int may_spin = 0; may_spin < 2; may_spin++) {
        struct tap tap;
        pthread_t thread;
        tap_open(&tap, may_spin != 0);
        struct duel duel = {.tap = &tap, .rounds = test_rounds(20000)};
        REQUIRE_EQ(pthread_create(&thread, NULL, pour_on_demand, &duel), 0);
        for (uint64_t i = 0; i < duel.rounds; i++) {
            struct wish wish = {.tap = &tap, .count = i + 1};
            wait_for_wish(&wish);
            REQUIRE_OK(wish.status);
            td_atomic_store_seq(&duel.seen, i + 1);
        }
        pthread_join(thread, NULL);
        tap_close(&tap);
    }
    td_drain_forget();
}

static void ignore(int signal)
{
    (void)signal;
}

struct interrupted {
    struct tap *tap;
    td_atomic_u32 asleep;
    td_status status;
};

static void *wait_and_be_interrupted(void *context)
{
    struct interrupted *self = context;
    struct wish wish = {.tap = self->tap, .count = 1};
    self->status = td_drain_wait_until(is_fulfilled, &wish, td_deadline_after(test_patience_ns()));
    td_atomic_store_seq(&self->asleep, 2);
    return NULL;
}

/* A ring that woke a waiter which a signal ends at that moment must not be lost: it drains before it leaves. */
TD_TEST(a_waiter_that_a_signal_ends_has_drained_what_it_was_rung_for)
{
    struct sigaction action = {.sa_handler = ignore};
    REQUIRE_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (uint64_t round = 0; round < test_rounds(200); round++) {
        struct tap tap;
        pthread_t thread;
        tap_open(&tap, false);
        struct interrupted self = {.tap = &tap};
        REQUIRE_EQ(pthread_create(&thread, NULL, wait_and_be_interrupted, &self), 0);
        while ((td_atomic_load_seq(&td_drain_bell()->bell->listen) & TD_LISTEN_FUTEX) == 0)
            sched_yield();
        const bool heard = round % 2 == 0;
        if (heard)
            tap_pour(&tap);
        while (td_atomic_load_seq(&self.asleep) != 2) {
            pthread_kill(thread, SIGUSR1);
            sched_yield();
        }
        pthread_join(thread, NULL);
        CHECK(self.status == TD_OK || self.status == TD_EINTR);
        if (heard)
            CHECK_EQ(td_atomic_load_seq(&tap.out), 1u);
        CHECK_EQ(td_atomic_load_seq(&td_drain_bell()->bell->listen) & TD_LISTEN_FUTEX, 0u);
        tap_close(&tap);
    }
    td_drain_forget();
}

/* ---- Signals that come while the waiter is awake ---- */

static td_atomic_u32 noted;

static void note(int signal)
{
    (void)signal;
    td_atomic_store_relaxed(&noted, 1);
}

static bool drain_and_raise(struct td_source *source)
{
    struct tap *tap = TD_LIST_ENTRY(source, struct tap, source);
    if (td_atomic_load_relaxed(&tap->in) == 0) { /* once */
        td_atomic_store_relaxed(&tap->in, 1);
        td_atomic_store_relaxed(&tap->out, 1);
        raise(SIGUSR1);
    }
    return false;
}

TD_TEST(a_noted_signal_is_not_slept_over_where_signals_are_heeded)
{
    const struct sigaction action = {.sa_handler = note};
    struct tap tap;
    REQUIRE_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int may_spin = 0; may_spin < 2; may_spin++) {
        tap_open(&tap, may_spin != 0);
        tap.source.drain = drain_and_raise;
        td_atomic_store_relaxed(&noted, 0);
        td_heed_signals(true);
        struct wish wish = {.tap = &tap, .count = 2};
        CHECK_STATUS(td_drain_wait_until(is_fulfilled, &wish, td_deadline_after(test_patience_ns())), TD_EINTR);
        CHECK_EQ(td_atomic_load_relaxed(&noted), 1u);
        td_heed_signals(false);
        tap_close(&tap);
    }
    td_drain_forget();
}

/* Waits as Python does, and counts its looks. */
static td_status wait_heedfully(struct wish *wish, int64_t deadline_ns, uint32_t *looks)
{
    td_status status;
    for (*looks = 0; (status = td_drain_wait_until(is_fulfilled, wish, deadline_ns)) == TD_EINTR; ++*looks) {
        CHECK_STATUS(td_drain_wait_until(is_fulfilled, wish, 0), TD_ETIMEDOUT);
        td_signals_heeded();
    }
    return status;
}

TD_TEST(each_sleep_of_the_first_thread_has_one_look_before_it)
{
    struct tap tap;
    uint32_t looks;
    tap_open(&tap, false);
    td_heed_signals(true);
    struct wish wish = {.tap = &tap, .count = 1};
    CHECK_STATUS(wait_heedfully(&wish, td_deadline_after(2 * TD_NS_PER_MS), &looks), TD_ETIMEDOUT);
    CHECK_EQ(looks, 1u);
    CHECK_STATUS(wait_heedfully(&wish, 0, &looks), TD_ETIMEDOUT);
    CHECK_EQ(looks, 0u);
    REQUIRE_EQ(pthread_create(&wish.thread, NULL, wait_for_wish, &wish),
               0); /* any other thread sleeps at once */
    while ((td_atomic_load_seq(&td_drain_bell()->bell->listen) & TD_LISTEN_FUTEX) == 0)
        sched_yield();
    struct wish second = {.tap = &tap, .count = 1}; /* behind the holder of the token */
    CHECK_STATUS(wait_heedfully(&second, td_deadline_after(2 * TD_NS_PER_MS), &looks), TD_ETIMEDOUT);
    CHECK_EQ(looks, 1u);
    tap_pour(&tap);
    pthread_join(wish.thread, NULL);
    CHECK_OK(wish.status);
    td_heed_signals(false);
    tap_close(&tap);
    td_drain_forget();
}

TD_TEST_MAIN
