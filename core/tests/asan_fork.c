/* tests/asan_fork.c: lets processes fork under AddressSanitizer, whose locks no fork respects (in gcc 12): a
 * child that is made while another thread of its parent is inside the sanitizer waits for that thread for ever, at the
 * first block that it wants. A thread is there when it allocates or frees, but also while it starts and ends.
 *
 * So the parent forks once every other thread sleeps, and none of them inside the sanitizer. The handler is registered
 * before all others and therefore runs after them: whoever wakes up in between finds the engine's locks taken.
 *
 * It is part of each C test that is built with the sanitizer, and preloaded for the Python tests (tools/run_tests.py).
 * Tests  tests/os/test_asan_fork.c */
#include <dirent.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define PATIENCE_NS                                                                                            \
    (10 * TD_NS_PER_S) /* a thread that computes for so long has no use for the sanitizer's locks */

static uintptr_t sanitizer_begin, sanitizer_end;

static int note_sanitizer(struct dl_phdr_info *object, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (strstr(object->dlpi_name, "/libasan.so") == NULL)
        return 0;
    sanitizer_begin = object->dlpi_addr;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const uintptr_t end = object->dlpi_addr + object->dlpi_phdr[i].p_vaddr + object->dlpi_phdr[i].p_memsz;
        if (object->dlpi_phdr[i].p_type == PT_LOAD && end > sanitizer_end)
            sanitizer_end = end;
    }
    return 1;
}

/* By /proc/self/task/TID/syscall: "running", "-1 STACK PC" or "NUMBER ARGUMENTS STACK PC"; no PC: it has ended. */
static bool sleeps_outside(const char *thread)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%.20s/syscall", thread);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (length <= 0)
        return true;
    text[length] = '\0';
    const char *last = strrchr(text, ' ');
    if (last == NULL)
        return false;
    const uintptr_t pc = strtoull(last, NULL, 16);
    return pc == 0 || (text[0] != '-' && (pc < sanitizer_begin || pc >= sanitizer_end));
}

static bool others_sleep_outside(void)
{
    DIR *threads = opendir("/proc/self/task");
    const struct dirent *entry;
    bool all = true;
    while (threads != NULL && all && (entry = readdir(threads)) != NULL)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != gettid())
            all = sleeps_outside(entry->d_name);
    if (threads != NULL)
        closedir(threads);
    return all;
}

static void before_fork(void)
{
    const int64_t end = td_deadline_after(PATIENCE_NS);
    while (!others_sleep_outside() && td_now_ns() < end)
        sched_yield();
}

__attribute__((constructor(101))) static void guard_forks(void)
{
    if (dl_iterate_phdr(note_sanitizer, NULL) != 0)
        pthread_atfork(before_fork, NULL, NULL);
}
