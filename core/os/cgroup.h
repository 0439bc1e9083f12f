/* os/cgroup.h: the folders of the cgroups that this process is in, from its own up to the top that is visible. */
#ifndef TD_OS_CGROUP_H
#define TD_OS_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

typedef enum td_cgroup_version {
    TD_CGROUP_V1,
    TD_CGROUP_V2,
} td_cgroup_version;

typedef struct td_cgroup {
    char folder[PATH_MAX];
    size_t top; /* length of the mount point's path: the last folder that td_cgroup_up gives */
} td_cgroup;

/* What the kernel says of this process, read once for however many hierarchies. */
typedef struct td_cgroup_text {
    const char *root;   /* put before every path */
    char *own, *mounts; /* NULL: can't be read */
} td_cgroup_text;

void td_cgroup_read(td_cgroup_text *text, const char *root);
void td_cgroup_free(td_cgroup_text *text);

/* Our own cgroup in the hierarchy of `controller` ("cpu", "memory"; v2 has one hierarchy for all). False when the
 * hierarchy isn't mounted or we are in none. The folder itself may be missing: a container may show its cgroup at the
 * mount point only, which is the last step up. */
bool td_cgroup_find(const td_cgroup_text *text, td_cgroup_version version, const char *controller,
                    td_cgroup *cgroup);

/* Moves to the parent; false at the top. */
bool td_cgroup_up(td_cgroup *cgroup);

/* Opens a file of the folder for reading, close-on-exec; -1 when it isn't there. */
int td_cgroup_open(const td_cgroup *cgroup, const char *file);

#endif
