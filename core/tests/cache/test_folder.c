/* tests/cache/test_folder.c: whose folder it may be, what becomes of it, and that a process has it once. */
#include <sched.h>
#include <sys/mount.h>

#include "tests/cache/own_store.h"

static td_status open_it(bool shared, td_store **store)
{
    const struct td_store_options options = {.shared = shared};
    return td_store_open(own_path, &options, store);
}

TD_TEST(a_folder_is_made_with_its_parents)
{
    own_folder_path();
    char path[sizeof own_path + 16];
    snprintf(path, sizeof path, "%s/a//b/", own_path);
    td_store *store = NULL;
    const struct td_store_options options = {0};
    REQUIRE_OK(td_store_open(path, &options, &store));
    REQUIRE_OK(own_put(store, 1, 10, 1));
    CHECK(own_has(store, 1, 10, 1));
    CHECK_EQ(td_store_readonly(store), 0);
    CHECK(td_store_has_locks(store));
    own_close(store);
}

TD_TEST(a_folder_that_others_can_write_to_is_refused_unless_asked_for)
{
    own_folder_path();
    td_store *store = NULL;
    const mode_t modes[] = {0770, 0707, 0777, 01777};
    REQUIRE(mkdir(own_path, 0700) == 0);
    for (size_t i = 0; i < 4; i++) {
        REQUIRE(chmod(own_path, modes[i]) == 0);
        CHECK_STATUS(open_it(false, &store), TD_EFOREIGN);
    }
    REQUIRE_OK(open_it(true, &store));
    REQUIRE_OK(own_put(store, 1, 10, 1));
    td_store_close(store);
    REQUIRE(chmod(own_path, 0755) == 0);
    REQUIRE_OK(open_it(false, &store));
    own_close(store);
}

TD_TEST(a_folder_of_another_user_is_refused_and_so_is_his_entry)
{
    if (geteuid() != 0)
        SKIP("needs to give a file away");
    td_store *store = own_store(), *other = NULL;
    REQUIRE_OK(own_put(store, 1, 10, 1));
    REQUIRE(chown(own_file(1), 12345, 12345) == 0);
    const struct td_key key = own_key(1);
    td_entry *entry = NULL;
    CHECK_STATUS(td_store_get(store, &key, TD_ACCESS_VIEW, &entry), TD_EFOREIGN);
    REQUIRE(chown(own_path, 12345, 12345) == 0);
    CHECK_STATUS(open_it(false, &other), TD_EFOREIGN);
    REQUIRE_OK(open_it(true, &other));
    CHECK(own_has(other, 1, 10, 1));
    td_store_close(other);
    own_close(store);
}

