/* tests/cache/own_store.h: a store of the test's own, and entries whose content follows from a number. */
#ifndef TD_TESTS_CACHE_OWN_STORE_H
#define TD_TESTS_CACHE_OWN_STORE_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>

#include "cache/folder.h"
#include "cache/store.h"
#include "tests/harness.h"

#define LARGE_BYTES ((size_t)200 << 10) /* not read at once, but mapped */

static char own_path[64];

TEST_UNUSED static int own_remove_one(const char *path, const struct stat *file, int kind, struct FTW *at)
{
    (void)file;
    (void)kind;
    (void)at;
    return remove(path);
}

TEST_UNUSED static void own_remove(void)
{
    nftw(own_path, own_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A folder for a store, which is not there yet. */
TEST_UNUSED static void own_folder_path(void)
{
    snprintf(own_path, sizeof own_path, "/tmp/treadle-store-XXXXXX");
    REQUIRE(mkdtemp(own_path) != NULL);
    REQUIRE(rmdir(own_path) == 0);
}

TEST_UNUSED static td_store *own_open(struct td_store_options options)
{
    td_store *store = NULL;
    REQUIRE_OK(td_store_open(own_path, &options, &store));
    return store;
}

TEST_UNUSED static td_store *own_store(void)
{
    own_folder_path();
    return own_open((struct td_store_options){0});
}

TEST_UNUSED static void own_close(td_store *store)
{
    td_store_close(store);
    own_remove();
}

TEST_UNUSED static struct td_key own_key(uint64_t number)
{
    struct td_key key = {.length = 16};
    memcpy(key.bytes, &number, sizeof number);
    return key;
}

/* The bytes of a part: they follow from a seed. */
TEST_UNUSED static void own_fill(uint8_t *bytes, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t word = (seed + i / 8) * UINT64_C(0x9e3779b97f4a7c15);
        bytes[i] = (uint8_t)(word >> (8 * (i % 8)));
    }
}

TEST_UNUSED static bool own_is_filled(const uint8_t *bytes, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t word = (seed + i / 8) * UINT64_C(0x9e3779b97f4a7c15);
        if (bytes[i] != (uint8_t)(word >> (8 * (i % 8))))
            return false;
    }
    return true;
}

/* An entry of one part of so many bytes. */
TEST_UNUSED static td_status own_put(td_store *store, uint64_t number, size_t bytes, uint64_t seed)
{
    const struct td_key key = own_key(number);
    uint8_t *data = malloc(bytes + 1);
    own_fill(data, bytes, seed);
    const struct td_part part = {.data = data, .bytes = bytes};
    const td_status status = td_store_put(store, &key, "test", &part, 1, NULL);
    const int error = errno;
    free(data);
    errno = error;
    return status;
}

/* Is it there, and right? */
TEST_UNUSED static bool own_has(td_store *store, uint64_t number, size_t bytes, uint64_t seed)
{
    const struct td_key key = own_key(number);
    td_entry *entry = NULL;
    REQUIRE_OK(td_store_get(store, &key, TD_ACCESS_VIEW, &entry));
    if (entry == NULL)
        return false;
    uint64_t found = 0;
    CHECK_EQ(td_entry_count(entry), 1u);
    const uint8_t *data = td_entry_part(entry, 0, &found);
    CHECK_EQ(found, bytes);
    CHECK(found == bytes && own_is_filled(data, bytes, seed));
    td_entry_free(entry);
    return true;
}

/* The path of an entry's file. */
TEST_UNUSED static const char *own_file(uint64_t number)
{
    static char path[sizeof own_path + TD_NAME_BYTES + 16];
    char name[TD_NAME_BYTES];
    const struct td_key key = own_key(number);
    td__entry_name(&key, name);
    snprintf(path, sizeof path, "%s/store-1/%s", own_path, name);
    return path;
}

/* Files in tmp/. */
TEST_UNUSED static unsigned own_leftovers(void)
{
    char path[sizeof own_path + 16];
    unsigned count = 0;
    snprintf(path, sizeof path, "%s/store-1/tmp", own_path);
    DIR *files = opendir(path);
    for (const struct dirent *file; files != NULL && (file = readdir(files)) != NULL;)
        count += file->d_name[0] != '.';
    if (files != NULL)
        closedir(files);
    return count;
}

TEST_UNUSED static bool own_count_one(void *ctx, const struct td_entry_info *info)
{
    (void)info;
    ++*(uint64_t *)ctx;
    return true;
}

TEST_UNUSED static uint64_t own_entries(td_store *store)
{
    uint64_t count = 0;
    REQUIRE_OK(td_store_walk(store, own_count_one, &count));
    return count;
}

#endif
