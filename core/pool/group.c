/* pool/group.c: queues of completed tasks: those that a caller grouped, and those that somebody observes.
 *
 * One lock, `completions`, over all of them, taken once per completion; it is innermost.
 *
 * A group may have a descriptor, for an event loop that sleeps in a poll of its own (td_group_open_event). It is rung
 * by whoever files a task while the group is armed, once: an armed group has nothing in `completed`. But while the loop
 * sleeps, somebody must drain. The first group gets the bell's own descriptor for loops, which workers ring, and then
 * the loop itself drains; to the groups beside it an eventfd is given, and the native thread listens and drains for
 * them. One loop is the rule: it is woken by the worker, and by nobody in between.
 *
 * Invariants  I1 a task of a group is in `pending` until it is filed, then in `completed` until popped; the group holds
 *                one reference all that time. An observed task likewise, from its filing until popped.
 *             I2 a task is filed once, after it became final; `filed` says so, so that who adds or observes it later
 *                queues it himself, or lets it be.
 *             I3 armed: nothing is in `completed`, and listeners were told before the rings were looked at (B1, B2 of
 *                ring/doorbell.h): what is reported from then on rings.
 * Ready       the lengths are atomic: a waiter's condition reads them without the lock.
 * Fork        in a child nothing that is pending will ever complete: it is not waited for.
 * Tests       tests/pool/test_group.c */
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "os/event.h"
#include "os/futex.h"
#include "pool/pool.h"

struct td_group {
    uint32_t forks_seen; /* by this process when it was made */
    td_list pending, completed;
    td_atomic_u64 completed_count, total;
    int event_fd;   /* -1: no loop looks after it */
    bool has_bells; /* which is the bell's own, not to be closed */
    bool armed;     /* under the lock */
};

static pthread_mutex_t completions = PTHREAD_MUTEX_INITIALIZER;
static const td_group *bell_group; /* has the bell's descriptor for loops; NULL: none has */
static td_atomic_u32 armed_others; /* groups for which the native thread must listen */
static td_list observed = {&observed, &observed};
static td_atomic_u64 observed_count;
static td_atomic_u64 observed_live; /* observed and not popped: there is something to wait for */
static td_atomic_u32 observed_turn; /* a futex word: observed_live is not 0 any more, or it is closed */
static td_atomic_u32 observed_closed;

static void disarm_locked(td_group *group)
{
    if (!group->armed)
        return;
    group->armed = false;
    if (group != bell_group)
        td_atomic_fetch_sub_seq(&armed_others, 1);
}

void td__completed_file(td_task *task)
{
    pthread_mutex_lock(&completions);
    task->filed = true;
    if (task->group != NULL) {
        td_list_remove(&task->group_link);
        td_list_push_back(&task->group->completed, &task->group_link);
        td_atomic_fetch_add_seq(&task->group->completed_count, 1);
        if (task->group->armed) {
            disarm_locked(task->group);
            td_event_ring(task->group->event_fd);
        }
    }
    if (task->observed) {
        td_task_ref(task);
        td_list_push_back(&observed, &task->observed_link);
        td_atomic_fetch_add_seq(&observed_count, 1);
    }
    pthread_mutex_unlock(&completions);
}

/* ---- Groups ---------------------------------------------------------------------------------------------------- */

td_status td_group_new(td_group **out)
{
    td_group *group = calloc(1, sizeof *group);
    if (group == NULL)
        return TD_ENOMEM;
    group->forks_seen = td__forks();
    group->event_fd = -1;
    td_list_init(&group->pending);
    td_list_init(&group->completed);
    *out = group;
    return TD_OK;
}

/* The bell's descriptor stays open, for the next loop; in a forked child it was closed with the bell. */
static void close_event_locked(td_group *group)
{
    if (group->forks_seen == td__forks())
        disarm_locked(group);
    if (bell_group == group) {
        uint64_t rings;
        (void)td_event_drain(group->event_fd, &rings);
        bell_group = NULL;
    } else if (group->event_fd >= 0 && !group->has_bells) {
        close(group->event_fd);
    }
}

