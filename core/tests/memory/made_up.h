/* A machine made up for tests of memory/: it has as much room as a test says, and its n-th call fails. */
#ifndef TD_TESTS_MEMORY_MADE_UP_H
#define TD_TESTS_MEMORY_MADE_UP_H

#include "memory/arena.h"
#include "os/memfd.h"

typedef struct made_up {
    uint64_t limit;     /* bytes that may be committed */
    uint64_t committed; /* as the calls say: each byte once */
    uint64_t calls;     /* of commit and release */
    uint64_t fail_at;   /* that call, counted from 1, fails; 0: none */
    td_status failure;
} made_up;

static inline bool made_up_fails(made_up *machine)
{
    return ++machine->calls == machine->fail_at;
}

static inline td_status made_up_commit(void *context, int fd, uint64_t offset, uint64_t bytes)
{
    made_up *machine = context;
    if (made_up_fails(machine)) {
        /* What a real failure may leave: the first half is there. */
        (void)td_memfd_commit(fd, offset, bytes / 2);
        return machine->failure;
    }
    td_status status = td_memfd_commit(fd, offset, bytes);
    if (status == TD_OK)
        machine->committed += bytes;
    return status;
}

static inline td_status made_up_release(void *context, int fd, uint64_t offset, uint64_t bytes)
{
    made_up *machine = context;
    bool after_failure = machine->fail_at != 0 && machine->calls == machine->fail_at;
    if (made_up_fails(machine))
        return machine->failure;
    if (!after_failure)
        machine->committed -= bytes;
    return td_memfd_release(fd, offset, bytes);
}

static inline uint64_t made_up_room(void *context, uint64_t wanted)
{
    made_up *machine = context;
    (void)wanted;
    return machine->limit > machine->committed ? machine->limit - machine->committed : 0;
}

static inline td_arena_backing made_up_backing(made_up *machine)
{
    return (td_arena_backing){made_up_commit, made_up_release, made_up_room, machine};
}

#endif
