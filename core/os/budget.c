/* os/budget.c: the budget of CPUs and of memory.
 *
 * CPUs    = min(online, affinity mask, ceil(quota/period) over our cgroup and all above it), at least 1.
 * Memory  = min over the same cgroups of limit - usage, and the kernel's MemAvailable. A cgroup's usage counts page
 *           cache too; what is inactive would be given up before the limit hurts, so it is added back, but only when
 *           the plain difference is not enough: memory.stat is slow to read.
 * Invariants  a level's files stay open, so asking for room allocates nothing and opens nothing; a limit that changes
 *             while we run is seen.
 * Crash       holds descriptors only.
 * Tests       tests/os/test_budget.c, on made-up trees */
#include "os/budget.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/cgroup.h"

#define STAT_BYTES 8192

/* ---- Small files ---- */

/* The text of an open file from its start, zero-terminated; false when it can't be read. */
static bool read_text(int fd, char *text, size_t capacity)
{
    size_t used = 0;
    for (;;) {
        ssize_t got = pread(fd, text + used, capacity - 1 - used, (off_t)used);
        if (got < 0)
            return false;
        used += (size_t)got;
        if (got == 0 || used == capacity - 1)
            break;
    }
    text[used] = '\0';
    return true;
}

/* A number of bytes; "max", and v1's rounded-down 2^63, are unlimited. */
static uint64_t read_limit(int fd)
{
    char text[64];
    if (fd < 0 || !read_text(fd, text, sizeof text) || text[0] < '0' || text[0] > '9')
        return TD_MEMORY_UNLIMITED;
    uint64_t value = strtoull(text, NULL, 10);
    return value >= UINT64_C(1) << 62 ? TD_MEMORY_UNLIMITED : value;
}

/* The number behind `key` at the start of a line ("MemAvailable:", "inactive_file"); false when there is none. */
static bool find_number(const char *text, const char *key, uint64_t *value)
{
    size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            *value = strtoull(line + length, NULL, 10);
            return true;
        }
    }
    return false;
}

/* Notes which file decided; none when its path is too long to show. */
static void note_file(char *note, size_t capacity, const td_cgroup *cgroup, const char *file)
{
    int length = snprintf(note, capacity, "%s/%s", cgroup->folder, file);
    if (length < 0 || (size_t)length >= capacity)
        note[0] = '\0';
}

/* ---- CPUs ---- */

static unsigned count_affinity(unsigned otherwise)
{
    for (size_t cpus = 1024; cpus <= 1 << 20; cpus *= 2) { /* the kernel refuses a set smaller than its own */
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set)
            break;
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        bool known = sched_getaffinity(0, bytes, set) == 0;
        unsigned count = known ? (unsigned)CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (known)
            return count > 0 ? count : 1;
    }
    return otherwise;
}

static void note_quota(const td_cgroup *cgroup, const char *file, double quota, td_cpu_budget *budget)
{
    if (budget->quota > 0 && budget->quota <= quota)
        return;
    budget->quota = quota;
    note_file(budget->quota_file, sizeof budget->quota_file, cgroup, file);
}

/* v2: cpu.max is "QUOTA PERIOD" or "max PERIOD", in microseconds. */
static void read_quota_v2(const td_cgroup *cgroup, td_cpu_budget *budget)
{
    char text[64];
    int fd = td_cgroup_open(cgroup, "cpu.max");
    if (fd < 0)
        return;
    long long quota, period;
    if (read_text(fd, text, sizeof text) && sscanf(text, "%lld %lld", &quota, &period) == 2 && quota > 0 &&
        period > 0)
        note_quota(cgroup, "cpu.max", (double)quota / (double)period, budget);
    close(fd);
}

/* v1: two files; a quota of -1 is none. */
static void read_quota_v1(const td_cgroup *cgroup, td_cpu_budget *budget)
{
    char quota_text[32], period_text[32];
    int quota_fd = td_cgroup_open(cgroup, "cpu.cfs_quota_us"),
        period_fd = td_cgroup_open(cgroup, "cpu.cfs_period_us");
    if (quota_fd >= 0 && period_fd >= 0 && read_text(quota_fd, quota_text, sizeof quota_text) &&
        read_text(period_fd, period_text, sizeof period_text)) {
        long long quota = strtoll(quota_text, NULL, 10), period = strtoll(period_text, NULL, 10);
        if (quota > 0 && period > 0)
            note_quota(cgroup, "cpu.cfs_quota_us", (double)quota / (double)period, budget);
    }
    if (quota_fd >= 0)
        close(quota_fd);
    if (period_fd >= 0)
        close(period_fd);
}

