/* named/guardian.c: the guardian's own program.
 *
 * It looks through the folder, gives each tracked segment of its user a ward, a thread that waits in the kernel for
 * the exclusive lock, and then waits for the folder to change. A ward that gets its lock removes the segment: nobody
 * holds it. After the last segment it stays for LINGER_MS, so that a program which makes one after another starts it
 * once.
 *
 *     take office ─▶ watch ─▶ look ─▶ wait for a change ─▶ gather ──┐
 *                      ▲        │                                   │
 *                      ├────────│───────────────────────────────────┘
 *                      │        └▶ nothing there, for LINGER_MS: unlink the office file; wait until nobody
 *                      └─ something ◀─ relies on having seen it; look ─▶ nothing: end
 *
 * Why threads: inotify tells of a close just before the kernel ends the lock, so that who listens to it would have to
 * try again for an unknown time. A thread that waits for the lock itself can't miss it.
 *
 * Invariants  W1 the folder is watched before it is looked through, the office file included, so that nothing that
 *                changes meanwhile is overlooked.
 *             W2 a watch serves once. During GATHER_MS after a change the folder's users pay for no event, and what
 *                lives shorter never gets a ward.
 *             W3 one guardian for a user: the lock on the office file, under the name that it still has.
 *             W4 a ward is known by inode, which stays the segment's while the ward has it open.
 * Crash       the locks go with it; the next process that makes or attaches a segment starts another.
 * Tests       tests/named/test_guard.c, test_killed.c */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "named/claim.h"
#include "named/guard.h"
#include "named/named.h"

#define GATHER_MS 100
#define LINGER_MS 500
#define WITHOUT_INOTIFY_MS 500 /* the user has no inotify instance, or no watch, left */
#define UNGUARDED_MS 500 /* there are more segments than threads or descriptors: those are looked at again */
#define WARD_STACK_BYTES (64u << 10)
#define BUCKETS 256u

/* ---- Wards ---- */

struct ward {
    td_list link;
    int office;
    int fd; /* the segment's file */
    ino_t inode;
    char path[TD_NAMED_PATH_BYTES];
};

static pthread_mutex_t wards_lock = PTHREAD_MUTEX_INITIALIZER;
static td_list wards[BUCKETS];

static bool has_ward_locked(ino_t inode)
{
    td_list *bucket = &wards[inode % BUCKETS];
    TD_LIST_EACH(node, bucket)
    {
        if (TD_LIST_ENTRY(node, struct ward, link)->inode == inode)
            return true;
    }
    return false;
}

/* Says that the guardian has the segment's file open, or has not (guard.c, G3). */
static bool say_open(const struct ward *ward, short type)
{
    struct flock range = td__guard_range(type, ward->inode);
    return fcntl(ward->office, F_OFD_SETLK, &range) == 0;
}

static void *run_ward(void *context)
{
    struct ward *ward = context;
    int locked;
    do
        locked = flock(ward->fd, LOCK_EX);
    while (locked < 0 && errno == EINTR);
    if (locked == 0)
        td__named_remove_locked(ward->fd, ward->path, NULL);
    close(ward->fd);
    say_open(ward, F_UNLCK);
    pthread_mutex_lock(&wards_lock);
    td_list_remove(&ward->link);
    pthread_mutex_unlock(&wards_lock);
    free(ward);
    return NULL;
}

