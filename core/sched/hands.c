/* sched/hands.c: the scheduler of a process: its hands, how a worker's thread starts, and what a fork does.
 *
 * It is made when the first loop begins. From then on the CPUs that it counts on are what they were: $TREADLE_THREADS,
 * which a pool's workers find set to their share, else the budget of the process (os/budget.h). A worker's thread
 * starts when it is first woken, sleeps when there is no work, and ends with the process. It blocks all signals but
 * those that its own code raises: others are for the user's threads.
 *
 * Fork        the child has the calling thread and no other. Its workers are as if they were never started; other
 *             callers' hands are free. A loop that was under way can't be finished there: its caller finds `forks`
 *             changed when the chunk that forked returns, and td_parallel_for returns TD_EFORKED. A worker's thread
 *             whose chunk forked ends when that chunk returns. The lock is held over the fork. A fork in the middle of
 *             making it is seen by pthread_once, which has the child make its own.
 * Tests       tests/sched/test_callers.c, tests/sched/test_fork.c */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/option.h"
#include "os/budget.h"
#include "sched/hand.h"

#define SPIN_MOST_NS (50 * TD_NS_PER_US)

static struct td_sched sched;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over callers' in_use, and the growth of hands */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_thread_end;
static pid_t home; /* the process that it was made in, or that came through a fork; 0: it was not made */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct td_hand *self;

/* ---- Making ---------------------------------------------------------------------------------------------------- */

static void hand_init(struct td_hand *hand, uint32_t index, bool is_worker)
{
    td_deque_init(&hand->deque);
    td_atomic_store_relaxed(&hand->state, is_worker ? TD_HAND_IDLE : TD_HAND_AWAKE);
    td_atomic_store_relaxed(&hand->waits_for, 0);
    hand->index = index;
    hand->is_worker = is_worker;
    hand->started = false;
    hand->in_use = false;
    hand->region = NULL;
    hand->next_victim = 0;
    hand->turns = hand->turns_per_look = 0;
    hand->looked_ns = 0;
    hand->thread = 0;
    td_atomic_store_relaxed(&hand->keeps_off, 0);
    td_atomic_store_relaxed(&hand->waker_cpu, 0);
}

static struct td_hand *hand_new(uint32_t index, bool is_worker)
{
    struct td_hand *hand = aligned_alloc(TD_CACHELINE, sizeof *hand);
    if (hand != NULL)
        hand_init(hand, index, is_worker);
    return hand;
}

td_status td_sched_init(struct td_sched *made, uint32_t cpus, bool (*start)(struct td_hand *hand))
{
    const int64_t spin = td_option_int(TD_OPT_SPIN);
    memset(made, 0, sizeof *made);
    made->start = start;
    made->spin_ns = spin == TD_SPIN_AUTO || spin > SPIN_MOST_NS ? SPIN_MOST_NS : spin;
    while (made->workers + 1 < cpus && made->workers < TD_MAX_WORKERS) {
        struct td_hand *hand = hand_new(made->workers, true);
        if (hand == NULL)
            break;
        td_atomic_store_relaxed(&made->hands[made->workers++], hand);
    }
    made->cpus = made->workers + 1;
    td_atomic_store_relaxed(&made->parked, made->workers);
    td_atomic_store_relaxed(&made->threads, made->cpus);
    td_atomic_store_release(&made->hand_count, made->workers); /* H */
    return made->cpus == cpus ? TD_OK : TD_ENOMEM;
}

void td_sched_fini(struct td_sched *made)
{
    for (uint32_t i = 0; i < td_atomic_load_relaxed(&made->hand_count); i++)
        free(td_hand_at(made, i));
}

/* ---- Workers --------------------------------------------------------------------------------------------------- */

static void *live(void *argument)
{
    pthread_setname_np(pthread_self(), "treadle-loop");
    self = argument;
    if (sched_getaffinity(0, sizeof self->cpus, &self->cpus) == 0 && CPU_COUNT(&self->cpus) > 1)
        self->thread = gettid();
    td_hand_work(argument);
    return NULL;
}

