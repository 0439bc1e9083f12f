/* tests/pool/crew_rogue.h: the ways in which a crew's worker goes wrong. Part of crew.h, which includes it. */
#ifndef TD_TESTS_POOL_CREW_ROGUE_H
#define TD_TESTS_POOL_CREW_ROGUE_H

/* As the kernel sees it: the letter behind the name in /proc/PID/stat. */
static bool crew_is_in_state(uint32_t pid, char state)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return false;
    text[length] = '\0';
    const char *name_end = strrchr(text, ')');
    return name_end != NULL && name_end[1] == ' ' && name_end[2] == state;
}

/* Takes it on to wake the waiter, as td_bell_ring does. */
static void crew_answer_and_die(void)
{
    struct td_bell *bell = crew_bell.bell;
    while ((td_atomic_load_seq(&bell->listen) & TD_LISTEN_FUTEX) == 0 || td_atomic_load_seq(&bell->asleep) == 0)
        sched_yield();
    td_atomic_fetch_and_seq(&bell->listen, ~TD_LISTEN_FUTEX);
    raise(SIGKILL);
}

/* Takes it on to wake a worker, as td_doorbell_wake_workers does. */
static void crew_mark_and_die(uint32_t worker)
{
    td_atomic_u32 *state = &crew_map.states[worker];
    uint32_t parked = TD_SEAT_PARKED;
    while (td_atomic_load_seq(state) != TD_SEAT_PARKED ||
           !crew_is_in_state(td_atomic_load_relaxed(&crew_map.seats[worker].pid), 'S'))
        sched_yield();
    if (td_atomic_cas_strong_seq(state, &parked, TD_SEAT_WOKEN))
        raise(SIGKILL);
    _exit(109);
}

__attribute__((noreturn)) static void crew_go_rogue(uint64_t way)
{
    const uint32_t worker = td_worker_index(crew_worker);
    struct td_seat *seat = &crew_map.seats[worker];
    const uint64_t current = td_atomic_load_relaxed(&seat->current);
    const uint32_t slot = td_cell_slot(current);
    uint64_t position, from[TD_LANES] = {0};
    uint32_t other;
    switch ((enum rogue)way) {
    case ROGUE_REF:
    case ROGUE_LENGTH:
        crew_map.slots[slot].result_ref = way == ROGUE_REF ? 0x123456789abc : 0;
        crew_map.slots[slot].result_bytes = 1 << 20;
        td_completion_push(&crew_map, worker, slot, td_cell_position(current));
        break;
    case ROGUE_COUNT:
        td_atomic_fetch_add_seq(&seat->done_tail, 10u * crew_map.slot_count);
        break;
    case ROGUE_ENTRY:
        for (uint32_t i = 0; i < 20; i++) /* READY, FREE, DONE of no such task, and slots beyond the last */
            td_atomic_store_relaxed(
                &crew_map
                     .completions[(uint64_t)worker * crew_map.slot_count +
                                  (td_atomic_fetch_add_seq(&seat->done_tail, 1) & (crew_map.slot_count - 1))],
                td_cell(td_cell_position(current) + i, i % 2 == 0 ? 0xfffff - i : i));
        raise(SIGKILL);
        break;
    case ROGUE_HOARD:
        if (td_submission_claim(&crew_map, worker, from, &other, &position) != TD_OK)
            _exit(108);
        raise(SIGKILL);
        break;
    case ROGUE_RING:
        crew_answer_and_die();
        break;
    case ROGUE_WAKE:
        crew_mark_and_die(1 - worker);
        break;
    case ROGUE_CLOSE:
        for (int fd = 3; fd < 256; fd++)
            close(fd);
        break;
    case ROGUE_PARCEL_REF:
    case ROGUE_PARCEL_LENGTH:
    case ROGUE_PARCEL_COUNT:
        crew_forge_table(slot, (enum rogue)way);
        td_completion_push(&crew_map, worker, slot, td_cell_position(current));
        break;
    case ROGUE_LAG:
        td_atomic_store_seq(&crew_map.states[worker], TD_SEAT_SEARCHING);
        crew_wait_deaf(1);
        raise(SIGKILL);
        break;
    }
    td_bell_ring(&crew_bell);
    for (;;)
        pause();
}

#endif
