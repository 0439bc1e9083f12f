/* tests/pool/test_zygote.c: a zygote in C, its workers, and a parent: from birth to death, each of them killed in
 * turn. */
#include "pool/zygote.h"

#include <poll.h>
#include <sys/socket.h>

#include "base/option.h"
#include "os/channel.h"
#include "os/pidfd.h"
#include "tests/pool/small_pool.h"

/* ---- The other processes ---- */

/* What the child of a birth does; its exit code says what went wrong. */
static int live(struct td_birth *birth)
{
    td_worker *worker;
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    if (sigismember(&blocked, SIGCHLD))
        return 3;
    if (td_worker_attach(birth, &worker) != TD_OK)
        return 4;
    td_birth_fini(birth);
    if (td_worker_ready(worker) != TD_OK)
        return 5;
    const int code = multiply_until_closed(worker) == TD_ECLOSED ? 0 : 6;
    td_worker_detach(worker);
    return code;
}

/* refuse: how many forks fail first. */
static int serve(int channel, uint32_t refuse)
{
    for (;;) {
        struct td_birth birth;
        const td_status status = td_zygote_serve(channel, &birth);
        if (status == TD_EINTR)
            continue;
        if (status != TD_OK)
            return status == TD_ECLOSED ? 0 : 1;
        pid_t pid = -EAGAIN;
        if (refuse > 0)
            refuse--;
        else
            pid = fork();
        if (td_zygote_forked(channel, &birth, pid) != TD_OK)
            return 2;
        if (pid == 0)
            _exit(live(&birth));
    }
}

/* ---- The parent ---- */

struct parent {
    struct small_pool pool;
    int channel;
    pid_t zygote;
    pid_t pids[SMALL_WORKERS];
    int pidfds[SMALL_WORKERS];
};

static void parent_init(struct parent *parent, uint32_t workers, uint32_t refuse)
{
    memset(parent, 0, sizeof *parent);
    small_pool_init(&parent->pool, 8, workers);
    for (uint32_t i = 0; i < SMALL_WORKERS; i++)
        parent->pidfds[i] = -1;
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    parent->zygote = fork();
    REQUIRE(parent->zygote >= 0);
    if (parent->zygote == 0) {
        close(ends[0]);
        _exit(serve(ends[1], refuse));
    }
    close(ends[1]);
    parent->channel = ends[0];
}

static void wait_readable(int fd)
{
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    int ready;
    do
        ready = poll(&watched, 1, (int)(PATIENCE_NS / TD_NS_PER_MS));
    while (ready < 0 && errno == EINTR);
    REQUIRE_EQ(ready, 1);
}

static struct td_zygote_news next_news(struct parent *parent, enum td_zygote_event expected)
{
    struct td_zygote_news news;
    td_status status;
    while ((status = td_zygote_receive(parent->channel, &news)) == TD_EAGAIN)
        wait_readable(parent->channel);
    REQUIRE_EQ(status, TD_OK);
    REQUIRE_EQ(news.event, expected);
    return news;
}

static void parent_ready(struct parent *parent, uint32_t workers, uint32_t refuse)
{
    parent_init(parent, workers, refuse);
    next_news(parent, TD_ZYGOTE_READY);
}

static void order(struct parent *parent, uint32_t worker)
{
    struct td_birth_order order;
    seat_open(&parent->pool, worker);
    seat_order(&parent->pool, worker, &order);
    REQUIRE_OK(td_zygote_send_birth(parent->channel, &order));
    close_once(&parent->pool.seats[worker].lifeline_child);
}

static void note_born(struct parent *parent)
{
    const struct td_zygote_news news = next_news(parent, TD_ZYGOTE_BORN);
    REQUIRE(news.worker < SMALL_WORKERS);
    parent->pids[news.worker] = news.pid;
    parent->pidfds[news.worker] = news.pidfd;
}

static void bear(struct parent *parent, uint32_t worker)
{
    order(parent, worker);
    note_born(parent);
}

static void expect_exited(struct parent *parent, uint32_t worker, int status)
{
    const struct td_zygote_news news = next_news(parent, TD_ZYGOTE_EXITED);
    CHECK_EQ(news.worker, worker);
    CHECK_EQ(news.pid, parent->pids[worker]);
    CHECK_EQ(news.status, status);
    if (parent->pidfds[worker] >= 0)
        CHECK_OK(td_pidfd_wait_until(parent->pidfds[worker], 0));
    close_once(&parent->pidfds[worker]);
    seat_close(&parent->pool, worker);
}

