/* Shared blocks: held, found, named, opened elsewhere, told of. */
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/heap.h"
#include "os/memfd.h"
#include "tests/harness.h"

#define MIB (UINT64_C(1) << 20)

static struct td_heap_info info(void)
{
    struct td_heap_info now;
    td_heap_get_info(&now);
    return now;
}

static td_hold *made(uint64_t bytes)
{
    td_hold *hold = NULL;
    REQUIRE_OK(td_hold_new(bytes, true, &hold));
    return hold;
}

/* Runs `body` in a process of its own, which must leave with 0. */
static void elsewhere(int (*body)(const struct td_share *share), const struct td_share *share)
{
    int status = -1;
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(body(share));
    REQUIRE_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

TD_TEST(a_block_lives_until_its_last_reference)
{
    td_hold *hold = made(3 * MIB);
    char *data = td_hold_data(hold);
    CHECK_EQ(td_hold_bytes(hold), 3 * MIB);
    for (uint64_t i = 0; i < 3 * MIB; i += 1000)
        REQUIRE_EQ(data[i], 0);
    CHECK_EQ(info().blocks, 1u);
    td_hold_ref(hold);
    td_hold_unref(hold);
    CHECK_EQ(info().blocks, 1u);
    td_hold_unref(hold);
    td_hold_unref(NULL);
    CHECK_EQ(info().blocks, 0u);
    td_heap_trim();
    CHECK_EQ(info().committed_bytes, 0u);
}

/* ---- As an allocator's memory ---- */

TD_TEST(what_was_taken_is_known_by_its_first_byte)
{
    char *data = td_heap_take(MIB, true);
    REQUIRE(data != NULL);
    CHECK_EQ(info().blocks, 1u);
    CHECK_EQ(td_heap_capacity(data), MIB);
    CHECK_EQ(td_heap_capacity(data + 1), 0u);
    CHECK_EQ(td_heap_capacity(&data), 0u);
    CHECK(td_heap_take(UINT64_C(1) << 60, false) == NULL);
    td_hold *hold = td_hold_find(data + 5, 10);
    td_heap_give(data);
    CHECK_EQ(info().blocks, 1u); /* somebody else still has it */
    td_hold_unref(hold);
    CHECK_EQ(info().blocks, 0u);
    CHECK_EQ(td_heap_capacity(data), 0u);
    td_heap_trim();
}

static int give_in_a_child(const struct td_share *unused)
{
    (void)unused;
    char *own = td_heap_take(MIB, true);
    const uint64_t mine = info().blocks;
    td_heap_give(own);
    return mine == 1 && info().blocks == 0 ? 0 : 1;
}

static char *born_with;

static int give_the_parents(const struct td_share *unused)
{
    if (td_heap_capacity(born_with) != MIB || td_hold_find(born_with, 1) != NULL)
        return 1;
    born_with[0] = 'c';
    td_heap_give(born_with);
    return td_heap_capacity(born_with) == 0 && born_with[0] == 'c' ? give_in_a_child(unused) : 2;
}

TD_TEST(a_child_gives_what_it_was_born_with_and_the_parent_keeps_it)
{
    born_with = td_heap_take(MIB, true);
    REQUIRE(born_with != NULL);
    elsewhere(give_the_parents, NULL);
    CHECK_EQ(born_with[0], 'c');
    CHECK_EQ(info().blocks, 1u);
    td_heap_give(born_with);
    CHECK_EQ(info().blocks, 0u);
    td_heap_trim();
}

static td_atomic_u32 trimming;

static void *trim_again_and_again(void *unused)
{
    while (td_atomic_load_relaxed(&trimming) != 0)
        td_heap_trim();
    return unused;
}

TD_TEST(a_heap_is_not_closed_under_the_last_block)
{
    pthread_t trimmer;
    td_atomic_store_relaxed(&trimming, 1);
    REQUIRE_EQ(pthread_create(&trimmer, NULL, trim_again_and_again, NULL), 0);
    for (int i = 0; i < 2000; i++)
        td_hold_unref(made(1000));
    td_atomic_store_relaxed(&trimming, 0);
    REQUIRE_EQ(pthread_join(trimmer, NULL), 0);
    CHECK_EQ(info().blocks, 0u);
    td_heap_trim();
}

TD_TEST(a_heap_that_others_still_map_leaves_them_no_memory_when_it_is_closed)
{
    struct td_share share;
    uint64_t resident;
    td_hold *hold = made(20 * MIB);
    td_hold_share(hold, &share);
    const int others = dup(share.fd);
    td_hold_unref(hold);
    REQUIRE_OK(td_memfd_resident(others, &resident));
    CHECK(resident > 20 * MIB);
    td_heap_trim();
    REQUIRE_OK(td_memfd_resident(others, &resident));
    CHECK(resident < MIB);
    close(others);
}

/* ---- At rest ---- */

static td_atomic_u32 wakes;

static void wake(void)
{
    td_atomic_fetch_add_relaxed(&wakes, 1);
}

TD_TEST(a_heap_that_nobody_uses_gives_back_what_it_keeps_warm)
{
    td_heap_init(wake);
    td_hold *kept = made(MIB);
    td_hold_unref(made(20 * MIB));
    CHECK_EQ(td_atomic_load_relaxed(&wakes), 1u);
    const int64_t next = td_heap_keep(td_now_ns());
    CHECK(info().committed_bytes > 20 * MIB);
    CHECK_EQ(td_heap_keep(next), TD_FOREVER);
    CHECK(info().committed_bytes < 4 * MIB);
    td_hold_unref(kept);
    CHECK_EQ(td_atomic_load_relaxed(&wakes), 2u);
    CHECK_EQ(td_heap_keep(td_heap_keep(next)), TD_FOREVER);
    CHECK_EQ(info().committed_bytes, 0u);
    td_heap_init(NULL);
}

TD_TEST(a_block_is_found_by_any_address_in_it)
{
    td_hold *first = made(1000), *second = made(MIB);
    char *data = td_hold_data(second);
    td_hold *found = td_hold_find(data + 77, MIB - 77);
    CHECK(found == second);
    td_hold_unref(found);
    CHECK(td_hold_find(data + 77, MIB - 76) == NULL);
    CHECK(td_hold_find(&first, sizeof first) == NULL);
    td_hold_unref(first);
    td_hold_unref(second);
    CHECK(td_hold_find(data, 1) == NULL);
    td_heap_trim();
}

TD_TEST(a_block_of_no_bytes_is_one)
{
    td_hold *hold = made(0);
    CHECK_EQ(td_hold_bytes(hold), 1u);
    td_hold_unref(hold);
    td_heap_trim();
}

TD_TEST(what_can_never_fit_is_refused)
{
    td_hold *hold = NULL;
    CHECK_STATUS(td_hold_new(UINT64_MAX - 4096, false, &hold), TD_ENOROOM);
    CHECK_STATUS(td_hold_new(UINT64_C(1) << 50, false, &hold), TD_ENOROOM);
    CHECK(hold == NULL);
    td_heap_trim();
}

static int write_there(const struct td_share *share)
{
    td_hold *hold = NULL, *again = NULL;
    struct td_held list[4];
    uint64_t sum = 0;
    if (td_heap_foreign_sum() != 0 || td_heap_list(NULL, 0, &sum) != 0)
        return 1; /* a child holds nothing */
    if (td_share_open(share, &hold) != TD_OK || td_share_open(share, &again) != TD_OK || hold != again)
        return 2;
    if (td_heap_list(list, 4, &sum) != 1 || sum == 0 || sum != td_heap_foreign_sum() ||
        list[0].heap != share->heap || list[0].ref != share->ref)
        return 3;
    uint64_t *data = td_hold_data(hold);
    if (data[0] != 11)
        return 4;
    data[0] = 22;
    struct td_share onward;
    td_hold_share(hold, &onward); /* named anew, by this process */
    if (onward.pid != (int32_t)getpid() || onward.heap != share->heap || onward.ref != share->ref)
        return 5;
    td_hold_unref(again);
    td_hold_unref(hold);
    if (td_heap_list(list, 4, &sum) != 0 || sum != 0)
        return 6;
    return td_hold_new(100, false, &hold) == TD_OK && info().blocks == 1 ? 0 : 7;
}

TD_TEST(another_process_opens_a_block_by_its_name_and_both_see_it)
{
    td_hold *hold = made(MIB);
    uint64_t *data = td_hold_data(hold);
    struct td_share share;
    data[0] = 11;
    td_hold_share(hold, &share);
    elsewhere(write_there, &share);
    CHECK_EQ(data[0], 22u);
    td_hold_unref(hold);
    CHECK_EQ(info().blocks, 0u);
    td_heap_trim();
}

static int fail_to_open(const struct td_share *share)
{
    td_hold *hold = NULL;
    return td_share_open(share, &hold) == TD_EPROTO && hold == NULL ? 0 : 1;
}

TD_TEST(a_name_that_means_nothing_is_refused)
{
    td_hold *hold = made(1000);
    struct td_share share, wrong;
    td_hold_share(hold, &share);
    wrong = share;
    wrong.heap++;
    elsewhere(fail_to_open, &wrong);
    wrong = share;
    wrong.fd = 9999;
    elsewhere(fail_to_open, &wrong);
    wrong = share;
    wrong.fd = 0;
    wrong.pid = INT32_MAX;
    elsewhere(fail_to_open, &wrong);
    wrong = share;
    wrong.ref += 64;
    elsewhere(fail_to_open, &wrong);
    wrong = share;
    wrong.bytes = UINT64_MAX;
    elsewhere(fail_to_open, &wrong);
    wrong = share;
    wrong.bytes = 0;
    elsewhere(fail_to_open, &wrong);
    wrong = share;
    wrong.heap_bytes /= 2;
    elsewhere(fail_to_open, &wrong);
    td_hold_unref(hold);
    elsewhere(fail_to_open, &share); /* freed */
    CHECK(fail_to_open(&share) == 0);
    hold = made(1000); /* in its place */
    elsewhere(fail_to_open, &share);
    td_hold_unref(hold);
    td_heap_trim();
}

TD_TEST(its_own_process_finds_what_others_tell_of)
{
    td_hold *hold = made(1000);
    struct td_share share;
    td_hold_share(hold, &share);
    struct td_held held = {.heap = share.heap, .ref = share.ref};
    td_hold *found = td_heap_find(&held);
    CHECK(found == hold);
    td_hold_unref(found);
    td_hold *opened = NULL;
    CHECK_OK(td_share_open(&share, &opened));
    CHECK(opened == hold);
    td_hold_unref(opened);
    td_hold_unref(hold);
    CHECK(td_heap_find(&held) == NULL);
    held.heap++;
    CHECK(td_heap_find(&held) == NULL);
    td_heap_trim();
}

static td_hold *inherited;

static int use_inherited(const struct td_share *share)
{
    (void)share;
    const uint64_t *data = td_hold_data(inherited);
    const bool seen = data[0] == 5;
    td_hold *found = td_hold_find(data, 8);
    td_hold_unref(inherited); /* counts for nothing */
    return seen && found == NULL ? 0 : 1;
}

TD_TEST(a_forked_child_sees_its_parents_blocks_and_frees_none)
{
    inherited = made(1000);
    uint64_t *data = td_hold_data(inherited);
    data[0] = 5;
    elsewhere(use_inherited, NULL);
    CHECK_EQ(info().blocks, 1u);
    td_hold_unref(inherited);
    td_heap_trim();
}

/* ---- Threads ------------------------------------------------------------------------------------------------ */

struct race {
    td_hold *hold;
    td_atomic_u64 found;
};

static void *find_and_let_go(void *context)
{
    struct race *race = context;
    const uintptr_t address = (uintptr_t)td_hold_data(race->hold);
    for (uint64_t i = 0; i < test_rounds(20000); i++) {
        td_hold *mine = NULL,
                *hold = td_hold_find((const void *)address, 8); /* NOLINT(performance-no-int-to-ptr) */
        if (hold != NULL) {
            td_atomic_fetch_add_relaxed(&race->found, 1);
            td_hold_unref(hold);
        }
        REQUIRE_OK(td_hold_new(i % 200, true, &mine));
        memset(td_hold_data(mine), 1, i % 200);
        td_hold_unref(mine);
    }
    return NULL;
}

TD_TEST(threads_find_hold_and_let_go_at_once)
{
    enum { THREADS = 3 };
    struct race race = {.hold = made(64)};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, find_and_let_go, &race), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(td_atomic_load_relaxed(&race.found), THREADS * test_rounds(20000));
    td_hold_unref(race.hold);
    CHECK_EQ(info().blocks, 0u);
    td_heap_trim();
}

