/* cache/checksum.c: CRC-32C (Castagnoli), by the processor's own instruction where it has one.
 *
 * The instruction takes eight bytes a cycle but gives its result only three cycles later, so that one chain of them
 * runs at a third of the speed. Long input is cut into stripes of three lanes whose chains run side by side:
 *
 *     |---- lane a ----|---- lane b ----|---- lane c ----|
 *
 * The lanes are joined by algebra. A checksum is a polynomial over GF(2), bit 31 its constant; n bytes more behind what
 * it is the checksum of multiply it by x^(8n) modulo the generator. So  crc(abc) = (a*x^(8n) + b)*x^(8n) + c.
 *
 * Elsewhere eight tables look up eight bytes at a time. They are made at the first use.
 * Tests  tests/cache/test_checksum.c */
#include "cache/checksum.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#if defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#define HWCAP_CRC32_ (1ul << 7)
#endif

#define POLYNOMIAL 0x82f63b78u /* bit-reflected */
#define LANE_BYTES 4096u

/* ---- Without the instruction --------------------------------------------------------------------------- */

static uint32_t tables[8][256];

static void make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
        tables[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int i = 1; i < 8; i++)
            tables[i][byte] = (tables[i - 1][byte] >> 8) ^ tables[0][tables[i - 1][byte] & 0xff];
}

static uint32_t with_tables(uint32_t crc, const uint8_t *at, size_t bytes)
{
    for (; bytes >= 8; at += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        word ^= crc;
        crc = 0;
        for (int i = 0; i < 8; i++)
            crc ^= tables[7 - i][(word >> (8 * i)) & 0xff];
    }
    while (bytes-- > 0)
        crc = (crc >> 8) ^ tables[0][(crc ^ *at++) & 0xff];
    return crc;
}

uint32_t td__checksum_portable(uint32_t crc, const void *data, size_t bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_tables);
    return ~with_tables(~crc, data, bytes);
}

/* ---- With it ------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define ACCELERATED __attribute__((target("sse4.2")))
#define STEP8(crc, word) __builtin_ia32_crc32di((crc), (word))
#define STEP1(crc, byte) __builtin_ia32_crc32qi((uint32_t)(crc), (byte))
#elif defined(__aarch64__)
#define ACCELERATED __attribute__((target("+crc")))
#define STEP8(crc, word) __crc32cd((uint32_t)(crc), (word))
#define STEP1(crc, byte) __crc32cb((uint32_t)(crc), (byte))
#endif

static bool is_accelerated(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("sse4.2");
#else
    return (getauxval(AT_HWCAP) & HWCAP_CRC32_) != 0;
#endif
}

static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (int i = 0; i < 32; i++) {
        product ^= b & (0u - (a >> 31));
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & (0u - (b & 1)));
    }
    return product;
}

static uint32_t lane_shift; /* x^(8*LANE_BYTES), modulo the generator */

static void make_lane_shift(void)
{
    uint32_t shift = 0x40000000u; /* x */
    for (uint32_t power = 1; power < 8 * LANE_BYTES; power *= 2)
        shift = multiply(shift, shift);
    lane_shift = shift;
}

static uint64_t load(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

ACCELERATED static uint32_t stripe(uint32_t crc, const uint8_t *at)
{
    uint64_t a = crc, b = 0, c = 0;
    for (const uint8_t *end = at + LANE_BYTES; at < end; at += 8) {
        a = STEP8(a, load(at));
        b = STEP8(b, load(at + LANE_BYTES));
        c = STEP8(c, load(at + 2 * (size_t)LANE_BYTES));
    }
    return multiply(multiply((uint32_t)a, lane_shift) ^ (uint32_t)b, lane_shift) ^ (uint32_t)c;
}

ACCELERATED static uint32_t accelerated(uint32_t crc, const uint8_t *at, size_t bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (bytes >= 3 * (size_t)LANE_BYTES)
        pthread_once(&once, make_lane_shift);
    for (; bytes >= 3 * (size_t)LANE_BYTES; at += 3 * (size_t)LANE_BYTES, bytes -= 3 * (size_t)LANE_BYTES)
        crc = stripe(crc, at);
    uint64_t rest = crc;
    for (; bytes >= 8; at += 8, bytes -= 8)
        rest = STEP8(rest, load(at));
    while (bytes-- > 0)
        rest = STEP1(rest, *at++);
    return (uint32_t)rest;
}

uint32_t td_checksum(uint32_t crc, const void *data, size_t bytes)
{
    return is_accelerated() ? ~accelerated(~crc, data, bytes) : td__checksum_portable(crc, data, bytes);
}