static void dismiss(struct parent *parent, uint32_t worker)
{
    td_atomic_store_seq(&parent->pool.rig.map.seats[worker].dismissed, 1);
    td_doorbell_wake_worker(&parent->pool.rig.map, worker);
}

static void dismiss_and_see_exit(struct parent *parent, uint32_t worker)
{
    dismiss(parent, worker);
    expect_exited(parent, worker, 0);
}

/* The zygote leaves on its own: after LEAVE. */
static void parent_fini(struct parent *parent)
{
    struct td_zygote_news news;
    REQUIRE_OK(td_zygote_send_leave(parent->channel));
    wait_readable(parent->channel);
    CHECK_STATUS(td_zygote_receive(parent->channel, &news), TD_ECLOSED);
    CHECK_EQ(test_wait_child(parent->zygote), 0);
    close(parent->channel);
    small_pool_fini(&parent->pool);
}

/* What our children leave becomes ours, and can be waited for. */
static void adopt_orphans(void)
{
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        SKIP("needs PR_SET_CHILD_SUBREAPER, which qemu's user emulation lacks");
}

/* ---- Tests ---- */

TD_TEST(workers_are_born_work_and_leave)
{
    struct parent parent;
    parent_ready(&parent, 3, 0);
    for (uint32_t i = 0; i < 3; i++)
        order(&parent, i);
    for (uint32_t i = 0; i < 3; i++)
        note_born(&parent);
    uint64_t pushed = 0, sum = 0;
    for (uint64_t done = 0; done < 1000; done++) {
        while (pushed < 1000 && push_number(&parent.pool, 7, pushed) == TD_OK)
            pushed++;
        sum += wait_for_product(&parent.pool);
    }
    CHECK_EQ(sum, UINT64_C(7) * (1000 * 999 / 2));
    for (uint32_t i = 0; i < 3; i++) {
        dismiss_and_see_exit(&parent, i);
        CHECK_EQ(td_atomic_load_relaxed(&parent.pool.rig.map.seats[i].pid), (uint32_t)parent.pids[i]);
    }
    parent_fini(&parent);
}

TD_TEST(a_killed_worker_is_reported_with_its_signal_and_its_seat_used_again)
{
    struct parent parent;
    parent_ready(&parent, 1, 0);
    for (int round = 0; round < 20; round++) {
        bear(&parent, 0);
        REQUIRE_OK(push_number(&parent.pool, 5, 5));
        CHECK_EQ(wait_for_product(&parent.pool), 25u);
        kill(parent.pids[0], SIGKILL);
        expect_exited(&parent, 0, SIGKILL);
    }
    parent_fini(&parent);
}

TD_TEST(closing_a_lifeline_ends_its_worker)
{
    struct parent parent;
    parent_ready(&parent, 2, 0);
    for (uint32_t i = 0; i < 2; i++) {
        bear(&parent, i);
        REQUIRE_OK(push_number(&parent.pool, 5, 5));
        wait_for_product(&parent.pool); /* so that it is attached */
        if (i == 0)
            dismiss(&parent, 0);
        else
            close_once(&parent.pool.seats[1].lifeline);
        parent.pool.seats[i].lifeline = i == 0 ? parent.pool.seats[i].lifeline : dup(0);
        expect_exited(&parent, i, i == 0 ? 0 : SIGKILL);
    }
    parent_fini(&parent);
}

TD_TEST(a_failed_fork_is_reported_and_the_next_one_works)
{
    struct parent parent;
    parent_ready(&parent, 1, 2);
    for (int i = 0; i < 2; i++) {
        order(&parent, 0);
        const struct td_zygote_news news = next_news(&parent, TD_ZYGOTE_FORK_FAILED);
        CHECK_EQ(news.worker, 0u);
        CHECK_EQ(news.error, EAGAIN);
        seat_close(&parent.pool, 0);
    }
    bear(&parent, 0);
    dismiss_and_see_exit(&parent, 0);
    parent_fini(&parent);
}

