/* tests/base/test_option.c: parsing, defaults, problems, reloads.
 * Weakened  -DTD_WEAKEN_option_T=1 makes readers_see_whole_values_during_reloads fail under ThreadSanitizer. */
#include "base/option.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "tests/harness.h"

static int64_t parsed(td_option_type type, const char *text)
{
    int64_t value = -77;
    return td_option_parse(type, text, &value) == TD_OK ? value : -77;
}

static void clear_environment(void)
{
    td_option_info info;
    for (int i = 0; i < TD_OPTION_COUNT; i++) {
        td_option_describe((td_option)i, &info);
        unsetenv(info.name);
    }
    td_options_reload();
}

TD_TEST(bools_have_the_usual_spellings)
{
    CHECK_EQ(parsed(TD_OPTION_BOOL, "1"), 1);
    CHECK_EQ(parsed(TD_OPTION_BOOL, "Yes"), 1);
    CHECK_EQ(parsed(TD_OPTION_BOOL, "off"), 0);
    CHECK_EQ(parsed(TD_OPTION_BOOL, "2"), -77);
}

TD_TEST(bytes_take_powers_of_1024)
{
    CHECK_EQ(parsed(TD_OPTION_BYTES, "4096"), 4096);
    CHECK_EQ(parsed(TD_OPTION_BYTES, "64k"), 65536);
    CHECK_EQ(parsed(TD_OPTION_BYTES, " 2 G "), INT64_C(2) << 30);
    CHECK_EQ(parsed(TD_OPTION_BYTES, "1.5M"), 3 << 19);
    CHECK_EQ(parsed(TD_OPTION_BYTES, "9223372036854775807"), INT64_MAX);
}

TD_TEST(durations_take_units_and_bare_seconds)
{
    CHECK_EQ(parsed(TD_OPTION_DURATION, "2"), 2000000000);
    CHECK_EQ(parsed(TD_OPTION_DURATION, "0.5"), 500000000);
    CHECK_EQ(parsed(TD_OPTION_DURATION, "250ms"), 250000000);
    CHECK_EQ(parsed(TD_OPTION_DURATION, "7us"), 7000);
    CHECK_EQ(parsed(TD_OPTION_DURATION, "9ns"), 9);
    CHECK_EQ(parsed(TD_OPTION_DURATION, "2min"), 120 * INT64_C(1000000000));
    CHECK_EQ(parsed(TD_OPTION_DURATION, "1h"), 3600 * INT64_C(1000000000));
}

TD_TEST(spin_is_auto_off_or_microseconds)
{
    CHECK_EQ(parsed(TD_OPTION_SPIN, "auto"), TD_SPIN_AUTO);
    CHECK_EQ(parsed(TD_OPTION_SPIN, "0"), 0);
    CHECK_EQ(parsed(TD_OPTION_SPIN, "off"), 0);
    CHECK_EQ(parsed(TD_OPTION_SPIN, "50"), 50000);
    CHECK_EQ(parsed(TD_OPTION_SPIN, "1ms"), 1000000);
}

TD_TEST(nonsense_is_refused_and_leaves_the_value)
{
    const char *const bad[] = {"",     "x",
                               "-1",   "+1",
                               "1x",   "1 M M",
                               "1..5", ".5",
                               "0x10", "9223372036854775808",
                               "1e3",  "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_EQ(parsed(TD_OPTION_BYTES, bad[i]), -77);
        CHECK_EQ(parsed(TD_OPTION_INT, bad[i]), -77);
        CHECK_EQ(parsed(TD_OPTION_DURATION, bad[i]), -77);
    }
    CHECK_EQ(parsed(TD_OPTION_INT, "1.5"), -77);
    CHECK_EQ(parsed(TD_OPTION_BYTES, "9000000000G"), -77);
    CHECK_EQ(parsed(TD_OPTION_STRING, "1"), -77);
}

TD_TEST(every_default_parses)
{
    clear_environment();
    for (int i = 0; i < TD_OPTION_COUNT; i++) {
        td_option_info info;
        td_option_describe((td_option)i, &info);
        CHECK(!info.is_set);
        CHECK(info.problem == NULL);
        CHECK_STR(info.text, info.default_text);
        CHECK_CONTAINS(info.name, "TREADLE_");
        CHECK(strlen(info.help) > 10);
    }
    CHECK_EQ(td_option_int(TD_OPT_WARM_BYTES), 256 << 20);
    CHECK_EQ(td_option_int(TD_OPT_GRACE), 1000000000);
    CHECK_EQ(td_option_int(TD_OPT_SPIN), TD_SPIN_AUTO);
    CHECK(td_options_problem() == NULL);
}

