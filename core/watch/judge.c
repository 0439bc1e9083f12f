/* watch/judge.c: see judge.h.   Tests  tests/watch/test_judge.c */
#include "watch/judge.h"

static int64_t earlier(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

/* The loop turns, and is not stuck yet: at half of the threshold, so that what the thread does is seen over some
 * time. */
static int64_t next_look(const struct td_judge *judge, int64_t now_ns)
{
    return earlier(td_deadline_from((int64_t)judge->turn, judge->threshold_ns),
                   now_ns + judge->threshold_ns / 2);
}

static enum td_verdict look_at_stuck(struct td_judge *judge, int64_t now_ns, int64_t *next_ns)
{
    if (now_ns < judge->again_ns) {
        *next_ns = judge->again_ns;
        return TD_JUDGE_QUIET;
    }
    judge->interval_ns = earlier(2 * judge->interval_ns, TD_JUDGE_LONGEST_NS);
    judge->again_ns = now_ns + judge->interval_ns;
    *next_ns = judge->again_ns;
    return TD_JUDGE_STILL;
}

enum td_verdict td_judge_look(struct td_judge *judge, uint64_t turn, int64_t now_ns, int64_t *next_ns)
{
    if (judge->stuck != 0 && turn == judge->stuck)
        return look_at_stuck(judge, now_ns, next_ns);
    if (judge->stuck != 0) {
        judge->stuck = 0;
        *next_ns = now_ns;
        return TD_JUDGE_OVER;
    }
    const bool begun = turn != 0 && turn != judge->turn;
    judge->turn = turn;
    if (turn == 0) {
        judge->quiet++;
        *next_ns = judge->quiet < TD_JUDGE_PATIENCE ? now_ns + judge->threshold_ns / 2 : TD_FOREVER;
        return TD_JUDGE_QUIET;
    }
    judge->quiet = 0;
    if (begun || now_ns < td_deadline_from((int64_t)turn, judge->threshold_ns)) {
        *next_ns = next_look(judge, now_ns);
        return begun ? TD_JUDGE_BEGUN : TD_JUDGE_QUIET;
    }
    judge->stuck = turn;
    judge->interval_ns = judge->threshold_ns / 4;
    judge->again_ns = now_ns + judge->interval_ns;
    *next_ns = judge->again_ns;
    return TD_JUDGE_STUCK;
}
