/* tests/cache/test_prune.c: what goes is what was used least recently, as much as the limits say; what is counted. */
#include <pthread.h>

#include "tests/cache/own_store.h"

#define ENTRIES 20u
#define EACH_BYTES 1000u
#define FILE_BYTES (128u + EACH_BYTES)

/* Entry i was last used i seconds after a time long ago. */
static td_store *aged_store(struct td_store_options options)
{
    own_folder_path();
    td_store *store = own_open(options);
    for (uint64_t i = 0; i < ENTRIES; i++) {
        const struct timespec times[2] = {{.tv_sec = (time_t)(1000000 + i)}, {.tv_sec = 1000}};
        REQUIRE_OK(own_put(store, i, EACH_BYTES, i));
        REQUIRE(utimensat(AT_FDCWD, own_file(i), times, 0) == 0);
    }
    return store;
}

static bool is_there(uint64_t number)
{
    return access(own_file(number), F_OK) == 0;
}

static void check_last(uint64_t count)
{
    for (uint64_t i = 0; i < ENTRIES; i++)
        CHECK_EQ(is_there(i), i >= ENTRIES - count);
}

TD_TEST(the_least_recently_used_go_until_the_limits_are_met)
{
    uint64_t items, bytes;
    td_store *store = aged_store((struct td_store_options){0});
    const struct td_limits none = {TD_NO_LIMIT, TD_NO_LIMIT, INT64_MAX};
    REQUIRE_OK(td_store_prune(store, &none, &items, &bytes));
    CHECK_EQ(items + bytes, 0u);
    const struct td_limits by_items = {TD_NO_LIMIT, 15, INT64_MAX};
    REQUIRE_OK(td_store_prune(store, &by_items, &items, &bytes));
    CHECK_EQ(items, 5u);
    CHECK_EQ(bytes, 5 * FILE_BYTES);
    check_last(15);
    const struct td_limits by_bytes = {10 * FILE_BYTES + 1, TD_NO_LIMIT, INT64_MAX};
    REQUIRE_OK(td_store_prune(store, &by_bytes, &items, &bytes));
    check_last(10);
    CHECK(own_has(store, 12, EACH_BYTES, 12)); /* a use */
    const struct td_limits by_age = {TD_NO_LIMIT, TD_NO_LIMIT, INT64_C(3600) * 1000000000};
    REQUIRE_OK(td_store_prune(store, &by_age, &items, &bytes));
    CHECK_EQ(items, 9u);
    CHECK_EQ(own_entries(store), 1u);
    CHECK(is_there(12));
    const struct td_limits all = {0, 0, 0};
    REQUIRE_OK(td_store_prune(store, &all, &items, &bytes));
    CHECK_EQ(own_entries(store), 0u);
    own_close(store);
}

TD_TEST(a_use_keeps_an_entry)
{
    uint64_t items, bytes;
    td_store *store = aged_store((struct td_store_options){0});
    CHECK(own_has(store, 0, EACH_BYTES, 0));
    const struct td_limits half = {TD_NO_LIMIT, ENTRIES / 2, INT64_MAX};
    REQUIRE_OK(td_store_prune(store, &half, &items, &bytes));
    CHECK(is_there(0));
    CHECK(!is_there(1));
    own_close(store);
}

struct bytes {
    uint64_t sum, most;
};

static bool add_bytes(void *ctx, const struct td_entry_info *info)
{
    *(uint64_t *)ctx += info->bytes;
    return true;
}

static uint64_t all_bytes(td_store *store)
{
    uint64_t sum = 0;
    REQUIRE_OK(td_store_walk(store, add_bytes, &sum));
    return sum;
}

TD_TEST(a_cap_holds)
{
    const uint64_t cap = 100 * FILE_BYTES;
    own_folder_path();
    td_store *store = own_open((struct td_store_options){.cap_bytes = cap});
    for (uint64_t i = 0; i < 500; i++) {
        REQUIRE_OK(own_put(store, i, EACH_BYTES, i));
        CHECK_LE(all_bytes(store), cap);
    }
    CHECK_LE(cap / 2, all_bytes(store));
    CHECK(own_has(store, 499, EACH_BYTES, 499));
    own_close(store);
}

TD_TEST(a_cap_counts_what_was_there_before_and_what_others_put)
{
    const uint64_t cap = 64 * FILE_BYTES;
    own_folder_path();
    td_store *store = own_open((struct td_store_options){0});
    for (uint64_t i = 0; i < 200; i++)
        REQUIRE_OK(own_put(store, i, EACH_BYTES, i));
    td_store_close(store);
    store = own_open((struct td_store_options){.cap_bytes = cap});
    REQUIRE_OK(own_put(store, 1000, EACH_BYTES, 1000));
    CHECK_LE(all_bytes(store), cap);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        td_store *other = own_open((struct td_store_options){.cap_bytes = cap});
        for (uint64_t i = 2000; i < 2100; i++)
            REQUIRE_OK(own_put(other, i, EACH_BYTES, i));
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0); /* without closing anything */
    }
    CHECK_EQ(test_wait_child(pid), 0);
    REQUIRE_OK(own_put(store, 1002, EACH_BYTES, 1002));
    CHECK_LE(all_bytes(store), cap);
    own_close(store);
}