/* All that was written before a reference went is written when the block is used again, whoever's the last one was. */
struct parting {
    td_hold *hold;
    td_atomic_u32 has_gone; /* orders nothing */
};

static void *write_and_let_go(void *context)
{
    struct parting *parting = context;
    uint64_t *data = td_hold_data(parting->hold);
    data[1] = 1;
    td_hold_unref(parting->hold);
    td_atomic_store_relaxed(&parting->has_gone, 1);
    return NULL;
}

TD_TEST(the_last_reference_goes_after_every_use) /* heap_H */
{
    for (uint64_t i = 0; i < test_rounds(200); i++) {
        struct parting parting = {.hold = made(64)};
        pthread_t thread;
        td_hold_ref(parting.hold);
        REQUIRE_EQ(pthread_create(&thread, NULL, write_and_let_go, &parting), 0);
        while (td_atomic_load_relaxed(&parting.has_gone) == 0)
            sched_yield();
        td_hold_unref(parting.hold);
        td_hold *next = made(64);
        memset(td_hold_data(next), 2, 64);
        td_hold_unref(next);
        pthread_join(thread, NULL);
    }
    CHECK_EQ(info().blocks, 0u);
    td_heap_trim();
}

static void *make_and_drop(void *context)
{
    for (uint64_t i = 0, rounds = test_rounds(5000); i < rounds; i++)
        td_hold_unref(made(1 + i % 5000));
    td_atomic_store_release((td_atomic_u32 *)context, 1);
    return NULL;
}