TD_TEST(a_birth_that_cannot_be_opened_is_a_failed_fork)
{
    struct parent parent;
    parent_ready(&parent, 1, 0);
    struct td_birth_order bad;
    seat_open(&parent.pool, 0);
    seat_order(&parent.pool, 0, &bad);
    bad.context_ref = SMALL_ARENA_BYTES * 2;
    bad.context_bytes = 1;
    REQUIRE_OK(td_zygote_send_birth(parent.channel, &bad));
    const struct td_zygote_news news = next_news(&parent, TD_ZYGOTE_FORK_FAILED);
    CHECK_EQ(news.worker, 0u);
    CHECK_EQ(news.error, EPROTO);
    seat_close(&parent.pool, 0);
    parent_fini(&parent);
}

TD_TEST(a_zygote_told_to_leave_waits_for_its_last_child)
{
    struct parent parent;
    parent_ready(&parent, 1, 0);
    bear(&parent, 0);
    REQUIRE_OK(td_zygote_send_leave(parent.channel));
    REQUIRE_OK(push_number(&parent.pool, 3, 3));
    CHECK_EQ(wait_for_product(&parent.pool), 9u);
    CHECK_EQ(waitpid(parent.zygote, NULL, WNOHANG), 0);
    dismiss_and_see_exit(&parent, 0);
    CHECK_EQ(test_wait_child(parent.zygote), 0);
    close(parent.channel);
    small_pool_fini(&parent.pool);
}

TD_TEST(a_zygote_whose_channel_ends_leaves_at_once)
{
    struct parent parent;
    parent_ready(&parent, 1, 0);
    close(parent.channel);
    CHECK_EQ(test_wait_child(parent.zygote), 0);
    small_pool_fini(&parent.pool);
}

TD_TEST(a_killed_zygote_leaves_its_workers_working)
{
    struct parent parent;
    adopt_orphans();
    parent_ready(&parent, 1, 0);
    bear(&parent, 0);
    kill(parent.zygote, SIGKILL);
    CHECK_EQ(test_wait_child(parent.zygote), -SIGKILL);
    wait_readable(parent.channel);
    struct td_zygote_news news;
    CHECK_STATUS(td_zygote_receive(parent.channel, &news), TD_ECLOSED);
    REQUIRE_OK(push_number(&parent.pool, 4, 4));
    CHECK_EQ(wait_for_product(&parent.pool), 16u);
    dismiss(&parent, 0);
    CHECK_EQ(test_wait_child(parent.pids[0]), 0);
    close_once(&parent.pidfds[0]);
    close(parent.channel);
    small_pool_fini(&parent.pool);
}

TD_TEST(a_zygote_that_reads_nonsense_leaves)
{
    struct parent parent;
    parent_ready(&parent, 1, 0);
    REQUIRE_OK(td_channel_send(parent.channel, "nonsense", 8, NULL, 0));
    CHECK_EQ(test_wait_child(parent.zygote), 1);
    close(parent.channel);
    small_pool_fini(&parent.pool);
}

TD_TEST(without_pidfds_the_pid_alone_is_reported)
{
    setenv("TREADLE_NO_PIDFD", "1", 1);
    REQUIRE_OK(td_options_reload());
    struct parent parent;
    parent_ready(&parent, 1, 0);
    bear(&parent, 0);
    CHECK_EQ(parent.pidfds[0], -1);
    CHECK(parent.pids[0] > 0);
    dismiss_and_see_exit(&parent, 0);
    parent_fini(&parent);
}

TD_TEST(children_that_are_not_births_are_left_to_their_owner)
{
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    const pid_t zygote = fork();
    if (zygote == 0) {
        close(ends[0]);
        const pid_t helper = fork(); /* as a preloaded module may have one */
        if (helper == 0)
            _exit(9);
        struct td_birth birth;
        const td_status status = td_zygote_serve(ends[1], &birth);
        _exit(status == TD_ECLOSED && test_wait_child(helper) == 9 ? 0 : 1);
    }
    close(ends[1]);
    struct td_zygote_news news;
    wait_readable(ends[0]);
    REQUIRE_OK(td_zygote_receive(ends[0], &news));
    CHECK_EQ(news.event, TD_ZYGOTE_READY);
    REQUIRE_OK(td_zygote_send_leave(ends[0]));
    CHECK_EQ(test_wait_child(zygote), 0);
    close(ends[0]);
}

