/* os/process.h: starting a program, and the lifeline that ends a child with its parent. */
#ifndef TD_OS_PROCESS_H
#define TD_OS_PROCESS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

typedef struct td_fd_map {
    int source;      /* in this process */
    int destination; /* in the child, without close-on-exec */
} td_fd_map;

typedef struct td_spawn {
    const char *program;  /* a path, or a name looked up in $PATH */
    char *const *argv;    /* NULL-terminated */
    char *const *envp;    /* NULL-terminated; NULL is this process's environment */
    const char *cwd;      /* NULL is this process's */
    const td_fd_map *fds; /* any order, sources and destinations may overlap */
    size_t fd_count;
    int held; /* a signal that stays blocked until the program unblocks it; 0: none */
} td_spawn;

/* Starts a program at the speed of vfork. The child has descriptors 0 to 2 (unless mapped), those in `fds`, and no
 * other; an empty signal mask, but for `held`; every signal at its default, but for a SIGHUP that is ignored here.
 * *pidfd is -1 where pidfds are refused. The caller reaps the child.
 *   TD_EOS (errno: ENOENT, EACCES, ...) when the program can't be run; TD_ENOMEM, TD_ENOFD, TD_ETHREAD (process
 *   limit) */
td_status td_process_spawn(const td_spawn *spawn, pid_t *pid, int *pidfd);

/* A lifeline: the parent keeps one end and never writes to it; the child arms the other. However the parent ends, its
 * end closes and the kernel sends the child SIGKILL, busy or not. The parent's end becomes readable (end of file) when
 * the last copy of the child's end is gone. Both close-on-exec; forks of the parent must close their copy of the
 * parent's end, and whoever only passes the child's end on must close that. */
td_status td_lifeline_new(int *parent_end, int *child_end);

/* In the child. TD_ECLOSED: the parent is gone already, and no signal will come: leave now. */
td_status td_lifeline_arm(int child_end);

/* Threads of this process as the kernel counts them (1 when it is safe to fork). TD_EOS when /proc is not mounted. */
td_status td_thread_count(unsigned *count);

#endif
