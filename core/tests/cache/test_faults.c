/* tests/cache/test_faults.c: when the n-th system call fails, or the n-th call for memory, the caller is told, nothing
 * is left behind, and what was there is there. */
#include <stdlib.h>

#include "tests/cache/gate.h"
#include "tests/cache/own_store.h"

#define MANY 10000

static bool is_honest(td_status status)
{
    return status == TD_OK || status == TD_EOS || status == TD_ENOMEM || status == TD_ENOFD;
}

/* Opens, enters, puts, gets and leaves while one call fails. False: none did. */
static bool exercise(long fail_at, int error, struct td_store_options options)
{
    const struct td_key key = own_key(1);
    td_store *store = NULL;
    td_entry *entry = NULL;
    enum td_role role = TD_ROLE_LANDED;
    gate.end = GATE_FAIL;
    gate.calls = 0;
    gate.at = fail_at;
    gate.error = error;
    td_status status = td_store_open(own_path, &options, &store);
    CHECK(is_honest(status));
    if (status == TD_OK) {
        CHECK_OK(td_store_enter_until(store, &key, 0, 0, 0, &role));
        CHECK(role == TD_ROLE_LEADER || role == TD_ROLE_NOLOCKS);
        status = own_put(store, 1, 1000, 1);
        CHECK(is_honest(status));
        const td_status got = td_store_get(store, &key, TD_ACCESS_COPY, &entry);
        CHECK(is_honest(got));
        CHECK(got != TD_OK || status != TD_OK || entry != NULL || error == ENOENT);
        td_entry_free(entry);
        CHECK_OK(td_store_leave(store, &key, 0));
    }
    td_store_close(store);
    gate.end = GATE_OPEN;
    const bool failed = gate.calls >= fail_at;
    if (status == TD_OK) {
        store = own_open((struct td_store_options){0});
        CHECK(own_has(store, 1, 1000, 1));
        const struct td_limits none = {TD_NO_LIMIT, TD_NO_LIMIT, INT64_MAX};
        uint64_t items, freed;
        CHECK_OK(td_store_prune(store, &none, &items, &freed));
        CHECK_EQ(own_leftovers(), 0u);
        td_store_close(store);
    }
    return failed;
}

static void fail_everywhere(struct td_store_options options)
{
    const int errors[] = {EIO, ENOSPC, EACCES, EMFILE, ENOLCK, EOPNOTSUPP};
    for (size_t e = 0; e < sizeof errors / sizeof errors[0]; e++) {
        long at = 0;
        bool failed = true;
        while (failed && at < MANY) {
            own_folder_path();
            failed = exercise(++at, errors[e], options);
            own_remove();
        }
        CHECK_LT(3, at);
        CHECK_LT(at, MANY);
    }
}

TD_TEST(any_call_may_fail)
{
    fail_everywhere((struct td_store_options){0});
}

TD_TEST(any_call_of_a_durable_writer_of_named_files_may_fail)
{
    fail_everywhere((struct td_store_options){.durable = true, .no_tmpfile = true, .cap_bytes = 1000000});
}

TD_TEST(only_a_durable_writer_waits_for_the_disk)
{
    for (int i = 0; i < 2; i++) {
        own_folder_path();
        td_store *store = own_open((struct td_store_options){.durable = i == 1});
        gate.syncs = 0;
        REQUIRE_OK(own_put(store, 1, 1000, 1));
        CHECK_EQ(gate.syncs, i == 1 ? 3 : 0); /* the file, its folder, and the folder of that */
        own_close(store);
    }
}

