/* tests/harness.h: the harness of the engine's C tests: one header, one program per test file.
 *
 *     #include "tests/harness.h"
 *
 *     TD_TEST(ring_keeps_order_across_wraparound)
 *     {
 *         CHECK_EQ(td_ring_pop(&ring), 7);
 *     }
 *
 *     TD_TEST_MAIN
 *
 * The name states the property. Each test runs in a forked child of its own, so a crash, a hang or a leak in one is
 * that test's failure: it must end before its deadline, and leave no descriptor and no child behind (orphans of its
 * children become its own, to be reaped with waitpid(-1)). A failed CHECK is
 * printed with both values and the test goes on; a failed REQUIRE, or a SKIP, ends it there (from the test's main
 * thread only; CHECK works in any thread).
 *
 *     test_x [--list] [--no-fork] [--seed N] [PART-OF-A-NAME]
 *
 * TREADLE_TEST_SEED sets the seed too; TREADLE_TEST_SECONDS the deadline of a test (120), which is for tests that hang:
 * no property depends on it.
 * Exit status: 0 all passed, 1 some failed, 77 all were skipped. The closing line is "N passed, N failed, N
 * skipped". */
#ifndef TD_TESTS_HARNESS_H
#define TD_TESTS_HARNESS_H

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/status.h"

#define TEST_EXIT_SKIPPED 77
#define TEST_UNUSED __attribute__((unused))

typedef struct test_case {
    const char *name;
    void (*body)(void);
    struct test_case *next;
} test_case;

static test_case *test_first, **test_last = &test_first;
static const char *test_name = "";
static uint64_t test_seed;
static unsigned test_seconds = 120; /* the deadline of a test */
static td_atomic_u32 test_failures;

#define TD_TEST(test)                                                                                          \
    static void test##_(void);                                                                                 \
    static test_case test##_case = {#test, test##_, NULL};                                                     \
    __attribute__((constructor)) static void test##_register(void)                                             \
    {                                                                                                          \
        *test_last = &test##_case;                                                                             \
        test_last = &test##_case.next;                                                                         \
    }                                                                                                          \
    static void test##_(void)

/* ---- Checks ---- */

/* One write per message, so that processes and threads don't mix their lines. */
__attribute__((format(printf, 3, 4))) TEST_UNUSED static void test_fail(const char *file, int line,
                                                                        const char *format, ...)
{
    char text[1024];
    int used = snprintf(text, sizeof text, "%s:%d: %s: ", file, line, test_name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, sizeof text - (size_t)used - 1, format, arguments);
    va_end(arguments);
    strcat(text, "\n");
    td_atomic_fetch_add_relaxed(&test_failures, 1);
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        abort();
}

