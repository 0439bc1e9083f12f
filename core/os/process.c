/* os/process.c: posix_spawn with a descriptor map, lifelines, and the count of threads.
 * Invariants  I1 a child gets descriptors 0 to 2, the mapped ones, and no other: the rest is close-on-exec here, and
 *                what the user opened without that flag is closed in the child.
 *             I2 nobody writes to a lifeline, so the only event on it is its end.
 * Crash       parent dies: the kernel closes its end and sends SIGKILL to whoever armed the other, which need not read.
 *             child dies: the parent's end reads end of file.
 * Tests       tests/os/test_process.c */
#include "os/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "os/pidfd.h"

extern char **environ;

/* ---- Starting ---- */

/* Copies of the sources above every destination, so that no dup2 in the child overwrites a source still needed.
 * On failure none is left open. */
static td_status lift_sources(const td_spawn *spawn, int floor, int *lifted)
{
    for (size_t i = 0; i < spawn->fd_count; i++) {
        lifted[i] = fcntl(spawn->fds[i].source, F_DUPFD_CLOEXEC, floor);
        if (lifted[i] < 0) {
            int saved = errno;
            while (i > 0)
                close(lifted[--i]);
            errno = saved;
            return saved == EINVAL ? TD_ENOFD
                                   : td_status_from_errno(saved); /* EINVAL: the floor is over the limit */
        }
    }
    return TD_OK;
}

static bool is_destination(const td_spawn *spawn, int fd)
{
    for (size_t i = 0; i < spawn->fd_count; i++)
        if (spawn->fds[i].destination == fd)
            return true;
    return false;
}

/* Actions run in the child in this order. */
static int add_actions(posix_spawn_file_actions_t *actions, const td_spawn *spawn, int floor, const int *lifted)
{
    int error = 0;
    for (size_t i = 0; i < spawn->fd_count && !error; i++)
        error = posix_spawn_file_actions_adddup2(actions, lifted[i], spawn->fds[i].destination);
    for (int fd = 3; fd < floor && !error; fd++)
        if (!is_destination(spawn, fd))
            error = posix_spawn_file_actions_addclose(actions, fd);
#if defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 34)
    if (!error)
        error = posix_spawn_file_actions_addclosefrom_np(actions, floor);
#endif
#endif
    if (spawn->cwd && !error)
        error = posix_spawn_file_actions_addchdir_np(actions, spawn->cwd);
    return error;
}

static int set_attributes(posix_spawnattr_t *attributes, int held)
{
    sigset_t blocked, all;
    struct sigaction hangup;
    sigemptyset(&blocked);
    if (held != 0)
        sigaddset(&blocked, held);
    sigfillset(&all);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler == SIG_IGN)
        sigdelset(&all, SIGHUP); /* under nohup: what is started is to go on, too */
    int error = posix_spawnattr_setsigmask(attributes, &blocked);
    if (!error)
        error = posix_spawnattr_setsigdefault(attributes, &all);
    if (!error)
        error = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    return error;
}

/* An errno value. */
static int spawn_lifted(const td_spawn *spawn, int floor, const int *lifted, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    error = posix_spawnattr_init(&attributes);
    if (error)
        goto free_actions;
    error = add_actions(&actions, spawn, floor, lifted);
    if (!error)
        error = set_attributes(&attributes, spawn->held);
    if (!error)
        error = posix_spawnp(pid, spawn->program, &actions, &attributes, spawn->argv,
                             spawn->envp ? spawn->envp : environ);
    posix_spawnattr_destroy(&attributes);
free_actions:
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

td_status td_process_spawn(const td_spawn *spawn, pid_t *pid, int *pidfd)
{
    int floor = 3;
    for (size_t i = 0; i < spawn->fd_count; i++)
        if (spawn->fds[i].destination >= floor)
            floor = spawn->fds[i].destination + 1;
    int *lifted = calloc(spawn->fd_count + 1, sizeof *lifted);
    if (!lifted)
        return TD_ENOMEM;
    td_status status = lift_sources(spawn, floor, lifted);
    if (status == TD_OK) {
        pid_t child;
        int error = spawn_lifted(spawn, floor, lifted, &child);
        for (size_t i = 0; i < spawn->fd_count; i++)
            close(lifted[i]);
        if (error) {
            status = error == EAGAIN ? TD_ETHREAD : td_status_from_errno(error);
            errno = error;
        } else {
            *pid = child;
            if (td_pidfd_open(child, pidfd) != TD_OK) /* not reaped yet, so the pid is still this child */
                *pidfd = -1;
        }
    }
    int saved = errno;
    free(lifted);
    errno = saved;
    return status;
}

/* ---- Lifelines ---- */

td_status td_lifeline_new(int *parent_end, int *child_end)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return td_status_from_errno(errno);
    *parent_end = ends[0];
    *child_end = ends[1];
    return TD_OK;
}

/* The signal is set before O_ASYNC, and the state is looked at after it: an end of the parent in between is seen by one
 * or the other. Owner and flag belong to the open socket, so they replace what a process before set on the same end. */
td_status td_lifeline_arm(int child_end)
{
    int flags = fcntl(child_end, F_GETFL);
    if (flags < 0 || fcntl(child_end, F_SETSIG, SIGKILL) < 0 || fcntl(child_end, F_SETOWN, getpid()) < 0 ||
        fcntl(child_end, F_SETFL, flags | O_ASYNC) < 0)
        return td_status_from_errno(errno);
    struct pollfd watched = {.fd = child_end, .events = POLLIN};
    int ready;
    do
        ready = poll(&watched, 1, 0);
    while (ready < 0 && errno == EINTR);
    if (ready < 0)
        return td_status_from_errno(errno);
    return ready > 0 ? TD_ECLOSED : TD_OK;
}

/* ---- Threads ---- */

td_status td_thread_count(unsigned *count)
{
    DIR *folder = opendir("/proc/self/task");
    if (!folder)
        return errno == ENOENT ? TD_EOS : td_status_from_errno(errno);
    unsigned threads = 0;
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
        threads += entry->d_name[0] != '.';
    closedir(folder);
    *count = threads;
    return TD_OK;
}