TD_TEST(the_heap_is_closed_only_once_its_last_block_is_back)
{
    td_atomic_u32 done;
    pthread_t thread;
    td_atomic_init(&done, 0);
    REQUIRE_EQ(pthread_create(&thread, NULL, make_and_drop, &done), 0);
    while (td_atomic_load_acquire(&done) == 0)
        td_heap_trim();
    pthread_join(thread, NULL);
    td_heap_trim();
    CHECK_EQ(info().committed_bytes, 0u);
}

static int open_in_parts(const struct td_share *share)
{
    struct td_share part = *share, none = *share;
    td_hold *hold = NULL, *whole = NULL;
    uint64_t sum;
    none.bytes = 0;
    if (td_share_open(&none, &whole) != TD_EPROTO)
        return 1;
    part.bytes = 100;
    if (td_share_open(&part, &hold) != TD_OK)
        return 2;
    if (td_share_open(share, &whole) != TD_EPROTO) /* another name of the same block */
        return 3;
    td_hold_unref(hold);
    if (td_heap_list(NULL, 0, &sum) != 0 || td_share_open(share, &whole) != TD_OK)
        return 4;
    td_hold_unref(whole);
    return 0;
}

TD_TEST(a_block_is_held_once_whatever_its_names_say)
{
    td_hold *hold = made(MIB);
    struct td_share share;
    td_hold_share(hold, &share);
    elsewhere(open_in_parts, &share);
    td_hold_unref(hold);
    td_heap_trim();
}

TD_TEST_MAIN
