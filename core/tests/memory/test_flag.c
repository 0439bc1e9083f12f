/* tests/memory/test_flag.c: flags that are waited for. */
#include <pthread.h>
#include <sys/time.h>

#include "tests/memory/peers.h"

static td_hold *made(void)
{
    td_hold *flag = NULL;
    REQUIRE_OK(td_flag_new(&flag));
    return flag;
}

static void gone(td_hold *flag)
{
    td_hold_unref(flag);
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

TD_TEST(a_flag_is_set_and_cleared)
{
    td_hold *flag = made();
    CHECK(!td_flag_is_set(flag));
    CHECK_STATUS(td_flag_wait_until(flag, td_flag_ticket(flag), 0), TD_ETIMEDOUT);
    CHECK_OK(td_flag_clear(flag));
    CHECK_OK(td_flag_set(flag));
    CHECK_OK(td_flag_set(flag));
    CHECK(td_flag_is_set(flag));
    CHECK_OK(td_flag_wait_until(flag, td_flag_ticket(flag), 0));
    CHECK_OK(td_flag_clear(flag));
    CHECK(!td_flag_is_set(flag));
    CHECK_STATUS(td_flag_wait_until(flag, td_flag_ticket(flag), td_deadline_after(1000)), TD_ETIMEDOUT);
    gone(flag);
}

TD_TEST(who_waited_when_it_was_set_is_told_though_it_is_clear_again)
{
    td_hold *flag = made();
    const uint32_t ticket = td_flag_ticket(flag);
    CHECK_OK(td_flag_set(flag));
    CHECK_OK(td_flag_clear(flag));
    CHECK_OK(td_flag_wait_until(flag, ticket, TD_FOREVER));
    CHECK_STATUS(td_flag_wait_until(flag, td_flag_ticket(flag), 0), TD_ETIMEDOUT);
    gone(flag);
}

TD_TEST(another_block_is_no_flag)
{
    td_hold *counter = NULL;
    REQUIRE_OK(td_counter_new(1, &counter));
    CHECK_STATUS(td_flag_set(counter), TD_EPROTO);
    CHECK_STATUS(td_flag_clear(counter), TD_EPROTO);
    CHECK_STATUS(td_flag_wait_until(counter, 0, 0), TD_EPROTO);
    CHECK(!td_flag_is_set(counter));
    gone(counter);
}

static void on_signal(int number)
{
    (void)number;
}

TD_TEST(a_signal_ends_the_wait)
{
    td_hold *flag = made();
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    CHECK_STATUS(td_flag_wait_until(flag, td_flag_ticket(flag), TD_FOREVER), TD_EINTR);
    setitimer(ITIMER_REAL, &never, NULL);
    gone(flag);
}

static int wait_once(td_hold *flag, struct board *board, uint32_t number)
{
    const uint32_t ticket = td_flag_ticket(flag);
    td_atomic_store_release(&board->word[number], 1);
    return td_flag_wait_until(flag, ticket, TD_FOREVER) == TD_OK ? 0 : 1;
}

TD_TEST(all_processes_that_wait_are_woken)
{
    td_hold *flag = made();
    struct board *board = board_new();
    pid_t pids[PEERS];
    for (uint32_t i = 0; i < PEERS; i++)
        pids[i] = peer(wait_once, flag, board, i);
    for (uint32_t i = 0; i < PEERS; i++)
        await_word(&board->word[i], 1);
    CHECK_OK(td_flag_set(flag));
    CHECK_OK(td_flag_clear(flag));
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK_EQ(test_wait_child(pids[i]), 0);
    board_free(board);
    gone(flag);
}

struct relay {
    td_hold *flags[2];
    uint64_t baton;
};

static void *run_second(void *context)
{
    struct relay *relay = context;
    for (uint64_t i = 0; i < test_rounds(2000); i++) {
        CHECK_OK(td_flag_wait_until(relay->flags[0], td_flag_ticket(relay->flags[0]), TD_FOREVER));
        CHECK_OK(td_flag_clear(relay->flags[0]));
        relay->baton++;
        CHECK_OK(td_flag_set(relay->flags[1]));
    }
    return NULL;
}

TD_TEST(what_was_done_before_it_is_set_is_seen_by_who_waited) /* flag_M */
{
    static struct relay relay; /* clang has ThreadSanitizer look away from what is on the stack */
    pthread_t thread;
    relay = (struct relay){.flags = {made(), made()}};
    REQUIRE_EQ(pthread_create(&thread, NULL, run_second, &relay), 0);
    for (uint64_t i = 0; i < test_rounds(2000); i++) {
        relay.baton++;
        CHECK_OK(td_flag_set(relay.flags[0]));
        CHECK_OK(td_flag_wait_until(relay.flags[1], td_flag_ticket(relay.flags[1]), TD_FOREVER));
        CHECK_OK(td_flag_clear(relay.flags[1]));
    }
    pthread_join(thread, NULL);
    CHECK_EQ(relay.baton, 2 * test_rounds(2000));
    td_hold_unref(relay.flags[0]);
    gone(relay.flags[1]);
}

TD_TEST_MAIN
