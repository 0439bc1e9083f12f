/* os/memfd.h: shared memory without a name: a sealed memfd, its pages and its mappings. */
#ifndef TD_OS_MEMFD_H
#define TD_OS_MEMFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum td_memfd_kind {
    TD_MEMFD_SEALED, /* memfd_create, size sealed */
    TD_MEMFD_SHM, /* memfd_create is refused: an unlinked file in /dev/shm, which has a size limit of its own */
    TD_MEMFD_TMP, /* no usable /dev/shm either: an unlinked file in $TMPDIR or /tmp, perhaps on a disk */
} td_memfd_kind;

/* A sparse file of `bytes` that nobody else can open: no page is allocated yet, and in the sealed kind nobody can
 * change its size. `name` shows in /proc/PID/maps. Close-on-exec.
 *   TD_ENOROOM  the size is over RLIMIT_FSIZE or what the file system takes: ask for less
 *   TD_ENOFD, TD_ENOMEM, TD_EOS (errno) */
td_status td_memfd_new(const char *name, uint64_t bytes, int *fd, td_memfd_kind *kind);

/* "memfd", "/dev/shm", "temporary folder". */
const char *td_memfd_kind_text(td_memfd_kind kind);

/* Allocates the pages of [offset, offset+bytes), so that touching them can't raise SIGBUS; pages already there keep
 * their content. TD_ENOROOM when there is no space; what was allocated until then stays. */
td_status td_memfd_commit(int fd, uint64_t offset, uint64_t bytes);

/* Gives the whole pages inside [offset, offset+bytes) back to the kernel; they read as zero until committed again. */
td_status td_memfd_release(int fd, uint64_t offset, uint64_t bytes);

/* The file's size, holes included. */
td_status td_memfd_size(int fd, uint64_t *bytes);

/* Bytes of pages that the file holds now. */
td_status td_memfd_resident(int fd, uint64_t *bytes);

/* Maps the file from its start, shared, without reserving memory, and left out of core dumps. TD_ENOROOM when the
 * address space (RLIMIT_AS) is too small. `writable` false maps read-only. */
td_status td_map_shared(int fd, size_t bytes, bool writable, void **base);
void td_unmap(void *base, size_t bytes);

/* Maps a part of the file so that what is written there nobody else sees; a page costs memory of its own once it was
 * written to, and until then shows what the file has. `offset` is a multiple of the page size. TD_ENOMEM, TD_EOS. */
td_status td_map_private(int fd, uint64_t offset, size_t bytes, void **base);
/* Private memory with the content of the file's pages at `offset`; td_unmap ends it. TD_ENOMEM, TD_EOS (errno). */
td_status td_map_copy(int fd, uint64_t offset, size_t bytes, void **copy);
/* Puts such a copy in the place of the pages at `to`. TD_ENOMEM: both are as they were. */
td_status td_map_move(void *copy, void *to, size_t bytes);
/* From now on what is written to the pages at `at`, which show the file from `offset` on, stays this process's own.
 * What others write to the file may show until then. TD_ENOMEM. */
td_status td_map_detach(int fd, uint64_t offset, void *at, size_t bytes);

#endif
