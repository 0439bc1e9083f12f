/* pickled.h: a dump on its way into a payload; what encode.c and chunk.c share. */
#ifndef TB_PICKLED_H
#define TB_PICKLED_H

#include "codec_internal.h"
#include "frame.h"

/* What treadle._travel made of an object: (pickle, list of PickleBuffer or None), and where it names shared blocks a
 * list of those; and its measure. A long pickle is a list of pieces: bytes, or PickleBuffers of what the object has. */
struct tb_pickled {
    PyObject *pair, *pickle, *buffers, *blocks;
    uint64_t pickle_len, total;
    uint32_t spans;
    const struct tb_span_entry *elsewhere; /* of each buffer: where it is if it is in a parcel; NULL: none is */
};

/* The next multiple of TB_ALIGN. */
static inline uint64_t tb_align_up(uint64_t value)
{
    return (value + (TB_ALIGN - 1)) & ~(uint64_t)(TB_ALIGN - 1);
}

/* Measures the dump. Takes over pair, which may be NULL (the dump failed). -1: an exception, and nothing is held. */
int tb_pickled_open(struct tb_pickled *p, PyObject *pair);
/* The same of p->pair, which stays the caller's. */
int tb_pickled_measure(struct tb_pickled *p);
/* Is the pickle in pieces, which are better not put together before there is a block? */
bool tb_pickled_is_long(const struct tb_pickled *p);
/* Copies into a block of the room's, or of anybody's where that is NULL; without the GIL where that takes long. */
void tb_room_fill(const struct tb_room *room, void *at, const void *data, uint64_t bytes);
/* Writes p->total bytes at a place that is 64-aligned where there are buffers; in a block of the room, or NULL. -1: an
 * exception, as a buffer is not what it was. */
int tb_pickled_write(const struct tb_pickled *p, uint8_t *at, const struct tb_room *room);
/* The same as a whole payload, at `at`, which is in out->block if that is one. -1: that is dropped. */
int tb_pickled_emit(const struct tb_pickled *p, uint8_t *at, const struct tb_room *room,
                    struct tb_payload *out);

/* A compact value: 1; 0: it is not compact; -1 with an exception. */
int tb_encode_compact(PyObject *value, uint8_t *small, size_t cap, const struct tb_room *room,
                      struct tb_payload *out);
/* Any value, as a new (bytes, buffers); NULL with an exception. */
PyObject *tb_dump_result(struct tb_codec *codec, PyObject *value);
/* A call in vectorcall form, as a new (bytes, buffers); NULL with an exception. */
PyObject *tb_dump_vector(struct tb_codec *codec, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                         unsigned flags);

#endif