static void read_cpus(const td_cgroup_text *text, td_cpu_budget *budget)
{
    td_cgroup cgroup;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    *budget = (td_cpu_budget){.limit = TD_CPU_ONLINE, .online = online > 0 ? (unsigned)online : 1};
    budget->affinity = count_affinity(budget->online);
    if (td_cgroup_find(text, TD_CGROUP_V2, "cpu", &cgroup))
        do
            read_quota_v2(&cgroup, budget);
        while (td_cgroup_up(&cgroup));
    if (td_cgroup_find(text, TD_CGROUP_V1, "cpu", &cgroup))
        do
            read_quota_v1(&cgroup, budget);
        while (td_cgroup_up(&cgroup));
    budget->cpus = budget->online;
    if (budget->affinity < budget->cpus) {
        budget->cpus = budget->affinity;
        budget->limit = TD_CPU_AFFINITY;
    }
    if (budget->quota > 0 && budget->quota < (double)budget->cpus) {
        unsigned whole = (unsigned)budget->quota;
        whole += (double)whole < budget->quota; /* up: half a CPU more is worth a worker */
        budget->limit = whole < budget->cpus ? TD_CPU_QUOTA : budget->limit;
        budget->cpus = whole;
    }
}

void td_cpu_budget_read(const char *root, td_cpu_budget *budget)
{
    td_cgroup_text text;
    td_cgroup_read(&text, root);
    read_cpus(&text, budget);
    td_cgroup_free(&text);
}

/* /proc/loadavg is "0.20 0.18 0.12 RUNNABLE/ALL PID"; the caller is one of those that are runnable. */
static bool count_runnable(const char *root, unsigned *runnable)
{
    char path[PATH_MAX], text[128];
    const int length = snprintf(path, sizeof path, "%s/proc/loadavg", root);
    const int fd = length < 0 || (size_t)length >= sizeof path ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    const bool known = read_text(fd, text, sizeof text) && sscanf(text, "%*s %*s %*s %u/", runnable) == 1;
    close(fd);
    return known;
}

bool td_cpu_is_idle(const char *root, const td_cpu_budget *budget)
{
    unsigned runnable;
    if (budget->cpus < 2 || !count_runnable(root, &runnable))
        return false;
    return runnable < (budget->affinity < budget->online ? budget->affinity : budget->online);
}

const char *td_cpu_limit_text(td_cpu_limit limit)
{
    switch (limit) {
    case TD_CPU_ONLINE:
        return "CPUs online";
    case TD_CPU_AFFINITY:
        return "affinity mask";
    case TD_CPU_QUOTA:
        return "cgroup quota";
    }
    return "unknown";
}

/* ---- Memory ---- */

typedef struct memory_files {
    const char *limit, *high, *usage, *oom_kills;
} memory_files;

static const memory_files files_of[] = {
    [TD_CGROUP_V1] = {"memory.limit_in_bytes", NULL, "memory.usage_in_bytes", "memory.oom_control"},
    [TD_CGROUP_V2] = {"memory.max", "memory.high", "memory.current", "memory.events"},
};

static void close_level(const td_memory_level *level)
{
    const int fds[] = {level->limit_fd, level->high_fd, level->usage_fd, level->stat_fd};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* v2's `high` only slows a group down, but so much that it is a limit for us. */
static uint64_t level_limit(const td_memory_level *level)
{
    uint64_t limit = read_limit(level->limit_fd), high = read_limit(level->high_fd);
    return limit < high ? limit : high;
}

static void add_level(td_memory_budget *budget, const td_cgroup *cgroup, td_cgroup_version version)
{
    const memory_files *files = &files_of[version];
    td_memory_level level = {
        .limit_fd = td_cgroup_open(cgroup, files->limit),
        .high_fd = files->high ? td_cgroup_open(cgroup, files->high) : -1,
        .usage_fd = td_cgroup_open(cgroup, files->usage),
        .stat_fd = td_cgroup_open(cgroup, "memory.stat"),
    };
    if (level.limit_fd < 0 || level.usage_fd < 0 || budget->level_count == TD_MEMORY_LEVELS) {
        close_level(&level);
        return;
    }
    budget->levels[budget->level_count++] = level;
    uint64_t limit = level_limit(&level);
    if (limit < budget->limit) {
        budget->limit = limit;
        bool by_high = level.high_fd >= 0 && read_limit(level.limit_fd) > limit;
        note_file(budget->limit_file, sizeof budget->limit_file, cgroup, by_high ? files->high : files->limit);
    }
}

static bool read_meminfo(int fd, const char *key, uint64_t *bytes)
{
    char text[2048]; /* both keys stand at the top */
    uint64_t kib;
    if (fd < 0 || !read_text(fd, text, sizeof text) || !find_number(text, key, &kib))
        return false;
    *bytes = kib * 1024;
    return true;
}

void td_memory_budget_none(td_memory_budget *budget)
{
    *budget = (td_memory_budget){
        .total = TD_MEMORY_UNLIMITED, .limit = TD_MEMORY_UNLIMITED, .meminfo_fd = -1, .oom_fd = -1};
}

static void init_memory(const td_cgroup_text *text, td_memory_budget *budget)
{
    td_cgroup cgroup;
    char path[PATH_MAX];
    td_memory_budget_none(budget);
    int length = snprintf(path, sizeof path, "%s/proc/meminfo", text->root);
    if (length > 0 && (size_t)length < sizeof path)
        budget->meminfo_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!read_meminfo(budget->meminfo_fd, "MemTotal:", &budget->total))
        budget->total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    for (td_cgroup_version version = TD_CGROUP_V1; version <= TD_CGROUP_V2; version++)
        if (td_cgroup_find(text, version, "memory", &cgroup))
            do {
                add_level(budget, &cgroup, version);
                if (budget->oom_fd < 0)
                    budget->oom_fd = td_cgroup_open(&cgroup, files_of[version].oom_kills);
            } while (td_cgroup_up(&cgroup));
}

