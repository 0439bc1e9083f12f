/* tests/watch/test_watch.c: loops that stop turning, and the news of them. A loop here is a thread that says so. */
#include "watch/watch.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "loop/native.h"
#include "os/event.h"
#include "tests/harness.h"
#include "tests/watch/dumping.h"

#define THRESHOLD_NS TD_NS_PER_MS

enum { NOTHING, REST, TURN, LEAVE };

struct loop {
    td_watch *watch;
    bool asked;
    td_atomic_u32 order, tid, urgent, came;
    pthread_t thread;
};

static void on_urgent(void *context, const struct td_watch_news *news)
{
    CHECK(news->what == TD_WATCH_STUCK || news->what == TD_WATCH_STILL);
    td_atomic_fetch_add_seq(&((struct loop *)context)->urgent, 1);
}

static void on_news(void *context)
{
    td_atomic_fetch_add_seq(&((struct loop *)context)->came, 1);
}

static void *run(void *argument)
{
    struct loop *loop = argument;
    const struct td_watch_options options = {.threshold_ns = THRESHOLD_NS,
                                             .asked = loop->asked,
                                             .urgent = on_urgent,
                                             .came = on_news,
                                             .context = loop};
    CHECK_OK(td_watch_new(&options, &loop->watch));
    td_atomic_store_seq(&loop->tid, (uint32_t)own_tid());
    for (uint32_t order = NOTHING; order != LEAVE; order = td_atomic_exchange_seq(&loop->order, NOTHING)) {
        struct pollfd question = {.fd = td_watch_question(loop->watch), .events = POLLIN};
        if (order == REST && loop->asked) {
            do
                CHECK_EQ(poll(&question, 1, -1), 1);
            while (td_watch_answer(loop->watch), td_atomic_load_seq(&loop->order) == NOTHING);
        } else if (order == REST) {
            td_watch_rest(loop->watch);
        } else if (order == TURN && !loop->asked) {
            td_watch_turn(loop->watch);
        }
        sched_yield();
    }
    return NULL;
}

static void start(struct loop *loop, bool asked)
{
    *loop = (struct loop){.asked = asked};
    REQUIRE_EQ(pthread_create(&loop->thread, NULL, run, loop), 0);
    while (td_atomic_load_seq(&loop->tid) == 0)
        sched_yield();
}

static void order(struct loop *loop, uint32_t what)
{
    td_atomic_store_seq(&loop->order, what);
}

static struct td_watch_news *next(void)
{
    struct td_watch_news *news = NULL;
    CHECK_OK(td_watch_next(&news));
    return news;
}

/* Drops news until such a one comes: STILL may come any number of times, and so may STUCK and OVER, where a thread was
 * not run for a millisecond. */
static struct td_watch_news *await(const struct loop *loop, enum td_watch_what what)
{
    struct td_watch_news *news = next();
    while (news->watch != loop->watch || news->what != what) {
        td_watch_news_free(news);
        news = next();
    }
    return news;
}

static void end(struct loop *loop)
{
    order(loop, LEAVE);
    pthread_join(loop->thread, NULL);
    td_watch_close(loop->watch);
    td_watch_join(loop->watch);
    td_watch_news_free(await(loop, TD_WATCH_ENDED));
    td_watch_unref(loop->watch);
}

TD_TEST(a_stuck_turn_makes_news_while_it_lasts_and_when_it_is_over)
{
    struct loop loop;
    start(&loop, false);
    for (int round = 0; round < 20; round++) {
        order(&loop, TURN);
        struct td_watch_news *stuck = await(&loop, TD_WATCH_STUCK);
        CHECK_EQ(stuck->turn, td_watch_now(loop.watch));
        CHECK_LE(THRESHOLD_NS, stuck->lasted_ns);
        CHECK_EQ(stuck->bytes, 0u); /* no signal was brought */
        order(&loop, REST);
        struct td_watch_news *over = await(&loop, TD_WATCH_OVER);
        CHECK_EQ(over->turn, stuck->turn);
        CHECK_LE(THRESHOLD_NS, over->lasted_ns);
        td_watch_news_free(stuck);
        td_watch_news_free(over);
    }
    CHECK_LE(20u, td_atomic_load_seq(&loop.came));
    end(&loop);
    td_native_end();
}