TD_TEST(a_bad_variable_keeps_its_default_and_says_why)
{
    clear_environment();
    setenv("TREADLE_SLOTS", "many", 1);
    setenv("TREADLE_WORKERS", "3", 1);
    CHECK_STATUS(td_options_reload(), TD_EINVAL);
    CHECK_EQ(td_option_int(TD_OPT_SLOTS), 4096);
    CHECK_EQ(td_option_int(TD_OPT_WORKERS), 3);
    CHECK_CONTAINS(td_options_problem(), "TREADLE_SLOTS=many");
    unsetenv("TREADLE_SLOTS");
    CHECK_OK(td_options_reload());
    CHECK(td_options_problem() == NULL);
}

TD_TEST(an_empty_variable_is_unset)
{
    clear_environment();
    setenv("TREADLE_INLINE", "", 1);
    CHECK_OK(td_options_reload());
    CHECK(!td_option_bool(TD_OPT_INLINE));
}

TD_TEST(texts_outlive_reloads)
{
    clear_environment();
    setenv("TREADLE_TRACE", "/first", 1);
    CHECK_OK(td_options_reload());
    const char *first = td_option_string(TD_OPT_TRACE);
    setenv("TREADLE_TRACE", "/second", 1);
    CHECK_OK(td_options_reload());
    CHECK_STR(first, "/first");
    CHECK_STR(td_option_string(TD_OPT_TRACE), "/second");
    setenv("TREADLE_TRACE", "/first", 1);
    CHECK_OK(td_options_reload());
    CHECK(td_option_string(TD_OPT_TRACE) == first);
}

static td_atomic_u32 stop_reading, texts_seen;

static void *read_options(void *unused)
{
    const char *last = "";
    while (!td_atomic_load_relaxed(&stop_reading)) {
        const char *text = td_option_string(TD_OPT_TRACE);
        CHECK(strncmp(text, "/text-", 6) == 0);
        td_atomic_fetch_add_relaxed(&texts_seen, text != last);
        last = text;
        int64_t workers = td_option_int(TD_OPT_WORKERS);
        CHECK(workers == 1 || workers == 2);
    }
    return unused;
}

TD_TEST(readers_see_whole_values_during_reloads)
{
    setenv("TREADLE_TRACE", "/text-", 1);
    setenv("TREADLE_WORKERS", "1", 1);
    td_options_reload();
    pthread_t reader;
    REQUIRE_EQ(pthread_create(&reader, NULL, read_options, NULL), 0);
    for (uint64_t i = 0; td_atomic_load_relaxed(&texts_seen) < test_rounds(50); i++) {
        char text[32];
        snprintf(text, sizeof text, "/text-%" PRIu64, i); /* each time a text that the reader has not seen */
        setenv("TREADLE_TRACE", text, 1);
        setenv("TREADLE_WORKERS", i % 2 ? "1" : "2", 1);
        CHECK_OK(td_options_reload());
        sched_yield();
    }
    td_atomic_store_relaxed(&stop_reading, 1);
    pthread_join(reader, NULL);
}

static td_atomic_u32 stop_reloading;

static void *reload_options(void *unused)
{
    while (!td_atomic_load_relaxed(&stop_reloading))
        CHECK_OK(td_options_reload());
    return unused;
}

TD_TEST(a_child_forked_during_a_reload_has_options)
{
    if (test_is_emulated())
        SKIP("the emulator does not survive a fork while threads run");
#ifdef __SANITIZE_ADDRESS__
    SKIP("a fork waits until other threads sleep (asan_fork.c), and this one never does");
#endif
    pthread_t reloader;
    REQUIRE_EQ(pthread_create(&reloader, NULL, reload_options, NULL), 0);
    for (uint64_t i = 0; i < test_rounds(100); i++) {
        const pid_t child = fork();
        if (child == 0)
            _exit(td_options_reload() != TD_OK);
        REQUIRE(child > 0);
        CHECK_EQ(test_wait_child(child), 0);
    }
    td_atomic_store_relaxed(&stop_reloading, 1);
    pthread_join(reloader, NULL);
}

TD_TEST_MAIN
