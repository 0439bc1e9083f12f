/* What td_copy copies is there, whatever the size, the alignment, and the way; and nothing beside it. */
#include "memory/copy.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "os/memfd.h"
#include "tests/harness.h"

#define MB (UINT64_C(1) << 20)
#define GUARD 256u
#define GUARD_BYTE 0xa5

/* A source that differs from place to place, and a destination between two guards. */
struct places {
    unsigned char *from, *to;
    size_t room;
};

static struct places make_places(size_t room)
{
    struct places p = {.from = malloc(room + GUARD), .to = malloc(room + 3 * GUARD), .room = room};
    uint64_t state = test_seed;
    REQUIRE(p.from != NULL && p.to != NULL);
    for (size_t i = 0; i + 8 <= room + GUARD; i += 8) {
        const uint64_t value = test_random(&state);
        memcpy(p.from + i, &value, 8);
    }
    return p;
}

static void free_places(const struct places *p)
{
    free(p->from);
    free(p->to);
}

typedef void copier(void *to, const void *from, size_t bytes);

static void check_copy(const struct places *p, copier *copy, size_t from_shift, size_t to_shift, size_t bytes)
{
    unsigned char guard[GUARD];
    unsigned char *to = p->to + GUARD + to_shift;
    const unsigned char *from = p->from + from_shift;
    memset(guard, GUARD_BYTE, GUARD);
    memset(to - GUARD, GUARD_BYTE, GUARD);
    memset(to + bytes, GUARD_BYTE, GUARD);
    memset(to, 0, bytes);
    copy(to, from, bytes);
    CHECK_MEM(to, from, bytes);
    CHECK_MEM(to - GUARD, guard, GUARD);
    CHECK_MEM(to + bytes, guard, GUARD);
}

static void plain_alone(void *to, const void *from, size_t bytes)
{
    td__copy_alone(false, to, from, bytes);
}

static void streaming_alone(void *to, const void *from, size_t bytes)
{
    td__copy_alone(td__copy_streams(), to, from, bytes);
}

static void plain_by_two(void *to, const void *from, size_t bytes)
{
    td__copy_by_two(false, to, from, bytes);
}

static void streaming_by_two(void *to, const void *from, size_t bytes)
{
    td__copy_by_two(td__copy_streams(), to, from, bytes);
}

static copier *const copiers[] = {td_copy, plain_alone, streaming_alone, plain_by_two, streaming_by_two};
#define COPIERS (sizeof copiers / sizeof copiers[0])

TD_TEST(every_small_size_at_every_alignment_is_copied_exactly)
{
    struct places p = make_places(1024);
    for (size_t bytes = 0; bytes <= 400; bytes += bytes < 200 ? 1 : 7)
        for (size_t shift = 0; shift < 64; shift += 9)
            for (size_t i = 0; i < COPIERS - 2; i++)
                check_copy(&p, copiers[i], shift, 63 - shift, bytes);
    free_places(&p);
}

TD_TEST(sizes_around_a_piece_are_copied_exactly_by_each_way)
{
    static const size_t around[] = {2 * MB - 1, 2 * MB, 2 * MB + 1, 5 * MB - 63, 5 * MB + 129};
    struct places p = make_places(6 * MB);
    for (size_t i = 0; i < COPIERS; i++)
        for (size_t j = 0; j < sizeof around / sizeof around[0]; j++)
            check_copy(&p, copiers[i], 16, j, around[j]);
    free_places(&p);
}

TD_TEST(sizes_around_the_first_threshold_are_copied_exactly)
{
    struct places p = make_places(TD__COPY_STREAM_BYTES + GUARD);
    for (size_t step = 0; step < 3; step++)
        check_copy(&p, td_copy, 16, 1, TD__COPY_STREAM_BYTES + step - 1);
    free_places(&p);
}

TD_TEST(what_two_threads_may_share_is_copied_exactly)
{
    struct places p = make_places(TD__COPY_SHARE_BYTES + 1);
    td_copy(p.to + 1, p.from, TD__COPY_SHARE_BYTES + 1);
    CHECK(memcmp(p.to + 1, p.from, TD__COPY_SHARE_BYTES + 1) == 0);
    free_places(&p);
}

static unsigned count_threads(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/task");
    REQUIRE(folder != NULL);
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder))
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

TD_TEST(no_second_thread_stays)
{
    struct places p = make_places(8 * MB);
    check_copy(&p, streaming_by_two, 0, 0, 8 * MB); /* a sanitizer's own thread starts with the first */
    const unsigned before = count_threads();
    for (int i = 0; i < 20; i++)
        streaming_by_two(p.to, p.from, 8 * MB);
    while (count_threads() > before) /* one that was joined is listed until the kernel has cleared it away */
        sched_yield();
    free_places(&p);
}

TD_TEST(signals_stay_as_they_were_blocked)
{
    struct places p = make_places(4 * MB);
    sigset_t some, before, after;
    sigemptyset(&some);
    sigaddset(&some, SIGUSR1);
    sigprocmask(SIG_SETMASK, &some, NULL);
    sigprocmask(SIG_SETMASK, NULL, &before);
    check_copy(&p, plain_by_two, 0, 0, 4 * MB);
    sigprocmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number <= SIGRTMAX; number++)
        CHECK_EQ(sigismember(&before, number), sigismember(&after, number));
    free_places(&p);
}

static pthread_t main_thread;
static td_atomic_u32 elsewhere, heard;

static void note_thread(int number)
{
    (void)number;
    td_atomic_fetch_add_relaxed(&heard, 1);
    if (!pthread_equal(pthread_self(), main_thread))
        td_atomic_store_relaxed(&elsewhere, 1);
}

TD_TEST(no_signal_is_handled_in_the_second_thread)
{
    struct places p = make_places(16 * MB);
    struct sigaction action = {.sa_handler = note_thread, .sa_flags = SA_RESTART};
    main_thread = pthread_self();
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
    const pid_t parent = getpid(), child = fork();
    REQUIRE(child >= 0);
    if (child == 0)
        for (;;)
            if (kill(parent, SIGUSR1) != 0)
                _exit(0);
    while (td_atomic_load_relaxed(&heard) < 3)
        streaming_by_two(p.to, p.from, 16 * MB);
    kill(child, SIGKILL);
    test_wait_child(child);
    CHECK_EQ(td_atomic_load_relaxed(&elsewhere), 0u);
    CHECK_MEM(p.to, p.from, 16 * MB);
    free_places(&p);
}

TD_TEST(committed_pages_that_were_never_mapped_are_filled)
{
    int fd;
    td_memfd_kind kind;
    void *base;
    struct places p = make_places(3 * MB);
    REQUIRE_OK(td_memfd_new("copy", 4 * MB, &fd, &kind));
    REQUIRE_OK(td_memfd_commit(fd, 0, 4 * MB));
    REQUIRE_OK(td_map_shared(fd, 4 * MB, true, &base));
    td_copy((unsigned char *)base + 64, p.from, 3 * MB);
    CHECK_MEM((unsigned char *)base + 64, p.from, 3 * MB);
    td_unmap(base, 4 * MB);
    close(fd);
    free_places(&p);
}

TD_TEST_MAIN