#define TEST_CONDITION_(cond, then)                                                                            \
    do {                                                                                                       \
        if (!(cond)) {                                                                                         \
            test_fail(__FILE__, __LINE__, "not true: %s", #cond);                                              \
            then;                                                                                              \
        }                                                                                                      \
    } while (0)

/* The common type of both sides, so that a literal may stand beside any integer or pointer. */
#define TEST_COMPARE_(a, op, b, then)                                                                          \
    do {                                                                                                       \
        const __typeof__(1 ? (a) : (b)) test_left_ = (a), test_right_ = (b);                                   \
        if (!(test_left_ op test_right_)) {                                                                    \
            test_fail(__FILE__, __LINE__, "%s " #op " %s: left %jd (%#jx), right %jd (%#jx)", #a, #b,          \
                      (intmax_t)test_left_, (uintmax_t)test_left_, (intmax_t)test_right_,                      \
                      (uintmax_t)test_right_);                                                                 \
            then;                                                                                              \
        }                                                                                                      \
    } while (0)

#define TEST_STATUS_(call, expected, then)                                                                     \
    do {                                                                                                       \
        const td_status test_status_ = (call);                                                                 \
        if (test_status_ != (expected)) {                                                                      \
            test_fail(__FILE__, __LINE__, "%s: %s (errno %d, %s), expected %s", #call,                         \
                      td_status_name(test_status_), errno, strerror(errno), td_status_name(expected));         \
            then;                                                                                              \
        }                                                                                                      \
    } while (0)

#define CHECK(cond) TEST_CONDITION_(cond, (void)0)
#define CHECK_EQ(a, b) TEST_COMPARE_(a, ==, b, (void)0)
#define CHECK_NE(a, b) TEST_COMPARE_(a, !=, b, (void)0)
#define CHECK_LT(a, b) TEST_COMPARE_(a, <, b, (void)0)
#define CHECK_LE(a, b) TEST_COMPARE_(a, <=, b, (void)0)
#define CHECK_OK(call) TEST_STATUS_(call, TD_OK, (void)0)
#define CHECK_STATUS(call, expected) TEST_STATUS_(call, expected, (void)0)

#define REQUIRE(cond) TEST_CONDITION_(cond, test_end())
#define REQUIRE_EQ(a, b) TEST_COMPARE_(a, ==, b, test_end())
#define REQUIRE_OK(call) TEST_STATUS_(call, TD_OK, test_end())

#define CHECK_STR(a, b)                                                                                        \
    do {                                                                                                       \
        const char *test_left_ = (a), *test_right_ = (b);                                                      \
        if (!test_left_ || !test_right_ || strcmp(test_left_, test_right_) != 0)                               \
            test_fail(__FILE__, __LINE__, "%s == %s: left \"%s\", right \"%s\"", #a, #b,                       \
                      test_left_ ? test_left_ : "(null)", test_right_ ? test_right_ : "(null)");               \
    } while (0)

#define CHECK_CONTAINS(text, part)                                                                             \
    do {                                                                                                       \
        const char *test_text_ = (text), *test_part_ = (part);                                                 \
        if (!test_text_ || !strstr(test_text_, test_part_))                                                    \
            test_fail(__FILE__, __LINE__, "%s contains %s: \"%s\" lacks \"%s\"", #text, #part,                 \
                      test_text_ ? test_text_ : "(null)", test_part_);                                         \
    } while (0)

#define CHECK_MEM(a, b, bytes)                                                                                 \
    do {                                                                                                       \
        const unsigned char *test_left_ = (const void *)(a), *test_right_ = (const void *)(b);                 \
        size_t test_i_ = 0, test_n_ = (bytes);                                                                 \
        while (test_i_ < test_n_ && test_left_[test_i_] == test_right_[test_i_])                               \
            test_i_++;                                                                                         \
        if (test_i_ < test_n_)                                                                                 \
            test_fail(__FILE__, __LINE__, "%s and %s differ at byte %zu of %zu: left %#x, right %#x", #a, #b,  \
                      test_i_, test_n_, test_left_[test_i_], test_right_[test_i_]);                            \
    } while (0)

/* SKIP("needs %s", what): this machine can't run the test. */
#define SKIP(...)                                                                                              \
    do {                                                                                                       \
        printf("     %s: ", test_name);                                                                        \
        printf(__VA_ARGS__);                                                                                   \
        printf("\n");                                                                                          \
        fflush(stdout);                                                                                        \
        exit(TEST_EXIT_SKIPPED);                                                                               \
    } while (0)

/* ---- Helpers for tests ---- */

/* splitmix64: repeatable from the printed seed; one state per thread. */
TEST_UNUSED static uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* A value below `bound`, which is at least 1. */
TEST_UNUSED static uint64_t test_random_below(uint64_t *state, uint64_t bound)
{
    return test_random(state) % bound;
}

/* Random operations per test: a smaller number under TREADLE_TEST_FACTOR, a larger one for stress. */
TEST_UNUSED static uint64_t test_rounds(uint64_t usual)
{
    const char *factor = getenv("TREADLE_TEST_FACTOR");
    double rounds = (double)usual * (factor ? atof(factor) : 1.0);
    return rounds < 1 ? 1 : (uint64_t)rounds;
}

/* The same of forks while another thread computes: under AddressSanitizer each waits for that thread (asan_fork.c). */
TEST_UNUSED static uint64_t test_forks_beside_work(uint64_t usual)
{
#ifdef __SANITIZE_ADDRESS__
    return usual < 2 ? usual : 2;
#else
    return test_rounds(usual);
#endif
}

/* How long a test waits for what must come, before it says what is missing: the deadline would say less. */
TEST_UNUSED static int64_t test_patience_ns(void)
{
    return test_seconds * INT64_C(1000000000) / 3 * 2;
}

/* Does an emulator run this program (tools/run_tests.py)? What it does otherwise than a kernel can't be tested
 * there. */
TEST_UNUSED static bool test_is_emulated(void)
{
    const char *emulator = getenv("TREADLE_TEST_EMULATOR");
    return emulator != NULL && emulator[0] != '\0';
}

/* The exit code of a child, or -signal; ends the test on a mistake of the test's own. */
TEST_UNUSED static int test_wait_child(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            abort();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_UNUSED static unsigned test_open_fds(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        return 0;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* ---- Runner ---- */

static unsigned test_open_fds_before;

/* In the test's process: the last checks, and its exit code. */
TEST_UNUSED static int test_verdict(void)
{
    unsigned now = test_open_fds();
    if (now != test_open_fds_before)
        test_fail(__FILE__, __LINE__, "descriptors open: %u before the test, %u after", test_open_fds_before,
                  now);
    return td_atomic_load_relaxed(&test_failures) ? 1 : 0;
}

/* Ends the test after a failed REQUIRE; what it holds is not a leak. */
TEST_UNUSED __attribute__((noreturn)) static void test_end(void)
{
    fflush(NULL);
    _exit(1);
}

TEST_UNUSED static int test_run_forked(const test_case *test)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(1);
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        td_atomic_store_relaxed(&test_failures, 0);
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        setpgid(0, 0);
        alarm(test_seconds);
        test_open_fds_before = test_open_fds();
        test->body();
        exit(test_verdict());
    }
    setpgid(pid, pid);
    int code = test_wait_child(pid);
    kill(-pid, SIGKILL); /* what a failed test left running */
    if (code < 0)
        test_fail(test->name, 0,
                  code == -SIGALRM ? "deadline of %u s passed (signal %d)" : "killed within %u s by signal %d",
                  test_seconds, -code);
    return code;
}

TEST_UNUSED static int test_run_here(const test_case *test)
{
    td_atomic_store_relaxed(&test_failures, 0);
    test_open_fds_before = test_open_fds();
    test->body();
    return test_verdict();
}

TEST_UNUSED static unsigned long test_number(const char *text, unsigned long otherwise)
{
    return text && *text ? strtoul(text, NULL, 0) : otherwise;
}

TEST_UNUSED static int test_main(int argc, char **argv)
{
    bool list = false, in_child = true;
    const char *part = "";
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    test_seed = test_number(getenv("TREADLE_TEST_SEED"), (unsigned long)now.tv_nsec);
    test_seconds = (unsigned)test_number(getenv("TREADLE_TEST_SECONDS"), test_seconds);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0)
            list = true;
        else if (strcmp(argv[i], "--no-fork") == 0)
            in_child = false;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            test_seed = test_number(argv[++i], 0);
        else
            part = argv[i];
    }
    unsigned passed = 0, failed = 0, skipped = 0;
    if (!list)
        printf("seed %" PRIu64 "\n", test_seed);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* for --no-fork; not inherited */
    for (const test_case *test = test_first; test; test = test->next) {
        if (!strstr(test->name, part))
            continue;
        test_name = test->name;
        if (list) {
            printf("%s\n", test->name);
            continue;
        }
        int code = in_child ? test_run_forked(test) : test_run_here(test);
        passed += code == 0;
        skipped += code == TEST_EXIT_SKIPPED;
        failed += code != 0 && code != TEST_EXIT_SKIPPED;
        printf("%s %s\n", code == 0 ? "ok  " : code == TEST_EXIT_SKIPPED ? "skip" : "FAIL", test->name);
    }
    if (list)
        return 0;
    printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed ? 1 : skipped && !passed ? TEST_EXIT_SKIPPED : 0;
}

#define TD_TEST_MAIN                                                                                           \
    int main(int argc, char **argv)                                                                            \
    {                                                                                                          \
        return test_main(argc, argv);                                                                          \
    }

#endif
