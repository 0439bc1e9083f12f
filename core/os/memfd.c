/* os/memfd.c: shared memory without a name.
 * Invariants  I1 a sealed file never changes its size, so a page that was committed stays readable in every process
 *                that maps it. The fallback files can't be sealed; only our own processes hold them.
 *             I2 nothing here leaves a name in a file system: the fallback opens with O_TMPFILE, or unlinks at once.
 * Crash       the kernel frees the file with its last descriptor and mapping.
 * Tests       tests/os/test_memfd.c */
#include "os/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/option.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

/* fallocate(2) on tmpfs gives up, and undoes its work, when any signal is pending. Small steps make sure that a process
 * with an interval timer gets through. */
#define COMMIT_STEP_BYTES (UINT64_C(4) << 20)

/* MFD_NOEXEC_SEAL (Linux 6.3) is required where vm.memfd_noexec is 2; older kernels refuse the flag. */
static int create_memfd(const char *name)
{
    if (td_option_bool(TD_OPT_NO_MEMFD)) {
        errno = ENOSYS;
        return -1;
    }
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd;
}

static int create_unlinked(const char *folder)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL))
        return fd;
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/treadle-XXXXXX", folder);
    if (length < 0 || (size_t)length >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* Only a refusal moves on to the next kind: a full descriptor table would refuse them all. */
static int create_any(const char *name, td_memfd_kind *kind)
{
    int fd = create_memfd(name);
    *kind = TD_MEMFD_SEALED;
    if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES)) {
        fd = create_unlinked("/dev/shm");
        *kind = TD_MEMFD_SHM;
        if (fd < 0 && errno != EMFILE && errno != ENFILE) {
            const char *folder = getenv("TMPDIR");
            fd = create_unlinked(folder && *folder ? folder : "/tmp");
            *kind = TD_MEMFD_TMP;
        }
    }
    return fd;
}

/* Beyond RLIMIT_FSIZE the kernel also sends SIGXFSZ, so that limit is looked at first. */
static td_status set_size(int fd, uint64_t bytes)
{
    struct rlimit limit;
    if (bytes > INT64_MAX || (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes)) {
        errno = EFBIG;
        return TD_ENOROOM;
    }
    while (ftruncate(fd, (off_t)bytes) < 0) {
        if (errno == EFBIG || errno == EINVAL)
            return TD_ENOROOM;
        if (errno != EINTR)
            return td_status_from_errno(errno);
    }
    return TD_OK;
}

td_status td_memfd_new(const char *name, uint64_t bytes, int *fd, td_memfd_kind *kind)
{
    td_memfd_kind made;
    int file = create_any(name, &made);
    if (file < 0)
        return td_status_from_errno(errno);
    td_status status = set_size(file, bytes);
    if (status == TD_OK && made == TD_MEMFD_SEALED &&
        fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        status = td_status_from_errno(errno);
    if (status != TD_OK) {
        int saved = errno;
        close(file);
        errno = saved;
        return status;
    }
    *fd = file;
    *kind = made;
    return TD_OK;
}

const char *td_memfd_kind_text(td_memfd_kind kind)
{
    switch (kind) {
    case TD_MEMFD_SEALED:
        return "memfd";
    case TD_MEMFD_SHM:
        return "/dev/shm";
    case TD_MEMFD_TMP:
        return "temporary folder";
    }
    return "unknown";
}

td_status td_memfd_commit(int fd, uint64_t offset, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t step = bytes < COMMIT_STEP_BYTES ? bytes : COMMIT_STEP_BYTES;
        if (fallocate(fd, 0, (off_t)offset, (off_t)step) == 0) {
            offset += step;
            bytes -= step;
        } else if (errno != EINTR) {
            return td_status_from_errno(errno);
        }
    }
    return TD_OK;
}

td_status td_memfd_release(int fd, uint64_t offset, uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t first = (offset + page - 1) / page * page;
    uint64_t end = (offset + bytes) / page * page;
    if (first >= end)
        return TD_OK;
    while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first, (off_t)(end - first)) < 0)
        if (errno != EINTR)
            return td_status_from_errno(errno);
    return TD_OK;
}

td_status td_memfd_size(int fd, uint64_t *bytes)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return td_status_from_errno(errno);
    *bytes = (uint64_t)file.st_size;
    return TD_OK;
}

td_status td_memfd_resident(int fd, uint64_t *bytes)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return td_status_from_errno(errno);
    *bytes = (uint64_t)file.st_blocks * 512; /* stat(2) counts in 512 bytes whatever the block size */
    return TD_OK;
}

td_status td_map_shared(int fd, size_t bytes, bool writable, void **base)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *mapped = mmap(NULL, bytes, protection, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (mapped == MAP_FAILED)
        return errno == ENOMEM ? TD_ENOROOM : td_status_from_errno(errno);
    /* A core dump would walk the holes of a range of a terabyte, and into a pipe write them out as zeros. */
    madvise(mapped, bytes, MADV_DONTDUMP);
    *base = mapped;
    return TD_OK;
}

td_status td_map_private(int fd, uint64_t offset, size_t bytes, void **base)
{
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, (off_t)offset);
    if (mapped == MAP_FAILED)
        return td_status_from_errno(errno);
    *base = mapped;
    return TD_OK;
}

void td_unmap(void *base, size_t bytes)
{
    munmap(base, bytes);
}

td_status td_map_copy(int fd, uint64_t offset, size_t bytes, void **copy)
{
    unsigned char *mapped =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return TD_ENOMEM;
    for (size_t done = 0; done < bytes;) {
        const ssize_t got = pread(fd, mapped + done, bytes - done, (off_t)(offset + done));
        if (got == 0 || (got < 0 && errno != EINTR)) {
            const td_status status = td_status_from_errno(got < 0 ? errno : EIO);
            munmap(mapped, bytes);
            return status;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    *copy = mapped;
    return TD_OK;
}

td_status td_map_move(void *copy, void *to, size_t bytes)
{
    return mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ? TD_ENOMEM : TD_OK;
}

td_status td_map_detach(int fd, uint64_t offset, void *at, size_t bytes)
{
    void *mapped =
        mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset);
    return mapped == MAP_FAILED ? TD_ENOMEM : TD_OK;
}
