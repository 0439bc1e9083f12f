/* tests/cache/test_get.c: what is got is what was put, whatever becomes of the file; or it is refused. */
#include "tests/cache/own_store.h"

static const enum td_access accesses[] = {TD_ACCESS_COPY, TD_ACCESS_VIEW, TD_ACCESS_PRIVATE};
static const size_t sizes[] = {0, 1, 63, 64, 4096, 65000, 65536, 65537, LARGE_BYTES, (size_t)5 << 20};

#define SIZES (sizeof sizes / sizeof sizes[0])

static td_entry *get(td_store *store, uint64_t number, enum td_access access)
{
    const struct td_key key = own_key(number);
    td_entry *entry = NULL;
    REQUIRE_OK(td_store_get(store, &key, access, &entry));
    return entry;
}

TD_TEST(what_was_put_is_got_in_every_way)
{
    td_store *store = own_store();
    for (uint64_t i = 0; i < SIZES; i++) {
        CHECK(!own_has(store, i, sizes[i], i));
        REQUIRE_OK(own_put(store, i, sizes[i], i));
    }
    for (uint64_t i = 0; i < SIZES; i++)
        for (size_t a = 0; a < 3; a++) {
            td_entry *entry = get(store, i, accesses[a]);
            uint64_t bytes;
            char kind[TD_KIND_BYTES + 1];
            const uint8_t *data = td_entry_part(entry, 0, &bytes);
            CHECK_EQ(bytes, sizes[i]);
            CHECK_EQ((uintptr_t)data % 64, 0u);
            CHECK(own_is_filled(data, sizes[i], i));
            td_entry_kind(entry, kind);
            CHECK_STR(kind, "test");
            CHECK_NE(td_entry_stamp(entry), 0u);
            td_entry_free(entry);
        }
    own_close(store);
}

TD_TEST(several_parts_are_got_each_aligned)
{
    td_store *store = own_store();
    const struct td_key key = own_key(1);
    enum { PARTS = 200 };
    static uint8_t data[PARTS];
    struct td_part parts[PARTS];
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < PARTS; i++) {
            data[i] = (uint8_t)i;
            parts[i] = (struct td_part){data, round == 0 ? i : i % 2};
        }
        REQUIRE_OK(td_store_put(store, &key, "", parts, PARTS, NULL));
        td_entry *entry = get(store, 1, TD_ACCESS_VIEW);
        CHECK_EQ(td_entry_count(entry), PARTS);
        for (uint32_t i = 0; i < PARTS; i++) {
            uint64_t bytes;
            const void *part = td_entry_part(entry, i, &bytes);
            CHECK_EQ(bytes, parts[i].bytes);
            CHECK_EQ((uintptr_t)part % 64, 0u);
            CHECK_MEM(part, data, bytes);
        }
        td_entry_free(entry);
    }
    own_close(store);
}

TD_TEST(what_is_written_to_a_copy_nobody_else_sees)
{
    td_store *store = own_store();
    for (uint64_t i = 0; i < SIZES; i++) {
        REQUIRE_OK(own_put(store, i, sizes[i], i));
        for (size_t a = 0; a < 3; a += 2) {
            td_entry *entry = get(store, i, accesses[a]), *other = get(store, i, accesses[a]);
            uint64_t bytes;
            uint8_t *data = td_entry_part(entry, 0, &bytes);
            memset(data, 0, bytes);
            CHECK(own_is_filled(td_entry_part(other, 0, &bytes), sizes[i], i));
            CHECK(own_has(store, i, sizes[i], i));
            td_entry_free(entry);
            td_entry_free(other);
        }
    }
    own_close(store);
}

TD_TEST(an_entry_outlives_its_file_and_its_store)
{
    td_store *store = own_store();
    td_entry *entries[3];
    REQUIRE_OK(own_put(store, 1, LARGE_BYTES, 5));
    for (size_t a = 0; a < 3; a++)
        entries[a] = get(store, 1, accesses[a]);
    REQUIRE_OK(own_put(store, 1, LARGE_BYTES, 6));
    bool dropped = false;
    const struct td_key key = own_key(1);
    CHECK_OK(td_store_drop(store, &key, &dropped));
    CHECK(dropped);
    CHECK_OK(td_store_drop(store, &key, &dropped));
    CHECK(!dropped);
    own_close(store);
    for (size_t a = 0; a < 3; a++) {
        uint64_t bytes;
        CHECK(own_is_filled(td_entry_part(entries[a], 0, &bytes), LARGE_BYTES, 5));
        td_entry_free(entries[a]);
    }
}

/* The whole file, changed at one place. */
static void rewrite(const char *path, const uint8_t *bytes, size_t count)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
    close(fd);
}

static size_t read_file(const char *path, uint8_t *bytes, size_t room)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    const ssize_t got = read(fd, bytes, room);
    close(fd);
    return (size_t)got;
}

