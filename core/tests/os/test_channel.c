/* tests/os/test_channel.c: whole messages, their descriptors, and what is refused. */
#include "os/channel.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "os/event.h"
#include "tests/harness.h"

static void open_channel(int ends[2])
{
    REQUIRE_OK(td_channel_new(ends));
}

static void close_channel(const int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

TD_TEST(messages_keep_their_bounds_and_order)
{
    int ends[2];
    char text[64];
    size_t bytes, fds = 0;
    open_channel(ends);
    CHECK_OK(td_channel_send(ends[0], "one", 3, NULL, 0));
    CHECK_OK(td_channel_send(ends[0], "three", 5, NULL, 0));
    CHECK_OK(td_channel_recv_until(ends[1], text, sizeof text, &bytes, NULL, &fds, 0));
    CHECK_EQ(bytes, 3);
    CHECK_MEM(text, "one", 3);
    CHECK_OK(td_channel_recv_until(ends[1], text, sizeof text, &bytes, NULL, NULL, 0));
    CHECK_EQ(bytes, 5);
    CHECK_STATUS(td_channel_recv_until(ends[1], text, sizeof text, &bytes, NULL, NULL, 0), TD_ETIMEDOUT);
    close_channel(ends);
}

TD_TEST(descriptors_arrive_working_and_close_on_exec)
{
    int ends[2], sent[2], got[4];
    char text[8];
    size_t bytes, fds = 4;
    uint64_t rings = 0;
    open_channel(ends);
    CHECK_OK(td_event_new(&sent[0]));
    CHECK_OK(td_event_new(&sent[1]));
    CHECK_OK(td_channel_send(ends[0], "x", 1, sent, 2));
    CHECK_OK(td_channel_recv_until(ends[1], text, sizeof text, &bytes, got, &fds, 0));
    REQUIRE_EQ(fds, 2);
    CHECK(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
    td_event_ring(got[1]);
    td_event_drain(sent[1], &rings);
    CHECK_EQ(rings, 1);
    for (int i = 0; i < 2; i++) {
        close(sent[i]);
        close(got[i]);
    }
    close_channel(ends);
}

TD_TEST(the_largest_number_of_descriptors_travels)
{
    int ends[2], sent[TD_CHANNEL_FDS_MAX + 1], got[TD_CHANNEL_FDS_MAX];
    char text[8];
    size_t bytes, fds = TD_CHANNEL_FDS_MAX;
    open_channel(ends);
    for (size_t i = 0; i <= TD_CHANNEL_FDS_MAX; i++)
        sent[i] = ends[0];
    CHECK_STATUS(td_channel_send(ends[0], "x", 1, sent, TD_CHANNEL_FDS_MAX + 1), TD_EINVAL);
    CHECK_OK(td_channel_send(ends[0], "x", 1, sent, TD_CHANNEL_FDS_MAX));
    CHECK_OK(td_channel_recv_until(ends[1], text, sizeof text, &bytes, got, &fds, 0));
    CHECK_EQ(fds, TD_CHANNEL_FDS_MAX);
    for (size_t i = 0; i < fds; i++)
        close(got[i]);
    close_channel(ends);
}

/* Sends 16 bytes with two descriptors and expects the receiver to refuse; the harness sees descriptors left open. */
static void check_refused(size_t capacity, size_t room)
{
    int ends[2], got[4] = {-1, -1, -1, -1};
    char text[16] = {0};
    size_t bytes = 77, fds = room;
    open_channel(ends);
    CHECK_OK(td_channel_send(ends[0], text, sizeof text, ends, 2));
    CHECK_STATUS(td_channel_recv_until(ends[1], text, capacity, &bytes, got, &fds, 0), TD_EPROTO);
    CHECK_EQ(bytes, 77);
    CHECK_EQ(fds, room);
    CHECK_EQ(got[0], -1);
    close_channel(ends);
}

TD_TEST(a_message_longer_than_the_room_is_refused_with_its_descriptors)
{
    check_refused(15, 4);
}

TD_TEST(more_descriptors_than_room_are_refused)
{
    check_refused(16, 1);
    check_refused(16, 0);
}

TD_TEST(descriptors_beyond_the_limit_are_refused)
{
    struct rlimit old, tight;
    int ends[2], got[4];
    char text[16];
    size_t bytes, fds = 4;
    open_channel(ends);
    CHECK_OK(td_channel_send(ends[0], "x", 1, ends, 2));
    getrlimit(RLIMIT_NOFILE, &old);
    tight = old;
    tight.rlim_cur = (rlim_t)ends[1] + 2; /* room for one of the two */
    setrlimit(RLIMIT_NOFILE, &tight);
    CHECK_STATUS(td_channel_recv_until(ends[1], text, sizeof text, &bytes, got, &fds, 0), TD_EPROTO);
    setrlimit(RLIMIT_NOFILE, &old);
    close_channel(ends);
}

TD_TEST(a_foreign_empty_message_is_refused_with_its_descriptors)
{
    if (test_is_emulated())
        SKIP("the emulator doesn't pass an empty message on with its descriptors");
    int ends[2], got[4];
    char text[16];
    size_t bytes, fds = 4;
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_control = &control, .msg_controllen = sizeof control};
    open_channel(ends);
    control.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &ends[0], sizeof(int));
    CHECK_EQ(sendmsg(ends[0], &message, 0), 0);
    CHECK_STATUS(td_channel_recv_until(ends[1], text, sizeof text, &bytes, got, &fds, 0), TD_EPROTO);
    close_channel(ends);
}

