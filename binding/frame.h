/* frame.h: the layout of payloads, and the checked reading of it. Free of Python, so that it can be fuzzed alone.
 *
 * A payload opens with one tag byte.
 *   compact value   TAG data...            None, bool, int, float, str, bytes, NumPy's scalars, arrays of shared
 *                                          memory, tuples of those
 *   call            'C' nargs nkw values   nargs positional values, then nkw pairs of name (a str) and value
 *   pickle          'p' bytes              protocol 5, to the end of the payload
 *   pickle          'P' see tb_pickle      protocol 5 with buffers behind it; or in the pickle's place a compact value
 *                                          (an array, or a tuple) or a call, whose plain arrays are among the buffers
 *   error           'X' bytes              treadle._remote's, to the end of the payload
 *   memory error    'M' text               an error that must fit anywhere: UTF-8, to the end of the payload
 *
 * 'P':   0 tag, 3 zero bytes | 4 u32 nbuffers | 8 u64 pickle_len | 16 nbuffers x tb_span_entry | pickle | buffers
 *        A buffer starts at a multiple of 64 from the payload's start; so does such a payload in whatever holds it. Or
 *        it lies in a block of its own that came along: one of the parcels of the result that the payload is part of.
 *
 * A chunk's arguments: u32 items, then a byte that says how they are laid out:
 *   narrow, wide    items+1 offsets (u32, u64) of the calls, from the start of the chunk
 *   dense           every call has the same few compact arguments: the byte after says how many. Offsets (u64) of
 *                   each TB_STRIDE-th item and of the end, then the values of all items, one after the other
 *   range           the one argument of item i is the int start + i*step (two i64)
 * A chunk's results: one after the other, each a compact value, or a record: 'R', a word {len:48, skip:8, kind:8},
 * skip bytes of padding, len bytes of payload.
 *
 * Every reader trusts nothing: a length is compared with what is left before it is used. Numbers are little-endian
 * as both targets are. Tests  tests/unit/test_codec.py, binding/fuzz/fuzz_frame.c */
#ifndef TB_FRAME_H
#define TB_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "treadle.h"

enum tb_tag {
    TB_NONE = 'N',
    TB_TRUE = 'T',
    TB_FALSE = 'F',
    TB_INT = 'i',    /* zigzag varint of 64 bits */
    TB_INT4 = 'I',   /* 4 bytes */
    TB_FLOAT = 'd',  /* 8 bytes */
    TB_SCALAR = 'n', /* a NumPy scalar: its type's character, its bytes */
    TB_BYTES = 'b',  /* varint length, bytes */
    TB_TEXT1 = 's',  /* varint characters of 1 byte (Latin-1) */
    TB_TEXT2 = 't',  /* of 2 bytes */
    TB_TEXT4 = 'u',  /* of 4 bytes */
    TB_ARRAY = 'A',  /* an array of shared memory, see below */
    TB_VECTOR = 'V', /* an array that is one of the buffers, see below */
    TB_TUPLE = '(',  /* one byte: how many values follow */
    TB_SMALL = 0x80, /* 0x80 | n: the int n, 0..127 */
    TB_CALL = 'C',
    TB_PICKLE = 'p',
    TB_PICKLE_OOB = 'P',
    TB_ERROR = 'X',
    TB_NO_MEMORY = 'M',
    TB_RECORD = 'R', /* among a chunk's results only */
};

#define TB_MAX_DEPTH 4   /* of nested tuples */
#define TB_MAX_TUPLE 255 /* values in one */
#define TB_ALIGN 64u     /* of buffers */

/* 'A' type_num ndim flags | struct td_share | u64 start in the block | ndim x i64 lengths | ndim x i64 strides, unless
 * TB_ARRAY_DENSE */
#define TB_ARRAY_DIMENSIONS 8u
#define TB_ARRAY_HEAD (4u + sizeof(struct td_share) + 8u)
#define TB_ARRAY_DENSE 1u /* its items follow each other, the last index first */
#define TB_ARRAY_WRITABLE 2u

/* 'V' type_num ndim flags | u32 number of the buffer | ndim x i64 lengths */
#define TB_VECTOR_HEAD 8u
#define TB_VECTOR_FORTRAN 1u /* its items follow each other, the first index first; else the last */

struct tb_reader {
    const uint8_t *at, *end;
    void *buffers; /* the decoder's, of which vectors are made; NULL: there are none */
};

