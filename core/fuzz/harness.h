/* fuzz/harness.h: what the libFuzzer targets share: an input read piece by piece, and a check that ends the run.
 *
 * A target is one file, core/fuzz/<room>/fuzz_<subject>.c, that decodes bytes which another process, or the machine,
 * could have written. It may refuse them; it may not read or write outside of what they are in, leak, or accept what
 * its interface says it refuses. */
#ifndef TD_FUZZ_HARNESS_H
#define TD_FUZZ_HARNESS_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

typedef struct fuzz_input {
    const uint8_t *at;
    size_t left;
} fuzz_input;

/* The next `bytes` bytes of the input, zeros where it has ended. */
static inline void fuzz_take(fuzz_input *input, void *out, size_t bytes)
{
    const size_t taken = bytes < input->left ? bytes : input->left;
    memset(out, 0, bytes);
    if (taken > 0)
        memcpy(out, input->at, taken);
    input->at += taken;
    input->left -= taken;
}

static inline uint64_t fuzz_u64(fuzz_input *input)
{
    uint64_t value;
    fuzz_take(input, &value, sizeof value);
    return value;
}

static inline uint8_t fuzz_byte(fuzz_input *input)
{
    uint8_t value;
    fuzz_take(input, &value, sizeof value);
    return value;
}

/* libFuzzer keeps the input of a run that aborts. */
#define FUZZ_CHECK(cond) ((cond) ? (void)0 : abort())

/* The lowest free descriptor: the same before and after a call that leaks none. */
static inline int fuzz_lowest_fd(void)
{
    const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    FUZZ_CHECK(fd >= 0);
    close(fd);
    return fd;
}

#endif
