/* named/named.h: shared memory with a name: a file in /dev/shm that several processes map, as shm_open(3) makes it.
 *
 * The file is the data, without a header, so that any process which knows shm_open can use it. A tracked segment
 * carries TD_NAMED_MARK in its mode and is owned by use: whoever maps it holds a shared flock on it, and whoever finds
 * that nobody does removes it (claim.c has the rules, guard.h what happens after kill -9). */
#ifndef TD_NAMED_NAMED_H
#define TD_NAMED_NAMED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A mapping of a segment, and what remains to be known of it afterwards. Of one owner; but td_named_unlink may run
 * beside anything. */
typedef struct td_named td_named;

/* Makes a segment of exactly `bytes`, all of them allocated, zeroed and mapped, and starts the guardian where none is
 * on duty. A segment that is not tracked stays until it is unlinked. A tracked one of the same name that a dead process
 * left is removed first. `name` may begin with slashes, as shm_open's.
 *   TD_EOS    errno: EEXIST, ENAMETOOLONG, EINVAL (the name, or 0 bytes), ENOSPC, ENOMEM (no such room in the cgroup or
 *             the machine, or no address space), EFBIG, EMFILE, ENOENT, EACCES, EROFS
 *   TD_EINTR  a signal arrived; nothing was made
 *   TD_ENOMEM */
td_status td_named_create(const char *name, uint64_t bytes, bool tracked, td_named **out);

/* Maps the segment of that name, whoever made it, and holds it.
 *   TD_EOS    errno: ENOENT, EACCES, ...
 *   TD_EINVAL the file is empty, as somebody truncated it
 *   TD_EINTR, TD_ENOMEM */
td_status td_named_attach(const char *name, td_named **out);

/* NULL when detached. Bytes and name are known as long as the handle is. */
void *td_named_data(const td_named *named);
uint64_t td_named_bytes(const td_named *named);

/* Unmaps; removes a tracked segment that nobody holds any more. Once: the second call does nothing. */
void td_named_detach(td_named *named);

/* Removes the name at once, whoever holds the segment; mappings stay good. `name` is the segment's unless the caller
 * thinks otherwise. A segment that came under the name since is left alone.
 *   TD_OK     also when the segment went by itself since it was detached
 *   TD_EOS    errno: ENOENT (somebody unlinked it before), EACCES, ... */
td_status td_named_unlink(td_named *named, const char *name);

/* Detaches. */
void td_named_free(td_named *named);

/* One of this user's tracked segments. */
struct td_named_info {
    const char *name;
    uint64_t bytes;
    bool held;    /* by a living process */
    bool removed; /* nobody held it, and this call removed it */
};

/* Tells of each tracked segment of this user; with `clean` it removes those that nobody holds. TD_EOS (errno). */
td_status td_named_sweep(bool clean, void (*tell)(void *ctx, const struct td_named_info *info), void *ctx);

/* ---- The guardian, which removes what killed processes leave ---- */

/* The guardian's program, copied; without one there is no guardian, and sweeps are all there is. */
void td_named_set_guardian(const char *program);

/* Why no guardian could be started, as errno; 0 when one was on duty at the last look. */
int td_named_guardian_problem(void);

/* Is one on duty for this user? */
bool td_named_guardian_on_duty(void);

/* The guardian itself: the whole of its program. The exit status. */
int td_guardian_main(void);

#endif
