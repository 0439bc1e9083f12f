/* watch/watch.c: see watch.h.   Tests  tests/watch/test_watch.c */
#include "watch/watch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loop/native.h"
#include "os/event.h"
#include "os/placement.h"
#include "watch/dump.h"
#include "watch/judge.h"

/* An asked loop is asked so often in the time of a threshold, and of one so short that its user wants to know it
 * exactly; that often, and that seldom. A look takes some 80 us from a server that keeps all CPUs busy. */
#define ASKED_IN_THRESHOLD 3
#define ASKED_IN_SHORT 10
#define SHORT_THRESHOLD_NS (20 * TD_NS_PER_MS)
#define ASKED_SOONEST_NS TD_NS_PER_MS
#define ASKED_LATEST_NS (50 * TD_NS_PER_MS)
/* Until a fourth of the threshold. */
#define YOUNG_IN_THRESHOLD 4

/* What is known of a turn that is stuck. */
enum dump { DUMP_NONE, DUMP_WANTED, DUMP_ASKED };

struct td_watch {
    struct td_beat beat;
    struct td_keeper keeper;
    td_list link; /* in `watching.watches`, under the lock */
    struct td_watch_options options;
    struct td_thread thread;
    int question;          /* -1: it is not asked */
    int64_t asked_each_ns; /* it is asked so often */
    td_atomic_u64 looks;
    td_atomic_u32 closing, untaken; /* untaken: news of it in the queue */
    td_atomic_u32 cpu;              /* where the loop ran when its turn began, or when it answered */

    /* The native thread's. */
    struct td_judge judge;
    struct td_thread_sight from, to; /* what the next news is about: between these */
    enum dump dump;
    enum td_watch_what due; /* what the dump is for */
    bool told, urged;       /* this turn's first news was sent; was urgent */
    int64_t home, guess; /* the descriptor that the loop sleeps in; where it was found when it was asked; -1 */

    /* The lock's. */
    bool ended;
    uint32_t references; /* the owner's, the native thread's, and one for each news */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t news_came, watch_ended;
    td_list news, watches;
    bool closed;
    int bell; /* rung when a stack was written; -1 */
} watching = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .news_came = PTHREAD_COND_INITIALIZER,
    .watch_ended = PTHREAD_COND_INITIALIZER,
    .news = {&watching.news, &watching.news},
    .watches = {&watching.watches, &watching.watches},
    .bell = -1,
};

/* ---- News --------------------------------------------------------------------------------------------------- */

/* Without memory there is no news. */
static void send_news(td_watch *watch, enum td_watch_what what, int64_t lasted_ns, const char *text,
                      size_t bytes, int holds_gil)
{
    struct td_watch_news *news = malloc(sizeof *news + bytes + 1);
    if (news == NULL)
        return;
    *news = (struct td_watch_news){
        .watch = watch,
        .what = what,
        .turn = watch->judge.stuck,
        .lasted_ns = lasted_ns,
        .doing = td_thread_doing(&watch->from, &watch->to, holds_gil),
        .cpu_share = td_thread_share(&watch->from, &watch->to),
        .state = watch->to.state,
        .syscall = watch->to.in_syscall ? watch->to.syscall : -1,
        .holds_gil = holds_gil,
        .bytes = bytes,
    };
    if (bytes > 0)
        memcpy(news->text, text, bytes);
    news->text[bytes] = '\0';
    pthread_mutex_lock(&watching.lock);
    watch->references++;
    td_atomic_fetch_add_relaxed(&watch->untaken, 1);
    td_list_push_back(&watching.news, &news->link);
    pthread_cond_signal(&watching.news_came);
    if (what == TD_WATCH_STUCK && watch->options.came != NULL && !watching.closed)
        watch->options.came(watch->options.context);
    pthread_mutex_unlock(&watching.lock);
}

td_status td_watch_next(struct td_watch_news **news)
{
    td_status status = TD_ECLOSED;
    pthread_mutex_lock(&watching.lock);
    while (td_list_empty(&watching.news) && !watching.closed)
        pthread_cond_wait(&watching.news_came, &watching.lock);
    td_list *node = td_list_take_front(&watching.news);
    if (node != NULL) {
        *news = TD_LIST_ENTRY(node, struct td_watch_news, link);
        td_atomic_fetch_sub_relaxed(&(*news)->watch->untaken, 1);
        status = TD_OK;
    }
    pthread_mutex_unlock(&watching.lock);
    return status;
}

