/* tests/cache/test_flight.c: between threads, what is under a key is computed once, and nobody waits for himself. */
#include <pthread.h>
#include <sched.h>

#include "base/clock.h"
#include "tests/cache/own_store.h"

static td_store *store;

static td_status enter(uint64_t number, uint64_t owner, int64_t deadline_ns, enum td_role *role)
{
    const struct td_key key = own_key(number);
    return td_store_enter_until(store, &key, owner, 0, deadline_ns, role);
}

static td_status leave(uint64_t number, uint64_t owner)
{
    const struct td_key key = own_key(number);
    return td_store_leave(store, &key, owner);
}

static enum td_role role_of(uint64_t number, uint64_t owner)
{
    enum td_role role = TD_ROLE_LANDED;
    REQUIRE_OK(enter(number, owner, TD_FOREVER, &role));
    return role;
}

TD_TEST(who_comes_first_leads_and_finds_what_has_landed_later)
{
    store = own_store();
    CHECK_EQ(role_of(1, 0), TD_ROLE_LEADER);
    CHECK_EQ(role_of(1, 0), TD_ROLE_CYCLE);
    REQUIRE_OK(own_put(store, 1, 10, 1));
    CHECK_OK(leave(1, 0));
    CHECK_STATUS(leave(1, 0), TD_ENOTHELD);
    CHECK_EQ(role_of(1, 0), TD_ROLE_LANDED);
    CHECK_STATUS(leave(1, 0), TD_ENOTHELD);
    own_close(store);
}

TD_TEST(what_is_led_by_another_owner_is_waited_for_up_to_the_deadline)
{
    enum td_role role;
    store = own_store();
    CHECK_EQ(role_of(1, 7), TD_ROLE_LEADER);
    CHECK_STATUS(enter(1, 8, 0, &role), TD_ETIMEDOUT);
    CHECK_STATUS(enter(1, 8, td_deadline_after(TD_NS_PER_MS), &role), TD_ETIMEDOUT);
    CHECK_STATUS(leave(1, 8), TD_ENOTHELD);
    CHECK_OK(leave(1, 7));
    CHECK_EQ(role_of(1, 8), TD_ROLE_LEADER);
    CHECK_OK(leave(1, 8));
    own_close(store);
}

TD_TEST(an_entry_of_no_use_is_computed_anew_and_others_wait_for_that)
{
    store = own_store();
    const struct td_key key = own_key(1);
    td_entry *entry = NULL;
    enum td_role role = TD_ROLE_LANDED;
    REQUIRE_OK(own_put(store, 1, 10, 1));
    REQUIRE_OK(td_store_get(store, &key, TD_ACCESS_VIEW, &entry));
    const uint64_t stale = td_entry_stamp(entry);
    CHECK_OK(td_store_enter_until(store, &key, 7, stale, 0, &role));
    CHECK_EQ(role, TD_ROLE_LEADER);
    CHECK_STATUS(td_store_enter_until(store, &key, 8, stale, 0, &role), TD_ETIMEDOUT);
    REQUIRE_OK(own_put(store, 1, 10, 1));
    CHECK_OK(td_store_leave(store, &key, 7));
    CHECK_OK(td_store_enter_until(store, &key, 8, stale, 0, &role));
    CHECK_EQ(role, TD_ROLE_LANDED);
    td_entry_free(entry);
    own_close(store);
}

TD_TEST(without_locks_threads_still_find_each_other)
{
    own_folder_path();
    store = own_open((struct td_store_options){.no_locks = true});
    enum td_role role;
    CHECK(!td_store_has_locks(store));
    CHECK_EQ(role_of(1, 7), TD_ROLE_NOLOCKS);
    CHECK_STATUS(enter(1, 8, 0, &role), TD_ETIMEDOUT);
    CHECK_OK(leave(1, 7));
    own_close(store);
}

/* ---- Many threads ---- */

#define THREADS 6u
#define KEYS 300u

static td_atomic_u32 computed[KEYS], started;

static void compute(uint64_t number, uint64_t *seed, uint32_t failures)
{
    for (;;) {
        if (own_has(store, number, 100, number))
            return;
        const enum td_role role = role_of(number, 0);
        if (role == TD_ROLE_LANDED)
            continue;
        REQUIRE(role == TD_ROLE_LEADER);
        const bool fails = test_random_below(seed, 100) < failures;
        if (!fails) {
            td_atomic_fetch_add_relaxed(&computed[number], 1);
            REQUIRE_OK(own_put(store, number, 100, number));
        }
        CHECK_OK(leave(number, 0));
        if (!fails)
            return;
    }
}

static void *compute_all(void *failures)
{
    uint64_t seed = test_seed + (uint64_t)(uintptr_t)failures + td_atomic_fetch_add_relaxed(&started, 1);
    while (td_atomic_load_relaxed(&started) < THREADS)
        sched_yield();
    const uint64_t keys = test_rounds(KEYS) < KEYS ? test_rounds(KEYS) : KEYS;
    for (uint64_t i = 0; i < keys; i++)
        compute(i, &seed, (uint32_t)(uintptr_t)failures);
    return NULL;
}

