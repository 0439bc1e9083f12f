/* base/assert.c: where failed assertions end. Prints, because the process is about to abort: the one place in the
 * engine that does. Uses a stack buffer and write(2), so it works in any state of the heap and in a signal handler's
 * frame. Built under NDEBUG too, for whoever mixes the two.
 * Tests  tests/base/test_assert.c */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Noreturn static void print_and_abort(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored; /* the core dump says the same */
    abort();
}

_Noreturn void td_assert_failed(const char *file, int line, const char *text)
{
    char message[512];
    snprintf(message, sizeof message, "%s:%d: assertion failed: %s\n", file, line, text);
    print_and_abort(message);
}

_Noreturn void td_assert_compare_failed(const char *file, int line, const char *text, uintmax_t left,
                                        uintmax_t right)
{
    char message[512];
    snprintf(message, sizeof message, "%s:%d: assertion failed: %s: left %jd (%#jx), right %jd (%#jx)\n", file,
             line, text, (intmax_t)left, left, (intmax_t)right, right);
    print_and_abort(message);
}
