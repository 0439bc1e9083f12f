/* tests/pool/crew_shared.h: what a crew's worker does with shared blocks. Part of crew.h, which includes it. */
#ifndef TD_TESTS_POOL_CREW_SHARED_H
#define TD_TESTS_POOL_CREW_SHARED_H

#define CREW_KEPT 40u
static td_hold *crew_kept[CREW_KEPT];

static uint64_t crew_look(const td_hold *hold)
{
    uint64_t word;
    memcpy(&word, td_hold_data(hold), sizeof word);
    return word;
}

static void crew_see(const struct op *op, const struct td_view *args)
{
    struct td_share share;
    td_hold *hold = NULL;
    if (args->bytes < sizeof *op + sizeof share)
        _exit(114);
    memcpy(&share, (const char *)args->data + sizeof *op, sizeof share);
    if (td_share_open(&share, &hold) != TD_OK)
        _exit(115);
    if (op->code == OP_SEE_AT_GATE)
        crew_wait_at_gate(op->a);
    const uint64_t word = crew_look(hold);
    if (op->code == OP_KEEP)
        crew_kept[op->a] = hold;
    else
        td_hold_unref(hold);
    crew_reply(true, word);
}

static void crew_let_go(uint64_t place)
{
    const uint64_t word = crew_look(crew_kept[place]);
    td_hold_unref(crew_kept[place]);
    crew_reply(true, word);
}

#endif
