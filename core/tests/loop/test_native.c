/* tests/loop/test_native.c: the native thread and what it keeps. */
#include "loop/native.h"

#include <pthread.h>
#include <sched.h>

#include "base/clock.h"
#include "os/event.h"
#include "os/futex.h"
#include "tests/harness.h"

/* Asked, it drains its event if it has one, and answers with `next`; `asked` counts. */
struct counter {
    struct td_keeper keeper;
    td_atomic_u32 asked, over;
    td_atomic_u64 next;
    int event;
};

static void bump(td_atomic_u32 *word)
{
    td_atomic_fetch_add_seq(word, 1);
    td_futex_wake(word, INT32_MAX, false);
}

static int64_t keep(struct td_keeper *keeper)
{
    struct counter *counter = TD_LIST_ENTRY(keeper, struct counter, keeper);
    uint64_t rings;
    if (counter->event >= 0)
        td_event_drain(counter->event, &rings);
    const int64_t next = (int64_t)td_atomic_load_seq(&counter->next);
    bump(&counter->asked);
    return next;
}

static void ended(struct td_keeper *keeper)
{
    bump(&TD_LIST_ENTRY(keeper, struct counter, keeper)->over);
}

static void counter_init(struct counter *counter)
{
    *counter = (struct counter){.keeper = {.keep = keep, .ended = ended}, .event = -1};
    td_atomic_init(&counter->next, (uint64_t)TD_FOREVER);
}

static void await(td_atomic_u32 *word, uint32_t least)
{
    for (uint32_t seen; (seen = td_atomic_load_seq(word)) < least;)
        td_futex_wait_until(word, seen, TD_FOREVER, false);
}

static void end(struct counter *counter)
{
    td_atomic_store_seq(&counter->next, (uint64_t)TD_KEEP_END);
    td_native_wake();
    await(&counter->over, 1);
}

TD_TEST(a_keeper_is_asked_at_once_when_woken_and_when_it_ends)
{
    struct counter counter;
    counter_init(&counter);
    CHECK_OK(td_native_add(&counter.keeper));
    await(&counter.asked, 1);
    for (uint32_t i = 0; i < 100; i++) {
        const uint32_t before = td_atomic_load_seq(&counter.asked);
        td_native_wake();
        await(&counter.asked, before + 1);
    }
    end(&counter);
    td_native_end();
    CHECK_EQ(td_atomic_load_seq(&counter.over), 1u);
}

static void *wake_until_told(void *told)
{
    uint32_t last;
    do {
        last = td_atomic_load_relaxed((td_atomic_u32 *)told);
        td_native_wake();
        sched_yield();
    } while (last == 0);
    return NULL;
}

/* Edge W: what the second thread sees of the first one's start is `has_poller`. */
TD_TEST(a_thread_that_another_one_started_can_be_woken)
{
    struct counter counter;
    td_atomic_u32 told = 0;
    pthread_t thread;
    counter_init(&counter);
    REQUIRE_EQ(pthread_create(&thread, NULL, wake_until_told, &told), 0);
    CHECK_OK(td_native_add(&counter.keeper));
    td_atomic_store_relaxed(&told, 1);
    pthread_join(thread, NULL);
    end(&counter);
    td_native_end();
}

TD_TEST(a_ready_descriptor_and_a_deadline_wake_it)
{
    struct counter counter;
    counter_init(&counter);
    CHECK_OK(td_event_new(&counter.event));
    CHECK_OK(td_native_add(&counter.keeper));
    CHECK_OK(td_native_watch(counter.event));
    await(&counter.asked, 1);
    for (uint32_t i = 0; i < 100; i++) {
        const uint32_t before = td_atomic_load_seq(&counter.asked);
        td_event_ring(counter.event);
        await(&counter.asked, before + 1);
    }
    td_native_unwatch(counter.event);
    const int64_t deadline = td_deadline_after(2 * TD_NS_PER_MS);
    td_atomic_store_seq(&counter.next, (uint64_t)deadline);
    td_native_wake();
    const uint32_t before = td_atomic_load_seq(&counter.asked);
    await(&counter.asked, before + 2);
    CHECK_LE(deadline, td_now_ns());
    end(&counter);
    td_native_end();
    close(counter.event);
}

TD_TEST(it_ends_after_its_last_keeper_and_starts_again)
{
    for (uint32_t round = 0; round < 50; round++) {
        struct counter counters[3];
        for (uint32_t i = 0; i < 3; i++) {
            counter_init(&counters[i]);
            CHECK_OK(td_native_add(&counters[i].keeper));
        }
        for (uint32_t i = 0; i < 3; i++)
            end(&counters[(i + round) % 3]);
        if (round % 2 == 0)
            td_native_end();
    }
    td_native_end();
}

static void *add_and_end(void *unused)
{
    (void)unused;
    for (uint64_t i = 0; i < test_rounds(300); i++) {
        struct counter counter;
        counter_init(&counter);
        CHECK_OK(td_native_add(&counter.keeper));
        await(&counter.asked, 1);
        end(&counter);
    }
    return NULL;
}

TD_TEST(threads_come_and_go_with_their_keepers)
{
    pthread_t threads[3];
    for (uint32_t i = 0; i < 3; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, add_and_end, NULL), 0);
    for (uint32_t i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    td_native_end();
}

static td_atomic_u32 signals;

static void on_signal(int signal)
{
    (void)signal;
    td_atomic_fetch_add_relaxed(&signals, 1);
}

TD_TEST(it_takes_no_signals)
{
    struct counter counter;
    sigset_t user;
    const struct sigaction action = {.sa_handler = on_signal};
    counter_init(&counter);
    REQUIRE_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    sigemptyset(&user);
    sigaddset(&user, SIGUSR1);
    CHECK_OK(td_native_add(&counter.keeper));
    pthread_sigmask(SIG_BLOCK, &user, NULL); /* now nobody takes it */
    kill(getpid(), SIGUSR1);
    td_native_wake();
    await(&counter.asked, 2);
    CHECK_EQ(td_atomic_load_relaxed(&signals), 0u);
    pthread_sigmask(SIG_UNBLOCK, &user, NULL);
    CHECK_EQ(td_atomic_load_relaxed(&signals), 1u);
    end(&counter);
    td_native_end();
}

TD_TEST_MAIN
