/* pool_bench.c: what the engine alone costs, without Python: no-ops through a pool of C workers.
 *
 *     pool_bench [TASKS [WORKERS [ROUND-TRIPS]]]
 *
 * Prints nanoseconds per task of submitting all and then waiting for all (the best of ten), and the median and the 99th
 * percentile of one task after the other. TREADLE_SPIN=0 shows what sleeping costs; futex_ping_pong is what it can cost
 * at best. The zygote is this program started again. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "treadle.h"

static void check(td_status status, const char *what)
{
    if (status == TD_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, td_status_text(status));
    exit(1);
}

/* ---- The other processes ---------------------------------------------------------------------------------------- */

static void work(struct td_birth *birth)
{
    td_worker *worker;
    struct td_assignment task;
    if (td_worker_attach(birth, &worker) != TD_OK)
        _exit(1);
    td_worker_ready(worker);
    for (;;) {
        const td_status status = td_worker_next(worker, &task);
        if (status == TD_EINTR)
            continue;
        if (status != TD_OK)
            _exit(status == TD_ECLOSED ? 0 : 2);
        td_worker_reply(worker, true, task.args.data, NULL, task.args.bytes, false);
    }
}

static void serve(int channel)
{
    struct td_birth birth;
    for (;;) {
        const td_status status = td_zygote_serve(channel, &birth);
        if (status == TD_EINTR)
            continue;
        if (status != TD_OK)
            _exit(0);
        const pid_t pid = fork();
        td_zygote_forked(channel, &birth, pid < 0 ? -errno : pid);
        if (pid == 0)
            work(&birth);
    }
}

/* ---- This one ---------------------------------------------------------------------------------------------------- */

static td_task *submit(td_pool *pool, uint32_t fn, uint64_t value)
{
    const struct td_call call = {.fn = fn, .args = &value, .args_bytes = sizeof value};
    td_task *task = NULL;
    check(td_pool_submit(pool, &call, &task), "submit");
    return task;
}

static void finish(td_task *task, uint64_t expected)
{
    struct td_view view;
    uint64_t value;
    check(td_task_wait_until(task, TD_FOREVER), "wait");
    check(td_task_result(task, &view), "result");
    memcpy(&value, view.data, sizeof value);
    if (value != expected)
        exit(3);
    td_task_unref(task);
}

/* Of this thread, so that other programs' share doesn't count. */
static int64_t cpu_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * TD_NS_PER_S + now.tv_nsec;
}

static void bench_batch(td_pool *pool, uint32_t fn, uint64_t count)
{
    td_task **tasks = malloc(count * sizeof *tasks);
    if (tasks == NULL)
        exit(1);
    int64_t best = INT64_MAX, best_submit = 0, best_cpu = INT64_MAX;
    for (int round = 0; round < 10; round++) {
        const int64_t start = td_now_ns(), cpu_start = cpu_now_ns();
        for (uint64_t i = 0; i < count; i++)
            tasks[i] = submit(pool, fn, i);
        const int64_t submitted = td_now_ns();
        for (uint64_t i = 0; i < count; i++)
            finish(tasks[i], i);
        const int64_t took = td_now_ns() - start;
        const int64_t cpu = cpu_now_ns() - cpu_start;
        best_cpu = cpu < best_cpu ? cpu : best_cpu;
        if (took < best) {
            best = took;
            best_submit = submitted - start;
        }
    }
    printf("submit all, wait for all: %6.0f ns per task (%.0f until the last is submitted), %.0f ns of this "
           "thread\n",
           (double)best / (double)count, (double)best_submit / (double)count, (double)best_cpu / (double)count);
    free(tasks);
}

static int by_value(const void *left, const void *right)
{
    const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void bench_round_trip(td_pool *pool, uint32_t fn, uint64_t count)
{
    int64_t *took = malloc(count * sizeof *took);
    if (took == NULL)
        exit(1);
    for (uint64_t i = 0; i < count; i++) {
        const int64_t start = td_now_ns();
        finish(submit(pool, fn, i), i);
        took[i] = td_now_ns() - start;
    }
    qsort(took, count, sizeof *took, by_value);
    printf("one after the other:      %6.2f us median, %.2f us at 99 %%\n", (double)took[count / 2] / 1e3,
           (double)took[count * 99 / 100] / 1e3);
    free(took);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--zygote") == 0)
        serve(atoi(argv[2]));
    const uint64_t tasks = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000;
    const uint32_t workers = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 2;
    const uint64_t trips = argc > 3 ? strtoull(argv[3], NULL, 10) : 20000;
    const char *const zygote[] = {"/proc/self/exe", "--zygote", NULL};
    td_pool *pool;
    uint32_t fn;
    check(td_pool_new(&(struct td_pool_config){.max_workers = workers}, &pool), "pool");
    check(td_pool_set_launch(pool, zygote, NULL), "launch");
    check(td_pool_intern(pool, "no-op", 5, &fn), "intern");
    check(td_pool_prestart(pool, workers), "start");
    for (uint64_t i = 0; i < 1000; i++)
        finish(submit(pool, fn, i), i);
    if (tasks > 0)
        bench_batch(pool, fn, tasks);
    if (trips > 0)
        bench_round_trip(pool, fn, trips);
    check(td_pool_close(pool, 0), "close");
    check(td_pool_join_until(pool, TD_FOREVER), "join");
    td_pool_unref(pool);
    return 0;
}
