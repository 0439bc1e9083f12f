/* tests/pool/test_birth.c: the messages between parent and zygote, whole, damaged and without their descriptors. */
#include "pool/birth.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "os/channel.h"
#include "tests/pool/small_pool.h"

static bool same_file(int a, int b)
{
    struct stat left, right;
    return fstat(a, &left) == 0 && fstat(b, &right) == 0 && left.st_ino == right.st_ino &&
           left.st_dev == right.st_dev;
}

TD_TEST(a_birth_arrives_with_its_descriptors_and_its_context)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 2);
    seat_open(&pool, 1);
    struct td_block context;
    REQUIRE_OK(td_arena_alloc(pool.args, 5000, &context));
    memset(context.data, 'c', 5000);
    struct td_birth_order order;
    seat_order(&pool, 1, &order);
    order.context_ref = context.ref;
    order.context_bytes = 5000;
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    REQUIRE_OK(td_zygote_send_birth(ends[0], &order));
    struct td_letter letter;
    struct td_birth birth;
    REQUIRE_OK(td__message_receive_until(ends[1], &letter, 0));
    REQUIRE_OK(td__birth_open(&letter, &birth));
    CHECK_EQ(birth.worker, 1u);
    CHECK(same_file(birth.control_fd, pool.rig.map.fd));
    CHECK(same_file(birth.args_fd, td_arena_fd(pool.args)));
    CHECK(same_file(birth.bell_fd, pool.rig.bell.fd));
    CHECK(same_file(birth.arena_fd, pool.seats[1].arena_fd));
    CHECK(same_file(birth.lifeline_fd, pool.seats[1].lifeline_child));
    CHECK_EQ(birth.stack_fd, -1);
    CHECK_EQ(birth.stdio_fds[0], -1);
    CHECK(same_file(birth.stdio_fds[1], 1) && same_file(birth.stdio_fds[2], 2));
    CHECK_EQ(fcntl(birth.arena_fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(birth.context_bytes, 5000u);
    CHECK_MEM(birth.context, context.data, 5000);
    td_birth_fini(&birth);
    td_birth_fini(&birth); /* once more does nothing */
    CHECK_STATUS(td__message_receive_until(ends[1], &letter, 0), TD_EAGAIN);
    close(ends[0]);
    CHECK_STATUS(td__message_receive_until(ends[1], &letter, TD_FOREVER), TD_ECLOSED);
    close(ends[1]);
    small_pool_fini(&pool);
}

TD_TEST(an_order_lacking_a_descriptor_is_not_sent)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 1);
    seat_open(&pool, 0);
    struct td_birth_order order;
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    for (uint32_t i = 0; i < TD_BIRTH_REQUIRED; i++) {
        seat_order(&pool, 0, &order);
        order.fds[i] = -1;
        CHECK_STATUS(td_zygote_send_birth(ends[0], &order), TD_EINVAL);
    }
    seat_order(&pool, 0, &order);
    order.worker = TD_MAX_WORKERS;
    CHECK_STATUS(td_zygote_send_birth(ends[0], &order), TD_EINVAL);
    close(ends[1]);
    seat_order(&pool, 0, &order);
    CHECK_STATUS(td_zygote_send_birth(ends[0], &order), TD_ECLOSED);
    close(ends[0]);
    small_pool_fini(&pool);
}

TD_TEST(a_full_channel_says_so_and_never_blocks)
{
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    uint32_t sent = 0;
    td_status status;
    while ((status = td_zygote_send_leave(ends[0])) == TD_OK)
        REQUIRE(++sent < 1000000);
    CHECK_EQ(status, TD_EAGAIN);
    struct td_letter letter;
    CHECK_OK(td__message_receive_until(ends[1], &letter, 0));
    close(ends[0]);
    close(ends[1]);
}

TD_TEST(damaged_messages_are_refused_and_their_descriptors_closed)
{
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    const struct td_message good = {
        .magic = TD_MESSAGE_MAGIC, .version = TD_MESSAGE_VERSION, .kind = TD_MESSAGE_BORN, .pid = 7, .fds = 1};
    struct td_message bad[9];
    for (size_t i = 0; i < 9; i++)
        bad[i] = good;
    bad[0].magic++;
    bad[1].version++;
    bad[2].kind = 0;
    bad[3].kind = 99;
    bad[4].worker = TD_MAX_WORKERS;
    bad[5].pid = 0;
    bad[6].fds = 3;
    bad[7].fds = 0;
    bad[8].kind = TD_MESSAGE_BIRTH;
    const unsigned open_before = test_open_fds();
    struct td_letter letter;
    for (size_t i = 0; i < 9; i++) {
        REQUIRE_OK(td_channel_send(ends[0], &bad[i], sizeof bad[i], &ends[0], 1));
        CHECK_STATUS(td__message_receive_until(ends[1], &letter, 0), TD_EPROTO);
    }
    REQUIRE_OK(td_channel_send(ends[0], &good, sizeof good - 1, &ends[0], 1));
    CHECK_STATUS(td__message_receive_until(ends[1], &letter, 0), TD_EPROTO);
    REQUIRE_OK(td_channel_send(ends[0], &good, sizeof good, NULL, 0));
    CHECK_STATUS(td__message_receive_until(ends[1], &letter, 0), TD_EPROTO);
    char longer[sizeof good + 1] = {0};
    memcpy(longer, &good, sizeof good);
    REQUIRE_OK(td_channel_send(ends[0], longer, sizeof longer, &ends[0], 1));
    CHECK_STATUS(td__message_receive_until(ends[1], &letter, 0), TD_EPROTO);
    CHECK_EQ(test_open_fds(), open_before);
    REQUIRE_OK(td_channel_send(ends[0], &good, sizeof good, &ends[0], 1));
    CHECK_OK(td__message_receive_until(ends[1], &letter, 0));
    td__letter_close(&letter);
    close(ends[0]);
    close(ends[1]);
}

