/* memory/kin.c: families of workers, by locks on the heaps that they have open.
 * Invariant  whoever sees a heap has signed for all of its kin before it looked at a block there, while the process
 *            that named the block to it was still there (heap.c). So who asks after that one has ended hears of it.
 * Tests      tests/memory/test_kin.c, tests/pool/test_held.c */
#include "memory/kin.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static struct td_kin kin; /* written before there are threads that share */

void td_kin_enter(const struct td_kin *parent)
{
    struct td_kin mine = *parent;
    if (mine.count > TD_KIN_MOST)
        mine.count = 0;
    if (mine.count < TD_KIN_MOST)
        mine.pids[mine.count++] = (int32_t)getpid();
    kin = mine;
}

struct td_kin td_kin_get(void)
{
    return kin;
}

void td_kin_sign(int fd)
{
    for (uint32_t i = 0; i < kin.count; i++) {
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = kin.pids[i], .l_len = 1};
        (void)fcntl(fd, F_OFD_SETLK, &lock);
    }
}

bool td_kin_sees(int fd, int32_t pid)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (pid != TD_KIN_ANY) {
        lock.l_start = pid;
        lock.l_len = 1;
    }
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}
