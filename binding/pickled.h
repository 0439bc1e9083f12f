/* pickled.h: a dump on its way into a payload; what encode.c and chunk.c share. */
#ifndef TB_PICKLED_H
#define TB_PICKLED_H

#include "codec_internal.h"
#include "frame.h"

/* What treadle._travel made of an object: (bytes, list of PickleBuffer or None), and where it names shared blocks a
 * list of those; and its measure. */
struct tb_pickled {
    PyObject *pair, *bytes, *buffers, *blocks;
    uint64_t pickle_len, total;
    uint32_t spans;
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
/* Writes p->total bytes at a place that is 64-aligned where there are buffers; in a block of the room, or NULL. */
void tb_pickled_write(const struct tb_pickled *p, uint8_t *at, const struct tb_room *room);

/* A call in vectorcall form, as a new (bytes, buffers); NULL with an exception. */
PyObject *tb_dump_vector(struct tb_codec *codec, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                         unsigned flags);

#endif