/* One compact value without its children. */
struct tb_item {
    uint8_t tag;     /* a tb_tag; TB_SMALL and TB_INT4 are given as TB_INT */
    int64_t integer; /* an int; a scalar's character */
    double real;
    const uint8_t *data; /* text, bytes, a scalar's, an array's and a vector's */
    uint64_t count;      /* characters, bytes, or a tuple's values */
};

static inline bool tb_read_varint(struct tb_reader *reader, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (reader->at == reader->end)
            return false;
        uint8_t byte = *reader->at++;
        if (shift == 63 && byte > 1)
            return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static inline uint64_t tb_zigzag(int64_t value)
{
    return ((uint64_t)value << 1) ^ (value < 0 ? UINT64_MAX : 0);
}

static inline int64_t tb_unzigzag(uint64_t value)
{
    uint64_t half = value >> 1;
    return (int64_t)(value & 1 ? ~half : half);
}

/* The size of a NumPy scalar by its type's character; 0: not one of those that travel so. */
static inline uint64_t tb_scalar_bytes(uint8_t kind)
{
    switch (kind) {
    case '?':
    case 'b':
    case 'B':
        return 1;
    case 'h':
    case 'H':
        return 2;
    case 'i':
    case 'I':
    case 'f':
        return 4;
    case 'l':
    case 'L':
    case 'q':
    case 'Q':
    case 'd':
        return 8;
    default:
        return 0;
    }
}

/* A length of `width` byte units, and the bytes themselves. */
static inline bool tb_read_run(struct tb_reader *reader, unsigned width, struct tb_item *out)
{
    if (!tb_read_varint(reader, &out->count) || out->count > (uint64_t)(reader->end - reader->at) / width)
        return false;
    out->data = reader->at;
    reader->at += out->count * width;
    return true;
}

/* A character, and as many bytes as it means. */
static inline bool tb_read_scalar(struct tb_reader *reader, struct tb_item *out)
{
    if (reader->at == reader->end)
        return false;
    const uint8_t kind = *reader->at++;
    out->integer = kind;
    out->count = tb_scalar_bytes(kind);
    out->data = reader->at;
    if (out->count == 0 || out->count > (uint64_t)(reader->end - reader->at))
        return false;
    reader->at += out->count;
    return true;
}

/* data: behind the tag. */
static inline bool tb_read_array(struct tb_reader *reader, struct tb_item *out)
{
    if ((uint64_t)(reader->end - reader->at) < TB_ARRAY_HEAD - 1 || reader->at[1] > TB_ARRAY_DIMENSIONS)
        return false;
    out->data = reader->at;
    out->count = TB_ARRAY_HEAD - 1 + reader->at[1] * ((reader->at[2] & TB_ARRAY_DENSE) != 0 ? 8u : 16u);
    if (out->count > (uint64_t)(reader->end - reader->at))
        return false;
    reader->at += out->count;
    return true;
}

/* data: behind the tag. */
static inline bool tb_read_vector(struct tb_reader *reader, struct tb_item *out)
{
    if ((uint64_t)(reader->end - reader->at) < TB_VECTOR_HEAD - 1 || reader->at[1] > TB_ARRAY_DIMENSIONS)
        return false;
    out->data = reader->at;
    out->count = TB_VECTOR_HEAD - 1 + reader->at[1] * 8u;
    if (out->count > (uint64_t)(reader->end - reader->at))
        return false;
    reader->at += out->count;
    return true;
}

/* The next value's head; false when the bytes end early or mean nothing. After a tuple its values follow. */
static inline bool tb_read_item(struct tb_reader *reader, struct tb_item *out)
{
    uint64_t raw;
    int32_t narrow;
    if (reader->at == reader->end)
        return false;
    out->tag = *reader->at++;
    if (out->tag & TB_SMALL) {
        out->integer = out->tag & 0x7f;
        out->tag = TB_INT;
        return true;
    }
    switch (out->tag) {
    case TB_NONE:
    case TB_TRUE:
    case TB_FALSE:
        return true;
    case TB_INT:
        if (!tb_read_varint(reader, &raw))
            return false;
        out->integer = tb_unzigzag(raw);
        return true;
    case TB_INT4:
        if (reader->end - reader->at < 4)
            return false;
        memcpy(&narrow, reader->at, 4);
        reader->at += 4;
        out->tag = TB_INT;
        out->integer = narrow;
        return true;
    case TB_FLOAT:
        if (reader->end - reader->at < 8)
            return false;
        memcpy(&out->real, reader->at, 8);
        reader->at += 8;
        return true;
    case TB_SCALAR:
        return tb_read_scalar(reader, out);
    case TB_BYTES:
    case TB_TEXT1:
        return tb_read_run(reader, 1, out);
    case TB_TEXT2:
        return tb_read_run(reader, 2, out);
    case TB_TEXT4:
        return tb_read_run(reader, 4, out);
    case TB_ARRAY:
        return tb_read_array(reader, out);
    case TB_VECTOR:
        return tb_read_vector(reader, out);
    case TB_TUPLE:
        if (reader->at == reader->end)
            return false;
        out->count = *reader->at++;
        return out->count <= (uint64_t)(reader->end - reader->at); /* a value has a byte at least */
    default:
        return false;
    }
}

/* A buffer of a pickle. */
struct tb_span_entry {
    uint64_t offset, len; /* from the start of the payload, or of the parcel */
    uint32_t parcel;      /* its number, from 1; 0: the buffer is in the payload */
    uint32_t readonly;
};

struct tb_pickle {
    const uint8_t *payload, *pickle;
    uint64_t pickle_len;
    uint32_t spans;
};

#define TB_PICKLE_HEAD 16u

/* Reads the head of a 'P' payload and checks it and all its entries; of what is in parcels, whoever has those must. */
bool tb_pickle_open(const void *data, uint64_t len, struct tb_pickle *out);
/* Is it a compact value or call? (A pickle starts with 0x80.) */
bool tb_pickle_is_compact(const struct tb_pickle *pickle);
/* Entry i < spans of an open pickle; checked already. */
struct tb_span_entry tb_pickle_span(const struct tb_pickle *pickle, uint32_t i);
/* Writes it, in a payload. */
void tb_pickle_span_write(uint8_t *payload, uint32_t i, const struct tb_span_entry *entry);

/* Passes one value with all its children; false when it is wrong. */
bool tb_skip_value(struct tb_reader *reader);

/* A chunk's arguments. */
enum tb_layout { TB_NARROW, TB_WIDE, TB_DENSE, TB_RANGE };
#define TB_STRIDE 64u /* items between the offsets of a dense chunk, which is read in order but for the start */
#define TB_DENSE_ARGS 8u /* of an item, at most */
struct tb_chunk_view {
    const uint8_t *data;
    uint64_t len;
    uint32_t items;
    enum tb_layout layout;
    uint8_t nargs; /* dense: of each item */
    int64_t start, step;
};
bool tb_chunk_open(const void *data, uint64_t len, struct tb_chunk_view *out);
/* narrow and wide: the bytes of item i; false when i or the table is wrong. */
bool tb_chunk_item(const struct tb_chunk_view *chunk, uint32_t i, const uint8_t **data, uint64_t *len);
/* dense: a reader at the values of item i, which those of the next items follow; false as above. */
bool tb_chunk_seek(const struct tb_chunk_view *chunk, uint32_t i, struct tb_reader *out);
/* range: item i. */
bool tb_chunk_number(const struct tb_chunk_view *chunk, uint32_t i, int64_t *out);
/* Bytes before the first item's. */
uint64_t tb_chunk_head_bytes(uint32_t items, enum tb_layout layout);
void tb_chunk_head_write(uint8_t *at, uint32_t items, enum tb_layout layout, uint8_t nargs);
/* Offset i of the table; in a range chunk, start and step. */
void tb_chunk_offset_write(uint8_t *at, enum tb_layout layout, uint32_t i, uint64_t offset);

/* A result's record. */
#define TB_RECORD_HEAD 9u
enum tb_record_kind { TB_RECORD_VALUE = 1, TB_RECORD_ERROR = 2 };
struct tb_record {
    const uint8_t *payload;
    uint64_t len, next; /* next: where the following record starts */
    enum tb_record_kind kind;
};
/* The record at `at` of the results. */
bool tb_record_read(const uint8_t *data, uint64_t len, uint64_t at, struct tb_record *out);
/* Where a record's payload starts that is aligned (64) or not. */
uint64_t tb_record_payload_at(uint64_t at, bool aligned);
/* Writes the word of the record at `at`, whose payload lies at payload_at; returns where the next one starts. */
uint64_t tb_record_write(uint8_t *data, uint64_t at, uint64_t payload_at, uint64_t len,
                         enum tb_record_kind kind);

/* Walks a whole payload as the decoder does, without making objects: true when every length and tag holds. */
bool tb_payload_check(const void *data, uint64_t len);

#endif
