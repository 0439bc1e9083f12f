/* ring/doorbell.c: see doorbell.h for the states, the protocol and why nobody oversleeps.
 * Tests  tests/ring/test_doorbell.c */
#include "ring/doorbell.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/event.h"
#include "os/futex.h"
#include "os/memfd.h"
#include "os/placement.h"

#define BELL_BYTES 4096u

/* ---- The bell ---------------------------------------------------------------------------------------------- */

td_status td_bell_new(struct td_bell_map *map)
{
    int fd, event_fd, loop_fd;
    td_memfd_kind kind;
    void *page;
    td_status status = td_memfd_new("treadle-bell", BELL_BYTES, &fd, &kind);
    if (status != TD_OK)
        return status;
    status = td_memfd_commit(fd, 0, BELL_BYTES);
    if (status == TD_OK)
        status = td_event_new(&event_fd);
    if (status != TD_OK)
        goto no_event;
    status = td_event_new(&loop_fd);
    if (status != TD_OK)
        goto no_loop;
    status = td_map_shared(fd, BELL_BYTES, true, &page);
    if (status != TD_OK)
        goto no_map;
    map->bell = page;
    map->bell->magic = TD_BELL_MAGIC;
    map->fd = fd;
    map->event_fd = event_fd;
    map->loop_fd = loop_fd;
    return TD_OK;
no_map:
    close(loop_fd);
no_loop:
    close(event_fd);
no_event:
    close(fd);
    return status;
}

td_status td_bell_attach(struct td_bell_map *map, int fd, int event_fd, int loop_fd)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return TD_EOS;
    if ((uint64_t)info.st_size < BELL_BYTES)
        return TD_EPROTO;
    void *page;
    td_status status = td_map_shared(fd, BELL_BYTES, true, &page);
    if (status != TD_OK)
        return status;
    if (((struct td_bell *)page)->magic != TD_BELL_MAGIC) {
        td_unmap(page, BELL_BYTES);
        return TD_EPROTO;
    }
    map->bell = page;
    map->fd = fd;
    map->event_fd = event_fd;
    map->loop_fd = loop_fd;
    return TD_OK;
}

void td_bell_fini(struct td_bell_map *map)
{
    td_unmap(map->bell, BELL_BYTES);
    close(map->fd);
    close(map->event_fd);
    close(map->loop_fd);
    map->bell = NULL;
}

/* Clears the bit; true for the one who did, and who therefore wakes. */
static bool answer(struct td_bell *bell, uint32_t bit)
{
    return (td_atomic_fetch_and_seq(&bell->listen, ~bit) & bit) != 0;
}

static void wake_waiter(struct td_bell *bell)
{
    td_atomic_fetch_add_seq(&bell->rings, 1);
    td_futex_wake(&bell->rings, 1, true);
}

void td_bell_ring(struct td_bell_map *map)
{
    struct td_bell *bell = map->bell;
    const uint32_t listen = td_atomic_load_seq(&bell->listen); /* B4 */
    if (listen == 0)
        return;
    /* A sleeping waiter drains for everybody: the others need not hear of it too. */
    if ((listen & TD_LISTEN_FUTEX) != 0) {
        if (answer(bell, TD_LISTEN_FUTEX))
            wake_waiter(bell);
        return;
    }
    /* A loop may be busy with something else for long: it does not drain in the native thread's place. */
    if ((listen & TD_LISTEN_LOOP) != 0 && answer(bell, TD_LISTEN_LOOP))
        td_event_ring(map->loop_fd);
    if ((listen & TD_LISTEN_EVENT) != 0 && answer(bell, TD_LISTEN_EVENT))
        td_event_ring(map->event_fd);
}

void td_bell_ring_loud(struct td_bell_map *map)
{
    /* Not td_bell_ring: what it finds may have stopped listening by then, and nobody would come. */
    if (answer(map->bell, TD_LISTEN_FUTEX))
        wake_waiter(map->bell);
    else
        td_event_ring(map->event_fd);
}

uint32_t td_bell_listen(struct td_bell_map *map)
{
    const uint32_t seen = td_atomic_load_seq(&map->bell->rings);
    (void)TD_EDGE(bell_B1, td_atomic_fetch_or_seq, td_atomic_store_relaxed)(&map->bell->listen,
                                                                            TD_LISTEN_FUTEX); /* B1 */
    return seen;
}

td_status td_bell_sleep_until(struct td_bell_map *map, uint32_t seen, int64_t deadline_ns)
{
    td_atomic_store_relaxed(&map->bell->asleep, 1);
    const td_status status = td_futex_wait_until(&map->bell->rings, seen, deadline_ns, true);
    td_atomic_store_relaxed(&map->bell->asleep, 0);
    td_bell_show_cpu(map);
    return status == TD_EAGAIN ? TD_OK : status;
}

void td_bell_show_cpu(struct td_bell_map *map)
{
    const uint32_t cpu = (uint32_t)(td_cpu_current() + 1);
    if (td_atomic_load_relaxed(&map->bell->cpu) != cpu) /* workers read that line after each task */
        td_atomic_store_relaxed(&map->bell->cpu, cpu);
}

bool td_bell_shares_cpu(const struct td_bell_map *map)
{
    const uint32_t cpu = td_atomic_load_relaxed(&map->bell->cpu);
    return cpu != 0 && cpu == (uint32_t)(td_cpu_current() + 1);
}

void td_bell_unlisten(struct td_bell_map *map)
{
    td_atomic_fetch_and_seq(&map->bell->listen, ~TD_LISTEN_FUTEX);
}

