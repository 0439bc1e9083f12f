/* tests/named/test_segment.c: segments are made whole, keep their size, and go with their last holder. */
#include "named/named.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "tests/named/own_folder.h"

static td_named *make(const char *name, uint64_t bytes)
{
    td_named *named;
    REQUIRE_OK(td_named_create(name, bytes, true, &named));
    return named;
}

static td_named *attach(const char *name)
{
    td_named *named;
    REQUIRE_OK(td_named_attach(name, &named));
    return named;
}

/* The errno of making or attaching what can't be. */
static int refusal(const char *name, uint64_t bytes)
{
    td_named *named;
    CHECK_STATUS(bytes ? td_named_create(name, bytes, true, &named) : td_named_attach(name, &named), TD_EOS);
    return errno;
}

/* ---- Made whole ---- */

TD_TEST(the_size_is_what_was_asked_for_on_each_attach_and_all_of_it_is_there)
{
    own_folder("64m", 0);
    const uint64_t sizes[] = {1, 4095, 4096, 4097, (4u << 20) - 1, 4u << 20, (4u << 20) + 1, (9u << 20) + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        td_named *first = make("a", sizes[i]), *second = attach("a");
        struct stat file;
        REQUIRE(stat(TD_NAMED_FOLDER "/a", &file) == 0);
        CHECK_LE(sizes[i], (uint64_t)file.st_blocks * 512);
        CHECK_EQ((uint64_t)file.st_size, sizes[i]);
        CHECK_EQ(td_named_bytes(first), sizes[i]);
        CHECK_EQ(td_named_bytes(second), sizes[i]);
        unsigned char *data = td_named_data(first);
        const unsigned char *seen = td_named_data(second);
        CHECK_EQ(seen[0] | seen[sizes[i] - 1], 0);
        data[sizes[i] - 1] = 77;
        CHECK_EQ(seen[sizes[i] - 1], 77);
        td_named_free(first);
        td_named_free(second);
    }
}

TD_TEST(a_full_folder_is_an_error_that_leaves_no_file)
{
    own_folder("1m", 0);
    CHECK_EQ(refusal("a", 2u << 20), ENOSPC);
    CHECK_EQ(refusal("a", 64u << 20), ENOSPC);
    CHECK_EQ(refusal("a", UINT64_C(1) << 60), ENOSPC);
    CHECK_EQ(refusal("a", UINT64_C(1) << 63), EFBIG);
    CHECK(!exists("a"));
    td_named *named = make("a", 1u << 20);
    CHECK_EQ(refusal("b", 1), ENOSPC);
    CHECK(!exists("b"));
    memset(td_named_data(named), 1, 1u << 20);
    td_named_free(named);
    CHECK_EQ(refusal("a", 0), ENOENT);
}

TD_TEST(a_folder_that_can_not_be_written_is_an_error)
{
    own_folder("1m", MS_RDONLY);
    CHECK_EQ(refusal("a", 1), EROFS);
}

TD_TEST(no_descriptor_stays_open)
{
    own_folder("16m", 0);
    struct rlimit few = {64, 64};
    td_named *many[1000];
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    for (int i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof name, "a%d", i);
        many[i] = make(name, 100);
    }
    CHECK_EQ(segments(), 1000);
    for (int i = 0; i < 1000; i++)
        td_named_free(many[i]);
    CHECK_EQ(segments(), 0);
}

TD_TEST(a_timer_that_keeps_interrupting_does_not_stop_an_allocation)
{
    own_folder("64m", 0);
    signal(SIGALRM, SIG_IGN);
    const struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    td_named *named = make("a", 32u << 20);
    setitimer(ITIMER_REAL, &never, NULL);
    signal(SIGALRM, SIG_DFL);
    td_named_free(named);
}

/* ---- Names ---- */

TD_TEST(a_name_in_use_is_refused_and_one_of_a_dead_process_is_not)
{
    own_folder("1m", 0);
    td_named *named = make("a", 10), *persists;
    CHECK_EQ(refusal("a", 10), EEXIST);
    td_named_free(named);
    pid_t child = fork();
    if (child == 0) {
        make("a", 10);
        _exit(0);
    }
    CHECK_EQ(test_wait_child(child), 0);
    CHECK(exists("a"));
    named = make("a", 20);
    CHECK_EQ(td_named_bytes(named), 20);
    td_named_free(named);
    REQUIRE_OK(td_named_create("b", 10, false, &persists));
    td_named_free(persists);
    CHECK_EQ(refusal("b", 10), EEXIST);
}

