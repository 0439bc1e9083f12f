/* tests/cache/test_flight_processes.c: between processes a key is computed once; who leads and dies is followed. */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "os/futex.h"
#include "tests/cache/own_store.h"

#define PROCESSES 6u
#define KEYS 200u

static td_store *store;

/* What all processes of a test see. */
struct shared {
    td_atomic_u32 started, go, cycles, done;
    td_atomic_u32 computed[KEYS];
};
static struct shared *shared;

/* The engine's calls come here, and not to the C library. A thread that asked for a lock may outlive its store's close
 * for a moment, and the folder's descriptors with it: so threads are counted. */
static bool no_threads;
static td_atomic_u32 running_threads;

struct counted {
    void *(*body)(void *);
    void *context;
};

static void *run_counted(void *context)
{
    const struct counted counted = *(struct counted *)context;
    free(context);
    void *const result = counted.body(counted.context);
    td_atomic_fetch_sub_acqrel(&running_threads, 1);
    td_futex_wake(&running_threads, INT_MAX, false);
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *context)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    struct counted *counted = no_threads ? NULL : malloc(sizeof *counted);
    if (counted == NULL)
        return EAGAIN;
    *counted = (struct counted){body, context};
    td_atomic_fetch_add_relaxed(&running_threads, 1);
    const int error = real(thread, attributes, run_counted, counted);
    if (error != 0) {
        td_atomic_fetch_sub_relaxed(&running_threads, 1);
        free(counted);
    }
    return error;
}

static void begin(void)
{
    own_folder_path();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
}

static void end(void)
{
    for (uint32_t running; (running = td_atomic_load_acquire(&running_threads)) > 0;)
        (void)td_futex_wait_until(&running_threads, running, TD_FOREVER, false);
    munmap(shared, sizeof *shared);
    own_remove();
}

static void announce(td_atomic_u32 *word)
{
    td_atomic_fetch_add_release(word, 1);
    td_futex_wake(word, INT_MAX, true);
}

static void wait_for_word(td_atomic_u32 *word, uint32_t least)
{
    for (uint32_t now; (now = td_atomic_load_acquire(word)) < least;)
        (void)td_futex_wait_until(word, now, TD_FOREVER, true);
}

static enum td_role enter(uint64_t number)
{
    enum td_role role = TD_ROLE_LANDED;
    const struct td_key key = own_key(number);
    REQUIRE_OK(td_store_enter_until(store, &key, 0, 0, TD_FOREVER, &role));
    return role;
}

static td_status leave(uint64_t number)
{
    const struct td_key key = own_key(number);
    return td_store_leave(store, &key, 0);
}

/* A process with a store of its own; its exit code is 1 when a check failed there. */
static pid_t start(void (*body)(uint64_t), uint64_t number)
{
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        store = own_open((struct td_store_options){0});
        body(number);
        td_store_close(store);
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0);
    }
    return pid;
}

/* ---- Once ---- */

static void compute_all(uint64_t unused)
{
    (void)unused;
    announce(&shared->started);
    wait_for_word(&shared->started, PROCESSES);
    for (uint64_t i = 0; i < KEYS; i++)
        while (!own_has(store, i, 100, i)) {
            if (enter(i) != TD_ROLE_LEADER)
                continue;
            td_atomic_fetch_add_relaxed(&shared->computed[i], 1);
            REQUIRE_OK(own_put(store, i, 100, i));
            CHECK_OK(leave(i));
        }
}

TD_TEST(many_processes_compute_each_key_once)
{
    pid_t pids[PROCESSES];
    begin();
    for (uint32_t i = 0; i < PROCESSES; i++)
        pids[i] = start(compute_all, i);
    for (uint32_t i = 0; i < PROCESSES; i++)
        CHECK_EQ(test_wait_child(pids[i]), 0);
    for (uint32_t i = 0; i < KEYS; i++)
        CHECK_EQ(td_atomic_load_relaxed(&shared->computed[i]), 1u);
    end();
}

/* ---- Deaths ---- */

