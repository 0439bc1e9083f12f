/* fuzz/cache/fuzz_entry.c: a file under an entry's name that holds anything, as td_store_get reads it; half of the
 * inputs have right checksums, so that what is behind them is reached. */
#include "cache/checksum.h"
#include "cache/entry.h"
#include "cache/folder.h"
#include "cache/store.h"
#include "fuzz/harness.h"

#define MOST_BYTES ((size_t)100 << 10)

static td_store *store;
static const struct td_key key = {.length = 4, .bytes = "fuzz"};
static char name[TD_NAME_BYTES];

static void prepare(void)
{
    char path[] = "/tmp/treadle-fuzz-XXXXXX";
    const struct td_store_options options = {0};
    td__entry_name(&key, name);
    FUZZ_CHECK(mkdtemp(path) != NULL && td_store_open(path, &options, &store) == TD_OK);
    FUZZ_CHECK(td_store_put(store, &key, "", NULL, 0, NULL) == TD_OK);
}

/* Makes the head what the reader looks for, as far as it can be, and its checksums right. */
static void mend(uint8_t *file, size_t bytes)
{
    static const uint8_t magic[8] = {0x89, 'T', 'D', 'L', '\r', '\n', 0x1a, '\n'};
    struct td_entry_header header;
    if (bytes < sizeof header)
        return;
    memcpy(&header, file, sizeof header);
    memcpy(header.magic, magic, sizeof magic);
    header.version = 1;
    header.bytes = bytes;
    header.parts %= 64;
    header.key_bytes = key.length;
    memcpy(header.key, key.bytes, sizeof header.key);
    header.checksum = 0;
    memcpy(file, &header, sizeof header);
    const uint64_t head = td_entry_head_bytes(header.parts);
    if (head > bytes)
        return;
    header.checksum = td_checksum(0, file, head);
    memcpy(file, &header, sizeof header);
}

static void write_file(const uint8_t *bytes, size_t count)
{
    const int fd = openat(store->folder->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
    close(fd);
}

/* Every byte that it is said to have is there. */
static void look_at(const td_entry *entry)
{
    for (uint32_t i = 0; i < td_entry_count(entry); i++) {
        uint64_t bytes;
        volatile const uint8_t *part = td_entry_part(entry, i, &bytes);
        FUZZ_CHECK((uintptr_t)part % TD_ENTRY_ALIGN == 0 && bytes <= td_entry_bytes(entry));
        if (bytes > 0) {
            (void)part[0];
            (void)part[bytes - 1];
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static uint8_t file[MOST_BYTES];
    if (store == NULL)
        prepare();
    fuzz_input input = {data, bytes};
    const uint8_t flags = fuzz_byte(&input);
    const size_t large = (flags & 2) != 0 ? MOST_BYTES : 4096, given = input.left < large ? input.left : large;
    const size_t count = (flags & 4) != 0 ? large : given; /* zeros behind what is given */
    fuzz_take(&input, file, count);
    if ((flags & 1) != 0)
        mend(file, count);
    write_file(file, count);
    td_entry *entry = NULL;
    const td_status status = td_store_get(store, &key, (enum td_access)(flags >> 3) % 4, &entry);
    FUZZ_CHECK(status == TD_OK || status == TD_ECORRUPT);
    FUZZ_CHECK(status != TD_OK || entry != NULL);
    if (status == TD_OK)
        look_at(entry);
    td_entry_free(entry);
    return 0;
}
