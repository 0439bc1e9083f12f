/* tests/memory/peers.h: processes that use the same block, and the page that they tell of themselves on. */
#ifndef TD_TESTS_MEMORY_PEERS_H
#define TD_TESTS_MEMORY_PEERS_H

#include <sched.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "os/robust.h"
#include "tests/harness.h"
#include "treadle.h"

#define PEERS 8u

struct board {
    td_atomic_u32 word[PEERS];
    td_atomic_u64 count;
    uint64_t plain[6];
};

TEST_UNUSED static void need_robust(void)
{
    if (td_robust_check() == TD_ENOSYS)
        SKIP("the kernel's list of owned words can't be had here");
}

TEST_UNUSED static struct board *board_new(void)
{
    void *page = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(page != MAP_FAILED);
    return page;
}

TEST_UNUSED static void board_free(struct board *board)
{
    munmap(board, sizeof *board);
}

TEST_UNUSED static void await_word(td_atomic_u32 *word, uint32_t value)
{
    while (td_atomic_load_acquire(word) != value)
        sched_yield();
}

/* A process that runs the body and leaves with what it returns. */
TEST_UNUSED static pid_t peer(int (*body)(td_hold *hold, struct board *board, uint32_t number), td_hold *hold,
                              struct board *board, uint32_t number)
{
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(body(hold, board, number));
    return pid;
}

TEST_UNUSED static uint64_t live_blocks(void)
{
    struct td_heap_info info;
    td_heap_get_info(&info);
    return info.blocks;
}

#endif