void td_bell_expect(struct td_bell_map *map, uint32_t listener)
{
    (void)td_atomic_fetch_or_seq(&map->bell->listen, listener); /* B1 */
}

void td_bell_kick(struct td_bell_map *map)
{
    td_atomic_fetch_add_seq(&map->bell->rings, 1);
    td_futex_wake(&map->bell->rings, INT_MAX, true);
}

/* ---- Workers ----------------------------------------------------------------------------------------------- */

/* The parked worker that worked last: its CPU is awake and its caches are warm. -1 when none is parked. */
static int64_t newest_parked(struct td_segment_map *map)
{
    int64_t best = -1;
    uint64_t best_stamp = 0;
    for (uint32_t w = 0; w < map->worker_count; w++) {
        if (td_atomic_load_relaxed(&map->states[w]) != TD_SEAT_PARKED)
            continue;
        const uint64_t stamp = td_atomic_load_relaxed(&map->seats[w].park_stamp);
        if (best < 0 || stamp > best_stamp) {
            best = w;
            best_stamp = stamp;
        }
    }
    return best;
}

static bool wake(struct td_segment_map *map, uint32_t worker)
{
    uint32_t parked = TD_SEAT_PARKED;
    if (!td_atomic_cas_strong_seq(&map->states[worker], &parked, TD_SEAT_WOKEN))
        return false;
    td_futex_wake(&map->states[worker], 1, true);
    return true;
}

uint32_t td_doorbell_wake_workers(struct td_segment_map *map)
{
    uint64_t awake = 0, parked = 0;
    for (uint32_t w = 0; w < map->worker_count; w++) {
        const uint32_t state = td_atomic_load_seq(&map->states[w]); /* D4 */
        awake += state == TD_SEAT_SEARCHING || state == TD_SEAT_WOKEN;
        parked += state == TD_SEAT_PARKED;
    }
    if (parked == 0)
        return 0;
    const uint64_t waiting = td_submission_waiting(map);
    uint32_t woken = 0;
    while (awake + woken < waiting) {
        const int64_t worker = newest_parked(map);
        if (worker < 0)
            break;
        woken += wake(map, (uint32_t)worker);
    }
    return woken;
}

void td_doorbell_succeed(struct td_segment_map *map, struct td_bell_map *bell)
{
    td_bell_kick(bell);
    (void)td_event_ring(bell->loop_fd);
    for (uint32_t w = 0; w < map->worker_count; w++)
        if (td_atomic_load_seq(&map->states[w]) == TD_SEAT_WOKEN)
            td_futex_wake(&map->states[w], 1, true);
    td_doorbell_wake_workers(map);
}

void td_doorbell_wake_worker(struct td_segment_map *map, uint32_t worker)
{
    wake(map, worker);
}

td_status td_doorbell_park_until(struct td_segment_map *map, uint32_t worker, const uint64_t seen[TD_LANES],
                                 int64_t deadline_ns)
{
    td_atomic_u32 *state = &map->states[worker];
    td_status status = TD_OK;
    td_atomic_store_relaxed(&map->seats[worker].park_stamp, (uint64_t)td_now_ns());
    (void)TD_EDGE(doorbell_D1, td_atomic_exchange_seq, td_atomic_store_relaxed)(state, TD_SEAT_PARKED); /* D1 */
    if (td_atomic_load_seq(&map->head->tails[TD_LANE_NEW]) == seen[TD_LANE_NEW] &&                      /* D2 */
        td_atomic_load_seq(&map->head->tails[TD_LANE_AGAIN]) == seen[TD_LANE_AGAIN] &&                  /* D2 */
        td_atomic_load_seq(&map->head->closing) == 0 &&
        td_atomic_load_seq(&map->head->relief_asked) == td_atomic_load_relaxed(&map->seats[worker].relieved) &&
        td_atomic_load_seq(&map->seats[worker].dismissed) == 0 &&
        td_atomic_load_seq(&map->seats[worker].leaving) == 0) {
        status = td_futex_wait_until(state, TD_SEAT_PARKED, deadline_ns, true);
        if (status == TD_EAGAIN)
            status = TD_OK;
    }
    td_atomic_store_seq(state, TD_SEAT_SEARCHING);
    return status;
}

void td_doorbell_stay_awake(struct td_segment_map *map, uint32_t worker)
{
    wake(map, worker); /* with a system call: the handler may run in another thread than the one that sleeps */
}

void td_doorbell_stop_searching(struct td_segment_map *map, uint32_t worker, enum td_seat_state next)
{
    td_atomic_u32 *state = &map->states[worker];
    (void)TD_EDGE(doorbell_W1, td_atomic_exchange_seq, td_atomic_store_relaxed)(state, next); /* W1 */
    if (td_submission_waiting(map) > 0)                                                       /* W2 */
        td_doorbell_wake_workers(map);
}

bool td_doorbell_is_any_parked(const struct td_segment_map *map)
{
    for (uint32_t w = 0; w < map->worker_count; w++)
        if (td_atomic_load_relaxed(&map->states[w]) == TD_SEAT_PARKED)
            return true;
    return false;
}

bool td_doorbell_may_spin(const struct td_segment_map *map, const struct td_bell_map *bell)
{
    if (map->head->spin_ns == 0)
        return false;
    uint32_t active = td_atomic_load_relaxed(&bell->bell->asleep) != 0 ? 0 : 1;
    for (uint32_t w = 0; w < map->worker_count; w++) {
        const uint32_t state = td_atomic_load_relaxed(&map->states[w]);
        active += state == TD_SEAT_SEARCHING || state == TD_SEAT_BUSY;
    }
    return active <= map->head->cpu_budget;
}
