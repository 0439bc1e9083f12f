/* tests/watch/test_thread.c: what a thread does, seen from another one. */
#include "watch/thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "tests/harness.h"

struct other {
    struct td_thread thread;
    int fds[2];
    td_atomic_u32 ready, over;
};

static void *read_one(void *argument)
{
    struct other *other = argument;
    char byte;
    td_thread_open(&other->thread);
    td_atomic_store_seq(&other->ready, 1);
    CHECK_EQ(read(other->fds[0], &byte, 1), 1);
    return NULL;
}

static void *poll_one(void *argument)
{
    struct other *other = argument;
    struct epoll_event event = {.events = EPOLLIN};
    const int poller = epoll_create1(EPOLL_CLOEXEC);
    CHECK_EQ(epoll_ctl(poller, EPOLL_CTL_ADD, other->fds[0], &event), 0);
    td_thread_open(&other->thread);
    td_atomic_store_seq(&other->ready, (uint32_t)poller);
    CHECK_EQ(epoll_wait(poller, &event, 1, -1), 1);
    close(poller);
    return NULL;
}

static void *spin(void *argument)
{
    struct other *other = argument;
    td_thread_open(&other->thread);
    td_atomic_store_seq(&other->ready, 1);
    while (td_atomic_load_seq(&other->over) == 0)
        continue;
    return NULL;
}

static pthread_t start(struct other *other, void *(*body)(void *))
{
    pthread_t thread;
    *other = (struct other){.thread = {.syscall_fd = -1, .stat_fd = -1}};
    REQUIRE_EQ(pipe(other->fds), 0);
    REQUIRE_EQ(pthread_create(&thread, NULL, body, other), 0);
    while (td_atomic_load_seq(&other->ready) == 0)
        sched_yield();
    return thread;
}

static void end(struct other *other, pthread_t thread)
{
    td_atomic_store_seq(&other->over, 1);
    CHECK_EQ(write(other->fds[1], "x", 1), 1);
    pthread_join(thread, NULL);
    td_thread_close(&other->thread);
    close(other->fds[0]);
    close(other->fds[1]);
}

/* Does this kernel show system calls? */
static bool shows_syscalls(void)
{
    struct td_thread thread;
    char text[64];
    td_thread_open(&thread);
    const bool shown = thread.syscall_fd >= 0 && pread(thread.syscall_fd, text, sizeof text, 0) > 0;
    td_thread_close(&thread);
    return shown && !test_is_emulated(); /* whose own calls it would be, by another machine's numbers */
}

TD_TEST(a_thread_in_a_system_call_is_seen_in_it)
{
    struct other other;
    struct td_thread_sight sight;
    if (!shows_syscalls())
        SKIP("/proc shows no system calls");
    const pthread_t thread = start(&other, read_one);
    do
        td_thread_look(&other.thread, &sight);
    while (!sight.in_syscall || sight.syscall != SYS_read);
    CHECK_EQ(sight.arguments[0], (uint64_t)other.fds[0]);
    CHECK_STR(td_thread_syscall_name(sight.syscall), "read");
    CHECK_EQ(td_thread_polled(&sight), -1);
    end(&other, thread);
}

TD_TEST(a_thread_that_waits_for_events_is_seen_with_its_poller)
{
    struct other other;
    struct td_thread_sight sight;
    if (!shows_syscalls())
        SKIP("/proc shows no system calls");
    const pthread_t thread = start(&other, poll_one);
    do
        td_thread_peek(&other.thread, &sight);
    while (td_thread_polled(&sight) != (int64_t)td_atomic_load_seq(&other.ready));
    end(&other, thread);
}

TD_TEST(a_thread_that_computes_moves_its_clock)
{
    struct other other;
    struct td_thread_sight from, to;
    const pthread_t thread = start(&other, spin);
    td_thread_look(&other.thread, &from);
    do
        td_thread_look(&other.thread, &to);
    while (to.cpu_ns == from.cpu_ns);
    CHECK_LE(from.cpu_ns, to.cpu_ns);
    CHECK_LE(to.cpu_ns - from.cpu_ns, to.process_cpu_ns);
    end(&other, thread);
}

TD_TEST(a_thread_that_has_ended_has_no_clock)
{
    struct other other;
    struct td_thread_sight sight;
    if (test_is_emulated())
        SKIP("the emulator keeps a thread for a while");
    const pthread_t thread = start(&other, read_one);
    struct td_thread copy = {.clock = other.thread.clock, .syscall_fd = -1, .stat_fd = -1};
    end(&other, thread);
    td_thread_look(&copy, &sight);
    CHECK_EQ(sight.cpu_ns, -1);
    CHECK_EQ(sight.state, 0);
}

static struct td_thread_sight sight_of(char state, int64_t cpu_ns, int64_t process_cpu_ns)
{
    return (struct td_thread_sight){
        .now_ns = 2000, .cpu_ns = cpu_ns, .process_cpu_ns = process_cpu_ns, .state = state};
}

TD_TEST(two_sights_tell_what_it_does)
{
    const struct td_thread_sight from = {.now_ns = 1000};
    struct td_thread_sight to = sight_of('R', 900, 900);
    CHECK_EQ(td_thread_share(&from, &to), 900u);
    CHECK_EQ(td_thread_doing(&from, &to, 1), TD_DOING_COMPUTES);
    to = sight_of('R', 100, 2000);
    CHECK_EQ(td_thread_doing(&from, &to, 1), TD_DOING_STARVES);
    CHECK_EQ(td_thread_others(&from, &to), 1900u);
    to = sight_of('S', 100, 100);
    CHECK_EQ(td_thread_doing(&from, &to, -1), TD_DOING_WAITS);
    to = sight_of('D', 0, 0);
    CHECK_EQ(td_thread_doing(&from, &to, 1), TD_DOING_WAITS);
    to = sight_of('S', 800, 800); /* computes, with short waits */
    CHECK_EQ(td_thread_doing(&from, &to, 1), TD_DOING_COMPUTES);
}

TD_TEST(that_it_waits_for_the_gil_is_inferred_from_all_signs_together)
{
    const struct td_thread_sight from = {.now_ns = 1000};
    struct td_thread_sight to = sight_of('S', 10, 1000);
    to.in_syscall = true;
    to.syscall = SYS_futex;
    to.arguments[3] = 0x7000;
    CHECK_EQ(td_thread_doing(&from, &to, 0), TD_DOING_WAITS_GIL);
    CHECK_EQ(td_thread_doing(&from, &to, 1), TD_DOING_WAITS);
    CHECK_EQ(td_thread_doing(&from, &to, -1), TD_DOING_WAITS);
    to.process_cpu_ns = 100;
    CHECK_EQ(td_thread_doing(&from, &to, 0), TD_DOING_WAITS);
    to.process_cpu_ns = 1000;
    to.arguments[3] = 0;
    CHECK_EQ(td_thread_doing(&from, &to, 0), TD_DOING_WAITS);
    to.arguments[3] = 0x7000;
    to.syscall = SYS_read;
    CHECK_EQ(td_thread_doing(&from, &to, 0), TD_DOING_WAITS);
}

TD_TEST_MAIN
