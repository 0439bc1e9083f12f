/* os/robust.c: owned words, by the kernel's list of what a thread holds (set_robust_list(2)).
 *
 * A thread has one such list. The C library keeps its robust mutexes there, and we ours, linked as it links them: the
 * entries' layout is that of its mutex (prev, next, and the word 32 bytes before `next`), so that each can unlink its
 * own between the other's. When a thread ends, by whatever cause, also at an execve, the kernel goes through the list
 * and sets DIED in each word that names the thread, and wakes one sleeper if WAITED is set there. The entry in
 * list_op_pending is treated so, too, linked or not; and where its word names nobody it wakes one sleeper as well.
 *
 *   take   pending = entry; word 0 -> me; link; pending = none
 *   free   pending = entry; unlink; word -> 0, or WAITED; wake; pending = none
 *   sleep  pending = entry; wait ... take, or go; pending = none
 *
 * Invariants  I1 from the moment in which a word names a thread until that thread has freed it, its entry is linked or
 *                pending.
 *             I2 where a word is free and somebody sleeps there, a wake-up is on its way: who freed it has it pending
 *                until it has woken, and who was woken until it has taken the word. Either one's death makes the kernel
 *                wake the next.
 *             I3 WAITED is set in a word that is slept at, owned or not. So who takes the word before the one that was
 *                woken wakes the next, also when that one dies meanwhile. It is cleared only where all are woken in the
 *                same step: a wake-up that has found nobody there is no proof, as others may have come since, and the
 *                word may look as it did. Who takes a word after a sleep sets it again, for there may be others.
 *             I4 an entry's prev and next are written while its word is owned, or by the owner's own neighbours.
 * Ordering    T: what the owner did -> release in free -> acquire in take. After a death the kernel's change is as
 *             good: the dead thread did nothing after it.
 * Crash       see above. A thread can own 2048 words; the kernel doesn't look at more.
 * Fork        A child owns nothing: its thread has another number and an empty list.
 * Not covered threads of another PID namespace, whose numbers mean others.   Tests  tests/os/test_robust.c */
#include "os/robust.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/futex.h"

#define WORD_FROM_NEXT (-32)

_Static_assert((int)offsetof(struct td_robust, word) - (int)offsetof(struct td_robust, next) ==
                       WORD_FROM_NEXT &&
                   offsetof(struct td_robust, next) - offsetof(struct td_robust, prev) == sizeof(void *),
               "the layout of the C library's mutex");
_Static_assert(TD_ROBUST_WAITED == FUTEX_WAITERS && TD_ROBUST_DIED == FUTEX_OWNER_DIED &&
                   TD_ROBUST_OWNER == FUTEX_TID_MASK,
               "the kernel's");

static td_atomic_u32 generation = 1; /* of processes: one more in each forked child */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The calling thread, as it last asked. In the block of thread variables that is there from the start: quick to
 * find. */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct self {
    struct robust_list_head *head;
    uint32_t tid, generation;
} self;

void td_robust_after_fork_child(void)
{
    td_atomic_fetch_add_relaxed(&generation, 1);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, td_robust_after_fork_child);
}

static struct self *ask(void)
{
    struct robust_list_head *head = NULL;
    size_t bytes = 0;
    pthread_once(&once, watch_forks);
    if (syscall(SYS_get_robust_list, 0, &head, &bytes) != 0 || head == NULL || bytes != sizeof *head ||
        head->futex_offset != WORD_FROM_NEXT)
        return NULL;
    self.head = head;
    self.tid = (uint32_t)syscall(SYS_gettid);
    self.generation = td_atomic_load_relaxed(&generation);
    return &self;
}

static inline struct self *me(void)
{
    return self.generation == td_atomic_load_relaxed(&generation) ? &self : ask();
}

td_status td_robust_check(void)
{
    return me() != NULL ? TD_OK : TD_ENOSYS;
}

/* ---- The list ---------------------------------------------------------------------------------------------- */

/* Its lowest bit says of what kind of mutex the next entry is. */
static void **plain(void *link)
{
    return (void **)((uintptr_t)link & ~(uintptr_t)1); /* NOLINT(performance-no-int-to-ptr) */
}

/* The field before an entry's `next`: its `prev`. The list's head has one, too. */
static void **prev_of(void *next_field)
{
    return plain(next_field) - 1;
}

