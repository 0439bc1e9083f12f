/* tests/base/test_trace.c: records arrive in order, old ones give way, dumps may race with recording.
 * Weakened  -DTD_WEAKEN_trace_R=1 makes a_dump_beside_new_threads_sees_whole_rings fail under ThreadSanitizer. */
#include "base/trace.h"

#include <pthread.h>
#include <sys/mman.h>

#include "tests/harness.h"

#define RING_RECORDS 4096

static char dumped[1 << 20];

/* Dumps into memory; the number of lines. */
static unsigned dump(void)
{
    int fd = memfd_create("dump", MFD_CLOEXEC);
    CHECK_OK(td_trace_dump(fd));
    ssize_t length = pread(fd, dumped, sizeof dumped - 1, 0);
    close(fd);
    unsigned lines = 0;
    dumped[length > 0 ? length : 0] = '\0';
    for (const char *c = dumped; *c; c++)
        lines += *c == '\n';
    return lines;
}

TD_TEST(nothing_is_recorded_when_off)
{
    TD_TRACE(SUBMIT, 1, 2);
    CHECK_EQ(dump(), 0);
}

TD_TEST(records_come_out_in_order_with_their_values)
{
    td_trace_enable(true);
    TD_TRACE(SUBMIT, 11, 12);
    TD_TRACE(CLAIM, 21, UINT64_MAX);
    td_trace_enable(false);
    TD_TRACE(RUN, 31, 32);
    CHECK_EQ(dump(), 2);
    const char *submit = strstr(dumped, " SUBMIT 11 12\n"),
               *claim = strstr(dumped, " CLAIM 21 18446744073709551615\n");
    CHECK(submit && claim && submit < claim);
}

TD_TEST(the_newest_records_are_kept)
{
    td_trace_enable(true);
    for (int i = 0; i < 3 * RING_RECORDS; i++)
        TD_TRACE(WAKE, i, 0);
    unsigned lines = dump();
    CHECK_LE(RING_RECORDS - 1, lines);
    CHECK_LE(lines, RING_RECORDS);
    CHECK_CONTAINS(dumped, " WAKE 12287 0\n");
    CHECK(strstr(dumped, " WAKE 8190 0\n") == NULL);
}

static void *record_one(void *number)
{
    TD_TRACE(SLEEP, (uintptr_t)number, 0);
    return NULL;
}

TD_TEST(records_outlive_their_thread_and_rings_are_used_again)
{
    td_trace_enable(true);
    for (uintptr_t i = 0; i < 100; i++) {
        pthread_t thread;
        REQUIRE_EQ(pthread_create(&thread, NULL, record_one, (void *)i), 0);
        pthread_join(thread, NULL);
    }
    CHECK_EQ(dump(), 100);
    CHECK_CONTAINS(dumped, " SLEEP 99 0\n");
    CHECK_EQ(td_trace_lost(), 0);
}

TD_TEST(a_forked_child_records_under_its_own_number)
{
    td_trace_enable(true);
    TD_TRACE(SPAWN, 1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        char expected[64];
        TD_TRACE(EXIT, 2, 0);
        dump();
        snprintf(expected, sizeof expected, " %d EXIT 2 0\n", (int)getpid());
        CHECK_CONTAINS(dumped, expected);
        _exit(td_atomic_load_relaxed(&test_failures) ? 1 : 0);
    }
    CHECK_EQ(test_wait_child(pid), 0);
}

static td_atomic_u32 stop_recording;

static void *record_pairs(void *unused)
{
    for (uint64_t i = 0; !td_atomic_load_relaxed(&stop_recording); i++)
        TD_TRACE(FINISH, i, ~i);
    return unused;
}

TD_TEST(a_dump_beside_a_recorder_shows_no_torn_record)
{
    pthread_t thread;
    td_trace_enable(true);
    REQUIRE_EQ(pthread_create(&thread, NULL, record_pairs, NULL), 0);
    for (uint64_t round = 0; round < test_rounds(20); round++) {
        dump();
        for (char *line = strtok(dumped, "\n"); line; line = strtok(NULL, "\n")) {
            uint64_t a = 0, b = 0;
            CHECK_EQ(sscanf(line, "%*u %*u %*u FINISH %" SCNu64 " %" SCNu64, &a, &b), 2);
            CHECK_EQ(b, ~a);
        }
    }
    td_atomic_store_relaxed(&stop_recording, 1);
    pthread_join(thread, NULL);
}

static pthread_barrier_t all_recorded;

static void *record_and_stay(void *number)
{
    record_one(number);
    pthread_barrier_wait(&all_recorded); /* so that every thread needs a ring of its own */
    return NULL;
}

static void *dump_until_stopped(void *unused)
{
    while (!td_atomic_load_relaxed(&stop_recording))
        dump();
    return unused;
}

TD_TEST(a_dump_beside_new_threads_sees_whole_rings)
{
    pthread_t dumper, threads[16];
    td_trace_enable(true);
    pthread_barrier_init(&all_recorded, NULL, 17);
    REQUIRE_EQ(pthread_create(&dumper, NULL, dump_until_stopped, NULL), 0);
    for (uintptr_t i = 0; i < 16; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, record_and_stay, (void *)i), 0);
    pthread_barrier_wait(&all_recorded);
    for (int i = 0; i < 16; i++)
        pthread_join(threads[i], NULL);
    td_atomic_store_relaxed(&stop_recording, 1);
    pthread_join(dumper, NULL);
    CHECK_EQ(dump(), 16);
    pthread_barrier_destroy(&all_recorded);
}

TD_TEST(a_failing_file_is_reported)
{
    td_trace_enable(true);
    TD_TRACE(GROW, 1, 2);
    CHECK_STATUS(td_trace_dump(-1), TD_EOS);
    CHECK_EQ(errno, EBADF);
}

TD_TEST_MAIN
