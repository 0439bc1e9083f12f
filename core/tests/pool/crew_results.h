/* tests/pool/crew_results.h: what a crew's workers answer with: chunks, blocks, parcels. A part of crew.h, which
 * includes it in its middle. */
#ifndef TD_TESTS_POOL_CREW_RESULTS_H
#define TD_TESTS_POOL_CREW_RESULTS_H

static void crew_run_items(const struct op *op)
{
    struct td_block block;
    uint64_t used = 0;
    uint32_t item, done = 0;
    if (td_worker_block(crew_worker, 64, &block) != TD_OK)
        _exit(103);
    while (td_worker_take_item(crew_worker, &item) == TD_OK) {
        td_atomic_fetch_add_relaxed(&crew_board->runs[item], 1);
        if (item == op->b && !crew_act(op, op->c))
            break;
        if (op->c == OP_SPIN && item != op->b)
            crew_spin(op->a);
        if (td_worker_block_grow(crew_worker, &block, used, used + sizeof(uint64_t)) != TD_OK)
            _exit(104);
        const uint64_t value = (uint64_t)item * 2;
        memcpy((char *)block.data + used, &value, sizeof value);
        used += sizeof value;
        td_worker_publish(crew_worker, &block, used, ++done);
        td_atomic_fetch_add_relaxed(&crew_board->runs[item], 1u << 16);
    }
    if (td_worker_reply(crew_worker, true, NULL, &block, used, false) != TD_OK)
        _exit(105);
}

static void crew_run_big(const struct op *op)
{
    struct td_block block;
    if (td_worker_block(crew_worker, op->a, &block) != TD_OK) {
        crew_reply(false, 0);
        return;
    }
    memset(block.data, (int)op->b, op->a);
    crew_finish();
    if (td_worker_reply(crew_worker, true, NULL, &block, op->a, false) != TD_OK)
        _exit(106);
}

static struct td_parcel crew_make_parcel(uint64_t number, uint64_t bytes)
{
    struct td_block block;
    if (td_worker_block(crew_worker, bytes, &block) != TD_OK)
        _exit(114);
    memset(block.data, (int)(number + 1), bytes < 4096 ? bytes : 4096);
    ((unsigned char *)block.data)[bytes - 1] = (unsigned char)(number + 1);
    return (struct td_parcel){.ref = block.ref, .bytes = bytes, .copied = number % 2};
}

/* A result with so many parcels, ready for the reply. */
static void crew_pack_parcels(uint64_t count, uint64_t bytes, struct td_block *block)
{
    if (td_worker_block(crew_worker, sizeof count + count * sizeof(struct td_parcel), block) != TD_OK)
        _exit(115);
    memcpy(block->data, &count, sizeof count);
    for (uint64_t i = 0; i < count; i++) {
        const struct td_parcel parcel = crew_make_parcel(i, bytes);
        if (td_worker_enclose(crew_worker, block, sizeof count, &parcel, 1) != TD_OK)
            _exit(116);
    }
}

static void crew_run_parcels(const struct op *op)
{
    struct td_block block;
    crew_pack_parcels(op->a, op->b, &block);
    crew_finish();
    if (td_worker_reply(crew_worker, true, NULL, &block, sizeof op->a, false) != TD_OK)
        _exit(117);
}

static void crew_run_item_parcels(const struct op *op)
{
    struct td_block block;
    uint64_t used = 0;
    uint32_t item, done = 0;
    if (td_worker_block(crew_worker, 64, &block) != TD_OK)
        _exit(118);
    while (td_worker_take_item(crew_worker, &item) == TD_OK) {
        const uint64_t value = item, more = used + sizeof value + (done + 1) * sizeof(struct td_parcel);
        if (item == op->b)
            crew_die(SIGKILL);
        if (td_worker_block_grow(crew_worker, &block, used, more) != TD_OK)
            _exit(119);
        memcpy((char *)block.data + used, &value, sizeof value);
        used += sizeof value;
        const struct td_parcel parcel = crew_make_parcel(item, op->a);
        if (td_worker_enclose(crew_worker, &block, used, &parcel, 1) != TD_OK)
            _exit(120);
        td_worker_publish(crew_worker, &block, used, ++done);
    }
    if (td_worker_reply(crew_worker, true, NULL, &block, used, false) != TD_OK)
        _exit(121);
}

static void crew_send_parcels(const struct op *op)
{
    if (op->code == OP_PARCELS)
        crew_run_parcels(op);
    else
        crew_run_item_parcels(op);
}

/* Two good parcels, and then a table that is not. */
static void crew_forge_table(uint32_t slot, enum rogue way)
{
    struct td_block block;
    crew_pack_parcels(2, 1000, &block);
    struct td_parcel *second = (struct td_parcel *)(void *)((char *)block.data + block.capacity) - 2;
    if (way == ROGUE_PARCEL_REF)
        second->ref += 64;
    if (way == ROGUE_PARCEL_LENGTH)
        second->bytes = UINT64_C(1) << 40;
    if (way == ROGUE_PARCEL_COUNT)
        td_atomic_store_relaxed(&crew_map.slots[slot].parcels, UINT32_MAX);
    crew_map.slots[slot].result_ref = block.ref;
    crew_map.slots[slot].result_bytes = 8;
}

#endif
