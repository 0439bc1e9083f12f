/* fuzz/memory/fuzz_arena.c: an arena whose owner writes nonsense, as its peer sees it: attach, peek, give. */
#include "fuzz/harness.h"
#include "memory/arena.h"
#include "os/memfd.h"

#define ARENA_BYTES (UINT64_C(2) << 20)
#define HEADER_BYTES 64
#define WRITTEN_BYTES 4096

static int arena_fd = -1;
static uint8_t *pages;
static uint8_t header[HEADER_BYTES];

static void prepare(void)
{
    void *base;
    uint64_t actual;
    FUZZ_CHECK(td_arena_create("fuzz", ARENA_BYTES, &arena_fd, &actual) == TD_OK && actual == ARENA_BYTES);
    FUZZ_CHECK(td_memfd_commit(arena_fd, 0, ARENA_BYTES) == TD_OK);
    FUZZ_CHECK(td_map_shared(arena_fd, ARENA_BYTES, true, &base) == TD_OK);
    pages = base;
    memcpy(header, pages, sizeof header);
}

/* The block's bytes are all there, whatever its header says. */
static void look_at(td_arena *arena, uint64_t ref, uint64_t bytes)
{
    void *data;
    if (td_arena_peek(arena, ref, bytes, &data) == TD_OK && bytes > 0) {
        volatile const uint8_t *block = data;
        (void)block[0];
        (void)block[bytes - 1];
    }
    if (td_block_give(arena, ref) == TD_OK)
        FUZZ_CHECK(td_block_give(arena, ref) == TD_EPROTO);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (arena_fd < 0)
        prepare();
    fuzz_input input = {data, bytes};
    const uint8_t flags = fuzz_byte(&input);
    uint64_t refs[8];
    for (size_t i = 0; i < 8; i++)
        refs[i] = fuzz_u64(&input);
    fuzz_take(&input, pages, WRITTEN_BYTES);
    if ((flags & 1) == 0) /* half of the inputs get past attach */
        memcpy(pages, header, sizeof header);

    td_arena *arena;
    if (td_arena_attach(arena_fd, ARENA_BYTES, &arena) != TD_OK)
        return 0;
    for (size_t i = 0; i < 8; i += 2) {
        look_at(arena, refs[i], refs[i + 1]);
        /* A ref that points at what was written, so that its block header can be right. */
        look_at(arena, (refs[i] & ~UINT64_C(0xffffffffff)) | (refs[i] & 0xfc0), refs[i + 1] & 0xffff);
    }
    td_arena_unref(arena);
    return 0;
}
