/* fuzz/os/fuzz_cgroup.c: what /proc and /sys say about our cgroups and CPUs: the CPU budget is at least 1, whatever the
 * files hold. The input is cut at NUL bytes into the files' contents; after a first byte that is even, the files that
 * say where the cgroup is are right, so that the others are read. */
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fuzz/harness.h"
#include "os/budget.h"

static const char *const files[] = {"proc/self/cgroup", "proc/self/mountinfo", "proc/meminfo",  "cg/cpu.max",
                                    "cg/memory.max",    "cg/memory.current",   "cg/memory.stat"};
static const char our_cgroup[] = "0::/\n";
static const char our_mounts[] = "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n";
static char root[64];

static void prepare(void)
{
    static const char *const folders[] = {"", "/proc", "/proc/self", "/cg"};
    snprintf(root, sizeof root, "%s/treadle-fuzz-%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
             getpid());
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", root, folders[i]);
        FUZZ_CHECK(mkdir(path, 0700) == 0);
    }
}

static void clean_up(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    FUZZ_CHECK(system(command) == 0); /* NOLINT(cert-env33-c): a fixed path of our own */
}

static void write_file(const char *name, const uint8_t *text, size_t bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *file = fopen(path, "we");
    FUZZ_CHECK(file != NULL);
    fwrite(text, 1, bytes, file);
    fclose(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (root[0] == '\0') {
        prepare();
        atexit(clean_up);
    }
    const bool placed = bytes > 0 && data[0] % 2 == 0;
    for (size_t i = placed ? 2 : 0; i < sizeof files / sizeof files[0]; i++) {
        const uint8_t *end = bytes > 0 ? memchr(data, 0, bytes) : NULL;
        const size_t length = end != NULL ? (size_t)(end - data) : bytes;
        write_file(files[i], data, length);
        const size_t used = end != NULL ? length + 1 : length;
        data += used;
        bytes -= used;
    }
    if (placed) {
        write_file(files[0], (const uint8_t *)our_cgroup, sizeof our_cgroup - 1);
        write_file(files[1], (const uint8_t *)our_mounts, sizeof our_mounts - 1);
    }
    td_cpu_budget cpus;
    td_cpu_budget_read(root, &cpus);
    FUZZ_CHECK(cpus.cpus >= 1);
    FUZZ_CHECK(memchr(cpus.quota_file, 0, sizeof cpus.quota_file) != NULL);

    td_memory_budget memory;
    td_memory_budget_init(&memory, root);
    (void)td_memory_room(&memory, UINT64_C(1) << 30);
    td_memory_budget_fini(&memory);
    return 0;
}