TD_TEST(the_end_comes_after_what_was_sent)
{
    int ends[2];
    char text[8];
    size_t bytes;
    open_channel(ends);
    CHECK_OK(td_channel_send(ends[0], "last", 4, NULL, 0));
    close(ends[0]);
    CHECK_OK(td_channel_recv_until(ends[1], text, sizeof text, &bytes, NULL, NULL, TD_FOREVER));
    CHECK_STATUS(td_channel_recv_until(ends[1], text, sizeof text, &bytes, NULL, NULL, TD_FOREVER), TD_ECLOSED);
    CHECK_STATUS(td_channel_send(ends[1], "x", 1, NULL, 0), TD_ECLOSED);
    close(ends[1]);
}

TD_TEST(what_was_sent_is_read_even_when_the_sender_read_nothing)
{
    int ends[2];
    char text[8];
    size_t bytes;
    open_channel(ends);
    CHECK_OK(td_channel_send(ends[0], "unread", 6, NULL, 0));
    CHECK_OK(td_channel_send(ends[1], "last", 4, NULL, 0));
    close(ends[1]);
    CHECK_OK(td_channel_recv_until(ends[0], text, sizeof text, &bytes, NULL, NULL, 0));
    CHECK_EQ(bytes, 4);
    CHECK_STATUS(td_channel_recv_until(ends[0], text, sizeof text, &bytes, NULL, NULL, 0), TD_ECLOSED);
    close(ends[0]);
}

TD_TEST(a_full_channel_does_not_block_past_the_deadline)
{
    int ends[2];
    static char block[16384];
    td_status status;
    open_channel(ends);
    do
        status = td_channel_send_until(ends[0], block, sizeof block, NULL, 0, 0);
    while (status == TD_OK);
    CHECK_STATUS(status, TD_ETIMEDOUT);
    close_channel(ends);
}

TD_TEST(empty_and_oversized_messages_are_invalid)
{
    int ends[2];
    size_t large = 64 << 20;
    char *block = calloc(1, large);
    open_channel(ends);
    CHECK_STATUS(td_channel_send(ends[0], block, 0, NULL, 0), TD_EINVAL);
    CHECK_STATUS(td_channel_send(ends[0], block, large, NULL, 0), TD_EINVAL);
    free(block);
    close_channel(ends);
}

TD_TEST(a_receiver_wakes_for_a_message_from_another_process)
{
    int ends[2];
    char text[8];
    size_t bytes = 0;
    open_channel(ends);
    pid_t pid = fork();
    if (pid == 0)
        _exit(td_channel_send(ends[0], "hi", 2, NULL, 0) == TD_OK ? 0 : 1);
    CHECK_OK(td_channel_recv_until(ends[1], text, sizeof text, &bytes, NULL, NULL, TD_FOREVER));
    CHECK_EQ(bytes, 2);
    CHECK_EQ(test_wait_child(pid), 0);
    close_channel(ends);
}

TD_TEST_MAIN