void td_memory_budget_init(td_memory_budget *budget, const char *root)
{
    td_cgroup_text text;
    td_cgroup_read(&text, root);
    init_memory(&text, budget);
    td_cgroup_free(&text);
}

void td_budgets_init(const char *root, td_cpu_budget *cpu, td_memory_budget *memory)
{
    td_cgroup_text text;
    td_cgroup_read(&text, root);
    read_cpus(&text, cpu);
    init_memory(&text, memory);
    td_cgroup_free(&text);
}

void td_memory_budget_fini(td_memory_budget *budget)
{
    for (size_t i = 0; i < budget->level_count; i++)
        close_level(&budget->levels[i]);
    if (budget->meminfo_fd >= 0)
        close(budget->meminfo_fd);
    if (budget->oom_fd >= 0)
        close(budget->oom_fd);
    td_memory_budget_none(budget);
}

uint64_t td_memory_budget_bytes(const td_memory_budget *budget)
{
    return budget->total < budget->limit ? budget->total : budget->limit;
}

uint64_t td_memory_share(const td_memory_budget *budget, uint64_t parts, uint64_t most)
{
    const uint64_t share = td_memory_budget_bytes(budget) / parts;
    return share < most ? share : most;
}

/* v1 counts the group itself under the plain key and its whole subtree under total_; the limit is on the subtree. */
static uint64_t read_stat(const char *text, const char *subtree_key, const char *key)
{
    uint64_t bytes = 0;
    if (!find_number(text, subtree_key, &bytes))
        find_number(text, key, &bytes);
    return bytes;
}

/* Page cache. Of what was used twice, half is taken to be in use still, such as the text of programs. */
static uint64_t reclaimable(int stat_fd)
{
    char text[STAT_BYTES];
    if (stat_fd < 0 || !read_text(stat_fd, text, sizeof text))
        return 0;
    return read_stat(text, "total_inactive_file", "inactive_file") +
           read_stat(text, "total_active_file", "active_file") / 2;
}

static uint64_t level_room(const td_memory_level *level, uint64_t wanted)
{
    uint64_t limit = level_limit(level);
    if (limit == TD_MEMORY_UNLIMITED)
        return TD_MEMORY_UNLIMITED;
    uint64_t usage = read_limit(level->usage_fd);
    uint64_t room = usage < limit ? limit - usage : 0;
    if (room >= wanted || usage == TD_MEMORY_UNLIMITED)
        return room;
    uint64_t cache = reclaimable(level->stat_fd);
    usage -= cache < usage ? cache : usage;
    return usage < limit ? limit - usage : 0;
}

uint64_t td_memory_room(const td_memory_budget *budget, uint64_t wanted)
{
    uint64_t room;
    if (!read_meminfo(budget->meminfo_fd, "MemAvailable:", &room))
        room = TD_MEMORY_UNLIMITED;
    for (size_t i = 0; i < budget->level_count; i++) {
        uint64_t here = level_room(&budget->levels[i], wanted);
        room = here < room ? here : room;
    }
    return room;
}

uint64_t td_memory_oom_kills(const td_memory_budget *budget)
{
    char text[STAT_BYTES];
    uint64_t kills = 0;
    if (budget->oom_fd >= 0 && read_text(budget->oom_fd, text, sizeof text))
        find_number(text, "oom_kill", &kills);
    return kills;
}
