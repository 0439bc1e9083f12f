/* base/trace.c: a ring of records per thread, and their dump as text.
 *
 *     ring     written = 5, RECORDS = 4      slot 0 1 2 3
 *                                          record 4 1 2 3      the oldest gave way
 *
 * Invariants  I1 only the owning thread writes a ring; `written` counts its records and never falls.
 *             I2 record i is in slot i mod RECORDS until record i+RECORDS is begun.
 *             I3 rings are never freed; a thread's end gives its ring to the next thread that asks.
 * Ordering    W: write record i -> release written=i+1 -> acquire written -> read record i.
 *             V: release written=i+RECORDS -> release fields of record i+RECORDS -> acquire field -> read written:
 *                a reader that saw a newer field also sees that the slot was taken again, and drops what it read.
 *             R (trace_R): write `next` -> release the list's head -> acquire head -> read `next`.
 *             G: last use by the old owner -> release owned=0 -> acquire owned -> first use by the new one.
 * Crash       the rings are in this process's heap and end with it.
 * Tests       tests/base/test_trace.c */
#include "base/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define RECORDS 4096u

typedef struct trace_record {
    td_atomic_u64 time_ns;
    td_atomic_u64 event_and_thread; /* event << 32 | thread */
    td_atomic_u64 a, b;
} trace_record;

typedef struct trace_ring {
    struct trace_ring *next;
    td_atomic_u32 owned;
    td_atomic_u64 written;
    trace_record records[RECORDS];
} trace_ring;

td_atomic_u32 td_trace_on;

static td_atomic_ptr rings; /* all there are */
static td_atomic_u64 lost;
static pthread_once_t set_up_once = PTHREAD_ONCE_INIT;
static pthread_key_t exit_key; /* its destructor runs at a thread's end */

static _Thread_local trace_ring *my_ring;
static _Thread_local uint32_t my_thread;

static const char *const event_names[TD_TRACE_COUNT] = {
#define EVENT_NAME(event, a, b) [TD_TRACE_##event] = #event,
    TD_TRACE_TABLE(EVENT_NAME)
#undef EVENT_NAME
};

static void give_ring(void *ring)
{
    my_ring = NULL; /* a later destructor of this thread may trace again: it takes a ring anew */
    td_atomic_store_release(&((trace_ring *)ring)->owned, 0); /* G */
}

/* Only the forking thread lives on in the child, under another number; the rings of the others are free. */
static void after_fork_in_child(void)
{
    my_thread = 0;
    for (trace_ring *ring = td_atomic_load_acquire(&rings); ring; ring = ring->next) /* R */
        if (ring != my_ring)
            td_atomic_store_release(&ring->owned, 0); /* G */
}

static void set_up(void)
{
    pthread_key_create(&exit_key, give_ring);
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

static trace_ring *take_free_ring(void)
{
    for (trace_ring *ring = td_atomic_load_acquire(&rings); ring; ring = ring->next) { /* R */
        uint32_t unowned = 0;
        if (td_atomic_cas_strong_acqrel(&ring->owned, &unowned, 1)) /* G */
            return ring;
    }
    return NULL;
}

static trace_ring *add_ring(void)
{
    trace_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return NULL;
    td_atomic_store_relaxed(&ring->owned, 1);
    void *head = td_atomic_load_relaxed(&rings);
    do
        ring->next = head;
    while (!TD_EDGE(trace_R, td_atomic_cas_weak_acqrel, td_atomic_cas_weak_relaxed)(&rings, &head, ring));
    return ring;
}

static trace_ring *take_ring(void)
{
    pthread_once(&set_up_once, set_up);
    trace_ring *ring = take_free_ring();
    if (!ring)
        ring = add_ring();
    if (ring) {
        my_ring = ring;
        pthread_setspecific(exit_key, ring);
    }
    return ring;
}

void td_trace_record(td_trace_event event, uint64_t a, uint64_t b)
{
    trace_ring *ring = my_ring ? my_ring : take_ring();
    if (!ring) {
        td_atomic_fetch_add_relaxed(&lost, 1);
        return;
    }
    if (my_thread == 0)
        my_thread = (uint32_t)syscall(SYS_gettid);
    uint64_t index = td_atomic_load_relaxed(&ring->written);
    trace_record *record = &ring->records[index % RECORDS];
    td_atomic_store_release(&record->time_ns, (uint64_t)td_now_ns());                      /* V */
    td_atomic_store_release(&record->event_and_thread, (uint64_t)event << 32 | my_thread); /* V */
    td_atomic_store_release(&record->a, a);                                                /* V */
    td_atomic_store_release(&record->b, b);                                                /* V */
    td_atomic_store_release(&ring->written, index + 1);                                    /* W */
}

void td_trace_enable(bool on)
{
    td_atomic_store_relaxed(&td_trace_on, on ? 1u : 0u);
}

uint64_t td_trace_lost(void)
{
    return td_atomic_load_relaxed(&lost);
}

static td_status write_all(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t done = write(fd, text, bytes);
        if (done >= 0) {
            text += done;
            bytes -= (size_t)done;
        } else if (errno != EINTR) {
            return TD_EOS;
        }
    }
    return TD_OK;
}

/* Formats record `index`; 0 when it gave way to a newer one meanwhile. */
static size_t format_record(trace_ring *ring, uint64_t index, char *line, size_t capacity)
{
    trace_record *record = &ring->records[index % RECORDS];
    uint64_t time_ns = td_atomic_load_acquire(&record->time_ns);        /* V */
    uint64_t event = td_atomic_load_acquire(&record->event_and_thread); /* V */
    uint64_t a = td_atomic_load_acquire(&record->a);                    /* V */
    uint64_t b = td_atomic_load_acquire(&record->b);                    /* V */
    if (td_atomic_load_relaxed(&ring->written) >= index + RECORDS)
        return 0;
    int length = snprintf(line, capacity, "%" PRIu64 " %d %" PRIu32 " %s %" PRIu64 " %" PRIu64 "\n", time_ns,
                          getpid(), (uint32_t)event, event_names[event >> 32], a, b);
    return length > 0 ? (size_t)length : 0;
}

td_status td_trace_dump(int fd)
{
    for (trace_ring *ring = td_atomic_load_acquire(&rings); ring; ring = ring->next) { /* R */
        uint64_t end = td_atomic_load_acquire(&ring->written);                         /* W */
        for (uint64_t i = end > RECORDS ? end - RECORDS : 0; i < end; i++) {
            char line[128];
            td_status status = write_all(fd, line, format_record(ring, i, line, sizeof line));
            if (status != TD_OK)
                return status;
        }
    }
    return TD_OK;
}