TD_TEST(what_cannot_be_a_folder_is_an_error)
{
    td_store *store = NULL;
    own_folder_path();
    const int fd = open(own_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    close(fd);
    CHECK_STATUS(open_it(false, &store), TD_EOS);
    CHECK_EQ(errno, ENOTDIR);
    own_remove();
    memset(own_path, 'x', sizeof own_path - 1);
    char path[5000];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    const struct td_store_options options = {0};
    CHECK_STATUS(td_store_open(path, &options, &store), TD_EOS);
    CHECK_EQ(errno, ENAMETOOLONG);
}

static void make_readonly(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount(own_path, own_path, NULL, MS_BIND, NULL) < 0 ||
        mount(NULL, own_path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0) {
        own_remove();
        SKIP("needs to mount a folder");
    }
}

TD_TEST(a_folder_that_cannot_be_written_to_is_read)
{
    td_store *store = own_store();
    REQUIRE_OK(own_put(store, 1, 10, 1));
    REQUIRE_OK(own_put(store, 2, LARGE_BYTES, 2));
    td_store_close(store);
    make_readonly();
    store = own_open((struct td_store_options){.cap_bytes = 1});
    CHECK_EQ(td_store_readonly(store), EROFS);
    CHECK(!td_store_has_locks(store));
    CHECK(own_has(store, 1, 10, 1));
    CHECK(own_has(store, 2, LARGE_BYTES, 2));
    CHECK_STATUS(own_put(store, 3, 10, 3), TD_EOS);
    CHECK_EQ(errno, EROFS);
    enum td_role role;
    const struct td_key key = own_key(3);
    CHECK_OK(td_store_enter_until(store, &key, 0, 0, 0, &role));
    CHECK_EQ(role, TD_ROLE_NOLOCKS);
    CHECK_OK(td_store_leave(store, &key, 0));
    CHECK_EQ(own_entries(store), 2u);
    td_store_close(store);
    REQUIRE(umount2(own_path, MNT_DETACH) == 0);
    own_remove();
}

TD_TEST(an_empty_folder_that_cannot_be_written_to_has_no_entries)
{
    own_folder_path();
    REQUIRE(mkdir(own_path, 0700) == 0);
    make_readonly();
    td_store *store = own_open((struct td_store_options){0});
    CHECK_EQ(td_store_readonly(store), EROFS);
    CHECK(!own_has(store, 1, 10, 1));
    CHECK_STATUS(own_put(store, 3, 10, 3), TD_EOS);
    CHECK_EQ(own_entries(store), 0u);
    td_store_close(store);
    REQUIRE(umount2(own_path, MNT_DETACH) == 0);
    own_remove();
}

TD_TEST(a_process_has_a_folder_open_once)
{
    td_store *store = own_store(), *other = own_open((struct td_store_options){.durable = true});
    CHECK_EQ(store->folder, other->folder);
    td_store_close(other);
    own_close(store);
}

TD_TEST(a_folder_that_was_removed_is_made_again_by_the_next_put)
{
    td_store *store = own_store();
    REQUIRE_OK(own_put(store, 1, 10, 1));
    own_remove();
    CHECK(!own_has(store, 1, 10, 1));
    REQUIRE_OK(own_put(store, 2, 10, 2));
    td_store *other = own_open((struct td_store_options){0});
    CHECK_EQ(store->folder, other->folder);
    CHECK(own_has(other, 2, 10, 2));
    td_store_close(other);
    own_close(store);
}

TD_TEST(another_version_beside_it_is_left_alone)
{
    td_store *store = own_store();
    char path[sizeof own_path + 32], name[TD_NAME_BYTES];
    const struct td_key key = own_key(1);
    td__entry_name(&key, name);
    snprintf(path, sizeof path, "%s/store-2", own_path);
    REQUIRE(mkdir(path, 0700) == 0);
    REQUIRE_OK(own_put(store, 1, 10, 1));
    const struct td_limits nothing = {0, 0, 0};
    uint64_t items, bytes;
    CHECK_OK(td_store_prune(store, &nothing, &items, &bytes));
    CHECK_EQ(items, 1u);
    CHECK(access(path, F_OK) == 0);
    own_close(store);
}

TD_TEST(names_and_keys_are_one_to_one)
{
    uint64_t seed = test_seed;
    for (uint32_t i = 0; i < 1000; i++) {
        struct td_key key = {.length = 1 + (uint32_t)test_random_below(&seed, TD_KEY_BYTES)}, found;
        char name[TD_NAME_BYTES];
        for (uint32_t k = 0; k < key.length; k++)
            key.bytes[k] = (uint8_t)test_random(&seed);
        td__entry_name(&key, name);
        REQUIRE(td__entry_key(name + 3, &found));
        CHECK_EQ(found.length, key.length);
        CHECK_MEM(found.bytes, key.bytes, key.length);
    }
    struct td_key key;
    CHECK(!td__entry_key("", &key));
    CHECK(!td__entry_key("abc", &key));
    CHECK(!td__entry_key("AB", &key));
    CHECK(!td__entry_key("tmp", &key));
}

TD_TEST_MAIN
