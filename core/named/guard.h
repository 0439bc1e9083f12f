/* named/guard.h: the guardian, a process for each user that removes what killed processes leave.
 *
 * It needs no list: a tracked segment shows by its mark. It is on duty from when it has made its office file,
 * TD_NAMED_FOLDER/treadle-UID, until some time after it has unlinked that, and looks through the folder at the very
 * end. So who makes a segment first and looks for the file then either finds none, and starts a guardian, or can rely
 * on it. */
#ifndef TD_NAMED_GUARD_H
#define TD_NAMED_GUARD_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "named/claim.h"

/* How long a look at the office file is good for. */
#define TD_GUARD_LEASE_NS (100 * TD_NS_PER_MS)

/* Sees to it that a guardian is on duty: after a tracked segment was made or attached. Fails silently, but for
 * td_named_guardian_problem. */
void td__guard_call(void);

/* In the child, from its fork handler. */
void td__guard_after_fork(void);

/* Waits until the guardian, too, has let go of a segment that was just removed: its memory is free then. */
void td__guard_wait(ino_t inode);

/* A range of the office file that is locked for a purpose: TD_GUARD_DUTY, or the ward of an inode. */
#define TD_GUARD_DUTY 0
struct flock td__guard_range(short type, ino_t purpose);

/* The path of the office file. */
void td__guard_path(char path[TD_NAMED_PATH_BYTES]);

/* The office file: a regular file of this user's, which nobody else can open. */
bool td__guard_is_office(const struct stat *file);

/* One look at the folder: tells of each tracked segment of this user, by name. -1 (errno), or 0. */
int td__guard_look(void (*tell)(void *ctx, const char *name, const struct stat *file), void *ctx);

#endif