static void run_threads(uint32_t failures)
{
    pthread_t threads[THREADS];
    store = own_store();
    td_atomic_store_relaxed(&started, 0);
    for (uint32_t i = 0; i < KEYS; i++)
        td_atomic_store_relaxed(&computed[i], 0);
    for (uint32_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, compute_all, (void *)(uintptr_t)failures) == 0); /* NOLINT */
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    const uint64_t keys = own_entries(store);
    for (uint64_t i = 0; i < keys; i++)
        CHECK_EQ(td_atomic_load_relaxed(&computed[i]), 1u);
    own_close(store);
}

TD_TEST(many_threads_compute_each_key_once)
{
    run_threads(0);
}

TD_TEST(a_leader_that_failed_is_followed_by_one_that_waits)
{
    run_threads(50);
}

/* ---- Cycles ---- */

#define RING 4u

static pthread_barrier_t all_lead;
static td_atomic_u32 cycles, done;

/* Each leads his own key and then wants the next one's. */
static void *want_next(void *own)
{
    const uint64_t number = (uint64_t)(uintptr_t)own, next = (number + 1) % RING;
    CHECK_EQ(role_of(number, 0), TD_ROLE_LEADER);
    pthread_barrier_wait(&all_lead);
    const enum td_role role = role_of(next, 0);
    td_atomic_fetch_add_relaxed(&cycles, role == TD_ROLE_CYCLE);
    if (role == TD_ROLE_LEADER)
        CHECK_OK(leave(next, 0));
    REQUIRE_OK(own_put(store, number, 100, number));
    CHECK_OK(leave(number, 0));
    td_atomic_fetch_add_relaxed(&done, 1);
    return NULL;
}

TD_TEST(a_cycle_of_waits_is_broken_by_one_that_computes)
{
    const uint64_t rounds = test_rounds(100);
    for (uint64_t round = 0; round < rounds; round++) {
        pthread_t threads[RING];
        store = own_store();
        td_atomic_store_relaxed(&cycles, 0);
        td_atomic_store_relaxed(&done, 0);
        REQUIRE(pthread_barrier_init(&all_lead, NULL, RING) == 0);
        for (uint64_t i = 0; i < RING; i++)
            REQUIRE(pthread_create(&threads[i], NULL, want_next, (void *)(uintptr_t)i) == 0); /* NOLINT */
        for (uint32_t i = 0; i < RING; i++)
            pthread_join(threads[i], NULL);
        CHECK_EQ(td_atomic_load_relaxed(&done), RING);
        CHECK_EQ(td_atomic_load_relaxed(&cycles), 1u);
        CHECK_EQ(own_entries(store), RING);
        pthread_barrier_destroy(&all_lead);
        own_close(store);
    }
}

/* A chain is none: 1 waits for 2, which waits for 3. */
static void *wait_for(void *own)
{
    const uint64_t number = (uint64_t)(uintptr_t)own;
    CHECK_EQ(role_of(number, 0), TD_ROLE_LEADER);
    td_atomic_fetch_add_relaxed(&started, 1);
    CHECK_EQ(role_of(number + 1, 0), TD_ROLE_LANDED);
    REQUIRE_OK(own_put(store, number, 100, number));
    CHECK_OK(leave(number, 0));
    return NULL;
}

TD_TEST(a_chain_of_waits_is_no_cycle)
{
    pthread_t threads[3];
    store = own_store();
    td_atomic_store_relaxed(&started, 0);
    CHECK_EQ(role_of(3, 0), TD_ROLE_LEADER);
    for (uint64_t i = 3; i-- > 0;) {
        const uint32_t before = td_atomic_load_relaxed(&started);
        REQUIRE(pthread_create(&threads[i], NULL, wait_for, (void *)(uintptr_t)i) == 0); /* NOLINT */
        while (td_atomic_load_relaxed(&started) == before)
            sched_yield();
    }
    REQUIRE_OK(own_put(store, 3, 100, 3));
    CHECK_OK(leave(3, 0));
    for (uint32_t i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    own_close(store);
}

/* ---- Signals ---- */

static td_atomic_u32 signals, over;

static void on_signal(int number)
{
    (void)number;
    td_atomic_fetch_add_relaxed(&signals, 1);
}

static void *wait_until_interrupted(void *unused)
{
    enum td_role role;
    (void)unused;
    td_status status;
    td_atomic_fetch_add_relaxed(&started, 1);
    do
        status = enter(1, 0, td_deadline_after(TD_NS_PER_MS), &role);
    while (status == TD_ETIMEDOUT);
    CHECK_STATUS(status, TD_EINTR);
    td_atomic_store_relaxed(&over, 1);
    return NULL;
}

TD_TEST(a_signal_ends_a_wait)
{
    pthread_t thread;
    store = own_store();
    td_atomic_store_relaxed(&started, 0);
    const struct sigaction action = {.sa_handler = on_signal};
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK_EQ(role_of(1, 7), TD_ROLE_LEADER);
    REQUIRE(pthread_create(&thread, NULL, wait_until_interrupted, NULL) == 0);
    while (!td_atomic_load_relaxed(&over)) {
        pthread_kill(thread, SIGUSR1);
        sched_yield();
    }
    pthread_join(thread, NULL);
    CHECK_OK(leave(1, 7));
    own_close(store);
}

TD_TEST_MAIN