void td_watch_news_free(struct td_watch_news *news)
{
    td_watch_unref(news->watch);
    free(news);
}

void td_watch_news_close(bool closed)
{
    pthread_mutex_lock(&watching.lock);
    watching.closed = closed;
    pthread_cond_broadcast(&watching.news_came);
    pthread_mutex_unlock(&watching.lock);
}

/* Nobody took this turn's news yet, and it is due for the third time. */
static void urge(td_watch *watch)
{
    if (watch->options.urgent == NULL || watch->urged || watch->judge.interval_ns < watch->judge.threshold_ns)
        return;
    watch->urged = true;
    pthread_mutex_lock(&watching.lock);
    TD_LIST_EACH(node, &watching.news)
    {
        struct td_watch_news *news = TD_LIST_ENTRY(node, struct td_watch_news, link);
        if (news->watch == watch && news->turn == watch->judge.stuck) {
            watch->options.urgent(watch->options.context, news);
            break;
        }
    }
    pthread_mutex_unlock(&watching.lock);
}

/* ---- Looking -------------------------------------------------------------------------------------------------- */

static void tell(td_watch *watch, const char *text, size_t bytes, int holds_gil)
{
    send_news(watch, watch->due, td_now_ns() - (int64_t)watch->judge.stuck, text, bytes, holds_gil);
    watch->dump = DUMP_NONE;
    watch->told = true;
}

/* Wants to know what the thread does, to tell of it: since the turn was first seen, not of late, when it may have
 * waited for the GIL because this very news was being told. */
static void begin_news(td_watch *watch, enum td_watch_what what)
{
    td_thread_look(&watch->thread, &watch->to);
    watch->due = what;
    watch->dump = DUMP_WANTED;
}

static void ask_for_dump(td_watch *watch)
{
    const td_status status = td_dump_ask(watch->thread.tid);
    if (status == TD_OK)
        watch->dump = DUMP_ASKED;
    else if (status != TD_EAGAIN) /* else when the one that is under way is done, or given up on */
        tell(watch, NULL, 0, -1);
}

/* Whoever is asked reads for all. */
static void take_dump(td_watch *watch)
{
    const char *text;
    size_t bytes;
    int holds_gil;
    if (td_dump_take(watch->thread.tid, &text, &bytes, &holds_gil) != TD_OK || watch->dump != DUMP_ASKED)
        return;
    /* The turn goes on, so this is where it was. */
    if (td_atomic_load_seq(&watch->beat.turn) == watch->judge.stuck)
        tell(watch, text, bytes, holds_gil);
    else
        tell(watch, NULL, 0, -1);
}

static void give_up_on_dump(td_watch *watch)
{
    if (watch->dump == DUMP_NONE)
        return;
    td_dump_forget(watch->thread.tid);
    tell(watch, NULL, 0, -1);
    td_native_wake(); /* another watch may want one */
}

static void see_stuck(td_watch *watch, uint64_t turn, int64_t *next_ns)
{
    if (!td_beat_notice(&watch->beat, turn)) {
        watch->judge.stuck = 0;
        *next_ns = 0;
        return;
    }
    watch->told = watch->urged = false;
    begin_news(watch, TD_WATCH_STUCK);
}

static void see_still(td_watch *watch)
{
    give_up_on_dump(watch);
    if (td_atomic_load_relaxed(&watch->untaken) != 0)
        urge(watch);
    else
        begin_news(watch, TD_WATCH_STILL);
}

static void see_over(td_watch *watch, uint64_t turn, int64_t now_ns)
{
    watch->judge.stuck = turn; /* the news is about it */
    if (!watch->told)
        give_up_on_dump(watch);
    else if (watch->dump != DUMP_NONE)
        td_dump_forget(watch->thread.tid);
    watch->dump = DUMP_NONE;
    send_news(watch, TD_WATCH_OVER, td_beat_end(&watch->beat, turn, now_ns) - (int64_t)turn, NULL, 0, -1);
    watch->judge.stuck = 0;
}

