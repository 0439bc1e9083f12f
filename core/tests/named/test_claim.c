/* tests/named/test_claim.c: who may remove a segment, and that the last one always does. */
#include "named/claim.h"

#include <pthread.h>
#include <sys/syscall.h>

#include "tests/named/own_folder.h"

static char path[TD_NAMED_PATH_BYTES];

/* A file of the folder, and its path in `path`. */
static int plant(const char *name, mode_t mode)
{
    REQUIRE_OK(td__named_path(name, path));
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    REQUIRE(fd >= 0);
    return fd;
}

static int open_again(void)
{
    int fd = td__named_open(path);
    REQUIRE(fd >= 0);
    return fd;
}

static void hold(int fd)
{
    struct stat file;
    REQUIRE_OK(td__named_hold(fd, &file));
    CHECK_EQ(file.st_nlink, 1);
}

TD_TEST(names_follow_the_rules_of_shm_open)
{
    own_folder("1m", 0);
    char most[257], more[258];
    memset(most, 'x', 256);
    memset(more, 'x', 257);
    most[255] = more[256] = '\0';
    const char *names[] = {"", "/", "///", "a", "/a", "//a", "a/b", "/a/b", "a/", ".", "..", most, more};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        td_named *named;
        CHECK(shm_open(names[i], O_RDWR, 0600) < 0);
        int expected = errno;
        CHECK_STATUS(td_named_attach(names[i], &named), TD_EOS);
        CHECK_EQ(errno, expected);
    }
}

TD_TEST(what_somebody_holds_is_not_claimed_and_what_nobody_holds_is)
{
    own_folder("1m", 0);
    int holder = plant("a", 0600 | TD_NAMED_MARK), other = open_again();
    hold(holder);
    CHECK(td__named_is_held(other));
    CHECK_EQ(td__named_claim(other, path, NULL), TD_CLAIM_HELD);
    CHECK(exists("a"));
    flock(holder, LOCK_UN);
    CHECK(!td__named_is_held(other));
    CHECK_EQ(td__named_claim(other, path, NULL), TD_CLAIM_REMOVED);
    CHECK(!exists("a"));
    CHECK_EQ(td__named_let_go(other, path, NULL), TD_CLAIM_REMOVED);
    close(holder);
}

TD_TEST(a_forked_child_holds_what_it_inherited)
{
    own_folder("1m", 0);
    int holder = plant("a", 0600 | TD_NAMED_MARK), other = open_again(), leave[2];
    REQUIRE(pipe2(leave, O_CLOEXEC) == 0);
    hold(holder);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(leave[1]);
        _exit(read(leave[0], &byte, 1) != 0);
    }
    close(holder);
    CHECK_EQ(td__named_claim(other, path, NULL), TD_CLAIM_HELD);
    close(leave[1]);
    CHECK_EQ(test_wait_child(child), 0);
    CHECK_EQ(td__named_let_go(other, path, NULL), TD_CLAIM_REMOVED);
    close(leave[0]);
}

TD_TEST(a_file_without_the_mark_is_kept)
{
    own_folder("1m", 0);
    int fd = plant("a", 0600);
    CHECK_EQ(td__named_let_go(fd, path, NULL), TD_CLAIM_KEPT);
    CHECK(exists("a"));
}

TD_TEST(another_file_under_the_name_is_left_alone)
{
    own_folder("1m", 0);
    int first = plant("a", 0600 | TD_NAMED_MARK);
    struct stat file;
    REQUIRE(fstat(first, &file) == 0);
    const struct td_file_id id = {file.st_dev, file.st_ino};
    REQUIRE(unlink(path) == 0);
    int second = plant("a", 0600 | TD_NAMED_MARK);
    CHECK_EQ(td__named_let_go(first, path, &id), TD_CLAIM_REMOVED);
    CHECK(exists("a"));
    CHECK_EQ(td__named_claim(second, path, &id), TD_CLAIM_ANOTHER);
    CHECK(exists("a"));
    CHECK_EQ(td__named_let_go(second, path, NULL), TD_CLAIM_REMOVED);
}

TD_TEST(a_file_that_was_moved_is_kept)
{
    own_folder("1m", 0);
    int fd = plant("a", 0600 | TD_NAMED_MARK);
    REQUIRE(rename(path, TD_NAMED_FOLDER "/b") == 0);
    CHECK_EQ(td__named_let_go(fd, path, NULL), TD_CLAIM_KEPT);
    CHECK(exists("b"));
}

static void *remove_it(void *context)
{
    int fd = *(int *)context;
    td__named_remove_locked(fd, path, NULL);
    close(fd);
    return NULL;
}

/* Whichever comes first: when the claim returns, the name is gone. */
TD_TEST(a_claim_beside_a_removal_returns_after_it)
{
    own_folder("1m", 0);
    for (uint64_t i = test_rounds(300); i > 0; i--) {
        int remover = plant("a", 0600 | TD_NAMED_MARK), other = open_again();
        REQUIRE(flock(remover, LOCK_EX) == 0);
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, remove_it, &remover) == 0);
        CHECK_EQ(td__named_let_go(other, path, NULL), TD_CLAIM_REMOVED);
        CHECK(!exists("a"));
        pthread_join(thread, NULL);
    }
}

#define CROWD 6

static pthread_barrier_t crowd;

static void *let_go(void *context)
{
    pthread_barrier_wait(&crowd);
    (void)td__named_let_go(*(int *)context, path, NULL);
    return NULL;
}

TD_TEST(of_many_who_let_go_at_once_the_last_one_removes)
{
    own_folder("1m", 0);
    REQUIRE(pthread_barrier_init(&crowd, NULL, CROWD) == 0);
    for (uint64_t i = test_rounds(300); i > 0; i--) {
        pthread_t threads[CROWD];
        int fds[CROWD];
        fds[0] = plant("a", 0600 | TD_NAMED_MARK);
        for (int k = 1; k < CROWD; k++)
            fds[k] = open_again();
        for (int k = 0; k < CROWD; k++)
            hold(fds[k]);
        for (int k = 0; k < CROWD; k++)
            REQUIRE(pthread_create(&threads[k], NULL, let_go, &fds[k]) == 0);
        for (int k = 0; k < CROWD; k++)
            pthread_join(threads[k], NULL);
        REQUIRE(!exists("a"));
    }
}

static int leaver = -1, asker = -1;

/* In place of the C library's: the leaver lets go when somebody is refused; the asker has the lock, if it can get it,
 * while another tries for it. */
int flock(int fd, int operation)
{
    const int attempt = LOCK_EX | LOCK_NB;
    const bool asks = asker >= 0 && operation == attempt && syscall(SYS_flock, asker, attempt) == 0;
    const long result = syscall(SYS_flock, fd, operation);
    const int error = errno;
    if (asks)
        syscall(SYS_flock, asker, LOCK_UN);
    if (result < 0 && leaver >= 0)
        syscall(SYS_flock, leaver, LOCK_UN);
    errno = error;
    return (int)result;
}

TD_TEST(who_only_asks_is_not_taken_for_a_holder)
{
    own_folder("1m", 0);
    leaver = plant("a", 0600 | TD_NAMED_MARK);
    hold(leaver);
    asker = open_again();
    CHECK_EQ(td__named_let_go(open_again(), path, NULL), TD_CLAIM_REMOVED);
    CHECK(!exists("a"));
    close(asker);
    close(leaver);
}

TD_TEST_MAIN