static bool start_thread(struct ward *ward)
{
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setstacksize(&attributes, WARD_STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_mutex_lock(&wards_lock);
    td_list_push_front(&wards[ward->inode % BUCKETS], &ward->link);
    bool started = pthread_create(&thread, &attributes, run_ward, ward) == 0;
    if (!started)
        td_list_remove(&ward->link);
    pthread_mutex_unlock(&wards_lock);
    pthread_attr_destroy(&attributes);
    return started;
}

/* false: no descriptor, no memory or no thread was left. Then the segment is removed here, if nobody holds it now. */
static bool start_ward(int office, const char *name, ino_t inode)
{
    struct ward *ward = calloc(1, sizeof *ward);
    if (!ward || td__named_path(name, ward->path) != TD_OK) {
        free(ward);
        return false;
    }
    td_list_init(&ward->link);
    ward->office = office;
    ward->inode = inode;
    bool started = false, gone = false;
    if (say_open(ward, F_WRLCK)) {
        ward->fd = td__named_open(ward->path);
        struct stat file;
        gone = ward->fd < 0 ? errno == ENOENT : fstat(ward->fd, &file) == 0 && file.st_ino != inode;
        started = ward->fd >= 0 && !gone && start_thread(ward);
        if (!started && ward->fd >= 0) {
            if (!gone)
                td__named_try_claim(ward->fd, ward->path);
            close(ward->fd);
        }
        if (!started)
            say_open(ward, F_UNLCK);
    }
    if (!started)
        free(ward);
    return started || gone;
}

struct round {
    int office;
    unsigned seen, unguarded;
};

static void see_segment(void *context, const char *name, const struct stat *file)
{
    struct round *round = context;
    round->seen++;
    pthread_mutex_lock(&wards_lock);
    bool known = has_ward_locked(file->st_ino);
    pthread_mutex_unlock(&wards_lock);
    if (!known && !start_ward(round->office, name, file->st_ino))
        round->unguarded++;
}

static struct round look(int office)
{
    struct round round = {.office = office};
    if (td__guard_look(see_segment, &round) < 0)
        round.seen = round.unguarded = 1;
    return round;
}

/* ---- The office ---- */

enum office { OFFICE_TAKEN, OFFICE_ANOTHERS, OFFICE_FAILED };

static bool is_named(int fd, const char *path)
{
    struct stat file, named;
    return fstat(fd, &file) == 0 && lstat(path, &named) == 0 && td__named_is_same(&file, &named);
}

static enum office take_office(int *office)
{
    char path[TD_NAMED_PATH_BYTES];
    td__guard_path(path);
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        struct stat file;
        if (fd < 0)
            return OFFICE_FAILED;
        if (fstat(fd, &file) < 0 || !td__guard_is_office(&file)) {
            errno = EPERM;
            return OFFICE_FAILED;
        }
        struct flock duty = td__guard_range(F_WRLCK, TD_GUARD_DUTY);
        bool locked = fcntl(fd, F_OFD_SETLK, &duty) == 0;
        bool refused = !locked && (errno == EAGAIN || errno == EACCES);
        bool named = is_named(fd, path);
        if (locked && named) {
            *office = fd;
            return OFFICE_TAKEN;
        }
        close(fd);
        if (!locked && !refused)
            return OFFICE_FAILED;
        if (named)
            return OFFICE_ANOTHERS;
    }
}

/* Goes on in office, or in a new one where that was removed, if no other guardian is on duty by then. The old one stays
 * open for its wards. */
static bool keep_office(int *office)
{
    char path[TD_NAMED_PATH_BYTES];
    td__guard_path(path);
    return is_named(*office, path) || take_office(office) == OFFICE_TAKEN;
}

static void leave_office(int office)
{
    char path[TD_NAMED_PATH_BYTES];
    td__guard_path(path);
    if (is_named(office, path))
        unlink(path);
}

/* ---- Serving ---- */

/* What to wait on; -1 where nothing tells of changes. */
static int watch(int changes)
{
    const uint32_t any = IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_ONESHOT;
    return inotify_add_watch(changes, TD_NAMED_FOLDER, any) < 0 ? -1 : changes;
}

/* Did the folder change before `ms` were over? */
static bool wait_for_change(int changes, int ms)
{
    struct pollfd watched = {.fd = changes, .events = POLLIN};
    if (changes < 0) {
        poll(NULL, 0, WITHOUT_INOTIFY_MS);
        return ms < 0 || ms > WITHOUT_INOTIFY_MS;
    }
    int ready;
    do
        ready = poll(&watched, 1, ms);
    while (ready < 0 && errno == EINTR);
    return ready != 0;
}

static void pause_ms(int64_t ms)
{
    struct timespec left = {0, ms * TD_NS_PER_MS};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static void gather(int changes)
{
    char events[4096];
    pause_ms(GATHER_MS);
    while (changes >= 0 && read(changes, events, sizeof events) > 0)
        ;
}

static void serve(int office)
{
    int changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    for (;;) {
        int watched = watch(changes);
        if (!keep_office(&office))
            return;
        struct round round = look(office);
        if (round.seen > 0) {
            wait_for_change(watched, round.unguarded ? UNGUARDED_MS : -1);
        } else if (!wait_for_change(watched, LINGER_MS)) {
            leave_office(office);
            pause_ms(TD_GUARD_LEASE_NS / TD_NS_PER_MS * 2);
            if (look(office).seen == 0)
                return;
            continue;
        }
        gather(changes);
    }
}

/* A descriptor for each segment, and small stacks' worth of heap. */
static void settle_in(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    mallopt(M_ARENA_MAX, 1);
    for (unsigned i = 0; i < BUCKETS; i++)
        td_list_init(&wards[i]);
}

int td_guardian_main(void)
{
    int office;
    setsid();
    switch (take_office(&office)) {
    case OFFICE_ANOTHERS:
        return 0;
    case OFFICE_FAILED:
        return errno != 0 ? errno : EPERM;
    case OFFICE_TAKEN:
        break;
    }
    pid_t pid = fork(); /* who started it waits for this process only */
    if (pid < 0)
        return errno;
    if (pid > 0)
        return 0;
    settle_in();
    serve(office);
    return 0;
}