/* Where nothing goes on that is known, asks the loop: true. It sleeps where it did before: false. */
static bool ask(td_watch *watch)
{
    struct td_thread_sight sight;
    td_thread_peek(&watch->thread, &sight);
    const int64_t polled = td_thread_polled(&sight);
    if (watch->guess >= 0) /* it was there, and has answered */
        watch->home = watch->guess;
    watch->guess = -1;
    if (polled >= 0 && polled == watch->home)
        return false;
    watch->guess = polled;
    (void)td_beat_turn(&watch->beat);
    (void)td_event_ring(watch->question);
    return true;
}

static int64_t look(td_watch *watch)
{
    int64_t next_ns;
    const uint64_t stuck = watch->judge.stuck;
    uint64_t turn = td_atomic_load_seq(&watch->beat.turn);
    if (watch->question >= 0 && turn == 0 && stuck == 0 && ask(watch))
        turn = td_atomic_load_seq(&watch->beat.turn); /* 0: it has answered already */
    const int64_t now_ns = td_now_ns();
    switch (td_judge_look(&watch->judge, turn, now_ns, &next_ns)) {
    case TD_JUDGE_QUIET:
        break;
    case TD_JUDGE_BEGUN:
        td_thread_clock(&watch->thread, &watch->from);
        break;
    case TD_JUDGE_STUCK:
        see_stuck(watch, turn, &next_ns);
        break;
    case TD_JUDGE_STILL:
        see_still(watch);
        break;
    case TD_JUDGE_OVER:
        see_over(watch, stuck, now_ns);
        break;
    }
    if (watch->question >= 0) {
        const int64_t asked_ns = now_ns + watch->asked_each_ns;
        return next_ns < asked_ns ? next_ns : asked_ns;
    }
    return next_ns == TD_FOREVER && !td_beat_park(&watch->beat) ? 0 : next_ns;
}

/* Left alone, the kernel often wakes this thread on the CPU where the loop computes, although others idle; there it
 * would wait for a tick of the scheduler. An alarm rings where its thread fell asleep. To leave costs both CPUs some 20
 * us, so a turn that is young is left alone: there is another look before it is stuck (judge.c). */
static void keep_off_its_cpu(td_watch *watch)
{
    const int64_t turn = (int64_t)td_atomic_load_relaxed(&watch->beat.turn);
    if (turn != 0 && td_now_ns() - turn >= watch->judge.threshold_ns / YOUNG_IN_THRESHOLD &&
        td_atomic_load_relaxed(&watch->cpu) == (uint32_t)td_cpu_current())
        (void)td_cpu_leave();
}

static int64_t keep(struct td_keeper *keeper)
{
    td_watch *watch = TD_LIST_ENTRY(keeper, td_watch, keeper);
    take_dump(watch);
    if (td_atomic_load_acquire(&watch->closing) != 0)
        return TD_KEEP_END;
    if (td_atomic_fetch_add_relaxed(&watch->looks, 1) == 0)
        (void)td_thread_ask_turns(TD_TURN_SHORTEST_NS);
    const int64_t next_ns = look(watch);
    if (watch->dump == DUMP_WANTED)
        ask_for_dump(watch);
    keep_off_its_cpu(watch);
    return next_ns;
}

/* ---- Start and end -------------------------------------------------------------------------------------------- */

static void close_all(td_watch *watch)
{
    td_thread_close(&watch->thread);
    if (watch->question >= 0)
        close(watch->question);
}

static void ended(struct td_keeper *keeper)
{
    td_watch *watch = TD_LIST_ENTRY(keeper, td_watch, keeper);
    if (watch->judge.stuck != 0)
        see_over(watch, watch->judge.stuck, td_now_ns());
    send_news(watch, TD_WATCH_ENDED, 0, NULL, 0, -1);
    close_all(watch);
    pthread_mutex_lock(&watching.lock);
    watch->ended = true;
    td_list_remove(&watch->link);
    pthread_cond_broadcast(&watching.watch_ended);
    pthread_mutex_unlock(&watching.lock);
    td_watch_unref(watch);
}

static void before_fork(void)
{
    pthread_mutex_lock(&watching.lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&watching.lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&watching.lock, NULL);
    pthread_cond_init(&watching.news_came, NULL);
    pthread_cond_init(&watching.watch_ended, NULL);
    td_list_init(&watching.news); /* the parent's: they keep their watches, which nobody counts any more */
    TD_LIST_EACH(node, &watching.watches)
    {
        td_watch *watch = TD_LIST_ENTRY(node, td_watch, link);
        close_all(watch);
        watch->question = -1;
        watch->ended = true;
        td_atomic_store_relaxed(&watch->beat.noticed, 0);
        td_atomic_store_relaxed(&watch->beat.parked, 0);
        td_list_remove(&watch->link);
    }
    watching.bell = -1;
    td_dump_after_fork_child();
    td_native_forget();
}