TD_TEST(an_entry_beyond_the_cap_does_no_harm)
{
    own_folder_path();
    td_store *store = own_open((struct td_store_options){.cap_bytes = 10000});
    CHECK_OK(own_put(store, 1, 1000000, 1));
    CHECK_EQ(all_bytes(store), 0u);
    CHECK_OK(own_put(store, 2, 1000, 2));
    CHECK(own_has(store, 2, 1000, 2));
    own_close(store);
}

static void count_bad(void *ctx, const struct td_key *key)
{
    uint64_t number;
    memcpy(&number, key->bytes, sizeof number);
    *(uint64_t *)ctx += number;
}

TD_TEST(verify_finds_what_is_changed_and_notes_no_use)
{
    struct stat before, after;
    td_store *store = aged_store((struct td_store_options){0});
    uint64_t bad = 0, checked = 0;
    CHECK_OK(td_store_verify(store, true, count_bad, &bad, &checked));
    CHECK_EQ(bad, 0u);
    CHECK_EQ(checked, ENTRIES);
    for (uint64_t i = 3; i < 6; i++) {
        const int fd = open(own_file(i), O_WRONLY | O_CLOEXEC);
        REQUIRE(fd >= 0 && pwrite(fd, "?", 1, (off_t)(100 * i)) == 1);
        close(fd);
    }
    REQUIRE(stat(own_file(9), &before) == 0);
    CHECK_OK(td_store_verify(store, false, count_bad, &bad, &checked));
    CHECK_EQ(bad, 12u);
    CHECK_EQ(own_entries(store), ENTRIES);
    CHECK_OK(td_store_verify(store, true, count_bad, &bad, &checked));
    CHECK_EQ(own_entries(store), ENTRIES - 3);
    CHECK_OK(td_store_verify(store, true, count_bad, &bad, &checked));
    CHECK_EQ(bad, 24u);
    REQUIRE(stat(own_file(9), &after) == 0);
    CHECK_EQ(after.st_atim.tv_sec, before.st_atim.tv_sec);
    own_close(store);
}

TD_TEST(what_is_no_entry_is_left_alone)
{
    td_store *store = own_store();
    char path[sizeof own_path + 32];
    REQUIRE_OK(own_put(store, 1, 10, 1));
    snprintf(path, sizeof path, "%s/store-1/README", own_path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    close(fd);
    const struct td_limits all = {0, 0, 0};
    uint64_t items, bytes;
    REQUIRE_OK(td_store_prune(store, &all, &items, &bytes));
    CHECK_EQ(items, 1u);
    CHECK(access(path, F_OK) == 0);
    own_close(store);
}

TD_TEST(a_child_that_is_forked_while_a_thread_makes_room_makes_room_itself)
{
    own_folder_path();
    td_store *store = own_open((struct td_store_options){.cap_bytes = 5 * FILE_BYTES});
    store->folder->pruning = true; /* as that thread has it */
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        for (uint64_t i = 0; i < ENTRIES; i++)
            REQUIRE_OK(own_put(store, i, EACH_BYTES, i));
        CHECK_LE(own_entries(store), 5u);
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0);
    }
    CHECK_EQ(test_wait_child(pid), 0);
    store->folder->pruning = false;
    own_close(store);
}

/* ---- Beside readers ---- */

static td_atomic_u32 over;

static void *read_on(void *context)
{
    uint64_t seed = test_seed;
    while (!td_atomic_load_relaxed(&over))
        (void)own_has(context, test_random_below(&seed, 50), LARGE_BYTES, 7);
    return NULL;
}

TD_TEST(who_reads_while_others_make_room_sees_whole_entries_or_none)
{
    pthread_t reader;
    own_folder_path();
    td_store *store = own_open((struct td_store_options){.cap_bytes = 20 * LARGE_BYTES});
    REQUIRE(pthread_create(&reader, NULL, read_on, store) == 0);
    const uint64_t rounds = test_rounds(300);
    for (uint64_t i = 0; i < rounds; i++)
        REQUIRE_OK(own_put(store, i % 50, LARGE_BYTES, 7));
    td_atomic_store_relaxed(&over, 1);
    pthread_join(reader, NULL);
    own_close(store);
}

TD_TEST_MAIN
