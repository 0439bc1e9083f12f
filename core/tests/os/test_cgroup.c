/* tests/os/test_cgroup.c: finding our cgroup's folders on made-up machines. */
#include "os/cgroup.h"

#include "tests/os/fake_tree.h"

#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
#define OTHER_MOUNTS "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw - proc proc rw\n"

/* The folder without the root's prefix. */
static const char *shown(const td_cgroup *cgroup)
{
    return cgroup->folder + strlen(fake_root);
}

static bool find(td_cgroup_version version, const char *controller, td_cgroup *cgroup)
{
    td_cgroup_text text;
    td_cgroup_read(&text, fake_root);
    const bool found = td_cgroup_find(&text, version, controller, cgroup);
    td_cgroup_free(&text);
    return found;
}

TD_TEST(v2_walks_from_our_own_to_the_mount_point)
{
    td_cgroup cgroup;
    fake_begin();
    fake_file("/proc/self/cgroup", "0::/user.slice/job\n");
    fake_file("/proc/self/mountinfo", OTHER_MOUNTS V2_MOUNT);
    REQUIRE(find(TD_CGROUP_V2, "cpu", &cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup/user.slice/job");
    CHECK(td_cgroup_up(&cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup/user.slice");
    CHECK(td_cgroup_up(&cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup");
    CHECK(!td_cgroup_up(&cgroup));
    CHECK(!find(TD_CGROUP_V1, "cpu", &cgroup));
    fake_end();
}

TD_TEST(v1_takes_the_hierarchy_of_the_controller)
{
    td_cgroup cgroup;
    fake_begin();
    fake_file("/proc/self/cgroup", "5:cpuacct,cpu:/a\n4:memory:/b/c\n1:name=systemd:/d\n0::/e\n");
    fake_file("/proc/self/mountinfo",
              OTHER_MOUNTS "35 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
                           "36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    REQUIRE(find(TD_CGROUP_V1, "cpu", &cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup/cpu/a");
    REQUIRE(find(TD_CGROUP_V1, "memory", &cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup/memory/b/c");
    CHECK(!find(TD_CGROUP_V1, "mem", &cgroup));
    CHECK(!find(TD_CGROUP_V2, "memory", &cgroup));
    fake_end();
}

TD_TEST(a_container_sees_its_own_part_of_the_tree)
{
    td_cgroup cgroup;
    fake_begin();
    fake_file("/proc/self/cgroup", "4:memory:/docker/abc/inner\n");
    fake_file("/proc/self/mountinfo",
              "36 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    REQUIRE(find(TD_CGROUP_V1, "memory", &cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup/memory/inner");
    fake_file("/proc/self/cgroup", "4:memory:/docker/abcdef\n"); /* only looks like it is below */
    REQUIRE(find(TD_CGROUP_V1, "memory", &cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup/memory");
    CHECK(!td_cgroup_up(&cgroup));
    fake_end();
}

TD_TEST(a_cgroup_outside_the_namespace_is_the_mount_point)
{
    td_cgroup cgroup;
    fake_begin();
    fake_file("/proc/self/cgroup", "0::/../../other\n");
    fake_file("/proc/self/mountinfo", V2_MOUNT);
    REQUIRE(find(TD_CGROUP_V2, "cpu", &cgroup));
    CHECK_STR(shown(&cgroup), "/sys/fs/cgroup");
    fake_end();
}

TD_TEST(blanks_in_mount_points_are_read)
{
    td_cgroup cgroup;
    fake_begin();
    fake_file("/proc/self/cgroup", "0::/\n");
    fake_file("/proc/self/mountinfo", "30 23 0:26 / /mnt/my\\040groups rw - cgroup2 none rw\n");
    REQUIRE(find(TD_CGROUP_V2, "cpu", &cgroup));
    CHECK_STR(shown(&cgroup), "/mnt/my groups");
    fake_end();
}

TD_TEST(missing_and_broken_files_find_nothing)
{
    td_cgroup cgroup;
    fake_begin();
    CHECK(!find(TD_CGROUP_V2, "cpu", &cgroup));
    fake_file("/proc/self/cgroup", "\n:\n0\n0:\nrubbish\n0::/x\n");
    CHECK(!find(TD_CGROUP_V2, "cpu", &cgroup));
    fake_file("/proc/self/mountinfo", "\n - \n1 2 3 - cgroup2\n1 2 3 4 - cgroup2 a b\nx - cgroup2 y\n");
    CHECK(!find(TD_CGROUP_V2, "cpu", &cgroup));
    fake_end();
}

TD_TEST_MAIN
