/* tests/named/test_killed.c: processes that make, attach and pass on segments are killed at random points; then nothing
 * is left, and those alive never lost what they hold. */
#include <fcntl.h>
#include <sys/statvfs.h>

#include "base/atomic.h"
#include "named/named.h"
#include "tests/named/own_folder.h"

#define NAMES 4u
#define LARGE_NAME 3u
#define LARGE_BYTES (UINT64_C(5) << 20) /* which takes long enough to be killed half way */
#define KEPT 6u

/* What a victim does until it is killed; the test sees how far it is. */
static void live(uint64_t seed, td_atomic_u32 *steps)
{
    td_named *kept[KEPT] = {0};
    for (;;) {
        char name[16];
        td_named **place = &kept[test_random_below(&seed, KEPT)];
        const unsigned number = (unsigned)test_random_below(&seed, NAMES);
        const uint64_t bytes = number == LARGE_NAME ? LARGE_BYTES : 5000;
        snprintf(name, sizeof name, "n%u", number);
        td_status status = TD_OK;
        if (*place) {
            if (td_named_data(*place) && *(volatile char *)td_named_data(*place) != 7)
                _exit(1);
            if (test_random_below(&seed, 8) == 0)
                (void)td_named_unlink(*place, name);
            td_named_free(*place);
            *place = NULL;
        } else if (test_random_below(&seed, 2)) {
            status = td_named_create(name, bytes, true, place);
        } else {
            status = td_named_attach(name, place);
        }
        if (status != TD_OK && (status != TD_EOS || (errno != EEXIST && errno != ENOENT)))
            _exit(2);
        if (status == TD_OK && *place) {
            if (td_named_bytes(*place) != bytes)
                _exit(3);
            *(volatile char *)td_named_data(*place) = 7;
        }
        td_atomic_fetch_add_release(steps, 1);
    }
}

static uint64_t free_blocks(void)
{
    struct statvfs folder;
    REQUIRE(statvfs(TD_NAMED_FOLDER, &folder) == 0);
    return folder.f_bfree;
}

TD_TEST(killed_processes_leave_no_segment_no_memory_and_no_guardian)
{
    own_folder("256m", 0);
    own_guardian();
    const uint64_t blocks = free_blocks();
    uint64_t seed = test_seed;
    td_named *held;
    REQUIRE_OK(td_named_create("held", 5000, true, &held));
    td_atomic_u32 *steps = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(steps != MAP_FAILED);
    pid_t pids[2] = {0};
    const uint64_t rounds = test_rounds(200);
    for (uint64_t i = 0; i < rounds + 2; i++) {
        pid_t *victim = &pids[i % 2];
        if (*victim) {
            uint32_t end = td_atomic_load_acquire(steps) + (uint32_t)test_random_below(&seed, 20);
            while ((int32_t)(td_atomic_load_acquire(steps) - end) < 0)
                sched_yield();
            kill(*victim, SIGKILL);
            CHECK_EQ(test_wait_child(*victim), -SIGKILL);
        }
        uint64_t own = test_random(&seed);
        *victim = i < rounds ? fork() : 0;
        if (i < rounds && *victim == 0)
            live(own, steps);
    }
    CHECK(exists("held"));
    td_named_free(held);
    munmap(steps, 4096);
    reap_guardian();
    CHECK_EQ(segments(), 0);
    CHECK(!exists(office_name()));
    CHECK_EQ(free_blocks(), blocks);
}

TD_TEST_MAIN
