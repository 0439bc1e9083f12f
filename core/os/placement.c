/* os/placement.c: see placement.h.
 * Tests  tests/os/test_placement.c */
#include "os/placement.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

int td_cpu_current(void)
{
    return sched_getcpu();
}

bool td_cpu_leave(void)
{
    cpu_set_t all, others;
    const int here = sched_getcpu();
    if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof all, &all) != 0)
        return false;
    others = all;
    CPU_CLR((unsigned)here, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0)
        return false;
    sched_setaffinity(0, sizeof all, &all);
    return true;
}

void td_thread_wake_gently(void)
{
    const struct sched_param priority = {.sched_priority = 0};
    if (sched_getscheduler(0) == SCHED_OTHER)
        sched_setscheduler(0, SCHED_BATCH, &priority);
}

/* As the kernel has it; the C library's headers may not. */
struct scheduling {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

int64_t td_thread_ask_turns(int64_t turn_ns)
{
    struct scheduling now = {.size = sizeof now};
    if (syscall(SYS_sched_getattr, 0, &now, sizeof now, 0) != 0 || now.policy != SCHED_OTHER)
        return 0;
    const int64_t before_ns = (int64_t)now.runtime_ns;
    now.size = sizeof now;
    now.runtime_ns = (uint64_t)turn_ns;
    if (before_ns == 0 || syscall(SYS_sched_setattr, 0, &now, 0) != 0)
        return 0;
    return before_ns;
}

void td_cpus_confine(pid_t thread, const cpu_set_t *cpus, int without)
{
    cpu_set_t left = *cpus;
    if (without >= 0 && without < CPU_SETSIZE)
        CPU_CLR((unsigned)without, &left);
    sched_setaffinity(thread, sizeof left, CPU_COUNT(&left) != 0 ? &left : cpus);
}
