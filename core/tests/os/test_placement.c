/* tests/os/test_placement.c: leaving a CPU keeps the affinity mask; a chosen policy stays. */
#include "os/placement.h"

#include <sched.h>

#include "tests/harness.h"

static cpu_set_t mask(void)
{
    cpu_set_t cpus;
    REQUIRE(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    return cpus;
}

TD_TEST(the_current_cpu_is_one_of_the_mask)
{
    const cpu_set_t cpus = mask();
    const int here = td_cpu_current();
    REQUIRE(here >= 0);
    CHECK(CPU_ISSET((unsigned)here, &cpus));
}

TD_TEST(leaving_keeps_the_mask)
{
    const cpu_set_t before = mask();
    CHECK_EQ(td_cpu_leave(), CPU_COUNT(&before) > 1);
    const cpu_set_t after = mask();
    CHECK(CPU_EQUAL(&before, &after));
}

TD_TEST(who_may_run_on_one_cpu_only_stays)
{
    const cpu_set_t before = mask();
    const int here = td_cpu_current();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((unsigned)here, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(!td_cpu_leave());
    CHECK_EQ(td_cpu_current(), here);
    const cpu_set_t after = mask();
    CHECK(CPU_EQUAL(&one, &after));
    REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0);
}

TD_TEST(a_thread_is_kept_off_a_cpu_unless_it_has_no_other)
{
    const cpu_set_t before = mask();
    const int here = td_cpu_current();
    cpu_set_t rest = before, now;
    CPU_CLR((unsigned)here, &rest);
    td_cpus_confine(0, &before, here);
    now = mask();
    CHECK(CPU_EQUAL(&now, CPU_COUNT(&before) > 1 ? &rest : &before));
    td_cpus_confine(gettid(), &before, -1);
    now = mask();
    CHECK(CPU_EQUAL(&now, &before));
}

TD_TEST(turns_are_as_long_as_they_were_asked_for)
{
    const int64_t before = td_thread_ask_turns(TD_TURN_SHORTEST_NS);
    if (before == 0)
        SKIP("this kernel has no such turns");
    CHECK_EQ(td_thread_ask_turns(before), TD_TURN_SHORTEST_NS);
    CHECK_EQ(td_thread_ask_turns(before), before);
}

TD_TEST(the_default_policy_gives_way)
{
    if (sched_getscheduler(0) != SCHED_OTHER)
        SKIP("the tests were started with another scheduling policy");
    const pid_t pid = fork();
    if (pid == 0) {
        td_thread_wake_gently();
        _exit(sched_getscheduler(0) == SCHED_BATCH ? 0 : 1);
    }
    CHECK_EQ(test_wait_child(pid), 0);
}

TD_TEST(a_policy_that_was_chosen_stays)
{
    const pid_t pid = fork();
    if (pid == 0) {
        const struct sched_param priority = {.sched_priority = 0};
        if (sched_setscheduler(0, SCHED_IDLE, &priority) != 0)
            _exit(2);
        td_thread_wake_gently();
        _exit(sched_getscheduler(0) == SCHED_IDLE ? 0 : 1);
    }
    CHECK_EQ(test_wait_child(pid), 0);
}

TD_TEST_MAIN
