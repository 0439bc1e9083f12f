/* base/status.h: the status table inside the engine. The table itself is in treadle.h. */
#ifndef TD_BASE_STATUS_H
#define TD_BASE_STATUS_H

#include "treadle.h"

/* The status for an errno value: the few numbers that mean the same after every call (ENOMEM, EINTR, EMFILE,
 * ENOSYS, ...), else TD_EOS. Leaves errno alone. Calls with meanings of their own (ENOSPC is TD_ENOROOM here,
 * EPERM is a seccomp filter there) look at errno before they ask. */
td_status td_status_from_errno(int error);

#endif
