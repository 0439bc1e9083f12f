/* tests/base/test_assert.c: a failed assertion says where and with which values, and aborts. */
#undef NDEBUG
#include "base/assert.h"

#include "tests/harness.h"

/* Runs `body` in a child with standard error in a pipe; its text is in `output`. The signal that ended it. */
static int signal_of(void (*body)(void), char *output, size_t capacity)
{
    int ends[2];
    if (pipe(ends) < 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got = 1; got > 0 && used<capacity - 1; used += got> 0 ? (size_t)got : 0)
        got = read(ends[0], output + used, capacity - 1 - used);
    output[used] = '\0';
    close(ends[0]);
    return -test_wait_child(pid);
}

static void all_true(void)
{
    size_t two = 2;
    TD_ASSERT(two == 2);
    TD_ASSERT_EQ(two, 2);
    TD_ASSERT_LE(two, 2);
    TD_ASSERT_LT(two, 3);
    TD_ASSERT_EQ(&two, &two);
}

static void condition_false(void)
{
    int value = 1;
    TD_ASSERT(value == 2);
}

static void values_differ(void)
{
    int left = -3;
    TD_ASSERT_LT(5, left);
}

TD_TEST(true_assertions_are_silent)
{
    char output[512];
    CHECK_EQ(signal_of(all_true, output, sizeof output), 0);
    CHECK_STR(output, "");
}

TD_TEST(failed_condition_names_the_expression)
{
    char output[512];
    CHECK_EQ(signal_of(condition_false, output, sizeof output), SIGABRT);
    CHECK_CONTAINS(output, "test_assert.c:");
    CHECK_CONTAINS(output, "value == 2");
}

TD_TEST(failed_comparison_prints_both_values)
{
    char output[512];
    CHECK_EQ(signal_of(values_differ, output, sizeof output), SIGABRT);
    CHECK_CONTAINS(output, "5 < left");
    CHECK_CONTAINS(output, "left 5");
    CHECK_CONTAINS(output, "right -3");
}

TD_TEST_MAIN