TD_TEST(its_thread_writes_the_stack)
{
    struct loop loops[3];
    char expected[32];
    open_dumps();
    for (int i = 0; i < 3; i++)
        start(&loops[i], false);
    CHECK_OK(td_watch_use_dumps(SIGRTMIN, write_dump, dump_fds[0], dump_bell));
    for (int i = 0; i < 3; i++)
        order(&loops[i], TURN);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(expected, sizeof expected, "thread %u", td_atomic_load_seq(&loops[i].tid));
        struct td_watch_news *news = next();
        while (news->watch != loops[i].watch || news->what == TD_WATCH_OVER || news->bytes == 0) {
            td_watch_news_free(news);
            news = next(); /* of another one, or its stack took longer than it does: there is more to come */
        }
        CHECK_STR(news->text, expected);
        CHECK_EQ(news->holds_gil, 1);
        td_watch_news_free(news);
    }
    for (int i = 0; i < 3; i++)
        end(&loops[i]);
    CHECK_OK(td_watch_use_dumps(0, NULL, -1, -1));
    close_dumps();
    td_native_end();
}

TD_TEST(a_loop_is_looked_at_no_more_while_it_waits_and_again_when_it_turns)
{
    struct loop loop;
    start(&loop, false);
    order(&loop, REST);
    while (td_watch_looks(loop.watch) < 8)
        sched_yield();
    order(&loop, TURN);
    td_watch_news_free(await(&loop, TD_WATCH_STUCK));
    end(&loop);
    td_native_end();
}

TD_TEST(news_that_nobody_takes_is_urgent_once)
{
    struct loop loop;
    start(&loop, false);
    order(&loop, TURN);
    while (td_atomic_load_seq(&loop.urgent) == 0)
        sched_yield();
    const uint64_t looks = td_watch_looks(loop.watch);
    while (td_watch_looks(loop.watch) < looks + 3)
        sched_yield();
    CHECK_EQ(td_atomic_load_seq(&loop.urgent), 1u);
    end(&loop);
    td_native_end();
}

TD_TEST(a_loop_that_does_not_answer_is_stuck_until_it_does)
{
    struct loop loop;
    start(&loop, true);
    for (int round = 0; round < 5; round++) {
        struct td_watch_news *stuck = await(&loop, TD_WATCH_STUCK);
        CHECK_LE(THRESHOLD_NS, stuck->lasted_ns);
        order(&loop, REST);
        struct td_watch_news *over = await(&loop, TD_WATCH_OVER);
        CHECK_EQ(over->turn, stuck->turn);
        td_watch_news_free(stuck);
        td_watch_news_free(over);
        order(&loop, TURN); /* leaves the answering */
    }
    end(&loop);
    td_native_end();
}

TD_TEST(no_news_once_the_queue_is_closed)
{
    struct td_watch_news *news;
    td_watch_news_close(true);
    CHECK_EQ(td_watch_next(&news), TD_ECLOSED);
    td_watch_news_close(false);
}

TD_TEST(a_forked_child_watches_nothing_and_may_watch_anew)
{
    struct loop loop;
    if (test_is_emulated())
        SKIP("the emulator does not survive a fork while threads run");
    start(&loop, false);
    order(&loop, TURN);
    td_watch_news_free(await(&loop, TD_WATCH_STUCK));
    const pid_t pid = fork();
    if (pid == 0) {
        td_watch_turn(loop.watch);
        td_watch_rest(loop.watch);
        td_watch_close(loop.watch);
        td_watch_join(loop.watch);
        td_watch_unref(loop.watch);
#ifndef __SANITIZE_THREAD__ /* which allows no new threads here */
        struct loop another;
        start(&another, false);
        order(&another, TURN);
        td_watch_news_free(await(&another, TD_WATCH_STUCK));
        end(&another);
        td_native_end();
#endif
        _exit(td_atomic_load_seq(&test_failures) != 0);
    }
    int status;
    REQUIRE_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    end(&loop);
    td_native_end();
}

TD_TEST_MAIN
