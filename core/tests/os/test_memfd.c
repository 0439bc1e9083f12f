/* tests/os/test_memfd.c: sealed, sparse, committed, released; and the ways round a refused memfd_create. */
#include "os/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "base/option.h"
#include "tests/harness.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define TIB (MIB * MIB)

static uint64_t resident(int fd)
{
    uint64_t bytes = 0;
    CHECK_OK(td_memfd_resident(fd, &bytes));
    return bytes;
}

TD_TEST(a_huge_file_holds_no_pages)
{
    int fd;
    td_memfd_kind kind;
    REQUIRE_OK(td_memfd_new("test", TIB, &fd, &kind));
    CHECK_EQ(kind, TD_MEMFD_SEALED);
    CHECK_EQ(resident(fd), 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
}

TD_TEST(the_size_is_sealed)
{
    int fd;
    td_memfd_kind kind;
    REQUIRE_OK(td_memfd_new("test", MIB, &fd, &kind));
    CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
    CHECK(ftruncate(fd, (off_t)(2 * MIB)) < 0 && errno == EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
    close(fd);
}

TD_TEST(commit_and_release_move_pages_in_and_out)
{
    int fd;
    td_memfd_kind kind;
    void *base;
    REQUIRE_OK(td_memfd_new("test", 64 * MIB, &fd, &kind));
    REQUIRE_OK(td_map_shared(fd, 64 * MIB, true, &base));
    unsigned char *bytes = base;
    REQUIRE_OK(td_memfd_commit(fd, 5 * MIB, 9 * MIB));
    CHECK_EQ(resident(fd), 9 * MIB);
    memset(bytes + 5 * MIB, 0xab, 9 * MIB);
    CHECK_OK(td_memfd_commit(fd, 5 * MIB, 9 * MIB));
    CHECK_EQ(bytes[9 * MIB], 0xab);
    CHECK_OK(td_memfd_release(fd, 5 * MIB + 1, 9 * MIB - 1));
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    CHECK_EQ(resident(fd), page);
    CHECK_EQ(bytes[5 * MIB], 0xab);
    CHECK_EQ(bytes[5 * MIB + page], 0);
    td_unmap(base, 64 * MIB);
    close(fd);
}

TD_TEST(releasing_less_than_a_page_does_nothing)
{
    int fd;
    td_memfd_kind kind;
    REQUIRE_OK(td_memfd_new("test", MIB, &fd, &kind));
    REQUIRE_OK(td_memfd_commit(fd, 0, MIB));
    CHECK_OK(td_memfd_release(fd, 1, 4095));
    CHECK_OK(td_memfd_release(fd, 10, 0));
    CHECK_EQ(resident(fd), MIB);
    close(fd);
}

static void on_signal(int number)
{
    (void)number;
}

TD_TEST(commit_gets_through_an_interval_timer)
{
    int fd;
    td_memfd_kind kind;
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval often = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    REQUIRE_OK(td_memfd_new("test", 64 * MIB, &fd, &kind));
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    CHECK_OK(td_memfd_commit(fd, 0, 64 * MIB));
    setitimer(ITIMER_REAL, &never, NULL);
    CHECK_EQ(resident(fd), 64 * MIB);
    close(fd);
}

TD_TEST(a_size_over_the_file_limit_has_no_room_and_raises_no_signal)
{
    int fd = -7;
    td_memfd_kind kind;
    struct rlimit limit = {MIB, MIB};
    REQUIRE_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CHECK_STATUS(td_memfd_new("test", 2 * MIB, &fd, &kind), TD_ENOROOM);
    CHECK_EQ(fd, -7);
    REQUIRE_OK(td_memfd_new("test", MIB, &fd, &kind));
    close(fd);
}

TD_TEST(absurd_sizes_are_refused)
{
    int fd = -7;
    td_memfd_kind kind;
    CHECK_STATUS(td_memfd_new("test", UINT64_MAX, &fd, &kind), TD_ENOROOM);
    CHECK_EQ(fd, -7);
}

TD_TEST(no_descriptor_left_is_said_so)
{
    int fd = -7;
    td_memfd_kind kind;
    struct rlimit old, none;
    getrlimit(RLIMIT_NOFILE, &old);
    td_option_int(TD_OPT_NO_MEMFD);
    none = old;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    CHECK_STATUS(td_memfd_new("test", MIB, &fd, &kind), TD_ENOFD);
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK_EQ(fd, -7);
}

TD_TEST(a_mapping_larger_than_the_address_space_has_no_room)
{
    int fd;
    td_memfd_kind kind;
    void *base = NULL;
    REQUIRE_OK(td_memfd_new("test", 128 * TIB, &fd, &kind));
    CHECK_STATUS(td_map_shared(fd, 128 * TIB, true, &base), TD_ENOROOM);
    CHECK(base == NULL);
    close(fd);
}

TD_TEST(a_refused_memfd_falls_back_on_a_file_without_a_name)
{
    int fd;
    td_memfd_kind kind;
    void *base;
    struct stat file;
    setenv("TREADLE_NO_MEMFD", "1", 1);
    td_options_reload();
    REQUIRE_OK(td_memfd_new("test", 2 * MIB, &fd, &kind));
    CHECK_NE(kind, TD_MEMFD_SEALED);
    CHECK_EQ(fstat(fd, &file), 0);
    CHECK_EQ(file.st_nlink, 0);
    CHECK_EQ(file.st_mode & 0777, 0600);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    REQUIRE_OK(td_memfd_commit(fd, 0, MIB));
    REQUIRE_OK(td_map_shared(fd, 2 * MIB, true, &base));
    ((unsigned char *)base)[MIB - 1] = 9;
    CHECK_OK(td_memfd_release(fd, 0, MIB));
    CHECK_EQ(((unsigned char *)base)[MIB - 1], 0);
    td_unmap(base, 2 * MIB);
    close(fd);
}

TD_TEST(a_private_mapping_keeps_what_is_written_to_itself)
{
    int fd;
    td_memfd_kind kind;
    void *base, *own;
    REQUIRE_OK(td_memfd_new("test", 2 * MIB, &fd, &kind));
    REQUIRE_OK(td_map_shared(fd, 2 * MIB, true, &base));
    unsigned char *shared = base;
    memset(shared + MIB, 5, MIB);
    REQUIRE_OK(td_map_private(fd, MIB, MIB, &own));
    unsigned char *private = own;
    CHECK_EQ(private[0], 5);
    private[0] = 6;
    CHECK_EQ(shared[MIB], 5);
    CHECK_EQ(private[MIB - 1], 5);
    CHECK_STATUS(td_map_private(-1, 0, MIB, &own), TD_EOS);
    td_unmap(private, MIB);
    td_unmap(base, 2 * MIB);
    close(fd);
}

TD_TEST(a_read_only_mapping_shows_what_others_write)
{
    int fd;
    td_memfd_kind kind;
    void *base;
    REQUIRE_OK(td_memfd_new("test", MIB, &fd, &kind));
    REQUIRE_OK(td_map_shared(fd, MIB, false, &base));
    CHECK_EQ(pwrite(fd, "x", 1, 77), 1);
    CHECK_EQ(((char *)base)[77], 'x');
    td_unmap(base, MIB);
    close(fd);
}

TD_TEST(a_copy_takes_the_place_of_shared_pages_and_is_private)
{
    int fd;
    td_memfd_kind kind;
    void *base, *copy;
    char byte = 0;
    REQUIRE_OK(td_memfd_new("test", MIB, &fd, &kind));
    REQUIRE_OK(td_memfd_commit(fd, 0, MIB));
    REQUIRE_OK(td_map_shared(fd, MIB, true, &base));
    char *pages = (char *)base + 64 * KIB;
    memset(pages, 'a', 128 * KIB);
    REQUIRE_OK(td_map_copy(fd, 64 * KIB, 128 * KIB, &copy));
    memset(pages, 'b', 128 * KIB);
    REQUIRE_OK(td_map_move(copy, pages, 128 * KIB));
    CHECK(pages[0] == 'a' && pages[128 * KIB - 1] == 'a' && pages[-1] == 0 && pages[128 * KIB] == 0);
    memset(pages, 'c', 128 * KIB);
    CHECK_EQ(pread(fd, &byte, 1, 64 * KIB), 1);
    CHECK_EQ(byte, 'b');
    CHECK_STATUS(td_map_copy(fd, MIB, 64 * KIB, &copy), TD_EOS); /* there is nothing behind the end */
    CHECK_STATUS(td_map_copy(-1, 0, 64 * KIB, &copy), TD_EOS);
    td_unmap(base, MIB);
    close(fd);
}

TD_TEST(detached_pages_show_the_file_until_they_are_written_to)
{
    int fd;
    td_memfd_kind kind;
    void *base;
    char byte = 0;
    REQUIRE_OK(td_memfd_new("test", MIB, &fd, &kind));
    REQUIRE_OK(td_memfd_commit(fd, 0, MIB));
    REQUIRE_OK(td_map_shared(fd, MIB, true, &base));
    char *pages = (char *)base + 64 * KIB;
    memset(pages, 'a', 64 * KIB);
    REQUIRE_OK(td_map_detach(fd, 64 * KIB, pages, 64 * KIB));
    CHECK_EQ(pages[5], 'a');
    pages[5] = 'b';
    CHECK_EQ(pread(fd, &byte, 1, 64 * KIB + 5), 1);
    CHECK_EQ(byte, 'a');
    ((char *)base)[5] = 'c'; /* all else is shared as before */
    CHECK_EQ(pread(fd, &byte, 1, 5), 1);
    CHECK_EQ(byte, 'c');
    td_unmap(base, MIB);
    close(fd);
}

TD_TEST_MAIN
