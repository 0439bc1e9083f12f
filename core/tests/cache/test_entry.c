/* tests/cache/test_entry.c: the format: what is encoded is measured and placed as it was, and nothing else is taken. */
#include "cache/entry.h"
#include "tests/harness.h"

static const struct td_key key = {.length = 5, .bytes = "abcde"};

struct encoded {
    void *head;
    uint64_t bytes, head_bytes;
};

static struct encoded encode(const struct td_part *parts, uint32_t count)
{
    struct encoded made = {0};
    REQUIRE_OK(td__entry_encode(&key, "kind", 7, parts, count, &made.head, &made.bytes));
    REQUIRE_OK(td__entry_measure(made.head, made.bytes, &key, &made.head_bytes));
    REQUIRE_OK(td__entry_check_head(made.head, made.head_bytes));
    return made;
}

TD_TEST(parts_are_aligned_and_as_long_as_they_were)
{
    const struct td_part parts[] = {{"x", 1}, {"", 0}, {"0123456789", 10}, {"", 0}};
    struct encoded made = encode(parts, 4);
    uint64_t offset = made.head_bytes;
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t bytes, covered;
        td__entry_place(made.head, i, offset, &bytes, &covered);
        CHECK_EQ(offset % TD_ENTRY_ALIGN, 0u);
        CHECK_EQ(bytes, parts[i].bytes);
        offset += covered;
    }
    CHECK_EQ(offset, made.bytes);
    free(made.head);
}

TD_TEST(an_entry_without_parts_is_its_head)
{
    struct encoded made = encode(NULL, 0);
    CHECK_EQ(made.bytes, made.head_bytes);
    free(made.head);
}

TD_TEST(what_cannot_be_an_entry_is_not_encoded)
{
    void *head;
    uint64_t bytes;
    struct td_key none = {0}, long_one = {.length = TD_KEY_BYTES + 1};
    const struct td_part huge[] = {{"", UINT64_C(1) << 62}, {"", UINT64_C(1) << 62}};
    CHECK_STATUS(td__entry_encode(&none, "", 0, NULL, 0, &head, &bytes), TD_EINVAL);
    CHECK_STATUS(td__entry_encode(&long_one, "", 0, NULL, 0, &head, &bytes), TD_EINVAL);
    CHECK_STATUS(td__entry_encode(&key, "", 0, huge, 2, &head, &bytes), TD_EINVAL);
    CHECK_STATUS(td__entry_encode(&key, "", 0, NULL, TD_ENTRY_MOST_PARTS + 1, &head, &bytes), TD_EINVAL);
}

TD_TEST(every_flipped_bit_of_a_head_is_found)
{
    const struct td_part parts[] = {{"x", 1}, {"0123456789", 10}};
    struct encoded made = encode(parts, 2);
    uint8_t *bytes = made.head;
    for (uint64_t bit = 0; bit < 8 * made.head_bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        uint64_t head_bytes;
        td_status status = td__entry_measure(bytes, made.bytes, &key, &head_bytes);
        if (status == TD_OK && head_bytes <= made.head_bytes)
            status = td__entry_check_head(bytes, head_bytes);
        CHECK(status == TD_ECORRUPT || head_bytes > made.head_bytes);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    free(made.head);
}

TD_TEST(another_length_or_another_key_is_refused)
{
    const struct td_part part = {"0123456789", 10};
    struct encoded made = encode(&part, 1);
    const struct td_key other = {.length = 5, .bytes = "abcdf"}, shorter = {.length = 4, .bytes = "abcd"};
    uint64_t head_bytes;
    CHECK_STATUS(td__entry_measure(made.head, made.bytes - 1, &key, &head_bytes), TD_ECORRUPT);
    CHECK_STATUS(td__entry_measure(made.head, made.bytes + 1, &key, &head_bytes), TD_ECORRUPT);
    CHECK_STATUS(td__entry_measure(made.head, made.bytes, &other, &head_bytes), TD_ECORRUPT);
    CHECK_STATUS(td__entry_measure(made.head, made.bytes, &shorter, &head_bytes), TD_ECORRUPT);
    CHECK_OK(td__entry_measure(made.head, made.bytes, NULL, &head_bytes));
    free(made.head);
}

TD_TEST_MAIN
