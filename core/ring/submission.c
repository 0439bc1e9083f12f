/* ring/submission.c: see submission.h for the protocol, its invariants and its edges.
 * Tests  tests/ring/test_submission.c */
#include "ring/submission.h"

#include "base/assert.h"

td_status td_submission_push(struct td_segment_map *map, enum td_lane lane, uint32_t slot,
                             uint64_t *position_out)
{
    td_atomic_u64 *tail = &map->head->tails[lane];
    const uint64_t position = td_atomic_load_relaxed(tail);
    td_atomic_u64 *cell = td_submission_cell(map, lane, position);
    const uint64_t old = td_atomic_load_relaxed(cell);
    if (old != 0 && td_cell_slot(old) < map->slot_count) {
        const uint64_t word = td_atomic_load_relaxed(&map->slots[td_cell_slot(old)].word);
        if (td_word_state(word) == TD_SLOT_READY && td_word_position(word) == td_cell_position(old))
            return TD_EAGAIN;
    }
    struct td_slot *task = &map->slots[slot];
    TD_ASSERT_EQ(td_word_state(td_atomic_load_relaxed(&task->word)), TD_SLOT_FREE);
    td_atomic_store_relaxed(&task->word, td_word(position, 0, TD_SLOT_READY)); /* S */
    TD_EDGE(submission_A, td_atomic_store_release, td_atomic_store_relaxed)
    (cell, td_cell(position, slot)); /* A, S */
    /* The announcement comes before the look at who sleeps (doorbell.h). */
    (void)TD_EDGE(doorbell_D3, td_atomic_exchange_seq, td_atomic_store_relaxed)(tail, position + 1); /* D3 */
    *position_out = position;
    return TD_OK;
}

bool td_submission_cancel(struct td_segment_map *map, uint32_t slot, uint64_t position)
{
    uint64_t word = td_word(position, 0, TD_SLOT_READY);
    return td_atomic_cas_strong_acqrel(&map->slots[slot].word, &word, td_word(position, 0, TD_SLOT_FREE));
}

void td_submission_skip(struct td_segment_map *map)
{
    for (uint32_t lane = 0; lane < TD_LANES; lane++) {
        const uint64_t hint = td_atomic_load_relaxed(&map->head->head_hints[lane]);
        const uint64_t tail = td_atomic_load_relaxed(&map->head->tails[lane]);
        uint64_t position =
            tail > map->slot_count && hint < tail - map->slot_count ? tail - map->slot_count : hint;
        while (position < tail) {
            const uint64_t cell = td_atomic_load_relaxed(td_submission_cell(map, (enum td_lane)lane, position));
            const td_atomic_u64 *word = &map->slots[td_cell_slot(cell) & (map->slot_count - 1)].word;
            if (td_atomic_load_relaxed(word) == td_word(position, 0, TD_SLOT_READY))
                break;
            position++;
        }
        if (position > hint)
            td_atomic_store_relaxed(&map->head->head_hints[lane], position);
    }
}

static td_status claim_in(struct td_segment_map *map, enum td_lane lane, uint32_t worker, uint64_t *from,
                          uint32_t *slot_out, uint64_t *position_out)
{
    const uint64_t place = TD_POSITION_LANE | (map->slot_count - 1); /* of a position: lane and cell */
    td_atomic_u64 *head_hint = &map->head->head_hints[lane];
    const uint64_t hint = td_atomic_load_relaxed(head_hint);
    uint64_t position = hint > *from ? hint : *from;
    for (;; position++) {
        const uint64_t cell = td_atomic_load_acquire(td_submission_cell(map, lane, position)); /* A, S */
        const uint64_t announced = td_cell_position(cell);
        if (announced < position)
            break; /* not announced yet */
        const uint32_t slot = td_cell_slot(cell);
        if (slot >= map->slot_count || ((announced ^ position) & place) != 0)
            return TD_EPROTO;
        if (announced > position) { /* lapped while walking: everything up to a lap back was claimed (I1) */
            position = announced - map->slot_count;
            continue;
        }
        td_atomic_u64 *word = &map->slots[slot].word;
        uint64_t expected = td_word(position, 0, TD_SLOT_READY);
        if (td_atomic_load_relaxed(word) != expected)
            continue;
        if (!td_atomic_cas_strong_relaxed(word, &expected, td_word(position, worker, TD_SLOT_CLAIMED)))
            continue;
        *from = position + 1;
        td_atomic_store_relaxed(head_hint, position + 1);
        *slot_out = slot;
        *position_out = position;
        return TD_OK;
    }
    *from = position;
    if (hint <
        position) /* somebody slow had moved it back: who counts what waits would count too much for long */
        td_atomic_store_relaxed(head_hint, position);
    return TD_EAGAIN;
}

td_status td_submission_claim(struct td_segment_map *map, uint32_t worker, uint64_t from[TD_LANES],
                              uint32_t *slot_out, uint64_t *position_out)
{
    if (td_submission_is_ahead(map, TD_LANE_AGAIN, from)) {
        const td_status status =
            claim_in(map, TD_LANE_AGAIN, worker, &from[TD_LANE_AGAIN], slot_out, position_out);
        if (status != TD_EAGAIN)
            return status;
    }
    return claim_in(map, TD_LANE_NEW, worker, &from[TD_LANE_NEW], slot_out, position_out);
}
