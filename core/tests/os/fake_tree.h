/* tests/os/fake_tree.h: a made-up machine: files below a temporary folder, which is used as `root` and removed
 * after. */
#ifndef TD_TESTS_OS_FAKE_TREE_H
#define TD_TESTS_OS_FAKE_TREE_H

#include <ftw.h>
#include <limits.h>

#include "tests/harness.h"

static char fake_root[64];

TEST_UNUSED static void fake_begin(void)
{
    strcpy(fake_root, "/tmp/treadle-test-XXXXXX");
    REQUIRE(mkdtemp(fake_root) != NULL);
}

static int fake_remove(const char *path, const struct stat *file, int type, struct FTW *position)
{
    (void)file, (void)type, (void)position;
    return remove(path);
}

TEST_UNUSED static void fake_end(void)
{
    CHECK_EQ(nftw(fake_root, fake_remove, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* Writes a file with the folders above it. */
TEST_UNUSED static void fake_file(const char *path, const char *text)
{
    char full[PATH_MAX];
    snprintf(full, sizeof full, "%s%s", fake_root, path);
    for (char *slash = strchr(full + strlen(fake_root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "we");
    REQUIRE(file != NULL);
    fputs(text, file);
    fclose(file);
}

#endif
