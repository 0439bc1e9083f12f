/* named/claim.h: who may remove a segment: names, marks and locks. */
#ifndef TD_NAMED_CLAIM_H
#define TD_NAMED_CLAIM_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/status.h"

#define TD_NAMED_FOLDER "/dev/shm"
#define TD_NAMED_MARK S_ISVTX       /* of a tracked segment: Linux gives the bit no meaning on a file */
#define TD_NAMED_UNFINISHED S_IXUSR /* of one that takes more than a moment to make, until it is made */
#define TD_NAMED_PATH_BYTES (sizeof TD_NAMED_FOLDER + 1 + 255)

/* The path of a name, by shm_open's rules. TD_EOS: errno is EINVAL or ENAMETOOLONG. */
td_status td__named_path(const char *name, char path[TD_NAMED_PATH_BYTES]);

/* A tracked segment, whoever's. */
bool td__named_is_tracked(const struct stat *file);

/* One that nobody has been given yet; or that somebody truncated. */
bool td__named_is_unfinished(const struct stat *file);

/* What tells files apart. */
struct td_file_id {
    dev_t device;
    ino_t inode;
};

bool td__named_is(const struct stat *file, const struct td_file_id *id);
bool td__named_is_same(const struct stat *file, const struct stat *other);

/* Opens a file of the folder for reading and writing, never through a link. The descriptor, or -1 (errno). */
int td__named_open(const char *path);

/* Takes a shared lock and tells what the file is under it. Waits for a removal, or for the allocation of a segment that
 * is being made. TD_EINTR; TD_EOS (errno). */
td_status td__named_hold(int fd, struct stat *file);

enum td_claim {
    TD_CLAIM_HELD,    /* somebody holds it: its removal is theirs */
    TD_CLAIM_REMOVED, /* by this call or beside it */
    TD_CLAIM_KEPT,    /* not tracked, or under another name by now */
    TD_CLAIM_ANOTHER, /* not the file that was expected: left alone */
    TD_CLAIM_INTERRUPTED,
};

/* Removes the open file if it is tracked and nobody holds it; ends the lock that the descriptor has, if any. `expected`
 * (or NULL) was under that path, and held by the caller, when the file was opened. */
enum td_claim td__named_claim(int fd, const char *path, const struct td_file_id *expected);

/* The same for one whose exclusive lock the descriptor has, and keeps. */
enum td_claim td__named_remove_locked(int fd, const char *path, const struct td_file_id *expected);

/* The same for one of whose file the caller had no lock: it waits for nobody. */
enum td_claim td__named_try_claim(int fd, const char *path);

/* Does anybody hold the open file, of which this descriptor has no lock? Leaves it as it is. */
bool td__named_is_held(int fd);

/* td__named_claim, however often it is interrupted, and closes. Leaves errno alone. */
enum td_claim td__named_let_go(int fd, const char *path, const struct td_file_id *expected);

#endif
