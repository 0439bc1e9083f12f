/* tests/os/test_budget.c: CPU and memory budgets on made-up machines. */
#include "os/budget.h"

#include <sched.h>

#include "tests/os/fake_tree.h"

#define GIB (UINT64_C(1) << 30)

static void begin_v2(const char *own)
{
    fake_begin();
    fake_file("/proc/self/cgroup", own);
    fake_file("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    fake_file("/proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  1024 kB\nMemAvailable:    8388608 kB\n");
}

static void begin_v1(void)
{
    fake_begin();
    fake_file("/proc/self/cgroup", "5:cpu:/job\n4:memory:/job\n");
    fake_file("/proc/self/mountinfo", "35 31 0:31 / /cg/cpu rw - cgroup cgroup rw,cpu\n"
                                      "36 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n");
    fake_file("/proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n");
}

/* The budget where nothing of the made-up machine limits. */
static td_cpu_budget plain_budget(void)
{
    td_cpu_budget budget;
    td_cpu_budget_read("/nonexistent", &budget);
    return budget;
}

TD_TEST(without_limits_the_budget_is_what_the_scheduler_allows)
{
    td_cpu_budget budget = plain_budget();
    CHECK_LE(1, budget.cpus);
    CHECK_EQ(budget.cpus, budget.affinity < budget.online ? budget.affinity : budget.online);
    CHECK(budget.quota == 0);
    CHECK_STR(budget.quota_file, "");
}

TD_TEST(the_affinity_mask_limits)
{
    cpu_set_t old, one;
    REQUIRE_EQ(sched_getaffinity(0, sizeof old, &old), 0);
    size_t cpu = 0;
    while (!CPU_ISSET(cpu, &old))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    REQUIRE_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    td_cpu_budget budget = plain_budget();
    CHECK_EQ(budget.cpus, 1);
    CHECK_EQ(budget.affinity, 1);
    CHECK_EQ(budget.limit, budget.online > 1 ? TD_CPU_AFFINITY : TD_CPU_ONLINE);
}

TD_TEST(a_v2_quota_limits_and_is_rounded_up)
{
    td_cpu_budget budget;
    begin_v2("0::/job\n");
    fake_file("/sys/fs/cgroup/job/cpu.max", "50000 100000\n");
    td_cpu_budget_read(fake_root, &budget);
    CHECK_EQ(budget.cpus, 1);
    CHECK(budget.quota == 0.5);
    CHECK_CONTAINS(budget.quota_file, "/sys/fs/cgroup/job/cpu.max");
    CHECK_EQ(budget.limit == TD_CPU_QUOTA, plain_budget().cpus > 1);
    fake_file("/sys/fs/cgroup/job/cpu.max", "110000 100000\n");
    td_cpu_budget_read(fake_root, &budget);
    CHECK_EQ(budget.cpus, plain_budget().cpus < 2 ? 1 : 2);
    fake_end();
}

TD_TEST(the_tightest_quota_on_the_way_up_counts)
{
    td_cpu_budget budget;
    begin_v2("0::/a/b/c\n");
    fake_file("/sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    fake_file("/sys/fs/cgroup/a/b/cpu.max", "25000 50000\n");
    fake_file("/sys/fs/cgroup/a/cpu.max", "300000 100000\n");
    td_cpu_budget_read(fake_root, &budget);
    CHECK(budget.quota == 0.5);
    CHECK_CONTAINS(budget.quota_file, "/a/b/cpu.max");
    CHECK_EQ(budget.cpus, 1);
    fake_end();
}

TD_TEST(a_quota_above_the_cpus_does_not_limit)
{
    td_cpu_budget budget;
    begin_v2("0::/\n");
    fake_file("/sys/fs/cgroup/cpu.max", "100000000000 100000\n");
    td_cpu_budget_read(fake_root, &budget);
    CHECK_EQ(budget.cpus, plain_budget().cpus);
    CHECK_NE(budget.limit, TD_CPU_QUOTA);
    fake_end();
}

TD_TEST(a_v1_quota_limits_and_minus_one_is_none)
{
    td_cpu_budget budget;
    begin_v1();
    fake_file("/cg/cpu/job/cpu.cfs_quota_us", "70000\n");
    fake_file("/cg/cpu/job/cpu.cfs_period_us", "100000\n");
    fake_file("/cg/cpu/cpu.cfs_quota_us", "-1\n");
    fake_file("/cg/cpu/cpu.cfs_period_us", "100000\n");
    td_cpu_budget_read(fake_root, &budget);
    CHECK_EQ(budget.cpus, 1);
    CHECK(budget.quota == 0.7);
    fake_end();
}

TD_TEST(rubbish_in_quota_files_does_not_limit)
{
    td_cpu_budget budget;
    begin_v2("0::/job\n");
    const char *const rubbish[] = {"", "max", "x y", "0 0", "5", "-1 100000", "100000 0", "100000 -5"};
    for (size_t i = 0; i < sizeof rubbish / sizeof rubbish[0]; i++) {
        fake_file("/sys/fs/cgroup/job/cpu.max", rubbish[i]);
        td_cpu_budget_read(fake_root, &budget);
        CHECK(budget.quota == 0);
        CHECK_EQ(budget.cpus, plain_budget().cpus);
    }
    fake_end();
}

TD_TEST(memory_is_the_machines_without_a_cgroup_limit)
{
    td_memory_budget budget;
    begin_v2("0::/job\n");
    fake_file("/sys/fs/cgroup/job/memory.max", "max\n");
    fake_file("/sys/fs/cgroup/job/memory.current", "12345\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(td_memory_budget_bytes(&budget), 16 * GIB);
    CHECK_EQ(budget.limit, TD_MEMORY_UNLIMITED);
    CHECK_STR(budget.limit_file, "");
    CHECK_EQ(td_memory_room(&budget, 1), 8 * GIB);
    td_memory_budget_fini(&budget);
    fake_end();
}

TD_TEST(memory_room_is_the_least_over_the_levels)
{
    td_memory_budget budget;
    begin_v2("0::/a/b\n");
    fake_file("/sys/fs/cgroup/a/b/memory.max", "4294967296\n");
    fake_file("/sys/fs/cgroup/a/b/memory.current", "1073741824\n");
    fake_file("/sys/fs/cgroup/a/memory.max", "5368709120\n");
    fake_file("/sys/fs/cgroup/a/memory.current", "4294967296\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(budget.level_count, 2);
    CHECK_EQ(budget.limit, 4 * GIB);
    CHECK_CONTAINS(budget.limit_file, "/a/b/memory.max");
    CHECK_EQ(td_memory_room(&budget, 1), GIB);
    td_memory_budget_fini(&budget);
    fake_end();
}

TD_TEST(memory_high_counts_as_a_limit)
{
    td_memory_budget budget;
    begin_v2("0::/job\n");
    fake_file("/sys/fs/cgroup/job/memory.max", "4294967296\n");
    fake_file("/sys/fs/cgroup/job/memory.high", "2147483648\n");
    fake_file("/sys/fs/cgroup/job/memory.current", "1073741824\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(td_memory_budget_bytes(&budget), 2 * GIB);
    CHECK_CONTAINS(budget.limit_file, "memory.high");
    CHECK_EQ(td_memory_room(&budget, GIB), GIB);
    td_memory_budget_fini(&budget);
    fake_end();
}

TD_TEST(a_share_is_of_the_memory_that_this_process_can_count_on)
{
    td_memory_budget budget;
    begin_v2("0::/job\n");
    fake_file("/sys/fs/cgroup/job/memory.max", "4294967296\n");
    fake_file("/sys/fs/cgroup/job/memory.current", "0\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(td_memory_share(&budget, 8, GIB), GIB / 2);
    CHECK_EQ(td_memory_share(&budget, 2, GIB), GIB);
    td_memory_budget_fini(&budget);
    fake_end();
}

TD_TEST(inactive_page_cache_and_half_of_the_active_are_counted_in_when_needed)
{
    td_memory_budget budget;
    begin_v2("0::/job\n");
    fake_file("/sys/fs/cgroup/job/memory.max", "4294967296\n");
    fake_file("/sys/fs/cgroup/job/memory.current", "4294967296\n");
    fake_file("/sys/fs/cgroup/job/memory.stat",
              "anon 1\nfile 2\ninactive_anon 3\ninactive_file 536870912\nactive_file 1073741824\nslab 4\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(td_memory_room(&budget, 1), GIB);
    CHECK_EQ(td_memory_room(&budget, 0), 0);
    td_memory_budget_fini(&budget);
    fake_end();
}

TD_TEST(changes_are_seen_without_opening_again)
{
    td_memory_budget budget;
    begin_v1();
    fake_file("/cg/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
    fake_file("/cg/memory/job/memory.usage_in_bytes", "4096\n");
    fake_file("/cg/memory/job/memory.stat", "inactive_file 99\ntotal_inactive_file 50\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(budget.limit, TD_MEMORY_UNLIMITED);
    CHECK_EQ(td_memory_room(&budget, GIB), 8 * GIB);
    fake_file("/cg/memory/job/memory.limit_in_bytes", "10000\n");
    CHECK_EQ(td_memory_room(&budget, 100), 5904);
    CHECK_EQ(td_memory_room(&budget, 6000), 5954);
    fake_file("/cg/memory/job/memory.usage_in_bytes", "20000\n"); /* the limit was lowered below the usage */
    CHECK_EQ(td_memory_room(&budget, 100), 0);
    fake_file("/proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 0 kB\n");
    CHECK_EQ(td_memory_room(&budget, 0), 0);
    td_memory_budget_fini(&budget);
    fake_end();
}

TD_TEST(oom_kills_are_counted_by_the_nearest_group_that_does)
{
    td_memory_budget budget;
    begin_v2("0::/job\n");
    fake_file("/sys/fs/cgroup/job/memory.events",
              "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(td_memory_oom_kills(&budget), 4);
    fake_file("/sys/fs/cgroup/job/memory.events", "oom 3\noom_kill 5\n");
    CHECK_EQ(td_memory_oom_kills(&budget), 5);
    td_memory_budget_fini(&budget);
    fake_end();
    begin_v1();
    fake_file("/cg/memory/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(td_memory_oom_kills(&budget), 7);
    td_memory_budget_fini(&budget);
    fake_end();
    begin_v2("0::/job\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(td_memory_oom_kills(&budget), 0);
    td_memory_budget_fini(&budget);
    fake_end();
}

TD_TEST(deep_trees_are_cut_without_leaking)
{
    td_memory_budget budget;
    char own[256] = "0::", path[512];
    fake_begin();
    for (int i = 0; i < 24; i++) {
        strcat(own, "/d");
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", own + 3);
        fake_file(path, "max\n");
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", own + 3);
        fake_file(path, "0\n");
    }
    fake_file("/proc/self/cgroup", own);
    fake_file("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    td_memory_budget_init(&budget, fake_root);
    CHECK_EQ(budget.level_count, TD_MEMORY_LEVELS);
    td_memory_budget_fini(&budget);
    fake_end();
}

static bool is_idle_with(const char *loadavg, unsigned cpus, unsigned online)
{
    const td_cpu_budget budget = {.cpus = cpus, .online = online, .affinity = online};
    fake_begin();
    if (loadavg != NULL)
        fake_file("/proc/loadavg", loadavg);
    const bool idle = td_cpu_is_idle(fake_root, &budget);
    fake_end();
    return idle;
}

TD_TEST(a_cpu_is_idle_while_fewer_threads_want_to_run_than_there_are_cpus)
{
    CHECK(is_idle_with("0.20 0.18 0.12 1/80 11206\n", 2, 2));
    CHECK(is_idle_with("9.20 8.18 7.12 7/80 11206\n", 3, 8));
    CHECK(!is_idle_with("0.20 0.18 0.12 2/80 11206\n", 2, 2));
    CHECK(!is_idle_with("0.20 0.18 0.12 9/80 11206\n", 8, 8));
}

TD_TEST(no_cpu_counts_as_idle_where_the_budget_is_one_or_nothing_is_known)
{
    CHECK(!is_idle_with("0.20 0.18 0.12 1/80 11206\n", 1, 8));
    CHECK(!is_idle_with("nonsense\n", 2, 2));
    CHECK(!is_idle_with(NULL, 2, 2));
}

TD_TEST(this_machine_has_a_budget)
{
    td_cpu_budget cpu;
    td_memory_budget memory;
    td_cpu_budget_read("", &cpu);
    CHECK_LE(1, cpu.cpus);
    CHECK_LE(cpu.cpus, cpu.online);
    td_memory_budget_init(&memory, "");
    CHECK_LT(0, td_memory_budget_bytes(&memory));
    CHECK_LT(0, td_memory_room(&memory, 1));
    CHECK_LE(td_memory_room(&memory, 1), memory.total);
    td_memory_budget_fini(&memory);
}

TD_TEST(both_budgets_in_one_are_those_that_each_reads)
{
    td_cpu_budget cpu, cpu_alone;
    td_memory_budget memory, memory_alone;
    begin_v1();
    fake_file("/cg/cpu/job/cpu.cfs_quota_us", "50000\n");
    fake_file("/cg/cpu/job/cpu.cfs_period_us", "100000\n");
    fake_file("/cg/memory/job/memory.limit_in_bytes", "1073741824\n");
    fake_file("/cg/memory/job/memory.usage_in_bytes", "0\n");
    td_budgets_init(fake_root, &cpu, &memory);
    td_cpu_budget_read(fake_root, &cpu_alone);
    td_memory_budget_init(&memory_alone, fake_root);
    CHECK_EQ(cpu.cpus, cpu_alone.cpus);
    CHECK_STR(cpu.quota_file, cpu_alone.quota_file);
    CHECK_EQ(td_memory_budget_bytes(&memory), GIB);
    CHECK_EQ(memory.level_count, memory_alone.level_count);
    CHECK_STR(memory.limit_file, memory_alone.limit_file);
    td_memory_budget_fini(&memory);
    td_memory_budget_fini(&memory_alone);
    fake_end();
}

TD_TEST_MAIN
