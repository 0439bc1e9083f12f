/* tests/watch/test_dump.c: stacks written by the threads themselves. Here a thread asks itself, so that the handler
 * has run when td_dump_ask returns. */
#include "watch/dump.h"

#include "tests/harness.h"
#include "tests/watch/dumping.h"

static void begin(void)
{
    open_dumps();
    td_dump_use(SIGRTMIN, write_dump, dump_fds[0]);
}

static void end(void)
{
    td_dump_use(0, NULL, -1);
    close_dumps();
}

TD_TEST(a_text_is_whole_and_without_its_mark)
{
    const char *text;
    size_t bytes;
    int holds_gil;
    char expected[32];
    begin();
    (void)snprintf(expected, sizeof expected, "thread %d", own_tid());
    for (int round = 0; round < 100; round++) {
        CHECK_OK(td_dump_ask(own_tid()));
        REQUIRE_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_OK);
        CHECK_EQ(bytes, strlen(expected));
        CHECK_EQ(memcmp(text, expected, bytes), 0);
        CHECK_EQ(holds_gil, 1);
        CHECK_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_EAGAIN);
    }
    end();
}

TD_TEST(one_thread_is_asked_at_a_time)
{
    const char *text;
    size_t bytes;
    int holds_gil;
    begin();
    CHECK_OK(td_dump_ask(own_tid()));
    CHECK_EQ(td_dump_ask(own_tid()), TD_EAGAIN);
    CHECK_EQ(td_dump_take(own_tid() + 1, &text, &bytes, &holds_gil),
             TD_EAGAIN); /* it is not its own, and stays */
    CHECK_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_OK);
    CHECK_OK(td_dump_ask(own_tid()));
    end();
}

TD_TEST(a_stack_that_comes_when_nobody_waits_for_it_any_more_is_dropped)
{
    const char *text;
    size_t bytes;
    int holds_gil;
    sigset_t blocked;
    begin();
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    CHECK_OK(td_dump_ask(own_tid()));
    CHECK_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_EAGAIN);
    td_dump_forget(own_tid());
    pthread_sigmask(SIG_UNBLOCK, &blocked, NULL); /* now it comes */
    CHECK_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_EAGAIN);
    CHECK_OK(td_dump_ask(own_tid()));
    CHECK_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_OK);
    CHECK_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_EAGAIN);
    end();
}

TD_TEST(a_signal_whose_handler_is_another_one_is_not_sent)
{
    begin();
    signal(SIGRTMIN, SIG_DFL);
    CHECK_EQ(td_dump_ask(own_tid()), TD_ENOSYS);
    td_dump_use(0, NULL, -1);
    CHECK_EQ(td_dump_ask(own_tid()), TD_ENOSYS);
    close_dumps();
}

TD_TEST(a_text_without_end_is_cut_in_its_middle)
{
    const char *text;
    size_t bytes;
    int holds_gil;
    begin();
    dump_padding = 2 * TD_DUMP_TEXT_MOST;
    CHECK_OK(td_dump_ask(own_tid()));
    dump_padding = 0;
    REQUIRE_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_OK);
    CHECK_LE(bytes, TD_DUMP_TEXT_MOST);
    CHECK_EQ(text[0], '-');
    CHECK_OK(td_dump_ask(own_tid()));
    CHECK_EQ(td_dump_take(own_tid(), &text, &bytes, &holds_gil), TD_OK);
    CHECK_EQ(text[0], 't');
    end();
}

TD_TEST_MAIN