/* Each caller computes, and what it puts is got. */
TD_TEST(a_file_system_without_locks_is_found_out)
{
    const int errors[] = {ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        gate.lock_error = errors[i];
        td_store *store = own_store();
        const struct td_key key = own_key(1);
        enum td_role role;
        REQUIRE_OK(td_store_enter_until(store, &key, 0, 0, 0, &role));
        CHECK_EQ(role, TD_ROLE_NOLOCKS);
        CHECK(!td_store_has_locks(store));
        CHECK_STATUS(td_store_enter_until(store, &key, 7, 0, 0, &role), TD_ETIMEDOUT);
        REQUIRE_OK(own_put(store, 1, 1000, 1));
        CHECK_OK(td_store_leave(store, &key, 0));
        REQUIRE_OK(td_store_enter_until(store, &key, 7, 0, 0, &role));
        CHECK_EQ(role, TD_ROLE_LANDED);
        CHECK(own_has(store, 1, 1000, 1));
        gate.lock_error = 0;
        own_close(store);
    }
}

/* ---- Memory ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif

#ifdef SANITIZED
static long heap_calls, heap_fail_at;
#else
/* The C library's own, under the names that it has for those who stand before it. */
extern void *__libc_malloc(size_t bytes);                     /* NOLINT */
extern void *__libc_calloc(size_t count, size_t bytes);       /* NOLINT */
extern void *__libc_realloc(void *old, size_t bytes);         /* NOLINT */
extern void *__libc_memalign(size_t alignment, size_t bytes); /* NOLINT */

static long heap_calls, heap_fail_at;

static bool heap_fails(void)
{
    if (heap_fail_at == 0 || ++heap_calls != heap_fail_at)
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    return heap_fails() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    return heap_fails() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    return heap_fails() ? NULL : __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return heap_fails() ? NULL : __libc_memalign(alignment, bytes);
}
#endif

static bool is_starved(td_status status)
{
    return status == TD_OK || status == TD_ENOMEM || (status == TD_EOS && errno == ENOMEM);
}

static void starve(td_store *store, const struct td_part *part)
{
    const struct td_key key = own_key(1);
    const struct td_limits none = {TD_NO_LIMIT, TD_NO_LIMIT, INT64_MAX};
    td_entry *entry = NULL;
    enum td_role role;
    uint64_t items, bytes;
    if (td_store_enter_until(store, &key, 0, 1, 0, &role) == TD_OK && role == TD_ROLE_LEADER)
        CHECK_OK(td_store_leave(store, &key, 0));
    CHECK(is_starved(td_store_put(store, &key, "", part, 1, NULL)));
    const td_status got = td_store_get(store, &key, TD_ACCESS_COPY, &entry);
    CHECK(is_starved(got));
    td_entry_free(entry);
    CHECK(is_starved(td_store_prune(store, &none, &items, &bytes)));
}

TD_TEST(any_call_for_memory_may_fail)
{
#ifdef SANITIZED
    SKIP("a sanitizer has a heap of its own");
#endif
    static uint8_t data[LARGE_BYTES];
    const struct td_part parts[] = {{data, 1000}, {data, LARGE_BYTES}};
    const struct td_store_options options = {0};
    for (uint32_t i = 0; i < 2; i++) {
        long at = 0;
        do {
            own_folder_path();
            td_store *store = NULL;
            heap_calls = 0;
            heap_fail_at = ++at;
            const td_status status = td_store_open(own_path, &options, &store);
            CHECK(status == TD_OK || status == TD_ENOMEM);
            if (status == TD_OK)
                starve(store, &parts[i]);
            heap_fail_at = 0;
            td_store_close(store);
            own_remove();
        } while (heap_calls >= at && at < MANY);
        CHECK_LT(5, at);
        CHECK_LT(at, MANY);
    }
}

TD_TEST(short_reads_and_writes_are_gone_on_with)
{
    td_store *store = own_store();
    gate.is_short = true;
    for (uint64_t i = 0; i < 3; i++)
        REQUIRE_OK(own_put(store, i, i * 50000, i));
    for (uint64_t i = 0; i < 3; i++)
        CHECK(own_has(store, i, i * 50000, i));
    gate.is_short = false;
    own_close(store);
}

TD_TEST_MAIN
