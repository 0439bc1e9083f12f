/* tests/memory/test_kin.c: who sees a heap, of a worker's family. Files stand for heaps. */
#include "memory/kin.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>

#include "os/memfd.h"
#include "tests/harness.h"

struct file {
    int fd, again;
    int gate[2];
};

static struct file opened(void)
{
    struct file file;
    td_memfd_kind kind;
    char path[64];
    REQUIRE_OK(td_memfd_new("kin", 4096, &file.fd, &kind));
    snprintf(path, sizeof path, "/proc/self/fd/%d", file.fd);
    file.again = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(file.again >= 0);
    REQUIRE_EQ(pipe(file.gate), 0);
    return file;
}

static void closed(const struct file *file)
{
    close(file->fd);
    close(file->gate[0]);
    close(file->gate[1]);
}

TD_TEST(a_process_that_is_no_worker_signs_nothing)
{
    const struct file file = opened();
    td_kin_sign(file.again);
    CHECK(!td_kin_sees(file.fd, (int32_t)getpid()));
    CHECK(!td_kin_sees(file.fd, TD_KIN_ANY));
    close(file.again);
    closed(&file);
}

/* A worker of a worker; its child, which it forks, maps the file and outlives it until the gate opens. */
static int sign_and_fork(const struct file *file, int said)
{
    const struct td_kin parent = {.count = 2, .pids = {70, 71}};
    char byte = 0;
    td_kin_enter(&parent);
    td_kin_sign(file->again);
    void *seen = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file->again, 0);
    if (fork() == 0) {
        close(file->again);
        close(file->gate[1]);
        if (write(said, &byte, 1) != 1)
            _exit(1);
        _exit(seen != MAP_FAILED && read(file->gate[0], &byte, 1) == 0 ? 0 : 2);
    }
    return 0;
}

TD_TEST(a_file_is_seen_until_the_last_of_a_family_has_gone)
{
    const struct file file = opened();
    int said[2];
    char byte;
    REQUIRE_EQ(pipe(said), 0);
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(sign_and_fork(&file, said[1]));
    close(file.again);
    close(said[1]);
    CHECK_EQ(test_wait_child(pid), 0);
    REQUIRE_EQ(read(said[0], &byte, 1), 1);
    CHECK(td_kin_sees(file.fd, (int32_t)pid));
    CHECK(td_kin_sees(file.fd, 70));
    CHECK(td_kin_sees(file.fd, 71));
    CHECK(td_kin_sees(file.fd, TD_KIN_ANY));
    CHECK(!td_kin_sees(file.fd, 72));
    close(file.gate[1]);
    REQUIRE_EQ(read(said[0], &byte, 1), 0); /* its end, of which all it had open is closed */
    close(said[0]);
    while (td_kin_sees(file.fd, 71)) /* its mapping goes with it, too */
        sched_yield();
    CHECK(!td_kin_sees(file.fd, TD_KIN_ANY));
    close(file.fd);
    close(file.gate[0]);
}

static int enter_deep(void)
{
    struct td_kin parent = {.count = TD_KIN_MOST};
    td_kin_enter(&parent);
    if (td_kin_get().count != TD_KIN_MOST)
        return 1;
    parent.count = TD_KIN_MOST + 1; /* nonsense */
    td_kin_enter(&parent);
    return td_kin_get().count == 1 && td_kin_get().pids[0] == (int32_t)getpid() ? 0 : 2;
}

TD_TEST(a_family_has_an_end)
{
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(enter_deep());
    CHECK_EQ(test_wait_child(pid), 0);
}

TD_TEST_MAIN
