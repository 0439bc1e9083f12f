/* pool/pool.c: a pool from its construction until its last process is gone.
 *
 *   made --start--> running --close--> closed --(nothing outstanding)--> workers and zygote leave --> gone
 *                      '----break----> broken: every task has ended, processes are ended --------------^
 *
 * Ordering  L: join the loop -> release started -> acquire started -> use what the loop offers (the bell).
 * The native thread keeps it (keep): news of processes, deadlines, and draining where nobody waits.
 * Fork   every pool is in a registry. A child of fork closes its copies of what ties the parent's processes to the
 *        parent (lifelines, channels), or they would outlive it, and finds all pools inert from then on.
 * Tests  tests/pool/test_pool.c */
#include "pool/pool.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/option.h"
#include "memory/kin.h"
#include "os/robust.h"
#include "pool/zygote.h"
#include "sched/hand.h"

#define BARREN_DEATHS_MOST 10u
#define SLOTS_FIRST 64u
#define SPIN_AUTO_NS (100 * TD_NS_PER_US)

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER; /* also held while a pool starts */
static td_list registry = {&registry, &registry};
static td_atomic_u32 forks; /* between the first pool's process and this one */
static td_atomic_u32 kept;  /* pools that the native thread keeps */
static pid_t home;          /* the process that all this belongs to */

/* ---- Fork -------------------------------------------------------------------------------------------------------- */

/* Holds every pool still, so that the child finds their books whole. */
static void before_fork(void)
{
    pthread_mutex_lock(&registry_lock);
    for (td_list *node = registry.next; node != &registry; node = node->next)
        pthread_mutex_lock(&TD_LIST_ENTRY(node, td_pool, registry_link)->lock);
}

static void after_fork_in_parent(void)
{
    for (td_list *node = registry.next; node != &registry; node = node->next)
        pthread_mutex_unlock(&TD_LIST_ENTRY(node, td_pool, registry_link)->lock);
    pthread_mutex_unlock(&registry_lock);
}

static void close_copy(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&registry_lock, NULL);
    for (td_list *node = registry.next; node != &registry; node = node->next) {
        td_pool *pool = TD_LIST_ENTRY(node, td_pool, registry_link);
        pthread_mutex_init(&pool->lock, NULL); /* whoever held it is not here */
        close_copy(pool->zygote.channel);
        close_copy(pool->zygote.pidfd);
        for (uint32_t worker = 0; worker < pool->config.max_workers; worker++) {
            const struct td_member *member = &pool->members[worker];
            if (member->state == TD_MEMBER_EMPTY)
                continue;
            close_copy(member->lifeline);
            close_copy(member->channel);
            close_copy(member->pidfd);
            close_copy(member->stack_fd);
        }
    }
    td_list_init(&registry);
    home = getpid();
    td_atomic_fetch_add_relaxed(&forks, 1);
    td_atomic_store_relaxed(&kept, 0);
    td_drain_forget();
    td_native_forget();
    td__completed_forget();
}

/* For children that the C library did not make, so that its handlers did not run. */
void td_after_fork_child(void)
{
    td_options_after_fork_child();
    td_robust_after_fork_child();
    td_sched_after_fork_child();
    if (home != 0 && home != getpid()) {
        after_fork_in_child();
        td_heap_after_fork_child();
    }
}