void td_group_free(td_group *group)
{
    td_list dropped;
    td_list_init(&dropped);
    pthread_mutex_lock(&completions);
    close_event_locked(group);
    for (td_list *node; (node = td_list_take_front(&group->pending)) != NULL ||
                        (node = td_list_take_front(&group->completed)) != NULL;) {
        TD_LIST_ENTRY(node, td_task, group_link)->group = NULL;
        td_list_push_back(&dropped, node);
    }
    pthread_mutex_unlock(&completions);
    for (td_list *node; (node = td_list_take_front(&dropped)) != NULL;)
        td_task_unref(TD_LIST_ENTRY(node, td_task, group_link));
    free(group);
}

/* Is this a forked child's copy of a task that ends in the parent? */
static bool never_files_locked(const td_task *task)
{
    return !task->filed && td__pool_forked(task->pool);
}

td_status td_group_add_as(td_group *group, td_task *task, uint64_t tag)
{
    td_status status = TD_EINVAL;
    pthread_mutex_lock(&completions);
    if (never_files_locked(task)) {
        status = TD_EFORKED;
    } else if (task->group == NULL) {
        td_task_ref(task);
        task->group = group;
        task->group_tag = tag;
        td_atomic_fetch_add_seq(&group->total, 1);
        if (task->filed) {
            td_list_push_back(&group->completed, &task->group_link);
            td_atomic_fetch_add_seq(&group->completed_count, 1);
        } else {
            td_list_push_back(&group->pending, &task->group_link);
        }
        status = TD_OK;
    }
    pthread_mutex_unlock(&completions);
    return status;
}

td_status td_group_add(td_group *group, td_task *task)
{
    return td_group_add_as(group, task, 0);
}

uint64_t td_task_group_tag(const td_task *task)
{
    return task->group_tag;
}

static bool group_ready(void *context)
{
    const td_group *group = context;
    return td_atomic_load_seq(&group->completed_count) != 0 || td_atomic_load_seq(&group->total) == 0;
}

td_status td_group_pop_until(td_group *group, int64_t deadline_ns, td_task **out)
{
    if (group->forks_seen != td__forks() && !group_ready(group))
        return TD_EFORKED;
    const td_status status = td_drain_wait_until(group_ready, group, deadline_ns);
    if (status != TD_OK)
        return status;
    pthread_mutex_lock(&completions);
    td_list *node = td_list_take_front(&group->completed);
    uint64_t left = td_atomic_load_relaxed(&group->total);
    if (node != NULL) {
        td_atomic_fetch_sub_seq(&group->completed_count, 1);
        td_atomic_store_seq(&group->total, --left);
        *out = TD_LIST_ENTRY(node, td_task, group_link);
        (*out)->group = NULL;
    }
    pthread_mutex_unlock(&completions);
    if (node != NULL && left == 0 && td_drain_has_waiter())
        td_drain_notify(); /* others that wait for this group have nothing to wait for */
    return node != NULL ? TD_OK : left == 0 ? TD_EINVAL : TD_EAGAIN; /* EAGAIN: another thread popped it */
}

td_status td_group_remove(td_group *group, td_task *task)
{
    pthread_mutex_lock(&completions);
    const bool here = task->group == group;
    uint64_t left = td_atomic_load_relaxed(&group->total);
    if (here) {
        td_list_remove(&task->group_link);
        task->group = NULL;
        if (task->filed)
            td_atomic_fetch_sub_seq(&group->completed_count, 1);
        td_atomic_store_seq(&group->total, --left);
    }
    pthread_mutex_unlock(&completions);
    if (!here)
        return TD_EINVAL;
    td_task_unref(task);
    if (left == 0 && td_drain_has_waiter())
        td_drain_notify();
    return TD_OK;
}

uint64_t td_group_count(const td_group *group)
{
    return td_atomic_load_relaxed(&group->total);
}

/* ---- A loop's group ---------------------------------------------------------------------------------------------- */

td_status td_group_open_event(td_group *group, int *fd)
{
    uint64_t rings;
    td_status status = td_drain_make_bell();
    if (status != TD_OK)
        return status;
    pthread_mutex_lock(&completions);
    if (bell_group == NULL) {
        bell_group = group;
        group->has_bells = true;
        group->event_fd = td_drain_bell()->loop_fd;
        (void)td_event_drain(group->event_fd, &rings); /* of a dead worker's successor, with nobody there */
    } else {
        status = td_event_new(&group->event_fd);
    }
    pthread_mutex_unlock(&completions);
    if (status == TD_OK)
        *fd = group->event_fd;
    return status;
}

