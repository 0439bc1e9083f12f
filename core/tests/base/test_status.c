/* tests/base/test_status.c: the status table. */
#include "tests/harness.h"

TD_TEST(every_status_has_name_text_and_exception)
{
#define CHECK_ROW(status, value, text, exception)                                                              \
    CHECK_EQ((int)status, value);                                                                              \
    CHECK_STR(td_status_name(status), #status);                                                                \
    CHECK_STR(td_status_text(status), text);                                                                   \
    CHECK_STR(td_status_exception(status), exception);
    TD_STATUS_TABLE(CHECK_ROW)
#undef CHECK_ROW
}

TD_TEST(only_success_has_no_exception)
{
#define CHECK_EXCEPTION(status, value, text, exception) CHECK_EQ(strlen(exception) == 0, status == TD_OK);
    TD_STATUS_TABLE(CHECK_EXCEPTION)
#undef CHECK_EXCEPTION
}

TD_TEST(unknown_status_is_named_as_such)
{
    const int strange[] = {1, -1000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++) {
        CHECK_STR(td_status_name((td_status)strange[i]), "TD_E?");
        CHECK_STR(td_status_exception((td_status)strange[i]), "RuntimeError");
    }
}

TD_TEST(errno_maps_to_the_status_that_says_the_same)
{
    CHECK_STATUS(td_status_from_errno(0), TD_OK);
    CHECK_STATUS(td_status_from_errno(ENOMEM), TD_ENOMEM);
    CHECK_STATUS(td_status_from_errno(ENOSPC), TD_ENOROOM);
    CHECK_STATUS(td_status_from_errno(EMFILE), TD_ENOFD);
    CHECK_STATUS(td_status_from_errno(ENFILE), TD_ENOFD);
    CHECK_STATUS(td_status_from_errno(ENOSYS), TD_ENOSYS);
    CHECK_STATUS(td_status_from_errno(EPIPE), TD_ECLOSED);
    CHECK_STATUS(td_status_from_errno(EXDEV), TD_EOS);
}

TD_TEST(errno_is_left_alone)
{
    errno = EXDEV;
    td_status_from_errno(ENOMEM);
    CHECK_EQ(errno, EXDEV);
}

TD_TEST_MAIN
