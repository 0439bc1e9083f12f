/* ring/relief.c: see relief.h.   Tests  tests/ring/test_relief.c */
#include "ring/relief.h"

#include <limits.h>

#include "os/futex.h"

static td_atomic_u32 *answer_of(const struct td_segment_map *map, uint32_t who)
{
    return who == TD_RELIEF_PARENT ? &map->head->relieved : &map->seats[who].relieved;
}

/* Numbers wrap. */
static bool is_behind(uint32_t answer, uint32_t asked)
{
    return (int32_t)(answer - asked) < 0;
}

bool td_relief_is_due(const struct td_segment_map *map, uint32_t who)
{
    return is_behind(td_atomic_load_relaxed(answer_of(map, who)), td_atomic_load_seq(&map->head->relief_asked));
}

uint32_t td_relief_begin(const struct td_segment_map *map)
{
    return td_atomic_load_seq(&map->head->relief_asked);
}

static void tell(struct td_segment_map *map)
{
    td_atomic_fetch_add_seq(&map->head->relief_news, 1);
    td_futex_wake(&map->head->relief_news, INT_MAX, true);
}

void td_relief_answer(struct td_segment_map *map, uint32_t who, uint32_t asked)
{
    td_atomic_store_seq(answer_of(map, who), asked);
    tell(map);
}

/* Is there a worker in this seat that will come to answer? */
static bool may_answer(const struct td_segment_map *map, uint32_t worker)
{
    const uint32_t state = td_atomic_load_seq(&map->states[worker]);
    return state == TD_SEAT_SEARCHING || state == TD_SEAT_BUSY || state == TD_SEAT_PARKED ||
           state == TD_SEAT_WOKEN;
}

static bool is_answered(const struct td_segment_map *map, uint32_t asked)
{
    if (is_behind(td_atomic_load_seq(&map->head->relieved), asked))
        return false;
    for (uint32_t worker = 0; worker < map->worker_count; worker++)
        if (may_answer(map, worker) && is_behind(td_atomic_load_seq(&map->seats[worker].relieved), asked))
            return false;
    return true;
}

void td_relief_ask_until(struct td_segment_map *map, struct td_bell_map *bell, uint32_t who,
                         int64_t deadline_ns)
{
    const uint32_t asked = td_atomic_fetch_add_seq(&map->head->relief_asked, 1) + 1; /* L1 */
    td_relief_answer(map, who, asked); /* other askers wait for this */
    for (uint32_t worker = 0; worker < map->worker_count; worker++)
        td_doorbell_wake_worker(map, worker); /* L2 */
    if (who != TD_RELIEF_PARENT)
        td_bell_ring_loud(bell);
    for (;;) {
        const uint32_t news = td_atomic_load_seq(&map->head->relief_news);
        if (td_relief_is_due(map, who)) /* somebody else asks: nothing was freed here since */
            td_relief_answer(map, who, td_relief_begin(map));
        else if (is_answered(map, asked) ||
                 td_futex_wait_until(&map->head->relief_news, news, deadline_ns, true) == TD_ETIMEDOUT)
            return;
    }
}