static void check_refused(td_store *store, enum td_access access)
{
    const struct td_key key = own_key(1);
    td_entry *entry = NULL;
    CHECK_STATUS(td_store_get(store, &key, access, &entry), TD_ECORRUPT);
    CHECK_OK(td_store_get(store, &key, access, &entry)); /* it is removed */
    CHECK(entry == NULL);
}

TD_TEST(every_flipped_bit_of_a_small_entry_is_found)
{
    static uint8_t bytes[1024];
    td_store *store = own_store();
    REQUIRE_OK(own_put(store, 1, 70, 1));
    const size_t count = read_file(own_file(1), bytes, sizeof bytes);
    for (size_t bit = 0; bit < 8 * count; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        rewrite(own_file(1), bytes, count);
        check_refused(store, accesses[bit % 3]);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    for (size_t cut = 0; cut < count; cut++) {
        rewrite(own_file(1), bytes, cut);
        check_refused(store, accesses[cut % 3]);
    }
    rewrite(own_file(1), bytes, count);
    CHECK(own_has(store, 1, 70, 1));
    own_close(store);
}

TD_TEST(flipped_bits_of_a_large_entry_are_found)
{
    static uint8_t bytes[LARGE_BYTES + 4096];
    td_store *store = own_store();
    uint64_t seed = test_seed;
    REQUIRE_OK(own_put(store, 1, LARGE_BYTES, 1));
    const size_t count = read_file(own_file(1), bytes, sizeof bytes);
    CHECK_LT(LARGE_BYTES, count);
    const uint64_t rounds = test_rounds(100);
    for (uint64_t i = 0; i < rounds; i++) {
        const size_t bit = test_random_below(&seed, 8 * count);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        rewrite(own_file(1), bytes, count);
        check_refused(store, accesses[i % 3]);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        rewrite(own_file(1), bytes, test_random_below(&seed, count));
        check_refused(store, accesses[i % 3]);
    }
    own_close(store);
}

TD_TEST(an_entry_under_another_key_is_refused)
{
    static uint8_t bytes[LARGE_BYTES + 4096];
    td_store *store = own_store();
    REQUIRE_OK(own_put(store, 2, LARGE_BYTES, 1));
    const size_t count = read_file(own_file(2), bytes, sizeof bytes);
    REQUIRE_OK(own_put(store, 1, 1, 1));
    rewrite(own_file(1), bytes, count);
    check_refused(store, TD_ACCESS_VIEW);
    CHECK(own_has(store, 2, LARGE_BYTES, 1));
    own_close(store);
}

TD_TEST(what_is_no_file_is_refused)
{
    td_store *store = own_store();
    REQUIRE_OK(own_put(store, 1, 1, 1));
    REQUIRE(unlink(own_file(1)) == 0 && symlink("/etc/passwd", own_file(1)) == 0);
    CHECK(!own_has(store, 1, 1, 1));
    REQUIRE(unlink(own_file(1)) == 0 && mkfifo(own_file(1), 0600) == 0);
    const struct td_key key = own_key(1);
    td_entry *entry = NULL;
    CHECK_STATUS(td_store_get(store, &key, TD_ACCESS_VIEW, &entry), TD_ECORRUPT);
    own_close(store);
}

TD_TEST(only_heads_are_looked_at_where_that_is_asked_for)
{
    own_folder_path();
    td_store *store = own_open((struct td_store_options){.heads_only = true});
    REQUIRE_OK(own_put(store, 1, LARGE_BYTES, 1));
    const int fd = open(own_file(1), O_WRONLY | O_CLOEXEC);
    REQUIRE(pwrite(fd, "", 1, (off_t)LARGE_BYTES) == 1);
    close(fd);
    td_entry *entry = get(store, 1, TD_ACCESS_VIEW);
    CHECK(entry != NULL);
    td_entry_free(entry);
    const struct td_key key = own_key(1);
    td_store *careful = own_open((struct td_store_options){0});
    CHECK_STATUS(td_store_get(careful, &key, TD_ACCESS_VIEW, &entry), TD_ECORRUPT);
    td_store_close(careful);
    own_close(store);
}

TD_TEST(a_use_is_noted_in_the_access_time)
{
    td_store *store = own_store();
    struct stat before, after;
    REQUIRE_OK(own_put(store, 1, 100, 1));
    const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 2000, .tv_nsec = 7}};
    REQUIRE(utimensat(AT_FDCWD, own_file(1), old, 0) == 0 && stat(own_file(1), &before) == 0);
    CHECK(own_has(store, 1, 100, 1));
    REQUIRE(stat(own_file(1), &after) == 0);
    CHECK_LT(before.st_atim.tv_sec, after.st_atim.tv_sec);
    CHECK_EQ(after.st_mtim.tv_sec, 2000);
    CHECK_EQ(after.st_mtim.tv_nsec, 7);
    own_close(store);
}

TD_TEST_MAIN
