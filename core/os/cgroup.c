/* os/cgroup.c: /proc/self/cgroup says which cgroup we are in, /proc/self/mountinfo where it can be seen.
 *
 *     cgroup      4:memory:/user/job          (v1: id, controllers, path)
 *                 0::/user/job                (v2)
 *     mountinfo   35 31 0:32 /user /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
 *                            ^root ^mount point              ^type         ^options
 *     folder      /sys/fs/cgroup/memory + (/user/job less the mount's root) = /sys/fs/cgroup/memory/job
 *
 * Tests  tests/os/test_cgroup.c */
#include "os/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define TEXT_STEP 2048u

/* True when `word` stands in the comma-separated `list`. */
static bool list_has(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (;;) {
        size_t item = strcspn(list, ",");
        if (item == length && strncmp(list, word, length) == 0)
            return true;
        if (!list[item])
            return false;
        list += item + 1;
    }
}

/* The whole of a small file, zero-terminated; NULL when it can't be read. */
static char *read_all(const char *root, const char *path)
{
    char full[PATH_MAX];
    const int length = snprintf(full, sizeof full, "%s%s", root, path);
    const int fd = length > 0 && (size_t)length < sizeof full ? open(full, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return NULL;
    char *text = NULL;
    size_t room = 0, used = 0;
    for (ssize_t got = 1; got != 0; used += got > 0 ? (size_t)got : 0) {
        if (room - used < TEXT_STEP) {
            char *larger = realloc(text, room += 2 * TEXT_STEP);
            if (larger == NULL)
                goto failed;
            text = larger;
        }
        got = read(fd, text + used, room - used - 1);
        if (got < 0 && errno != EINTR)
            goto failed;
    }
    close(fd);
    text[used] = '\0';
    return text;
failed:
    close(fd);
    free(text);
    return NULL;
}

void td_cgroup_read(td_cgroup_text *text, const char *root)
{
    *text = (td_cgroup_text){
        .root = root,
        .own = read_all(root, "/proc/self/cgroup"),
        .mounts = read_all(root, "/proc/self/mountinfo"),
    };
}

void td_cgroup_free(td_cgroup_text *text)
{
    free(text->own);
    free(text->mounts);
    text->own = text->mounts = NULL;
}

/* A copy of the line at *at, without its end, and *at moved to the next; NULL at the end, or without memory. */
static char *take_line(const char **at)
{
    const size_t length = strcspn(*at, "\n");
    if (**at == '\0')
        return NULL;
    char *line = strndup(*at, length);
    *at += length + ((*at)[length] == '\n');
    return line;
}

/* The path of our cgroup in one line of /proc/self/cgroup, or NULL when the line is another hierarchy's. */
static char *own_path(char *line, td_cgroup_version version, const char *controller)
{
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path)
        return NULL;
    *controllers++ = '\0';
    *path++ = '\0';
    bool wanted =
        version == TD_CGROUP_V2 ? strcmp(line, "0") == 0 && !*controllers : list_has(controllers, controller);
    return wanted ? path : NULL;
}

static bool find_own_path(const char *text, td_cgroup_version version, const char *controller, char *path)
{
    bool found = false;
    for (char *line; !found && (line = take_line(&text)) != NULL; free(line)) {
        const char *own = own_path(line, version, controller);
        found = own && strlen(own) < PATH_MAX;
        if (found)
            strcpy(path, own);
    }
    return found;
}

/* Spaces and the like are written as \040 in mountinfo. */
static void unescape(char *text)
{
    char *out = text;
    for (; *text; text++) {
        if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' && text[2] <= '7' &&
            text[3] >= '0' && text[3] <= '7') {
            *out++ = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
            text += 3;
        } else {
            *out++ = *text;
        }
    }
    *out = '\0';
}

typedef struct mount {
    char *root, *point, *type, *options;
} mount;

static bool parse_mount(char *line, mount *out)
{
    char *tail = strstr(line, " - ");
    if (!tail)
        return false;
    *tail = '\0';
    char *save = NULL;
    out->type = strtok_r(tail + 3, " ", &save);
    const char *source = strtok_r(NULL, " ", &save);
    out->options = strtok_r(NULL, " ", &save);
    char *field = strtok_r(line, " ", &save); /* mount id, parent id, device, root, mount point, ... */
    for (int i = 0; i < 3 && field; i++)
        field = strtok_r(NULL, " ", &save);
    out->root = field;
    out->point = field ? strtok_r(NULL, " ", &save) : NULL;
    if (!out->type || !source || !out->options || !out->point)
        return false;
    unescape(out->root);
    unescape(out->point);
    return true;
}

static bool is_hierarchy(const mount *m, td_cgroup_version version, const char *controller)
{
    if (version == TD_CGROUP_V2)
        return strcmp(m->type, "cgroup2") == 0;
    return strcmp(m->type, "cgroup") == 0 && list_has(m->options, controller);
}

/* The part of `path` below the mount's root; "" when it lies outside, where the mount point itself is all we see. */
static const char *below(const char *mount_root, const char *path)
{
    size_t length = strlen(mount_root);
    if (length > 0 && mount_root[length - 1] == '/')
        length--;
    if (strncmp(path, mount_root, length) != 0 || (path[length] != '/' && path[length] != '\0'))
        return "";
    const char *rest = path + length;
    return strncmp(rest, "/..", 3) == 0 || strcmp(rest, "/") == 0 ? "" : rest;
}

static bool compose(const char *root, const mount *m, const char *path, td_cgroup *cgroup)
{
    int top = snprintf(cgroup->folder, sizeof cgroup->folder, "%s%s", root, m->point);
    if (top <= 0 || (size_t)top >= sizeof cgroup->folder)
        return false;
    cgroup->top = (size_t)top;
    const char *rest = below(m->root, path);
    if (cgroup->top + strlen(rest) >= sizeof cgroup->folder)
        return false;
    strcpy(cgroup->folder + cgroup->top, rest);
    return true;
}

bool td_cgroup_find(const td_cgroup_text *text, td_cgroup_version version, const char *controller,
                    td_cgroup *cgroup)
{
    char path[PATH_MAX];
    const char *mounts = text->mounts;
    if (text->own == NULL || mounts == NULL || !find_own_path(text->own, version, controller, path))
        return false;
    bool found = false;
    for (char *line; !found && (line = take_line(&mounts)) != NULL; free(line)) {
        mount m;
        found = strstr(line, " - cgroup") != NULL && parse_mount(line, &m) &&
                is_hierarchy(&m, version, controller) && compose(text->root, &m, path, cgroup);
    }
    return found;
}

bool td_cgroup_up(td_cgroup *cgroup)
{
    size_t length = strlen(cgroup->folder);
    if (length <= cgroup->top)
        return false;
    char *slash = strrchr(cgroup->folder + cgroup->top, '/');
    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

int td_cgroup_open(const td_cgroup *cgroup, const char *file)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/%s", cgroup->folder, file);
    if (length <= 0 || (size_t)length >= sizeof path)
        return -1;
    return open(path, O_RDONLY | O_CLOEXEC);
}