TD_TEST(random_bytes_are_never_a_crash)
{
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    uint64_t random = test_seed;
    for (uint64_t round = test_rounds(20000); round > 0; round--) {
        uint8_t bytes[64];
        struct td_message head = {.magic = TD_MESSAGE_MAGIC, .version = TD_MESSAGE_VERSION};
        const size_t length = 1 + test_random_below(&random, sizeof bytes);
        for (size_t i = 0; i < length; i++)
            bytes[i] = (uint8_t)test_random_below(&random, 8);
        memcpy(bytes, &head, length < 6 ? length : 6);
        struct td_letter letter;
        REQUIRE_OK(td_channel_send(ends[0], bytes, length, NULL, 0));
        const td_status status = td__message_receive_until(ends[1], &letter, 0);
        CHECK(status == TD_OK || status == TD_EPROTO);
    }
    close(ends[0]);
    close(ends[1]);
}

TD_TEST(a_message_survives_the_loss_of_its_descriptors)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 1);
    seat_open(&pool, 0);
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    struct td_birth_order order;
    seat_order(&pool, 0, &order);
    REQUIRE_OK(td_zygote_send_birth(ends[0], &order));
    struct td_message head = {.kind = TD_MESSAGE_BORN, .worker = 0, .pid = 7, .fds = 1};
    REQUIRE_OK(td__message_send_until(ends[1], &head, &ends[0], NULL, 0));
    struct rlimit before, none;
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = 3;
    setrlimit(RLIMIT_NOFILE, &none);
    struct td_letter letter;
    struct td_birth birth;
    REQUIRE_OK(td__message_receive_until(ends[1], &letter, 0));
    CHECK(letter.fds_lost);
    CHECK_STATUS(td__birth_open(&letter, &birth), TD_ENOFD);
    struct td_zygote_news news;
    REQUIRE_OK(td_zygote_receive(ends[0], &news)); /* the pid is known all the same */
    CHECK_EQ(news.event, TD_ZYGOTE_BORN);
    CHECK_EQ(news.pid, 7);
    CHECK_EQ(news.pidfd, -1);
    setrlimit(RLIMIT_NOFILE, &before);
    close(ends[0]);
    close(ends[1]);
    small_pool_fini(&pool);
}

TD_TEST(a_context_outside_the_arena_is_refused)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 1);
    seat_open(&pool, 0);
    const uint64_t size = td_arena_size(pool.args);
    const uint64_t bad[][2] = {
        {size + 64, 1}, {size - 64, 65}, {64, UINT64_MAX}, {(UINT64_C(1) << 40) - 64, 1}};
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    for (size_t i = 0; i < 4; i++) {
        struct td_birth_order order;
        seat_order(&pool, 0, &order);
        order.context_ref = bad[i][0];
        order.context_bytes = bad[i][1];
        struct td_letter letter;
        struct td_birth birth;
        REQUIRE_OK(td_zygote_send_birth(ends[0], &order));
        REQUIRE_OK(td__message_receive_until(ends[1], &letter, 0));
        CHECK_STATUS(td__birth_open(&letter, &birth), TD_EPROTO);
    }
    close(ends[0]);
    close(ends[1]);
    small_pool_fini(&pool);
}

TD_TEST(a_reason_travels_and_a_long_one_is_cut)
{
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    char reason[TD_MESSAGE_TEXT_BYTES + 100];
    memset(reason, 'r', sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    struct td_zygote_news news;
    CHECK_OK(td_zygote_fail(ends[1], "no module named x"));
    CHECK_OK(td_zygote_fail(ends[1], reason));
    CHECK_OK(td_zygote_fail(ends[1], ""));
    REQUIRE_OK(td_zygote_receive(ends[0], &news));
    CHECK_EQ(news.event, TD_ZYGOTE_FAILED);
    CHECK_STR(news.reason, "no module named x");
    REQUIRE_OK(td_zygote_receive(ends[0], &news));
    CHECK_EQ(strlen(news.reason), TD_MESSAGE_TEXT_BYTES);
    REQUIRE_OK(td_zygote_receive(ends[0], &news));
    CHECK_STR(news.reason, "");
    CHECK_OK(td_zygote_send_leave(ends[1]));
    CHECK_STATUS(td_zygote_receive(ends[0], &news), TD_EPROTO); /* not for a parent */
    close(ends[1]);
    CHECK_STATUS(td_zygote_receive(ends[0], &news), TD_ECLOSED);
    close(ends[0]);
}

TD_TEST_MAIN
