/* tests/cache/test_write.c: an entry is there as a whole or not at all, and a failed one leaves nothing. */
#include <pthread.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "tests/cache/own_store.h"

static void on_a_tmpfs(const char *bytes)
{
    char options[64];
    own_folder_path();
    REQUIRE(mkdir(own_path, 0700) == 0);
    snprintf(options, sizeof options, "mode=700,size=%s", bytes);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("treadle-test", own_path, "tmpfs", 0, options) < 0) {
        own_remove();
        SKIP("needs to mount a tmpfs");
    }
}

static void off_the_tmpfs(td_store *store)
{
    td_store_close(store);
    REQUIRE(umount2(own_path, MNT_DETACH) == 0);
    REQUIRE(rmdir(own_path) == 0);
}

TD_TEST(a_full_disk_is_an_error_and_leaves_nothing)
{
    on_a_tmpfs("4m");
    td_store *store = own_open((struct td_store_options){0});
    REQUIRE_OK(own_put(store, 1, 1000, 1));
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_STATUS(own_put(store, 2, (size_t)8 << 20, 2), TD_EOS);
        CHECK_EQ(errno, ENOSPC);
        CHECK_STATUS(own_put(store, 1, (size_t)8 << 20, 2), TD_EOS);
    }
    REQUIRE_OK(own_put(store, 3, (size_t)3 << 20, 3)); /* so there is room for it */
    CHECK_EQ(own_entries(store), 2u);
    CHECK_EQ(own_leftovers(), 0u);
    CHECK(own_has(store, 1, 1000, 1));
    CHECK(!own_has(store, 2, 0, 0));
    off_the_tmpfs(store);
}

TD_TEST(a_limit_on_the_size_of_files_is_an_error)
{
    td_store *store = own_store();
    const struct rlimit limit = {.rlim_cur = 100000, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_STATUS(own_put(store, 1, 200000, 1), TD_EOS);
    CHECK_EQ(errno, EFBIG);
    CHECK_STATUS(own_put(store, 1, (size_t)5 << 20, 1), TD_EOS);
    CHECK_EQ(errno, EFBIG);
    CHECK_EQ(own_entries(store), 0u);
    REQUIRE_OK(own_put(store, 1, 50000, 1));
    own_close(store);
}

TD_TEST(files_with_names_do_where_there_are_none_without)
{
    own_folder_path();
    td_store *store = own_open((struct td_store_options){.no_tmpfile = true, .durable = true});
    for (uint64_t i = 0; i < 20; i++)
        REQUIRE_OK(own_put(store, i % 10, 1000 + (size_t)i, i));
    for (uint64_t i = 10; i < 20; i++)
        CHECK(own_has(store, i % 10, 1000 + (size_t)i, i));
    CHECK_EQ(own_leftovers(), 0u);
    own_close(store);
}

TD_TEST(only_this_user_can_read_what_was_put)
{
    umask(0);
    td_store *store = own_store();
    struct stat file;
    REQUIRE_OK(own_put(store, 1, 10, 1));
    REQUIRE(stat(own_file(1), &file) == 0);
    CHECK_EQ(file.st_mode & 0777, 0600u);
    REQUIRE(stat(own_path, &file) == 0);
    CHECK_EQ(file.st_mode & 0777, 0700u);
    own_close(store);
}

/* A writer that is killed before it has renamed its file; a sweep removes that, and not a living writer's. */
TD_TEST(what_a_dead_writer_left_is_swept_and_a_living_ones_is_not)
{
    td_store *store = own_store();
    char path[sizeof own_path + 32];
    snprintf(path, sizeof path, "%s/store-1/tmp/dead", own_path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    close(fd);
    snprintf(path, sizeof path, "%s/store-1/tmp/living", own_path);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0 && flock(fd, LOCK_EX) == 0);
    CHECK_EQ(own_leftovers(), 2u);
    const struct td_limits none = {TD_NO_LIMIT, TD_NO_LIMIT, INT64_MAX};
    uint64_t items, bytes;
    CHECK_OK(td_store_prune(store, &none, &items, &bytes));
    CHECK_EQ(own_leftovers(), 1u);
    CHECK(access(path, F_OK) == 0);
    close(fd);
    CHECK_OK(td_store_prune(store, &none, &items, &bytes));
    CHECK_EQ(own_leftovers(), 0u);
    own_close(store);
}

/* ---- Beside readers ---- */

#define VERSIONS 200u

static td_store *shared_store;
static td_atomic_u32 over;

static void *read_on(void *unused)
{
    const struct td_key key = own_key(1);
    (void)unused;
    while (!td_atomic_load_relaxed(&over)) {
        td_entry *entry = NULL;
        if (td_store_get(shared_store, &key, TD_ACCESS_COPY, &entry) != TD_OK || entry == NULL) {
            test_fail(__FILE__, __LINE__, "an entry that is being replaced is not there as a whole");
            return NULL;
        }
        uint64_t bytes;
        const uint8_t *data = td_entry_part(entry, 0, &bytes);
        CHECK(own_is_filled(data, bytes, bytes));
        td_entry_free(entry);
    }
    return NULL;
}

TD_TEST(readers_see_an_entry_as_it_was_or_as_it_is)
{
    pthread_t reader;
    for (uint32_t named = 0; named < 2; named++) {
        own_folder_path();
        shared_store = own_open((struct td_store_options){.no_tmpfile = named != 0});
        td_atomic_store_relaxed(&over, 0);
        REQUIRE_OK(own_put(shared_store, 1, 1000, 1000));
        REQUIRE(pthread_create(&reader, NULL, read_on, NULL) == 0);
        const uint64_t versions = test_rounds(VERSIONS);
        for (uint64_t i = 0; i < versions; i++)
            REQUIRE_OK(own_put(shared_store, 1, 1000 + (size_t)i * 1000, 1000 + i * 1000));
        td_atomic_store_relaxed(&over, 1);
        pthread_join(reader, NULL);
        own_close(shared_store);
    }
}

TD_TEST_MAIN