TD_TEST(a_single_worker_is_born_from_its_channel)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 1);
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    const pid_t pid = fork();
    if (pid == 0) {
        struct td_birth birth;
        close(ends[0]);
        _exit(td_birth_receive(ends[1], &birth) == TD_OK ? live(&birth) : 1);
    }
    close(ends[1]);
    struct td_birth_order order;
    seat_open(&pool, 0);
    seat_order(&pool, 0, &order);
    REQUIRE_OK(td_zygote_send_birth(ends[0], &order));
    close_once(&pool.seats[0].lifeline_child);
    REQUIRE_OK(push_number(&pool, 8, 9));
    CHECK_EQ(wait_for_product(&pool), 72u);
    td_atomic_store_seq(&pool.rig.map.head->closing, 1);
    td_doorbell_wake_worker(&pool.rig.map, 0);
    CHECK_EQ(test_wait_child(pid), 0);
    close(ends[0]);
    small_pool_fini(&pool);
}

/* ---- The parent is killed ---- */

static void spawn_and_work(int report, uint64_t random)
{
    struct parent parent;
    parent_ready(&parent, 2, 0);
    for (uint32_t i = 0; i < 2; i++) {
        bear(&parent, i);
    }
    const pid_t pids[3] = {parent.zygote, parent.pids[0], parent.pids[1]};
    if (write(report, pids, sizeof pids) != (ssize_t)sizeof pids)
        _exit(1);
    /* At a random moment, with workers busy, asleep, or being born. */
    for (uint64_t tasks = test_random_below(&random, 50); tasks > 0; tasks--) {
        push_number(&parent.pool, 2, 2);
        wait_for_product(&parent.pool);
    }
    kill(getpid(), SIGKILL);
}

/* Its processes become children of this one, which waits for them all. */
TD_TEST(a_killed_parent_leaves_no_process)
{
    adopt_orphans();
    uint64_t random = test_seed;
    for (uint64_t round = test_rounds(20); round > 0; round--) {
        int report[2];
        REQUIRE_EQ(pipe(report), 0);
        const pid_t parent = fork();
        if (parent == 0) {
            close(report[0]);
            spawn_and_work(report[1], test_random(&random));
        }
        test_random(&random);
        close(report[1]);
        pid_t pids[3];
        REQUIRE_EQ(read(report[0], pids, sizeof pids), (ssize_t)sizeof pids);
        CHECK_EQ(test_wait_child(parent), -SIGKILL);
        /* The zygote's children are ours once it is gone, unless it has reaped them. */
        int status;
        for (pid_t pid; (pid = waitpid(-1, &status, 0)) > 0;)
            if (pid == pids[0])
                CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0); /* it left by itself */
            else /* 4: it found its parent gone when it attached */
                CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 4);
        CHECK_EQ(errno, ECHILD);
        for (int i = 0; i < 3; i++)
            CHECK(kill(pids[i], 0) < 0 && errno == ESRCH);
        close(report[0]);
    }
}

/* A zygote that dozes; its exit code: 0 when it is to leave, 1 when it has an order, which is then still there. */
static pid_t start_dozing(int ends[2])
{
    REQUIRE_OK(td_channel_new(ends));
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        struct td_birth birth;
        close(ends[0]);
        if (td_zygote_doze(ends[1]) != TD_OK)
            _exit(0);
        _exit(td_zygote_serve(ends[1], &birth) == TD_OK && birth.worker == 1 ? 1 : 2);
    }
    close(ends[1]);
    return pid;
}

TD_TEST(a_dozing_zygote_wakes_for_an_order_and_leaves_for_all_else)
{
    int ends[2];
    pid_t pid = start_dozing(ends);
    close(ends[0]);
    CHECK_EQ(test_wait_child(pid), 0);

    pid = start_dozing(ends);
    REQUIRE_OK(td_zygote_send_leave(ends[0]));
    CHECK_EQ(test_wait_child(pid), 0);
    close(ends[0]);

    struct parent parent;
    small_pool_init(&parent.pool, 8, 2);
    for (uint32_t i = 0; i < SMALL_WORKERS; i++)
        parent.pidfds[i] = -1;
    parent.zygote = pid = start_dozing(ends);
    parent.channel = ends[0];
    order(&parent, 1);
    CHECK_EQ(test_wait_child(pid), 1);
    close(ends[0]);
    seat_close(&parent.pool, 1);
    small_pool_fini(&parent.pool);
}

TD_TEST_MAIN
