/* watch/judge.h: is a turn stuck? What the native thread thinks when it looks at a beat, apart from clocks and threads.
 *
 *     QUIET --(a turn that was not seen before)--> BEGUN --(it lasts for the threshold)--> STUCK
 *     STUCK --(after a fourth of the threshold, then two, four, ... fourths)--> STILL --(another turn, or none)--> OVER
 *
 * Invariants  I1 STUCK comes at most once for a turn, never before the turn has lasted for the threshold, and OVER once
 *                after it.
 *             I2 who looks again at `next_ns`, and not earlier, misses no turn that lasts for the threshold, and sees
 *                it stuck no later than that look.
 * Tests       tests/watch/test_judge.c */
#ifndef TD_WATCH_JUDGE_H
#define TD_WATCH_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

/* Looks that find the loop waiting, one after the other, after which nobody need look until it turns. */
#define TD_JUDGE_PATIENCE 8
/* STILL comes at intervals that double, up to this. */
#define TD_JUDGE_LONGEST_NS TD_NS_PER_S

enum td_verdict { TD_JUDGE_QUIET, TD_JUDGE_BEGUN, TD_JUDGE_STUCK, TD_JUDGE_STILL, TD_JUDGE_OVER };

struct td_judge {
    int64_t threshold_ns;
    uint64_t turn;    /* seen last; 0: the loop waited */
    uint64_t stuck;   /* the turn that was found to be stuck; 0: none */
    int64_t again_ns; /* when STILL comes next */
    int64_t interval_ns;
    uint32_t quiet; /* looks that found the loop waiting */
};

/* A look: `turn` is the beat's. *next_ns: when to look again; TD_FOREVER: when the loop turns. */
enum td_verdict td_judge_look(struct td_judge *judge, uint64_t turn, int64_t now_ns, int64_t *next_ns);

#endif
