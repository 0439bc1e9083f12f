/* tests/cache/test_killed.c: a writer is killed before each system call that it makes; then the store is as before or
 * as after, and goes on. */
#include "tests/cache/gate.h"
#include "tests/cache/own_store.h"

#define MANY 10000

/* A computation that ends in a put, in a process that is killed at one of its calls. Its exit code: -SIGKILL, or 0. */
static int compute(struct td_store_options options, size_t bytes, uint64_t seed, long kill_at)
{
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        gate.end = GATE_KILL;
        gate.calls = 0;
        gate.at = kill_at;
        td_store *store = own_open(options);
        const struct td_key key = own_key(1);
        enum td_role role;
        REQUIRE_OK(td_store_enter_until(store, &key, 0, 0, TD_FOREVER, &role)); /* LANDED, where there is one */
        REQUIRE_OK(own_put(store, 1, bytes, seed));
        (void)td_store_leave(store, &key, 0);
        td_store_close(store);
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0);
    }
    return test_wait_child(pid);
}

/* Nothing is held, nothing is torn, and what the dead one left goes. */
static void check_after(size_t before_bytes, uint64_t before, size_t bytes, uint64_t after)
{
    td_store *store = own_open((struct td_store_options){0});
    const struct td_key key = own_key(1);
    td_entry *entry = NULL;
    enum td_role role;
    REQUIRE_OK(td_store_get(store, &key, TD_ACCESS_COPY, &entry));
    CHECK(entry != NULL || before == 0);
    if (entry != NULL) {
        uint64_t found;
        const uint8_t *data = td_entry_part(entry, 0, &found);
        CHECK((found == bytes && own_is_filled(data, bytes, after)) ||
              (before != 0 && found == before_bytes && own_is_filled(data, before_bytes, before)));
        td_entry_free(entry);
    }
    REQUIRE_OK(td_store_enter_until(store, &key, 0, 0, 0, &role));
    CHECK_EQ(role, entry != NULL ? TD_ROLE_LANDED : TD_ROLE_LEADER);
    if (role == TD_ROLE_LEADER)
        CHECK_OK(td_store_leave(store, &key, 0));
    const struct td_limits none = {TD_NO_LIMIT, TD_NO_LIMIT, INT64_MAX};
    uint64_t items, freed;
    CHECK_OK(td_store_prune(store, &none, &items, &freed));
    CHECK_EQ(own_leftovers(), 0u);
    td_store_close(store);
}

static void kill_everywhere(struct td_store_options options, size_t bytes, bool replaces)
{
    long calls = 0;
    for (int code = -SIGKILL; code == -SIGKILL && calls < MANY;) {
        own_folder_path();
        if (replaces) {
            td_store *store = own_open((struct td_store_options){0});
            REQUIRE_OK(own_put(store, 1, bytes / 2, 3));
            td_store_close(store);
        }
        code = compute(options, bytes, 4, ++calls);
        CHECK(code == 0 || code == -SIGKILL);
        check_after(bytes / 2, replaces ? 3 : 0, bytes, 4);
        own_remove();
    }
    CHECK_LT(3, calls);
    CHECK_LT(calls, MANY);
}

TD_TEST(a_writer_may_be_killed_before_any_call)
{
    kill_everywhere((struct td_store_options){0}, 1000, false);
    kill_everywhere((struct td_store_options){0}, (size_t)2 << 20, false);
}

TD_TEST(a_durable_writer_may)
{
    kill_everywhere((struct td_store_options){.durable = true}, 1000, false);
}

TD_TEST(a_writer_of_named_files_may)
{
    kill_everywhere((struct td_store_options){.no_tmpfile = true}, 1000, false);
}

TD_TEST(a_writer_in_small_steps_may)
{
    gate.is_short = true;
    kill_everywhere((struct td_store_options){0}, 100, false);
}

TD_TEST(who_replaces_an_entry_may)
{
    kill_everywhere((struct td_store_options){0}, 1000, true);
    kill_everywhere((struct td_store_options){.no_tmpfile = true, .durable = true}, 1000, true);
}

/* An eviction between its files. */
TD_TEST(who_makes_room_may_be_killed_before_any_call)
{
    long calls = 0;
    for (int code = -SIGKILL; code == -SIGKILL && calls < MANY;) {
        own_folder_path();
        td_store *store = own_open((struct td_store_options){0});
        for (uint64_t i = 0; i < 5; i++)
            REQUIRE_OK(own_put(store, i, 100, i));
        td_store_close(store);
        fflush(NULL);
        calls++;
        const pid_t pid = fork();
        if (pid == 0) {
            gate.end = GATE_KILL;
            gate.calls = 0;
            gate.at = calls;
            store = own_open((struct td_store_options){0});
            const struct td_limits two = {TD_NO_LIMIT, 2, INT64_MAX};
            uint64_t items, freed;
            REQUIRE_OK(td_store_prune(store, &two, &items, &freed));
            td_store_close(store);
            _exit(0);
        }
        code = test_wait_child(pid);
        store = own_open((struct td_store_options){0});
        CHECK_LE(2u, own_entries(store));
        for (uint64_t i = 0; i < 5; i++)
            (void)own_has(store, i, 100, i);
        own_close(store);
    }
    CHECK_LT(calls, MANY);
}

TD_TEST_MAIN
