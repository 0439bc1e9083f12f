/* pool/group.c: queues of completed tasks: those that a caller grouped, and those that somebody observes.
 *
 * One lock, `completions`, over all of them, taken once per completion; it is innermost.
 *
 * Invariants  I1 a task of a group is in `pending` until it is filed, then in `completed` until popped; the group holds
 *                one reference all that time. An observed task likewise, from its filing until popped.
 *             I2 a task is filed once, after it became final; `filed` says so, so that who adds or observes it later
 *                queues it himself, or lets it be.
 * Ready       the lengths are atomic: a waiter's condition reads them without the lock.
 * Fork        in a child nothing that is pending will ever complete: it is not waited for.
 * Tests       tests/pool/test_group.c */
#include <stdlib.h>

#include "pool/pool.h"

struct td_group {
    uint32_t forks_seen; /* by this process when it was made */
    td_list pending, completed;
    td_atomic_u64 completed_count, total;
};

static pthread_mutex_t completions = PTHREAD_MUTEX_INITIALIZER;
static td_list observed = {&observed, &observed};
static td_atomic_u64 observed_count;
static td_atomic_u32 observed_closed;

void td__completed_file(td_task *task)
{
    pthread_mutex_lock(&completions);
    task->filed = true;
    if (task->group != NULL) {
        td_list_remove(&task->group_link);
        td_list_push_back(&task->group->completed, &task->group_link);
        td_atomic_fetch_add_seq(&task->group->completed_count, 1);
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
    td_list_init(&group->pending);
    td_list_init(&group->completed);
    *out = group;
    return TD_OK;
}

void td_group_free(td_group *group)
{
    td_list dropped;
    td_list_init(&dropped);
    pthread_mutex_lock(&completions);
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

td_status td_group_add(td_group *group, td_task *task)
{
    td_status status = TD_EINVAL;
    pthread_mutex_lock(&completions);
    if (never_files_locked(task)) {
        status = TD_EFORKED;
    } else if (task->group == NULL) {
        td_task_ref(task);
        task->group = group;
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

/* ---- Observers ------------------------------------------------------------------------------------------------- */

td_status td_task_observe(td_task *task)
{
    td_status status = TD_EINVAL;
    pthread_mutex_lock(&completions);
    if (never_files_locked(task)) {
        status = TD_EFORKED;
    } else if (!task->filed) {
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

td_status td_observed_pop_until(int64_t deadline_ns, td_task **out)
{
    const td_status status = td_drain_wait_until(observed_ready, NULL, deadline_ns);
    if (status != TD_OK)
        return status;
    pthread_mutex_lock(&completions);
    td_list *node = td_list_take_front(&observed);
    if (node != NULL) {
        td_atomic_fetch_sub_seq(&observed_count, 1);
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
    td_atomic_store_relaxed(&observed_count, 0);
    td_atomic_store_relaxed(&observed_closed, 0);
}