static void lead_until_killed(uint64_t number)
{
    CHECK_EQ(enter(number), TD_ROLE_LEADER);
    announce(&shared->started);
    for (;;)
        pause();
}

TD_TEST(who_waits_for_a_dead_leader_leads)
{
    begin();
    const pid_t pid = start(lead_until_killed, 1);
    wait_for_word(&shared->started, 1);
    store = own_open((struct td_store_options){0});
    enum td_role role;
    const struct td_key key = own_key(1);
    CHECK_STATUS(td_store_enter_until(store, &key, 0, 0, 0, &role), TD_ETIMEDOUT);
    CHECK_STATUS(td_store_enter_until(store, &key, 0, 0, td_deadline_after(TD_NS_PER_MS), &role), TD_ETIMEDOUT);
    kill(pid, SIGKILL);
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    CHECK_OK(leave(1));
    CHECK_EQ(test_wait_child(pid), -SIGKILL);
    td_store_close(store);
    end();
}

/* Leads, forks a child that lives on, and is killed: the child must not keep the lock. */
static void lead_and_fork(uint64_t number)
{
    CHECK_EQ(enter(number), TD_ROLE_LEADER);
    const pid_t child = fork();
    if (child == 0) {
        CHECK_STATUS(leave(number), TD_ENOTHELD);
        CHECK(!own_has(store, 1, 10, 1));
        announce(&shared->started);
        wait_for_word(&shared->go, 1);
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0);
    }
    for (;;)
        pause();
}

TD_TEST(a_forked_child_keeps_no_lock_alive)
{
    if (test_is_emulated())
        SKIP("the emulator adopts no orphans");
    begin();
    const pid_t pid = start(lead_and_fork, 1);
    wait_for_word(&shared->started, 1);
    kill(pid, SIGKILL);
    CHECK_EQ(test_wait_child(pid), -SIGKILL);
    store = own_open((struct td_store_options){0});
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    CHECK_OK(leave(1));
    announce(&shared->go);
    CHECK_EQ(test_wait_child(-1), 0);
    td_store_close(store);
    end();
}

TD_TEST(a_forked_child_leads_nothing_and_waits_for_its_parent)
{
    begin();
    store = own_open((struct td_store_options){0});
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        announce(&shared->started);
        CHECK_EQ(enter(1), TD_ROLE_LANDED);
        CHECK_EQ(enter(2), TD_ROLE_LEADER);
        CHECK_OK(leave(2));
        td_store_close(store);
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0);
    }
    wait_for_word(&shared->started, 1);
    REQUIRE_OK(own_put(store, 1, 10, 1));
    CHECK_OK(leave(1));
    CHECK_EQ(test_wait_child(pid), 0);
    td_store_close(store);
    end();
}

static void open_and_lead(void)
{
    if (store != NULL)
        return;
    store = own_open((struct td_store_options){0});
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
}

TD_TEST(a_child_of_a_fork_that_began_before_the_first_store_was_open_leads_nothing)
{
    begin();
    REQUIRE(pthread_atfork(open_and_lead, NULL, NULL) == 0);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        CHECK_STATUS(leave(1), TD_ENOTHELD);
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0);
    }
    CHECK_EQ(test_wait_child(pid), 0);
    CHECK_OK(leave(1));
    td_store_close(store);
    end();
}

static void give_up_then_wait(uint64_t number)
{
    enum td_role role;
    const struct td_key key = own_key(number);
    for (uint32_t i = 0; i < 5; i++)
        CHECK_STATUS(td_store_enter_until(store, &key, 0, 0, td_deadline_after(TD_NS_PER_MS), &role),
                     TD_ETIMEDOUT);
    announce(&shared->started);
    wait_for_word(&shared->go, 1);
}