TD_TEST(what_is_no_segment_is_not_attached)
{
    own_folder("1m", 0);
    td_named *named;
    CHECK_EQ(refusal("a", 0), ENOENT);
    REQUIRE(mkdir(TD_NAMED_FOLDER "/folder", 0700) == 0);
    REQUIRE(symlink("/etc/passwd", TD_NAMED_FOLDER "/link") == 0);
    CHECK_EQ(refusal("folder", 0), EINVAL);
    CHECK_EQ(refusal("link", 0), ELOOP);
    CHECK_EQ(refusal("link", 10), EEXIST);
    CHECK_EQ(refusal("folder", 10), EEXIST);
    REQUIRE_OK(td_named_create("a", 10, false, &named));
    REQUIRE(truncate(TD_NAMED_FOLDER "/a", 0) == 0);
    td_named *second;
    CHECK_STATUS(td_named_attach("a", &second), TD_EINVAL);
    CHECK_OK(td_named_unlink(named, "a"));
    td_named_free(named);
}

TD_TEST(a_truncated_segment_in_use_is_an_error_and_stays)
{
    own_folder("1m", 0);
    td_named *named = make("a", 10), *second;
    REQUIRE(truncate(TD_NAMED_FOLDER "/a", 0) == 0);
    CHECK_STATUS(td_named_attach("a", &second), TD_EINVAL);
    CHECK(exists("a"));
    td_named_free(named);
    CHECK(!exists("a"));
}

TD_TEST(an_unfinished_segment_of_a_dead_process_is_removed_by_who_attaches)
{
    own_folder("1m", 0);
    int fd = open(TD_NAMED_FOLDER "/a", O_RDWR | O_CREAT | O_CLOEXEC, 0600 | TD_NAMED_MARK);
    REQUIRE(fd >= 0);
    close(fd);
    CHECK_EQ(refusal("a", 0), ENOENT);
    CHECK(!exists("a"));
}

/* One large enough to be marked while it is made. */
TD_TEST(what_a_process_that_was_killed_half_way_left_is_no_segment)
{
    own_folder("16m", 0);
    int fd =
        open(TD_NAMED_FOLDER "/a", O_RDWR | O_CREAT | O_CLOEXEC, 0600 | TD_NAMED_MARK | TD_NAMED_UNFINISHED);
    REQUIRE(fd >= 0 && ftruncate(fd, 8 << 20) == 0);
    close(fd);
    CHECK_EQ(refusal("a", 0), ENOENT);
    CHECK(!exists("a"));
}

TD_TEST(a_large_segment_that_is_made_is_as_a_small_one)
{
    own_folder("16m", 0);
    for (int tracked = 0; tracked < 2; tracked++) {
        td_named *named;
        struct stat file;
        REQUIRE_OK(td_named_create("a", 5 << 20, tracked, &named));
        REQUIRE(stat(TD_NAMED_FOLDER "/a", &file) == 0);
        CHECK_EQ(file.st_mode & 07777, tracked ? 0600 | TD_NAMED_MARK : 0600);
        td_named_detach(named);
        CHECK_EQ(exists("a"), !tracked);
        if (!tracked)
            CHECK_OK(td_named_unlink(named, "a"));
        td_named_free(named);
    }
}

/* ---- The end ---- */

TD_TEST(it_goes_with_its_last_holder_and_not_before)
{
    own_folder("1m", 0);
    td_named *first = make("a", 10), *second = attach("a");
    td_named_detach(first);
    CHECK(td_named_data(first) == NULL);
    td_named *third = attach("a");
    td_named_free(second);
    CHECK(exists("a"));
    td_named_free(third);
    CHECK(!exists("a"));
    td_named_detach(first);
    td_named_free(first);
}

TD_TEST(what_is_not_tracked_stays)
{
    own_folder("1m", 0);
    td_named *first, *second;
    REQUIRE_OK(td_named_create("a", 10, false, &first));
    second = attach("a");
    td_named_free(second);
    td_named_detach(first);
    CHECK(exists("a"));
    CHECK_OK(td_named_unlink(first, "a"));
    CHECK(!exists("a"));
    CHECK_STATUS(td_named_unlink(first, "a"), TD_EOS);
    CHECK_EQ(errno, ENOENT);
    td_named_free(first);
}

TD_TEST(a_process_that_exits_lets_go_of_everything)
{
    own_folder("1m", 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        static td_named *kept[3];
        kept[0] = make("a", 10);
        kept[1] = make("b", 10);
        kept[2] = attach("a");
        td_named_detach(kept[0]);
        exit(0);
    }
    CHECK_EQ(test_wait_child(child), 0);
    CHECK_EQ(segments(), 0);
}

