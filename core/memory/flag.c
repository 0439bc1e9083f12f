/* memory/flag.c: a flag, and the sleep of those who wait for it.
 *
 * One word: whether it is set, and how often it was cleared, so that who waits sees that it has been set although it is
 * clear again.
 *
 *     31 .............. 1   0
 *     times it was cleared  set
 *
 * Invariants  M1 the flag is set and its sleepers are woken in one step of the kernel's (os/futex.c): there is no
 *                moment at which a process can die and leave it set and them asleep.
 *             M2 a waiter sleeps only while the word is what it was when it came.
 * Ordering    M: what was done before the set -> release in set -> acquire of whoever sees the word.
 * Crash       nothing is held.   Tests  tests/memory/test_flag.c */
#include "memory/sync.h"
#include "os/futex.h"

#define SET 1u
#define ONE_CLEAR 2u

struct flag {
    struct td_sync_head head;
    td_atomic_u32 word;
};

static td_atomic_u32 *word_of(const td_hold *hold)
{
    struct flag *flag = td__sync_peek(hold, TD_SYNC_FLAG, sizeof *flag);
    return flag != NULL ? &flag->word : NULL;
}

td_status td_flag_new(td_hold **out)
{
    return td__sync_new(TD_SYNC_FLAG, sizeof(struct flag), out);
}

td_status td_flag_set(td_hold *hold)
{
    td_atomic_u32 *word = word_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    const uint32_t seen =
        TD_EDGE(flag_M, td_atomic_fetch_or_acqrel, td_atomic_fetch_or_relaxed)(word, 0); /* M */
    if ((seen & SET) == 0)
        td_futex_set_bit_wake_all(word, 0);
    return TD_OK;
}

td_status td_flag_clear(td_hold *hold)
{
    td_atomic_u32 *word = word_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    uint32_t seen = td_atomic_load_acquire(word);
    while ((seen & SET) != 0 && !td_atomic_cas_weak_acqrel(word, &seen, (seen & ~SET) + ONE_CLEAR)) {
    }
    return TD_OK;
}

uint32_t td_flag_ticket(const td_hold *hold)
{
    td_atomic_u32 *word = word_of(hold);
    return word != NULL ? td_atomic_load_acquire(word) /* M */ : 0;
}

bool td_flag_is_set(const td_hold *hold)
{
    return (td_flag_ticket(hold) & SET) != 0;
}

td_status td_flag_wait_until(td_hold *hold, uint32_t ticket, int64_t deadline_ns)
{
    td_atomic_u32 *word = word_of(hold);
    if (word == NULL)
        return TD_EPROTO;
    for (td_status status = TD_OK;;) {
        const uint32_t seen = td_atomic_load_acquire(word); /* M */
        if ((seen & SET) != 0 || seen != ticket)
            return TD_OK;
        if (status != TD_OK && status != TD_EAGAIN)
            return status;
        status = deadline_ns > 0 ? td_futex_wait_until(word, ticket, deadline_ns, true) : TD_ETIMEDOUT;
    }
}
