/* move.h: results on their way out of a worker: what can go as it is, goes as it is. */
#ifndef TB_MOVE_H
#define TB_MOVE_H

#include "codec.h"

/* The parcels of the assignment at hand, and where they come from. Zero-initialised: nothing moves. */
struct tb_moves {
    td_worker *worker;
    struct tb_room own;  /* blocks for copies of what somebody here keeps */
    td_nursery *nursery; /* NULL: arrays are not born in the worker's arena */
    PyObject *name_numpy;
    bool settled;              /* NumPy was found, and what could be done was */
    struct td_parcel *parcels; /* those of the value encoded last stand behind those before */
    uint32_t count, room;
};

/* Has arrays born in the worker's arena from now on, once NumPy is loaded. Never raises. Cheap when there is nothing to
 * be done. */
void tb_moves_begin(struct tb_moves *moves, td_worker *worker, const struct tb_room *own);

/* As tb_encode_value, and takes the reference to the value: where the last reference to an array that was born in the
 * arena goes with it, its block becomes a parcel and is not copied. The bytes that `room` gives have place for the
 * table of the parcels, too. -1: an exception, and no parcels but those before. */
int tb_encode_moving(struct tb_codec *codec, struct tb_moves *moves, PyObject *value, uint8_t *small,
                     size_t cap, const struct tb_room *room, struct tb_payload *out);

/* Frees the parcels from number `first` on, which were not enclosed. */
void tb_moves_drop(struct tb_moves *moves, uint32_t first);

#endif