TD_TEST(a_lock_that_was_asked_for_and_is_wanted_no_more_is_given_back)
{
    begin();
    store = own_open((struct td_store_options){0});
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    const pid_t pid = start(give_up_then_wait, 1);
    wait_for_word(&shared->started, 1);
    CHECK_OK(leave(1));
    CHECK_EQ(enter(1), TD_ROLE_LEADER); /* perhaps after a wait */
    CHECK_OK(leave(1));
    announce(&shared->go);
    CHECK_EQ(test_wait_child(pid), 0);
    td_store_close(store);
    end();
}

/* ---- Cycles ---- */

#define RING 3u

static void want_next(uint64_t number)
{
    const uint64_t next = (number + 1) % RING;
    CHECK_EQ(enter(number), TD_ROLE_LEADER);
    announce(&shared->started);
    wait_for_word(&shared->started, RING);
    const enum td_role role = enter(next);
    td_atomic_fetch_add_relaxed(&shared->cycles, role == TD_ROLE_CYCLE);
    if (role == TD_ROLE_LEADER)
        CHECK_OK(leave(next));
    REQUIRE_OK(own_put(store, number, 100, number));
    CHECK_OK(leave(number));
}

TD_TEST(a_cycle_of_waits_between_processes_is_broken)
{
    const uint64_t rounds = test_rounds(30);
    for (uint64_t round = 0; round < rounds; round++) {
        pid_t pids[RING];
        begin();
        for (uint64_t i = 0; i < RING; i++)
            pids[i] = start(want_next, i);
        for (uint32_t i = 0; i < RING; i++)
            CHECK_EQ(test_wait_child(pids[i]), 0);
        CHECK_LE(1u, td_atomic_load_relaxed(&shared->cycles));
        end();
    }
}

/* Process a: a thread leads 0 and wants 1, another leads 1 and wants 2. Process b leads 2 and wants 0. */
struct pair {
    uint64_t own, next;
};

static void *lead_and_want(void *context)
{
    const struct pair *pair = context;
    CHECK_EQ(enter(pair->own), TD_ROLE_LEADER);
    announce(&shared->started);
    wait_for_word(&shared->started, 3);
    const enum td_role role = enter(pair->next);
    td_atomic_fetch_add_relaxed(&shared->cycles, role == TD_ROLE_CYCLE);
    if (role == TD_ROLE_LEADER)
        CHECK_OK(leave(pair->next));
    REQUIRE_OK(own_put(store, pair->own, 100, pair->own));
    CHECK_OK(leave(pair->own));
    return NULL;
}

static void lead_last(uint64_t unused)
{
    struct pair pair = {2, 0};
    (void)unused;
    lead_and_want(&pair);
}

TD_TEST(a_cycle_over_threads_and_processes_is_broken)
{
    const uint64_t rounds = test_rounds(30);
    for (uint64_t round = 0; round < rounds; round++) {
        struct pair pairs[2] = {{0, 1}, {1, 2}};
        pthread_t threads[2];
        begin();
        const pid_t pid = start(lead_last, 0);
        store = own_open((struct td_store_options){0});
        for (uint32_t i = 0; i < 2; i++)
            REQUIRE(pthread_create(&threads[i], NULL, lead_and_want, &pairs[i]) == 0);
        for (uint32_t i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        CHECK_EQ(test_wait_child(pid), 0);
        CHECK_LE(1u, td_atomic_load_relaxed(&shared->cycles));
        td_store_close(store);
        end();
    }
}

/* What is no cycle of threads is none though it is one of processes: a leads 0 and waits for 1 of b; another thread of
 * b waits for 0. */
static void *want_first(void *unused)
{
    (void)unused;
    announce(&shared->started);
    CHECK_EQ(enter(10), TD_ROLE_LEADER); /* so that it is written down, too */
    CHECK_EQ(enter(0), TD_ROLE_LANDED);
    CHECK_OK(leave(10));
    return NULL;
}

static void lead_beside(uint64_t unused)
{
    pthread_t thread;
    (void)unused;
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    announce(&shared->started);
    wait_for_word(&shared->started, 2);
    REQUIRE(pthread_create(&thread, NULL, want_first, NULL) == 0);
    wait_for_word(&shared->started, 3);
    REQUIRE_OK(own_put(store, 1, 100, 1));
    CHECK_OK(leave(1));
    pthread_join(thread, NULL);
}

TD_TEST(what_is_a_cycle_of_processes_only_is_waited_for)
{
    begin();
    const pid_t pid = start(lead_beside, 0);
    store = own_open((struct td_store_options){0});
    CHECK_EQ(enter(0), TD_ROLE_LEADER);
    announce(&shared->started);
    wait_for_word(&shared->started, 2);
    CHECK_EQ(enter(1), TD_ROLE_LANDED);
    REQUIRE_OK(own_put(store, 0, 100, 0));
    CHECK_OK(leave(0));
    CHECK_EQ(test_wait_child(pid), 0);
    td_store_close(store);
    end();
}

/* Waits until a record is written in that place, by whomever. */
static void wait_for_record(int slot)
{
    char path[sizeof own_path + 16];
    snprintf(path, sizeof path, "%s/store-1/state", own_path);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0);
    while (!td__lock_is_held(fd, TD_LOCK_WAITS + slot))
        sched_yield();
    close(fd);
}

