/* memory/counter.c: a number that processes add to.
 * Invariant  each operation is one instruction: a process that is killed has done it or not.
 * Ordering   all operations are in one order.   Tests  tests/memory/test_counter.c */
#include "base/atomic.h"
#include "memory/sync.h"

struct counter {
    struct td_sync_head head;
    td_atomic_u64 value;
};

static td_atomic_u64 *value_of(const td_hold *hold)
{
    struct counter *counter = td__sync_peek(hold, TD_SYNC_COUNTER, sizeof *counter);
    return counter != NULL ? &counter->value : NULL;
}

td_status td_counter_new(int64_t value, td_hold **out)
{
    const td_status status = td__sync_new(TD_SYNC_COUNTER, sizeof(struct counter), out);
    return status == TD_OK ? td_counter_set(*out, value) : status;
}

td_status td_counter_add(td_hold *hold, int64_t number, int64_t *sum)
{
    td_atomic_u64 *word = value_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    *sum = (int64_t)(td_atomic_fetch_add_seq(word, (uint64_t)number) + (uint64_t)number);
    return TD_OK;
}

td_status td_counter_get(const td_hold *hold, int64_t *value)
{
    td_atomic_u64 *word = value_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    *value = (int64_t)td_atomic_load_seq(word);
    return TD_OK;
}

td_status td_counter_set(td_hold *hold, int64_t value)
{
    td_atomic_u64 *word = value_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    td_atomic_store_seq(word, (uint64_t)value);
    return TD_OK;
}
