/* tests/cache/test_checksum.c: the checksum is CRC-32C, by whatever way it is computed. */
#include "cache/checksum.h"
#include "tests/harness.h"

static uint32_t bit_by_bit(const uint8_t *data, size_t bytes)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

TD_TEST(it_is_the_published_one)
{
    const uint8_t zeros[32] = {0};
    CHECK_EQ(td_checksum(0, "123456789", 9), 0xe3069283u);
    CHECK_EQ(td_checksum(0, zeros, sizeof zeros), 0x8a9136aau);
    CHECK_EQ(td__checksum_portable(0, "123456789", 9), 0xe3069283u);
    CHECK_EQ(td_checksum(0, NULL, 0), 0u);
}

TD_TEST(every_way_of_any_length_gives_the_same)
{
    enum { MOST = 40000 };
    static uint8_t data[MOST + 8];
    uint64_t seed = test_seed;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)test_random(&seed);
    const uint64_t rounds = test_rounds(300);
    for (uint64_t i = 0; i < rounds; i++) {
        const size_t bytes = test_random_below(&seed, i % 2 ? 100 : MOST), from = test_random_below(&seed, 8);
        const uint32_t expected = bit_by_bit(data + from, bytes);
        CHECK_EQ(td_checksum(0, data + from, bytes), expected);
        CHECK_EQ(td__checksum_portable(0, data + from, bytes), expected);
        const size_t cut = test_random_below(&seed, bytes + 1);
        CHECK_EQ(td_checksum(td_checksum(0, data + from, cut), data + from + cut, bytes - cut), expected);
    }
}

TD_TEST_MAIN