static void close_ring(uint64_t unused)
{
    (void)unused;
    CHECK_EQ(enter(2), TD_ROLE_LEADER);
    announce(&shared->started);
    wait_for_record(1);
    CHECK_EQ(enter(1), TD_ROLE_CYCLE);
    REQUIRE_OK(own_put(store, 2, 100, 2));
    CHECK_OK(leave(2));
}

/* One that leads 1 waits for 9, in vain; a stranger takes its place among the records, and has not written yet. */
TD_TEST(what_lies_in_a_place_that_was_taken_and_not_written_to_hides_no_cycle)
{
    begin();
    char path[sizeof own_path + 16];
    const pid_t pids[2] = {start(lead_until_killed, 9), start(close_ring, 0)};
    wait_for_word(&shared->started, 2);
    store = own_open((struct td_store_options){0});
    enum td_role role;
    const struct td_key nine = own_key(9);
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    CHECK_STATUS(td_store_enter_until(store, &nine, 0, 0, td_deadline_after(TD_NS_PER_MS), &role),
                 TD_ETIMEDOUT);
    snprintf(path, sizeof path, "%s/store-1/state", own_path);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0 && td__lock_try(fd, TD_LOCK_PLACES) == TD_LOCKED);
    CHECK_EQ(enter(2), TD_ROLE_LANDED);
    CHECK_EQ(test_wait_child(pids[1]), 0);
    kill(pids[0], SIGKILL);
    CHECK_EQ(test_wait_child(pids[0]), -SIGKILL);
    CHECK_OK(leave(1));
    close(fd);
    td_store_close(store);
    end();
}

static void want_without_room(uint64_t unused)
{
    const struct rlimit none = {TD_LOCK_WAITS, TD_LOCK_WAITS};
    (void)unused;
    CHECK_EQ(enter(2), TD_ROLE_LEADER);
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &none) == 0);
    CHECK_EQ(enter(1), TD_ROLE_CYCLE);
    CHECK_OK(leave(2));
}

TD_TEST(who_leads_and_cannot_be_written_down_computes_instead_of_waiting)
{
    begin();
    store = own_open((struct td_store_options){0});
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    CHECK_EQ(test_wait_child(start(want_without_room, 0)), 0);
    CHECK_OK(leave(1));
    td_store_close(store);
    end();
}

static void want_without_threads(uint64_t unused)
{
    (void)unused;
    no_threads = true;
    CHECK_EQ(enter(1), TD_ROLE_CYCLE);
    CHECK_STATUS(leave(1), TD_ENOTHELD);
}

TD_TEST(who_has_no_thread_to_wait_with_computes)
{
    begin();
    store = own_open((struct td_store_options){0});
    CHECK_EQ(enter(1), TD_ROLE_LEADER);
    CHECK_EQ(test_wait_child(start(want_without_threads, 0)), 0);
    CHECK_OK(leave(1));
    td_store_close(store);
    end();
}

TD_TEST_MAIN