static void install_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static int64_t asked_each(int64_t threshold_ns)
{
    const int64_t each_ns =
        threshold_ns / (threshold_ns <= SHORT_THRESHOLD_NS ? ASKED_IN_SHORT : ASKED_IN_THRESHOLD);
    if (each_ns < ASKED_SOONEST_NS)
        return ASKED_SOONEST_NS;
    return each_ns > ASKED_LATEST_NS ? ASKED_LATEST_NS : each_ns;
}

td_status td_watch_new(const struct td_watch_options *options, td_watch **watch)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (options->threshold_ns <= 0)
        return TD_EINVAL;
    pthread_once(&once, install_fork_handlers);
    td_watch *made = calloc(1, sizeof *made);
    if (made == NULL)
        return TD_ENOMEM;
    made->options = *options;
    made->keeper = (struct td_keeper){.keep = keep, .ended = ended};
    made->judge.threshold_ns = options->threshold_ns;
    made->asked_each_ns = asked_each(options->threshold_ns);
    made->home = made->guess = made->question = -1;
    made->references = 2;
    td_status status = options->asked ? td_event_new(&made->question) : TD_OK;
    if (status != TD_OK)
        goto no_question;
    td_thread_open(&made->thread);
    pthread_mutex_lock(&watching.lock);
    td_list_push_back(&watching.watches, &made->link);
    pthread_mutex_unlock(&watching.lock);
    status = td_native_add(&made->keeper);
    if (status != TD_OK)
        goto no_thread;
    *watch = made;
    return TD_OK;
no_thread:
    pthread_mutex_lock(&watching.lock);
    td_list_remove(&made->link);
    pthread_mutex_unlock(&watching.lock);
    close_all(made);
no_question:
    free(made);
    return status;
}

void td_watch_close(td_watch *watch)
{
    td_atomic_store_release(&watch->closing, 1);
    td_native_wake();
}

void td_watch_join(td_watch *watch)
{
    pthread_mutex_lock(&watching.lock);
    while (!watch->ended)
        pthread_cond_wait(&watching.watch_ended, &watching.lock);
    pthread_mutex_unlock(&watching.lock);
}

void td_watch_unref(td_watch *watch)
{
    pthread_mutex_lock(&watching.lock);
    const bool last = --watch->references == 0;
    pthread_mutex_unlock(&watching.lock);
    if (last)
        free(watch);
}

td_status td_watch_use_dumps(int signal, td_dump_handler *handler, int read_fd, int bell)
{
    pthread_mutex_lock(&watching.lock);
    if (watching.bell >= 0)
        td_native_unwatch(watching.bell);
    const td_status status = signal != 0 ? td_native_watch_event(bell) : TD_OK;
    watching.bell = status == TD_OK && signal != 0 ? bell : -1;
    td_dump_use(status == TD_OK ? signal : 0, handler, status == TD_OK ? read_fd : -1);
    pthread_mutex_unlock(&watching.lock);
    return status;
}

/* ---- The loop's thread ------------------------------------------------------------------------------------------ */

void td_watch_rest(td_watch *watch)
{
    if (td_beat_rest(&watch->beat))
        td_native_wake();
}

void td_watch_turn(td_watch *watch)
{
    td_atomic_store_relaxed(&watch->cpu, (uint32_t)td_cpu_current());
    if (td_beat_turn(&watch->beat))
        td_native_wake();
}

int td_watch_question(const td_watch *watch)
{
    return watch->question;
}

void td_watch_answer(td_watch *watch)
{
    uint64_t rings;
    (void)td_event_drain(watch->question, &rings);
    td_atomic_store_relaxed(&watch->cpu, (uint32_t)td_cpu_current());
    td_watch_rest(watch);
}

uint64_t td_watch_now(td_watch *watch)
{
    return td_atomic_load_seq(&watch->beat.turn);
}

uint64_t td_watch_looks(td_watch *watch)
{
    return td_atomic_load_relaxed(&watch->looks);
}

void *td_watch_context(const td_watch *watch)
{
    return watch->options.context;
}
