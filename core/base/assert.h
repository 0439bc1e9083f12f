/* base/assert.h: assertions for the engine's own bugs, never for what a user or another process hands in.
 *
 * TD_ASSERT(cond), TD_ASSERT_EQ(a, b), _LE, _LT: print file, line, the expression and both values, and abort. With
 * NDEBUG they produce no code but are still type-checked, and their arguments are not evaluated. */
#ifndef TD_BASE_ASSERT_H
#define TD_BASE_ASSERT_H

#include <stdint.h>

_Noreturn void td_assert_failed(const char *file, int line, const char *text);
_Noreturn void td_assert_compare_failed(const char *file, int line, const char *text, uintmax_t left,
                                        uintmax_t right);

#ifndef NDEBUG

#define TD_ASSERT(cond) ((cond) ? (void)0 : td_assert_failed(__FILE__, __LINE__, #cond))

/* Both sides are brought to their common type first, so that a literal may stand beside a size_t. */
#define TD_ASSERT_COMPARE_(a, op, b)                                                                           \
    do {                                                                                                       \
        const __typeof__(1 ? (a) : (b)) td_left_ = (a), td_right_ = (b);                                       \
        if (!(td_left_ op td_right_))                                                                          \
            td_assert_compare_failed(__FILE__, __LINE__, #a " " #op " " #b, (uintmax_t)td_left_,               \
                                     (uintmax_t)td_right_);                                                    \
    } while (0)

#else

#define TD_ASSERT(cond) ((void)sizeof((cond) ? 1 : 0))
#define TD_ASSERT_COMPARE_(a, op, b) ((void)sizeof(((a)op(b)) ? 1 : 0))

#endif

#define TD_ASSERT_EQ(a, b) TD_ASSERT_COMPARE_(a, ==, b)
#define TD_ASSERT_LE(a, b) TD_ASSERT_COMPARE_(a, <=, b)
#define TD_ASSERT_LT(a, b) TD_ASSERT_COMPARE_(a, <, b)

#endif