static bool start_thread(struct td_hand *hand)
{
    static const int raised[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t blocked, before;
    pthread_t thread;
    pthread_attr_t attributes;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof raised / sizeof raised[0]; i++)
        sigdelset(&blocked, raised[i]);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    const bool started = pthread_create(&thread, &attributes, live, hand) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

/* ---- Callers --------------------------------------------------------------------------------------------------- */

static struct td_hand *free_caller_locked(struct td_sched *of)
{
    const uint32_t count = td_atomic_load_relaxed(&of->hand_count);
    for (uint32_t i = of->workers; i < count; i++)
        if (!td_hand_at(of, i)->in_use)
            return td_hand_at(of, i);
    struct td_hand *hand = count < of->workers + TD_CALLERS_MOST ? hand_new(count, false) : NULL;
    if (hand != NULL) {
        td_atomic_store_relaxed(&of->hands[count], hand);
        td_atomic_store_release(&of->hand_count, count + 1); /* H */
    }
    return hand;
}

static struct td_hand *take_caller(struct td_sched *of)
{
    pthread_mutex_lock(&lock);
    struct td_hand *hand = free_caller_locked(of);
    if (hand != NULL)
        hand->in_use = true;
    pthread_mutex_unlock(&lock);
    return hand;
}

static void give_caller(void *argument)
{
    struct td_hand *hand = argument;
    self = NULL;
    pthread_mutex_lock(&lock);
    hand->in_use = false;
    pthread_mutex_unlock(&lock);
}

struct td_hand *td_hand_peek(void)
{
    return self;
}

struct td_hand *td_hand_self(struct td_sched *of)
{
    if (self == NULL) {
        struct td_hand *hand = take_caller(of);
        if (hand == NULL)
            return NULL;
        pthread_setspecific(at_thread_end,
                            hand); /* if there is no memory for that, the hand is not used again */
        self = hand;
    }
    return self;
}

/* ---- Fork ------------------------------------------------------------------------------------------------------ */

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void start_afresh(void)
{
    home = getpid();
    for (uint32_t i = 0; i < td_atomic_load_relaxed(&sched.hand_count); i++) {
        struct td_hand *hand = td_hand_at(&sched, i);
        hand_init(hand, i, hand->is_worker);
        hand->in_use = hand == self;
    }
    if (self != NULL && self->is_worker)
        self = NULL;
    td_atomic_store_relaxed(&sched.parked, sched.workers);
    td_atomic_store_relaxed(&sched.searching, 0);
    td_atomic_store_relaxed(&sched.callers, 0);
    td_atomic_fetch_add_relaxed(&sched.forks, 1);
}

static void after_fork_in_child(void)
{
    pthread_mutex_unlock(&lock);
    if (home != 0)
        start_afresh();
}

void td_sched_after_fork_child(void)
{
    if (home == 0 || home == getpid())
        return;
    pthread_mutex_init(&lock, NULL); /* whoever held it is not here */
    start_afresh();
}

/* ---- The one of this process ----------------------------------------------------------------------------------- */

static uint32_t count_cpus(void)
{
    const int64_t told = td_option_int(TD_OPT_THREADS);
    td_cpu_budget budget;
    if (told <= 0)
        td_cpu_budget_read("", &budget);
    const int64_t cpus = told > 0 ? told : (int64_t)budget.cpus;
    return cpus > TD_MAX_WORKERS ? TD_MAX_WORKERS : (uint32_t)cpus;
}

static void make(void)
{
    home = getpid();
    (void)td_sched_init(&sched, count_cpus(), start_thread);
    pthread_key_create(&at_thread_end, give_caller);
}

/* Not with the first loop: a fork that has begun by then would not know of it. */
__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

struct td_sched *td_sched_get(void)
{
    pthread_once(&once, make);
    return &sched;
}
