/* watch/beat.h: the word by which an event loop's thread shows that the loop turns.
 *
 * A turn is what a loop does from one wait for events to the next. The thread writes when a turn began, and 0 when it
 * is about to wait; the native thread reads it now and then. So a loop that waits is never stuck, however long it
 * waits, and a turn is told from the next by its start.
 *
 * Invariants  I1 `turn` and `ended` are written by one side: the loop's thread, or for a loop that is asked (watch.h)
 *                by the native thread, which asks, and by the loop's thread, which answers.
 *             I2 `noticed` and `parked` are set by the native thread; the loop's thread clears `parked`.
 * Ordering    N1 N2: the loop's thread stores `turn`, then loads `noticed`; the native thread stores `noticed`, then
 *                loads `turn`. All sequentially consistent, so one of them sees the other: the end of a turn that was
 *                noticed is never missed. The stores are exchanges, as in ring/doorbell.h.
 *             P1 P2: the same with `parked`: a turn that begins while nobody looks is told.
 *             `ended` says nothing of anything else.
 * Tests       tests/watch/test_beat.c */
#ifndef TD_WATCH_BEAT_H
#define TD_WATCH_BEAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/clock.h"

struct td_beat {
    td_atomic_u64 turn;    /* when the turn began, in ns; 0: the loop waits */
    td_atomic_u64 noticed; /* the turn that was found to be stuck; 0: none */
    td_atomic_u64 ended;   /* when that one ended */
    td_atomic_u32 parked;  /* nobody looks until told that a turn began */
};

/* The loop is about to wait. True: wake the native thread, as it waits for this turn's end. */
static inline bool td_beat_rest(struct td_beat *beat)
{
    const uint64_t turn = td_atomic_load_relaxed(&beat->turn);
    (void)TD_EDGE(beat_N1, td_atomic_exchange_seq, td_atomic_store_relaxed)(&beat->turn, 0); /* N1 */
    if (turn == 0 || td_atomic_load_seq(&beat->noticed) != turn)
        return false;
    td_atomic_store_relaxed(&beat->ended, (uint64_t)td_now_ns());
    return true;
}

/* A turn begins. True: wake the native thread, as it does not look. */
static inline bool td_beat_turn(struct td_beat *beat)
{
    (void)TD_EDGE(beat_P1, td_atomic_exchange_seq, td_atomic_store_relaxed)(&beat->turn,
                                                                            (uint64_t)td_now_ns()); /* P1 */
    return td_atomic_load_seq(&beat->parked) != 0 && td_atomic_exchange_relaxed(&beat->parked, 0) != 0;
}

/* The native thread: nobody looks from here on. False: a turn has begun meanwhile, so somebody must. */
static inline bool td_beat_park(struct td_beat *beat)
{
    (void)TD_EDGE(beat_P2, td_atomic_exchange_seq, td_atomic_store_relaxed)(&beat->parked, 1); /* P2 */
    if (td_atomic_load_seq(&beat->turn) == 0)
        return true;
    td_atomic_store_relaxed(&beat->parked, 0);
    return false;
}

/* The native thread: this turn is stuck. False: it has ended meanwhile. */
static inline bool td_beat_notice(struct td_beat *beat, uint64_t turn)
{
    (void)TD_EDGE(beat_N2, td_atomic_exchange_seq, td_atomic_store_relaxed)(&beat->noticed, turn); /* N2 */
    return td_atomic_load_seq(&beat->turn) == turn;
}

/* When the turn that was noticed ended: as its thread says, or now, where it is about to say so. */
static inline int64_t td_beat_end(struct td_beat *beat, uint64_t turn, int64_t now_ns)
{
    const uint64_t ended = td_atomic_load_relaxed(&beat->ended);
    return ended >= turn ? (int64_t)ended : now_ns;
}

#endif
