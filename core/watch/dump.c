/* watch/dump.c: see dump.h.   Tests  tests/watch/test_dump.c */
#include "watch/dump.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
    pthread_mutex_t lock;
    int signal;
    td_dump_handler *handler;
    int read_fd;
    pid_t asked; /* 0: nobody */
    size_t bytes;
    char text[TD_DUMP_TEXT_MOST];
} dumps = {.lock = PTHREAD_MUTEX_INITIALIZER, .read_fd = -1};

void td_dump_use(int signal, td_dump_handler *handler, int read_fd)
{
    pthread_mutex_lock(&dumps.lock);
    dumps.signal = signal;
    dumps.handler = handler;
    dumps.read_fd = read_fd;
    dumps.asked = 0;
    dumps.bytes = 0;
    pthread_mutex_unlock(&dumps.lock);
}

/* Needs the lock. A text that does not fit loses its middle; its end, the outermost frames, is written over that. */
static bool read_more_locked(void)
{
    if (dumps.bytes == sizeof dumps.text)
        dumps.bytes = sizeof dumps.text / 2;
    ssize_t got;
    do
        got = read(dumps.read_fd, dumps.text + dumps.bytes, sizeof dumps.text - dumps.bytes);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return false;
    dumps.bytes += (size_t)got;
    return true;
}

/* Needs the lock. Drops the first bytes. */
static void drop_locked(size_t bytes)
{
    memmove(dumps.text, dumps.text + bytes, dumps.bytes - bytes);
    dumps.bytes -= bytes;
}

static bool handler_is_ours_locked(void)
{
    struct sigaction action;
    return dumps.signal != 0 && sigaction(dumps.signal, NULL, &action) == 0 &&
           (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == dumps.handler;
}

td_status td_dump_ask(pid_t tid)
{
    td_status status = TD_EAGAIN;
    pthread_mutex_lock(&dumps.lock);
    if (!handler_is_ours_locked()) {
        status = TD_ENOSYS;
    } else if (dumps.asked == 0) {
        while (read_more_locked())
            dumps.bytes = 0; /* of one that was given up on */
        dumps.bytes = 0;
        dumps.asked = tid;
        status = syscall(SYS_tgkill, getpid(), tid, dumps.signal) == 0 ? TD_OK : TD_EOS;
        if (status != TD_OK)
            dumps.asked = 0;
    }
    pthread_mutex_unlock(&dumps.lock);
    return status;
}

td_status td_dump_take(pid_t tid, const char **text, size_t *bytes, int *holds_gil)
{
    td_status status = TD_EAGAIN;
    pthread_mutex_lock(&dumps.lock);
    while (dumps.asked != 0 && read_more_locked())
        continue;
    while (status != TD_OK && dumps.bytes > 0) {
        const char *found = memchr(dumps.text, TD_DUMP_MARK, dumps.bytes);
        const size_t length = found != NULL ? (size_t)(found - dumps.text) : 0;
        struct td_dump_mark mark;
        if (found == NULL || dumps.bytes - length < sizeof mark)
            break;
        memcpy(&mark, found, sizeof mark);
        if (mark.tid != dumps.asked) {
            drop_locked(length + sizeof mark);
            continue;
        }
        if (dumps.asked != tid)
            break;
        *text = dumps.text;
        *bytes = length;
        *holds_gil = mark.holds_gil;
        dumps.asked = 0;
        dumps.bytes = 0; /* the text stays where it is until more is read */
        status = TD_OK;
    }
    pthread_mutex_unlock(&dumps.lock);
    return status;
}

void td_dump_forget(pid_t tid)
{
    pthread_mutex_lock(&dumps.lock);
    if (dumps.asked == tid)
        dumps.asked = 0;
    pthread_mutex_unlock(&dumps.lock);
}

void td_dump_after_fork_child(void)
{
    pthread_mutex_init(&dumps.lock, NULL);
    dumps.signal = 0;
    dumps.handler = NULL;
    dumps.read_fd = -1;
    dumps.asked = 0;
}