static void install_fork_handlers(void)
{
    home = getpid();
    td_heap_init(
        td_native_wake); /* its lock is taken under a pool's, so its handler stands in line before ours */
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

uint32_t td__forks(void)
{
    return td_atomic_load_relaxed(&forks);
}

bool td__pool_forked(const td_pool *pool)
{
    return pool->forks_seen != td__forks();
}

/* ---- The native thread's turn ------------------------------------------------------------------------------------ */

static bool source_drain(struct td_source *source)
{
    td_pool *pool = TD_LIST_ENTRY(source, td_pool, source);
    pthread_mutex_lock(&pool->lock);
    td__pool_drain_locked(pool);
    const bool news = pool->news;
    pool->news = false;
    pthread_mutex_unlock(&pool->lock);
    return news;
}

static bool source_waits(struct td_source *source)
{
    return td__pool_waits(TD_LIST_ENTRY(source, td_pool, source));
}

static bool source_may_spin(struct td_source *source)
{
    td_pool *pool = TD_LIST_ENTRY(source, td_pool, source);
    return td_doorbell_may_spin(&pool->map, td_drain_bell());
}

/* Closed, and nobody may be waiting: the last completion must be heard, or its workers would never leave. And where an
 * event loop waits that workers can't wake. */
static void listen_locked(td_pool *pool)
{
    if (td_atomic_load_relaxed(&pool->outstanding) == 0 || (!pool->closed && !td__groups_listen()))
        return;
    td_atomic_fetch_or_seq(&td_drain_bell()->bell->listen, TD_LISTEN_EVENT);
    td__pool_drain_locked(pool);
}

/* Is all done that a closed pool has to do? Then its processes are sent away; true when they are gone. */
static bool end_locked(td_pool *pool)
{
    if (!pool->closed || td_atomic_load_relaxed(&pool->outstanding) != 0)
        return false;
    td__crew_dismiss_locked(pool);
    return td__crew_is_gone_locked(pool);
}

/* What nobody has used for a while goes back to the kernel. */
static int64_t keep_memory(td_pool *pool, int64_t now)
{
    int64_t args;
    const int64_t heap = td_heap_keep(now);
    if (td_rest_keep(&pool->args_rest, now, &args))
        td_arena_trim(pool->args_arena, TD_REST_KEEP_BYTES);
    return heap < args ? heap : args;
}

static int64_t keep(struct td_keeper *keeper)
{
    td_pool *pool = TD_LIST_ENTRY(keeper, td_pool, keeper);
    pthread_mutex_lock(&pool->lock);
    const int64_t now = td_now_ns();
    int64_t next = td__crew_keep_locked(pool, now);
    td__pool_drain_locked(pool);
    if (pool->split_at_ns <= now)
        td__chunk_split_locked(pool, now);
    const int64_t timeout = td__timeouts_keep_locked(pool, now);
    next = timeout < next ? timeout : next;
    next = pool->split_at_ns < next ? pool->split_at_ns : next;
    listen_locked(pool);
    if (end_locked(pool))
        next = TD_KEEP_END;
    pool->news = false; /* told below */
    pthread_mutex_unlock(&pool->lock);
    if (next == TD_KEEP_END) {
        td_drain_remove_source(&pool->source);
        td_atomic_store_seq(&pool->gone, 1);
        if (td_atomic_fetch_sub_acqrel(&kept, 1) == 1)
            td_heap_trim(); /* nobody asks it any more */
    } else {
        const int64_t rest = keep_memory(pool, now);
        next = rest < next ? rest : next;
    }
    td_drain_notify();
    return next;
}

static void ended(struct td_keeper *keeper)
{
    td__pool_drop(TD_LIST_ENTRY(keeper, td_pool, keeper));
}

/* ---- Construction ------------------------------------------------------------------------------------------------ */

static uint64_t args_cap(const td_memory_budget *memory)
{
    const uint64_t option = (uint64_t)td_option_int(TD_OPT_ARENA_BYTES);
    return option != 0 ? option : td_memory_budget_bytes(memory) / 4;
}

static uint32_t slot_count(void)
{
    const int64_t wanted = td_option_int(TD_OPT_SLOTS);
    uint32_t slots = 64;
    while (slots < wanted && slots < 1u << 20)
        slots *= 2;
    return slots;
}

static void write_kin(struct td_segment *head)
{
    const struct td_kin kin = td_kin_get();
    head->kin_count = kin.count;
    memcpy(head->kin, kin.pids, sizeof head->kin);
}

static td_status make_memory(td_pool *pool)
{
    td_cpu_budget cpu;
    td_budgets_init("", &cpu, &pool->memory);
    const int64_t spin = td_option_int(TD_OPT_SPIN);
    td_status status = td_segment_new(&pool->map, slot_count(), pool->config.max_workers, cpu.cpus,
                                      spin == TD_SPIN_AUTO ? SPIN_AUTO_NS : spin);
    if (status != TD_OK) {
        td_memory_budget_fini(&pool->memory);
        return status;
    }
    pool->map.head->memory_bytes = td_memory_budget_bytes(&pool->memory);
    write_kin(pool->map.head);
    pool->oom_kills = td_memory_oom_kills(&pool->memory);
    const td_arena_config config = {
        .cap_bytes = args_cap(&pool->memory),
        .warm_bytes = td_memory_share(&pool->memory, TD_WARM_PARTS, (uint64_t)td_option_int(TD_OPT_WARM_BYTES)),
        .budget = &pool->memory,
    };
    status = td_arena_new("treadle-args", 0, &config, &pool->args_arena);
    if (status != TD_OK) {
        td_memory_budget_fini(&pool->memory);
        td_segment_fini(&pool->map);
    }
    return status;
}

bool td__pool_make_slots_locked(td_pool *pool)
{
    const uint32_t first = pool->slots_made, left = pool->map.slot_count - first;
    const uint32_t wanted = first == 0 ? SLOTS_FIRST : first; /* twice as many each time */
    const uint32_t count = wanted < left ? wanted : left;
    if (count == 0 || td_segment_commit_slots(&pool->map, first, count) != TD_OK)
        return false;
    for (uint32_t slot = first + count; slot > first; slot--)
        pool->free_slots[pool->free_count++] = slot - 1;
    pool->slots_made += count;
    return true;
}

static td_status make_tables(td_pool *pool)
{
    const uint32_t slots = pool->map.slot_count;
    pool->free_slots = malloc(slots * sizeof *pool->free_slots);
    pool->slot_tasks = calloc(slots, sizeof *pool->slot_tasks);
    if (pool->free_slots == NULL || pool->slot_tasks == NULL)
        return TD_ENOMEM;
    return td__pool_make_slots_locked(pool) ? td__intern_init(&pool->intern) : TD_ENOROOM;
}

static void free_strings(char **strings)
{
    for (char **string = strings; string != NULL && *string != NULL; string++)
        free(*string);
    free(strings);
}

static char **copy_strings(const char *const strings[])
{
    size_t count = 0;
    while (strings != NULL && strings[count] != NULL)
        count++;
    char **copy = calloc(count + 2, sizeof *copy); /* room for one more argument */
    for (size_t i = 0; copy != NULL && i < count; i++) {
        copy[i] = strdup(strings[i]);
        if (copy[i] == NULL) {
            free_strings(copy);
            return NULL;
        }
    }
    return copy;
}

static td_status set_launch(td_pool *pool, const char *const argv[], const char *const envp[])
{
    char **new_argv = copy_strings(argv), **new_envp = envp != NULL ? copy_strings(envp) : NULL;
    char *channel = strdup("3");
    if (new_argv == NULL || (envp != NULL && new_envp == NULL) || channel == NULL) {
        free_strings(new_argv);
        free_strings(new_envp);
        free(channel);
        return TD_ENOMEM;
    }
    size_t count = 0;
    while (new_argv[count] != NULL)
        count++;
    new_argv[count] = channel;
    free_strings(pool->argv);
    free_strings(pool->envp);
    pool->argv = new_argv;
    pool->envp = new_envp;
    return TD_OK;
}

/* What takes longest to be there comes first. */
static td_status make(td_pool *pool)
{
    const struct td_pool_config *config = &pool->config;
    td_status status = td__crew_init(pool);
    if (status == TD_OK && config->argv != NULL)
        status = set_launch(pool, config->argv, config->envp);
    pool->config.argv = pool->config.envp = NULL; /* the caller's */
    if (status == TD_OK && pool->argv != NULL && config->start == TD_START_SHARED)
        status = td__crew_boot_zygote_locked(pool);
    if (status == TD_OK)
        status = make_memory(pool);
    if (status == TD_OK)
        status = make_tables(pool);
    return status;
}

static void destroy(td_pool *pool)
{
    pthread_mutex_lock(&registry_lock);
    td_list_remove(&pool->registry_link);
    pthread_mutex_unlock(&registry_lock);
    td__crew_fini(pool); /* before the context, of which a worker on its way has a use */
    td__held_fini(pool);
    free(pool->context); /* its block goes with the arena */
    if (pool->intern.buckets != NULL)
        td__intern_fini(&pool->intern, pool->args_arena);
    free(pool->free_slots);
    free(pool->slot_tasks);
    free(pool->deaths);
    free_strings(pool->argv);
    free_strings(pool->envp);
    if (pool->args_arena != NULL) {
        td_arena_unref(pool->args_arena);
        td_memory_budget_fini(&pool->memory);
        td_segment_fini(&pool->map);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

td_status td_pool_new(const struct td_pool_config *config, td_pool **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (config->max_workers < 1 || config->max_workers > TD_MAX_WORKERS)
        return TD_EINVAL;
    pthread_once(&once, install_fork_handlers);
    td_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return TD_ENOMEM;
    pool->config = *config;
    if (pool->config.max_barren_deaths == 0)
        pool->config.max_barren_deaths = BARREN_DEATHS_MOST;
    if (pool->config.grace_ns == 0)
        pool->config.grace_ns = td_option_int(TD_OPT_GRACE);
    td_atomic_init(&pool->refs, 1);
    td_atomic_init(&pool->users, 1);
    pthread_mutex_init(&pool->lock, NULL);
    pool->forks_seen = td__forks();
    pool->source =
        (struct td_source){.drain = source_drain, .waits = source_waits, .may_spin = source_may_spin};
    pool->keeper = (struct td_keeper){.keep = keep, .ended = ended};
    td_list_init(&pool->overflow);
    td_list_init(&pool->registry_link);
    pool->split_at_ns = pool->shortest_timeout_ns = pool->timeouts_at_ns = TD_FOREVER;
    pthread_mutex_lock(&registry_lock); /* no fork before what is started here is in the registry */
    td_status status = make(pool);
    if (status == TD_OK)
        td_list_push_back(&registry, &pool->registry_link);
    pthread_mutex_unlock(&registry_lock);
    if (status == TD_OK) {
        *out = pool;
    } else {
        const int error = errno;
        destroy(pool);
        errno = error;
    }
    return status;
}

uint32_t td_pool_cpus(const td_pool *pool)
{
    return pool->map.head->cpu_budget;
}

static bool is_closed(td_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    const bool closed = pool->closed;
    pthread_mutex_unlock(&pool->lock);
    return closed;
}

td_pool *td__pool_hold(td_pool *pool)
{
    td_atomic_fetch_add_relaxed(&pool->refs, 1);
    return pool;
}

void td__pool_drop(td_pool *pool)
{
    if (td_atomic_fetch_sub_acqrel(&pool->refs, 1) == 1 && !td__pool_forked(pool))
        destroy(pool);
}

td_pool *td_pool_ref(td_pool *pool)
{
    td_atomic_fetch_add_relaxed(&pool->users, 1);
    return pool;
}

void td_pool_unref(td_pool *pool)
{
    if (pool == NULL || td_atomic_fetch_sub_acqrel(&pool->users, 1) != 1)
        return;
    if (!td__pool_forked(pool) && !is_closed(pool))
        td_pool_close(pool, TD_CLOSE_KILL);
    td__pool_drop(pool);
}

td_status td_pool_set_launch(td_pool *pool, const char *const argv[], const char *const envp[])
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    pthread_mutex_lock(&pool->lock);
    const td_status status = set_launch(pool, argv, envp);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

void td__context_drop_locked(td_pool *pool, struct td_context *context)
{
    if (context == NULL || --context->users > 0)
        return;
    td_arena_free(pool->args_arena, context->ref);
    free(context);
}

td_status td_pool_set_context(td_pool *pool, const void *bytes, uint64_t len)
{
    struct td_block block;
    if (td__pool_forked(pool))
        return TD_EFORKED;
    struct td_context *context = malloc(sizeof *context);
    if (context == NULL)
        return TD_ENOMEM;
    const td_status status = td_arena_alloc_uncapped(pool->args_arena, len, &block);
    if (status != TD_OK) {
        free(context);
        return status;
    }
    if (len > 0)
        memcpy(block.data, bytes, len);
    *context = (struct td_context){.ref = block.ref, .bytes = len, .users = 1};
    pthread_mutex_lock(&pool->lock);
    td__context_drop_locked(pool, pool->context); /* orders under way keep the old one */
    pool->context = context;
    pthread_mutex_unlock(&pool->lock);
    return TD_OK;
}

/* Needs registry_lock. The pool's own lock is not held: a source's is inner to the list of sources. */
static td_status join_loop_locked(td_pool *pool)
{
    td_status status = td_drain_add_source(&pool->source);
    if (status != TD_OK)
        return status;
    td__pool_hold(pool);
    td_atomic_fetch_add_relaxed(&kept, 1);
    status = td_native_add(&pool->keeper);
    if (status != TD_OK) {
        td_atomic_fetch_sub_relaxed(&kept, 1);
        td_drain_remove_source(&pool->source);
        td__pool_drop(pool);
        return status;
    }
    td_native_watch_event(td_drain_bell()->event_fd); /* later pools' are refused: it is there already */
    return TD_OK;
}

td_status td__pool_start(td_pool *pool)
{
    if (td_atomic_load_acquire(&pool->started) != 0) /* L */
        return TD_OK;
    pthread_mutex_lock(&registry_lock);
    td_status status = TD_OK;
    if (td_atomic_load_relaxed(&pool->started) == 0) {
        status = is_closed(pool) ? TD_ECLOSED : join_loop_locked(pool);
        if (status == TD_OK)
            TD_EDGE(pool_L, td_atomic_store_release, td_atomic_store_relaxed)(&pool->started, 1); /* L */
    }
    pthread_mutex_unlock(&registry_lock);
    return status;
}

td_status td_pool_start(td_pool *pool)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    td_status status = td__pool_start(pool);
    if (status != TD_OK)
        return status;
    pthread_mutex_lock(&pool->lock);
    if (pool->closed)
        status = TD_ECLOSED;
    else if (pool->config.start == TD_START_SHARED)
        status = td__crew_start_zygote_locked(pool);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

td_status td_pool_intern_holding(td_pool *pool, const void *bytes, uint64_t len, td_hold *const *holds,
                                 uint32_t hold_count, uint32_t *fn_out)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    pthread_mutex_lock(&pool->lock);
    const td_status status =
        td__intern_add_locked(&pool->intern, pool->args_arena, bytes, len, holds, hold_count, fn_out);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

td_status td_pool_intern(td_pool *pool, const void *bytes, uint64_t len, uint32_t *fn_out)
{
    return td_pool_intern_holding(pool, bytes, len, NULL, 0, fn_out);
}

void td_pool_release_fn(td_pool *pool, uint32_t fn)
{
    if (td__pool_forked(pool))
        return;
    pthread_mutex_lock(&pool->lock);
    td__intern_unref_locked(&pool->intern, pool->args_arena, fn);
    pthread_mutex_unlock(&pool->lock);
}

/* ---- Ends -------------------------------------------------------------------------------------------------------- */

void td__pool_unlock(td_pool *pool)
{
    const bool news = pool->news;
    const bool over = news && pool->closed && td_atomic_load_relaxed(&pool->outstanding) == 0;
    pool->news = false;
    pthread_mutex_unlock(&pool->lock);
    if (over)
        td_native_wake(); /* its processes are to be sent away */
    if (news && td_drain_has_waiter())
        td_drain_notify();
}

void td__pool_break_locked(td_pool *pool, const char *reason, int signal)
{
    td__crew_end_all_locked(pool, signal); /* also when it is broken: the signal may be a harder one */
    if (td_atomic_load_relaxed(&pool->is_broken) != 0)
        return;
    td__member_drain_all_locked(pool);
    snprintf(pool->broken_reason, sizeof pool->broken_reason, "%s", reason);
    td_atomic_store_seq(&pool->is_broken, 1);
    pool->closed = true;
    td__fail_all_locked(pool);
}

void td_pool_break(td_pool *pool, const char *reason)
{
    if (td__pool_forked(pool))
        return;
    pthread_mutex_lock(&pool->lock);
    td__pool_break_locked(pool, reason, SIGTERM);
    td__pool_unlock(pool);
}

const char *td_pool_broken_reason(td_pool *pool)
{
    return pool->broken_reason;
}

td_status td_pool_close(td_pool *pool, uint32_t flags)
{
    if (td__pool_forked(pool))
        return TD_EFORKED;
    pthread_mutex_lock(&pool->lock);
    pool->closed = true;
    const uint32_t all = TD_CLOSE_CANCEL_RUNNING | TD_CLOSE_TERMINATE | TD_CLOSE_KILL;
    if ((flags & (TD_CLOSE_CANCEL_QUEUED | all)) != 0)
        td__cancel_queued_locked(pool, (flags & all) != 0);
    if ((flags & TD_CLOSE_CANCEL_RUNNING) != 0)
        td__cancel_running_locked(pool);
    if ((flags & TD_CLOSE_KILL) != 0)
        td__pool_break_locked(pool, "its workers were killed (kill_workers)", SIGKILL);
    else if ((flags & TD_CLOSE_TERMINATE) != 0)
        td__pool_break_locked(pool, "its workers were terminated (terminate_workers)", SIGTERM);
    if (td_atomic_load_relaxed(&pool->started) == 0) {
        td_atomic_store_seq(&pool->gone, 1);
        pool->news = true;
    }
    td__pool_unlock(pool);
    td_native_wake();
    return TD_OK;
}

static bool is_gone(void *pool)
{
    return td_atomic_load_seq(&((td_pool *)pool)->gone) != 0;
}

static bool is_idle(void *pool)
{
    return td_atomic_load_seq(&((td_pool *)pool)->outstanding) == 0;
}

td_status td_pool_join_until(td_pool *pool, int64_t deadline_ns)
{
    return td__pool_forked(pool) ? TD_EFORKED : td_drain_wait_until(is_gone, pool, deadline_ns);
}

td_status td_pool_idle_until(td_pool *pool, int64_t deadline_ns)
{
    return td__pool_forked(pool) ? TD_EFORKED : td_drain_wait_until(is_idle, pool, deadline_ns);
}
