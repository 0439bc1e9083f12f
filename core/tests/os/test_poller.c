/* tests/os/test_poller.c: many descriptors, one wait. */
#include "os/poller.h"

#include "os/channel.h"
#include "os/event.h"
#include "tests/harness.h"

TD_TEST(only_the_ready_are_told_by_their_tag)
{
    int poller, bells[3];
    td_poll_event events[4];
    size_t count = 0;
    REQUIRE_OK(td_poller_new(&poller));
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(td_event_new(&bells[i]));
        REQUIRE_OK(td_poller_add(poller, bells[i], TD_POLL_IN, 100 + (uint64_t)i));
    }
    CHECK_STATUS(td_poller_wait_until(poller, events, 4, &count, 0), TD_ETIMEDOUT);
    CHECK_EQ(count, 0);
    td_event_ring(bells[1]);
    CHECK_OK(td_poller_wait_until(poller, events, 4, &count, TD_FOREVER));
    CHECK_EQ(count, 1);
    CHECK_EQ(events[0].tag, 101);
    CHECK_EQ(events[0].ready, TD_POLL_IN);
    td_event_ring(bells[0]);
    td_event_ring(bells[2]);
    CHECK_OK(td_poller_wait_until(poller, events, 2, &count, TD_FOREVER));
    CHECK_EQ(count, 2);
    for (int i = 0; i < 3; i++)
        close(bells[i]);
    close(poller);
}

TD_TEST(removed_and_changed_descriptors_are_silent)
{
    int poller, bell;
    td_poll_event event;
    size_t count;
    REQUIRE_OK(td_poller_new(&poller));
    REQUIRE_OK(td_event_new(&bell));
    REQUIRE_OK(td_poller_add(poller, bell, TD_POLL_IN, 1));
    td_event_ring(bell);
    CHECK_OK(td_poller_change(poller, bell, 0, 1));
    CHECK_STATUS(td_poller_wait_until(poller, &event, 1, &count, 0), TD_ETIMEDOUT);
    CHECK_OK(td_poller_change(poller, bell, TD_POLL_IN | TD_POLL_OUT, 2));
    CHECK_OK(td_poller_wait_until(poller, &event, 1, &count, 0));
    CHECK_EQ(event.tag, 2);
    CHECK_EQ(event.ready, TD_POLL_IN | TD_POLL_OUT);
    CHECK_OK(td_poller_remove(poller, bell));
    CHECK_STATUS(td_poller_wait_until(poller, &event, 1, &count, 0), TD_ETIMEDOUT);
    close(bell);
    close(poller);
}

TD_TEST(the_end_of_the_other_side_is_told_unasked)
{
    int poller, ends[2];
    td_poll_event event;
    size_t count;
    REQUIRE_OK(td_poller_new(&poller));
    REQUIRE_OK(td_channel_new(ends));
    REQUIRE_OK(td_poller_add(poller, ends[0], 0, 5));
    close(ends[1]);
    CHECK_OK(td_poller_wait_until(poller, &event, 1, &count, TD_FOREVER));
    CHECK_EQ(event.tag, 5);
    CHECK(event.ready & TD_POLL_HUP);
    close(ends[0]);
    close(poller);
}

TD_TEST_MAIN
