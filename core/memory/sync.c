/* memory/sync.c: blocks for what processes synchronise with.
 * Invariant  a block says what it is before anybody else can know of it.   Tests  tests/memory/test_lock.c */
#include "memory/sync.h"

td_status td__sync_new(uint32_t kind, uint64_t bytes, td_hold **out)
{
    td_hold *hold = NULL;
    const td_status status = td_hold_new(bytes, true, &hold);
    if (status != TD_OK)
        return status;
    *(struct td_sync_head *)td_hold_data(hold) = (struct td_sync_head){.kind = kind};
    *out = hold;
    return TD_OK;
}