void td_group_arm(td_group *group)
{
    if (group->forks_seen != td__forks())
        return;
    pthread_mutex_lock(&completions);
    const bool ready = group_ready(group), own = group == bell_group;
    if (ready) {
        td_event_ring(group->event_fd);
    } else if (!group->armed) {
        group->armed = true;
        if (!own)
            td_atomic_fetch_add_seq(&armed_others, 1);
    }
    pthread_mutex_unlock(&completions);
    if (ready)
        return;
    td_bell_expect(td_drain_bell(), own ? TD_LISTEN_LOOP : TD_LISTEN_EVENT);
    (void)td_drain_poll();
}

void td_group_disarm(td_group *group)
{
    uint64_t rings;
    if (group->forks_seen != td__forks())
        return;
    pthread_mutex_lock(&completions);
    disarm_locked(group);
    pthread_mutex_unlock(&completions);
    (void)td_event_drain(group->event_fd, &rings);
}

bool td__groups_listen(void)
{
    return td_atomic_load_seq(&armed_others) != 0;
}

/* ---- Observers ------------------------------------------------------------------------------------------------- */

/* Those who slept because nothing was observed look again. */
static void turn_observers(void)
{
    td_atomic_fetch_add_seq(&observed_turn, 1);
    td_futex_wake(&observed_turn, INT_MAX, false);
}

td_status td_task_observe(td_task *task)
{
    td_status status = TD_EINVAL;
    pthread_mutex_lock(&completions);
    if (never_files_locked(task)) {
        status = TD_EFORKED;
    } else if (!task->filed) {
        if (!task->observed && td_atomic_fetch_add_seq(&observed_live, 1) == 0)
            turn_observers();
        task->observed = true;
        status = TD_OK;
    }
    pthread_mutex_unlock(&completions);
    return status;
}

static bool observed_ready(void *unused)
{
    (void)unused;
    return td_atomic_load_seq(&observed_count) != 0 || td_atomic_load_seq(&observed_closed) != 0;
}

/* As long as nothing is observed there is nothing to drain for: who waits for completions is woken by each. */
static td_status sleep_unobserved_until(int64_t deadline_ns)
{
    for (;;) {
        const uint32_t turn = td_atomic_load_seq(&observed_turn);
        if (td_atomic_load_seq(&observed_live) != 0 || td_atomic_load_seq(&observed_closed) != 0)
            return TD_OK;
        const td_status status = td_futex_wait_until(&observed_turn, turn, deadline_ns, false);
        if (status != TD_OK && status != TD_EAGAIN)
            return status;
    }
}

td_status td_observed_pop_until(int64_t deadline_ns, td_task **out)
{
    td_status status = sleep_unobserved_until(deadline_ns);
    if (status == TD_OK)
        status = td_drain_wait_until(observed_ready, NULL, deadline_ns);
    if (status != TD_OK)
        return status;
    pthread_mutex_lock(&completions);
    td_list *node = td_list_take_front(&observed);
    if (node != NULL) {
        td_atomic_fetch_sub_seq(&observed_count, 1);
        td_atomic_fetch_sub_seq(&observed_live, 1);
        *out = TD_LIST_ENTRY(node, td_task, observed_link);
    }
    pthread_mutex_unlock(&completions);
    if (node != NULL)
        return TD_OK;
    return td_atomic_load_seq(&observed_closed) != 0 ? TD_ECLOSED : TD_EAGAIN;
}

void td_observed_close(void)
{
    td_atomic_store_seq(&observed_closed, 1);
    turn_observers();
    td_drain_notify();
}

void td_observed_open(void)
{
    td_atomic_store_seq(&observed_closed, 0);
}

void td__completed_forget(void)
{
    pthread_mutex_init(&completions, NULL);
    td_list_init(&observed);
    bell_group = NULL;
    td_atomic_store_relaxed(&armed_others, 0);
    td_atomic_store_relaxed(&observed_count, 0);
    td_atomic_store_relaxed(&observed_live, 0);
    td_atomic_store_relaxed(&observed_closed, 0);
}