TD_TEST(a_forked_child_keeps_the_segments_it_inherited)
{
    own_folder("1m", 0);
    int leave[2];
    REQUIRE(pipe2(leave, O_CLOEXEC) == 0);
    td_named *named = make("a", 10);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(leave[1]);
        if (read(leave[0], &byte, 1) != 0)
            _exit(1);
        strcpy(td_named_data(named), "mine");
        td_named_free(named);
        _exit(exists("a"));
    }
    close(leave[0]);
    td_named_free(named);
    CHECK(exists("a"));
    close(leave[1]);
    CHECK_EQ(test_wait_child(child), 0);
    CHECK(!exists("a"));
}

TD_TEST(unlinking_takes_the_name_at_once_and_leaves_the_memory)
{
    own_folder("1m", 0);
    td_named *first = make("a", 10), *second = attach("a");
    CHECK_OK(td_named_unlink(second, "a"));
    CHECK(!exists("a"));
    strcpy(td_named_data(first), "here");
    CHECK_STR(td_named_data(second), "here");
    CHECK_STATUS(td_named_unlink(first, "a"), TD_EOS);
    CHECK_EQ(errno, ENOENT);
    td_named_detach(first);
    CHECK_STATUS(td_named_unlink(first, "a"), TD_EOS);
    CHECK_EQ(errno, ENOENT);
    td_named_free(first);
    td_named_free(second);
}

TD_TEST(unlinking_what_went_by_itself_is_no_error)
{
    own_folder("1m", 0);
    td_named *first = make("a", 10), *second = attach("a");
    td_named_detach(first);
    td_named_detach(second);
    CHECK_OK(td_named_unlink(first, "a"));
    CHECK_OK(td_named_unlink(second, "a"));
    td_named_free(first);
    td_named_free(second);
}

TD_TEST(unlinking_leaves_another_segment_of_the_name_alone)
{
    own_folder("1m", 0);
    td_named *gone = make("a", 10);
    td_named_detach(gone);
    td_named *held = make("a", 10);
    CHECK_OK(td_named_unlink(held, "a"));
    td_named *other = make("a", 10);
    CHECK_OK(td_named_unlink(gone, "a"));
    CHECK_STATUS(td_named_unlink(held, "a"), TD_EOS);
    td_named_free(held);
    td_named_free(gone);
    CHECK(exists("a"));
    td_named_free(other);
    CHECK(!exists("a"));
}

/* ---- Beside each other ---- */

static td_atomic_u32 done;
static uint64_t shared_bytes;

static void *sweep_on(void *unused)
{
    (void)unused;
    while (!td_atomic_load_acquire(&done))
        CHECK_OK(td_named_sweep(true, NULL, NULL));
    return NULL;
}

static void *attach_on(void *unused)
{
    (void)unused;
    while (!td_atomic_load_acquire(&done)) {
        td_named *named;
        td_status status = td_named_attach("a", &named);
        if (status == TD_OK) {
            CHECK_EQ(td_named_bytes(named), shared_bytes);
            td_named_free(named);
        } else {
            CHECK_EQ(status, TD_EOS);
            CHECK_EQ(errno, ENOENT);
        }
    }
    return NULL;
}

/* Who makes a segment gets one, and one that has its name, whatever others do beside it; who attaches, all of it. */
static void make_beside_others(uint64_t bytes, uint64_t rounds)
{
    own_folder("64m", 0);
    shared_bytes = bytes;
    pthread_t threads[3];
    void *(*const bodies[])(void *) = {sweep_on, attach_on, attach_on};
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&threads[i], NULL, bodies[i], NULL) == 0);
    for (uint64_t i = rounds; i > 0; i--) {
        td_named *named;
        td_status status = td_named_create("a", bytes, true, &named);
        if (status != TD_OK) { /* one of the others still has the last one */
            CHECK_EQ(errno, EEXIST);
            sched_yield();
            continue;
        }
        td_named *again;
        CHECK_OK(td_named_attach("a", &again));
        CHECK_EQ(td_named_bytes(again), bytes);
        td_named_free(again);
        CHECK(exists("a"));
        td_named_free(named);
    }
    td_atomic_store_release(&done, 1);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(segments(), 0);
}

TD_TEST(sweeps_and_attaches_beside_it_disturb_no_segment_in_use)
{
    make_beside_others(100, test_rounds(500));
}

TD_TEST(sweeps_and_attaches_beside_it_disturb_no_large_segment_in_use)
{
    make_beside_others(5 << 20, test_rounds(50));
}

TD_TEST_MAIN
