/* tests/pool/test_storm.c: several threads do everything at once, at random, while workers and zygotes are killed.
 * Every task must end, in a state that its own history allows, and nothing may be left. */
#include <pthread.h>

#include "tests/pool/crew.h"

#define THREADS 3u
#define ITEMS 40u

struct sailor {
    struct crew *crew;
    td_group *group;
    uint64_t random, rounds;
    uint32_t kills; /* at most one in so many rounds; 0: none */
    pthread_t thread;
};

struct attempt {
    td_task *task;
    bool chunk, cancelled, forced, limited, may_fail;
};

static uint64_t pick(struct sailor *sailor, uint64_t bound)
{
    return test_random_below(&sailor->random, bound);
}

static struct attempt embark(struct sailor *sailor)
{
    static const uint32_t codes[] = {OP_ADD, OP_SPIN, OP_ECHO, OP_BIG, OP_FAIL, OP_LEAVE};
    struct attempt attempt = {.chunk = pick(sailor, 4) == 0, .limited = pick(sailor, 8) == 0};
    struct op op = {.code = codes[pick(sailor, 6)], .a = pick(sailor, 30000), .b = UINT32_MAX};
    if (attempt.chunk)
        op = (struct op){.code = OP_ITEMS, .a = pick(sailor, 30000), .b = UINT32_MAX, .c = OP_SPIN};
    if (!attempt.chunk && attempt.limited && pick(sailor, 2) == 0)
        op = (struct op){.code = OP_GATE, .a = 9}; /* which nobody opens */
    attempt.may_fail = op.code == OP_FAIL;
    struct td_call call = crew_call(sailor->crew, &op);
    call.items = attempt.chunk ? ITEMS : 0;
    call.timeout_ns = attempt.limited ? 5 * TD_NS_PER_MS : 0;
    call.retries = (uint32_t)pick(sailor, 3);
    if (pick(sailor, 3) == 0) {
        call.args = NULL;
        call.args_bytes = 1000 + pick(sailor, 50000);
        REQUIRE_OK(td_pool_block_until(sailor->crew->pool, call.args_bytes, TD_FOREVER, &call.block));
        memcpy(call.block.data, &op, sizeof op);
    }
    REQUIRE_OK(td_pool_submit(sailor->crew->pool, &call, &attempt.task));
    if (pick(sailor, 3) == 0)
        CHECK_OK(td_group_add(sailor->group, attempt.task));
    return attempt;
}

/* 0 for a process that is not there. */
static int32_t parent_of(int32_t pid)
{
    char path[64], text[256] = "";
    int32_t parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    const char *name_end = fgets(text, sizeof text, file) != NULL ? strrchr(text, ')') : NULL;
    fclose(file);
    return name_end != NULL && sscanf(name_end, ") %*c %d", &parent) == 1 ? parent : 0;
}

static void disturb(struct sailor *sailor, struct attempt *attempt)
{
    if (pick(sailor, 5) == 0) {
        attempt->forced = pick(sailor, 2) == 0;
        attempt->cancelled = true;
        (void)td_task_cancel(attempt->task, attempt->forced);
    }
    if (sailor->kills == 0 || pick(sailor, sailor->kills) != 0)
        return;
    struct td_worker_info info[4];
    struct td_pool_stats stats;
    const uint32_t workers = td_pool_get_workers(sailor->crew->pool, info, 4);
    td_pool_get_stats(sailor->crew->pool, &stats);
    if (workers == 0)
        return;
    const struct td_worker_info *chosen = &info[pick(sailor, workers)];
    /* Three zygotes in a row that bear nobody break the pool: only one that has borne a worker is killed. */
    const bool parent = pick(sailor, 10) == 0 && parent_of(chosen->pid) == stats.zygote_pid;
    const int32_t pid = parent ? stats.zygote_pid : chosen->pid;
    if (pid > 0)
        kill(pid, SIGKILL);
}

static void disembark(struct sailor *sailor, const struct attempt *attempt)
{
    uint32_t next = 0, begin, end;
    for (td_task *part = attempt->task; part != NULL; part = td_task_rest(part)) {
        const enum td_task_state state = crew_wait(part);
        td_task_range(part, &begin, &end);
        CHECK_EQ(begin, next);
        next = end;
        CHECK(state != TD_TASK_CANCELLED || attempt->cancelled);
        CHECK(state != TD_TASK_TIMED_OUT || attempt->limited);
        CHECK(state != TD_TASK_DIED || sailor->kills != 0);
        CHECK(state != TD_TASK_ERROR || attempt->may_fail || attempt->forced || attempt->limited);
        if (state == TD_TASK_BROKEN)
            test_fail(__FILE__, __LINE__, "broken: %s", td_pool_broken_reason(sailor->crew->pool));
    }
    CHECK_EQ(next, attempt->chunk ? ITEMS : 0);
    td_task_unref(attempt->task);
}

static void *sail(void *context)
{
    enum { WINDOW = 20 };
    struct sailor *sailor = context;
    struct attempt window[WINDOW] = {0};
    for (uint64_t i = 0; i < sailor->rounds + WINDOW; i++) {
        struct attempt *place = &window[i % WINDOW];
        if (place->task != NULL)
            disembark(sailor, place);
        *place = (struct attempt){0};
        if (i < sailor->rounds) {
            *place = embark(sailor);
            disturb(sailor, place);
        }
    }
    td_task *task;
    while (td_group_pop_until(sailor->group, td_deadline_after(CREW_PATIENCE_NS), &task) == TD_OK)
        td_task_unref(task);
    return NULL;
}

static void storm(uint32_t kills, uint64_t rounds)
{
    setenv("TREADLE_SLOTS", "64", 1);
    struct crew crew;
    struct sailor sailors[THREADS];
    struct td_pool_stats stats;
    crew_open(&crew, &(struct td_pool_config){
                         .max_workers = 3, .max_barren_deaths = 1000000, .grace_ns = 20 * TD_NS_PER_MS});
    for (uint32_t i = 0; i < THREADS; i++) {
        sailors[i] = (struct sailor){.crew = &crew, .random = test_seed + i, .rounds = rounds, .kills = kills};
        REQUIRE_OK(td_group_new(&sailors[i].group));
        REQUIRE_EQ(pthread_create(&sailors[i].thread, NULL, sail, &sailors[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(sailors[i].thread, NULL);
        td_group_free(sailors[i].group);
    }
    CHECK_OK(td_pool_idle_until(crew.pool, td_deadline_after(CREW_PATIENCE_NS)));
    td_pool_get_stats(crew.pool, &stats);
    CHECK_EQ(stats.queued + stats.running, 0u);
    CHECK_LE(THREADS * rounds, stats.submitted); /* and the parts of chunks */
    CHECK_EQ(stats.submitted, stats.succeeded + stats.failed + stats.cancelled + stats.died + stats.timed_out);
    CHECK_EQ(stats.result_bytes_live, 0u);
    CHECK_STR(td_pool_broken_reason(crew.pool), "");
    crew_close(&crew);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

TD_TEST(everything_at_once_ends_well)
{
    storm(0, test_rounds(1500));
}

TD_TEST(everything_at_once_ends_well_under_kills)
{
    storm(30, test_rounds(1000));
}

CREW_TEST_MAIN
