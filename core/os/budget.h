/* os/budget.h: how many CPUs and how much memory this process may use: affinity mask, cgroups v1 and v2.
 * `root` is put before every path that is read ("" in production), so that tests can show a made-up machine. */
#ifndef TD_OS_BUDGET_H
#define TD_OS_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum td_cpu_limit {
    TD_CPU_ONLINE,   /* nothing limits below the CPUs that are online */
    TD_CPU_AFFINITY, /* sched_setaffinity, taskset, cpuset */
    TD_CPU_QUOTA,    /* a cgroup's CPU quota */
} td_cpu_limit;

typedef struct td_cpu_budget {
    unsigned cpus;      /* the budget, at least 1 */
    td_cpu_limit limit; /* what decided it */
    unsigned online;
    unsigned affinity;
    double quota;         /* CPUs, e.g. 1.5; 0 when there is no quota */
    char quota_file[256]; /* where the quota that counts was read; "" when there is none */
} td_cpu_budget;

/* Never fails: what can't be read doesn't limit. */
void td_cpu_budget_read(const char *root, td_cpu_budget *budget);

/* Is one of at least two CPUs of the budget likely to have nothing to do now? False where that can't be told.
 * Threads of the whole machine count, the caller among them. Takes some microseconds. */
bool td_cpu_is_idle(const char *root, const td_cpu_budget *budget);

/* "CPUs online", "affinity mask", "cgroup quota". */
const char *td_cpu_limit_text(td_cpu_limit limit);

#define TD_MEMORY_LEVELS 16u
#define TD_MEMORY_UNLIMITED UINT64_MAX

/* One cgroup on the way from ours to the root: open descriptors, so that asking again is a few preads. */
typedef struct td_memory_level {
    int limit_fd, high_fd, usage_fd, stat_fd; /* -1: not there */
} td_memory_level;

/* Open files; init/fini. Not thread-safe in init and fini; td_memory_room may be called from any thread. */
typedef struct td_memory_budget {
    td_memory_level levels[TD_MEMORY_LEVELS];
    size_t level_count;
    int meminfo_fd;
    int oom_fd;           /* of the nearest group that counts OOM kills; -1: none does */
    uint64_t total;       /* the machine's memory, bytes */
    uint64_t limit;       /* the tightest cgroup limit at init, or TD_MEMORY_UNLIMITED */
    char limit_file[256]; /* where that was read; "" when unlimited */
} td_memory_budget;

/* One that limits nothing and holds nothing, until init. */
void td_memory_budget_none(td_memory_budget *budget);
/* Never fails: what can't be opened doesn't limit. */
void td_memory_budget_init(td_memory_budget *budget, const char *root);
void td_memory_budget_fini(td_memory_budget *budget);
/* td_cpu_budget_read and td_memory_budget_init, for half the reading. */
void td_budgets_init(const char *root, td_cpu_budget *cpu, td_memory_budget *memory);

/* The memory this process can count on: the smaller of `total` and `limit`. */
uint64_t td_memory_budget_bytes(const td_memory_budget *budget);

/* One of `parts` equal parts of it, but no more than `most`: what a cache or a read-ahead may take. */
uint64_t td_memory_share(const td_memory_budget *budget, uint64_t parts, uint64_t most);

/* Bytes that can be allocated now before a cgroup's limit is met or the machine has none available. Exact only where
 * it is below `wanted`: page cache that the kernel would give up is counted in only when needed. */
uint64_t td_memory_room(const td_memory_budget *budget, uint64_t wanted);

/* Processes of our cgroup that the kernel's OOM killer has ended so far; 0 when that isn't known. */
uint64_t td_memory_oom_kills(const td_memory_budget *budget);

#endif
