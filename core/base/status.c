/* base/status.c: names, texts and exceptions of the status table, and the errno values that mean one.
 * Invariants  the table in treadle.h is the only list; values are 0 downwards without gaps (asserted below), so a
 *             status indexes its row.
 * Tests       tests/base/test_status.c */
#include "base/status.h"

#include <errno.h>
#include <stddef.h>

typedef struct status_row {
    const char *name, *text, *exception;
} status_row;

static const status_row rows[] = {
#define STATUS_ROW(name, value, text, exception) [-(value)] = {#name, text, exception},
    TD_STATUS_TABLE(STATUS_ROW)
#undef STATUS_ROW
};

#define STATUS_COUNT_ONE(name, value, text, exception) +1
_Static_assert(sizeof rows / sizeof rows[0] == 0 TD_STATUS_TABLE(STATUS_COUNT_ONE),
               "status values have no gaps");
#undef STATUS_COUNT_ONE

static const status_row unknown = {"TD_E?", "unknown status", "RuntimeError"};

static const status_row *row_of(td_status status)
{
    int value = (int)status;
    if (value > 0 || value <= -(int)(sizeof rows / sizeof rows[0]))
        return &unknown;
    return &rows[-value];
}

const char *td_status_name(td_status status)
{
    return row_of(status)->name;
}

const char *td_status_text(td_status status)
{
    return row_of(status)->text;
}

const char *td_status_exception(td_status status)
{
    return row_of(status)->exception;
}

td_status td_status_from_errno(int error)
{
    switch (error) {
    case 0:
        return TD_OK;
    case EINVAL:
        return TD_EINVAL;
    case ENOMEM:
        return TD_ENOMEM;
    case ENOSPC:
    case EDQUOT:
        return TD_ENOROOM;
    case ETIMEDOUT:
    case ETIME:
        return TD_ETIMEDOUT;
    case EINTR:
        return TD_EINTR;
    case EPIPE:
    case ECONNRESET:
    case ESRCH:
        return TD_ECLOSED;
    case ENOSYS:
    case EOPNOTSUPP:
        return TD_ENOSYS;
    case EMFILE:
    case ENFILE:
    case ETOOMANYREFS:
        return TD_ENOFD;
    case EAGAIN:
        return TD_EAGAIN;
    default:
        return TD_EOS;
    }
}