static void link_first(struct robust_list_head *head, struct td_robust *robust)
{
    void *first = head->list.next;
    robust->next = first;
    robust->prev = &head->list;
    *prev_of(first) = &robust->next;
    td_in_program_order();
    head->list.next = (struct robust_list *)(void *)&robust->next;
}

static void unlink_entry(struct td_robust *robust)
{
    *prev_of(robust->next) = robust->prev;
    td_in_program_order();
    *plain(robust->prev) = robust->next;
    robust->prev = robust->next = NULL;
}

static void set_pending(struct self *thread, struct td_robust *robust)
{
    td_in_program_order();
    thread->head->list_op_pending = robust != NULL ? (struct robust_list *)(void *)&robust->next : NULL;
    td_in_program_order();
}

/* ---- Taking and freeing ------------------------------------------------------------------------------------ */

/* Sets *died where the word's last owner had. */
static td_status take_pending(uint32_t tid, td_atomic_u32 *word, int64_t deadline_ns, bool *died)
{
    uint32_t seen = 0, waited = 0;
    for (;;) {
        const bool is_free = td_robust_owner(seen) == 0;
        if (!is_free && deadline_ns <= 0)
            return TD_ETIMEDOUT;
        if (td_robust_owner(seen) == tid)
            return TD_EDEADLOCK;
        const uint32_t wanted =
            is_free ? tid | waited | (seen & TD_ROBUST_WAITED) : seen | TD_ROBUST_WAITED;   /* I3 */
        if ((is_free || wanted != seen) && !td_atomic_cas_weak_acqrel(word, &seen, wanted)) /* T */
            continue;
        if (is_free) {
            *died = (seen & TD_ROBUST_DIED) != 0;
            return TD_OK;
        }
        const td_status status = td_futex_wait_until(word, wanted, deadline_ns, true);
        if (status != TD_OK && status != TD_EAGAIN)
            return status;
        waited = TD_ROBUST_WAITED;
        seen = td_atomic_load_relaxed(word);
    }
}

td_status td_robust_take_until(struct td_robust *robust, int64_t deadline_ns)
{
    struct self *thread = me();
    if (thread == NULL)
        return TD_ENOSYS;
    bool died = false;
    set_pending(thread, robust);
    const td_status status = take_pending(thread->tid, &robust->word, deadline_ns, &died);
    if (status == TD_OK)
        link_first(thread->head, robust);
    set_pending(thread, NULL);
    return died ? TD_EHOLDER : status;
}

bool td_robust_is_mine(const struct td_robust *robust)
{
    const struct self *thread = me();
    return thread != NULL && td_robust_owner(td_atomic_load_relaxed(&robust->word)) == thread->tid;
}

td_status td_robust_free(struct td_robust *robust, int wake, bool died)
{
    if (!td_robust_is_mine(robust))
        return TD_ENOTHELD;
    struct self *thread = me();
    set_pending(thread, robust);
    unlink_entry(robust);
    const uint32_t idle = died ? TD_ROBUST_DIED : 0, kept = wake < INT_MAX ? TD_ROBUST_WAITED : 0; /* I3 */
    uint32_t seen = td_atomic_load_relaxed(&robust->word);
    while (!TD_EDGE(robust_T, td_atomic_cas_weak_acqrel,
                    td_atomic_cas_weak_relaxed)(&robust->word, &seen, idle | (seen & kept))) { /* T */
    }
    if ((seen & TD_ROBUST_WAITED) != 0 && td_futex_wake(&robust->word, wake, true) == 0 && kept != 0 &&
        td_atomic_load_relaxed(&robust->word) == (idle | kept))
        td_futex_clear_bit_wake_all(&robust->word,
                                    TD_ROBUST_WAITED_BIT); /* nobody sleeps there, or hardly anybody */
    set_pending(thread, NULL);
    return TD_OK;
}

/* ---- Watching ---------------------------------------------------------------------------------------------- */

td_status td_robust_watch_until(struct td_robust *robust, uint32_t seen, int64_t deadline_ns)
{
    struct self *thread = me();
    if (thread == NULL)
        return TD_ENOSYS;
    set_pending(thread, robust);
    const td_status status = td_futex_wait_until(&robust->word, seen, deadline_ns, true);
    if (status == TD_OK)
        (void)td_futex_wake(&robust->word, INT_MAX, true);
    set_pending(thread, NULL);
    return status == TD_EAGAIN ? TD_OK : status;
}

void td_robust_nudge(struct td_robust *robust)
{
    td_futex_clear_bit_wake_all(&robust->word, TD_ROBUST_WAITED_BIT);
}
