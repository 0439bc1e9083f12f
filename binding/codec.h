/* codec.h: Python objects <-> the bytes that travel between processes.
 *
 * Payloads (layout and checks: frame.h). A payload is a compact value or call, written without pickle, or one
 * pickle of protocol 5 whose large buffers lie behind it, 64-byte aligned. The engine sees bytes only.
 *
 * Every function needs the GIL. One that can fail returns -1 or NULL with a Python exception set: TravelError for
 * what cannot be pickled, CorruptData for bytes that fail a check, and what the room raised.
 * Tests  tests/unit/test_codec.py */
#ifndef TB_CODEC_H
#define TB_CODEC_H

#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "treadle.h"

/* ---- State ------------------------------------------------------------------------------------------------
 * Part of the module's state (module.c embeds it). Functions of treadle._travel and treadle._remote are imported
 * at their first use. */
#define TB_SCALAR_KINDS 128u
/* What arrays are made with (array.c); all NULL until it is wanted and NumPy is there. */
struct tb_numpy {
    PyTypeObject *array_type;
    bool refused; /* not with this NumPy */
    PyObject *(*descr_from_type)(int type_num);
    PyObject *(*new_from_descr)(PyTypeObject *type, PyObject *descr, int nd, const Py_ssize_t *dimensions,
                                const Py_ssize_t *strides, void *data, int flags, PyObject *source);
    int (*set_base_object)(PyObject *array, PyObject *base);
};
struct tb_codec {
    PyTypeObject *lease_type, *span_type, *watch_type, *birth_type, *shared_type;
    PyObject *dump_call, *dump_result, *loads;               /* treadle._travel */
    PyObject *load_function;                                 /* treadle._named */
    PyObject *dump_exception, *load_exception, *cannot_load; /* treadle._remote */
    PyObject *corrupt_data;                                  /* treadle._errors.CorruptData */
    PyObject *numpy_dtype;                                   /* numpy.dtype */
    PyObject *scalar_types[TB_SCALAR_KINDS];                 /* NumPy's, by the character of each */
    struct tb_numpy numpy;
    bool shares;               /* treadle.shared is imported */
    PyObject *reducers;        /* copyreg's */
    PyObject *after_task;      /* a worker calls it before each reply; NULL: nothing */
    PyObject *buffers_keyword; /* ("buffers",) */
    uint64_t globals_epoch;    /* a worker's: counts changes of globals that came with by-value functions */
};

/* Makes the types, adds Watch to the module, and adds the functions of codec, worker and zygote. Called from the
 * module's exec slot. */
int tb_codec_init(PyObject *module, struct tb_codec *codec);
int tb_codec_traverse(struct tb_codec *codec, visitproc visit, void *arg);
void tb_codec_clear(struct tb_codec *codec);
/* Defined by module.c: the codec inside a module's state. */
struct tb_codec *tb_codec_of(PyObject *module);

/* ---- Where bytes go ---------------------------------------------------------------------------------------
 * take gives a block of at least `bytes`, data 64-byte aligned: 0, or -1 with an exception set. It may release the
 * GIL. drop gives back one that will not be used. fill copies into one, with or without the GIL; NULL: as memcpy.
 * The parent's take calls td_pool_block_until (and handles TD_EINTR), the worker's td_worker_block. */
struct tb_room {
    int (*take)(void *ctx, uint64_t bytes, struct td_block *out);
    void (*drop)(void *ctx, struct td_block *block);
    void (*fill)(void *ctx, void *to, const void *from, uint64_t bytes);
    void *ctx;
};

/* References on shared blocks (shared.h). */
struct tb_holds {
    td_hold **items;
    size_t count, room;
};

/* What was written. In the caller's small buffer when block.data is NULL, else in the block, which is the caller's:
 * pass it to td_pool_submit or td_worker_reply, or drop it. */
struct tb_payload {
    struct td_block block;
    uint64_t len;
    struct tb_holds
        holds; /* of the shared blocks that it names; the caller's, too (tb_holds_fini). Results name none */
};

/* ---- Encoding ---------------------------------------------------------------------------------------------
 * small/cap: the caller's buffer for short payloads (TD_INLINE_ARGS, TD_INLINE_RESULT).
 * flags: TB_MAIN_BY_REFERENCE when the workers have the user's __main__ (fork, forkserver, spawn). */
#define TB_MAIN_BY_REFERENCE 1u

/* A call's arguments in vectorcall form: nargs positional, then the values of kwnames (a tuple of str, or NULL). */
int tb_encode_call(struct tb_codec *codec, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                   unsigned flags, uint8_t *small, size_t cap, const struct tb_room *room,
                   struct tb_payload *out);
/* The same from a tuple and a dict (NULL: none). */
int tb_encode_call_objects(struct tb_codec *codec, PyObject *args, PyObject *kwargs, unsigned flags,
                           uint8_t *small, size_t cap, const struct tb_room *room, struct tb_payload *out);
/* A result. */
int tb_encode_value(struct tb_codec *codec, PyObject *value, uint8_t *small, size_t cap,
                    const struct tb_room *room, struct tb_payload *out);
/* An exception, by treadle._remote.dump_exception, which makes something sendable of any exception. */
int tb_encode_error(struct tb_codec *codec, PyObject *exception, uint8_t *small, size_t cap,
                    const struct tb_room *room, struct tb_payload *out);

/* ---- A chunk's arguments (parent) -------------------------------------------------------------------------
 * Items are collected on the heap and laid out in one payload at the end. Zero-initialise, then append; after
 * finish or clear it is empty again and its heap memory warm; fini frees that. A failed append leaves the chunk
 * as it was: the exception is that item's. */
struct tb_chunk {
    uint32_t items;
    uint8_t layout; /* a tb_layout, once there is an item */
    uint8_t nargs;  /* of each item of a dense chunk */
    bool has_buffers;
    bool
        odd; /* an item does not belong into a dense chunk: of this chunk, or while it is empty, of the last one */
    uint64_t bytes;      /* what finish will need, but for the table of offsets */
    int64_t start, step; /* of a range */
    uint8_t *data;
    size_t used, data_cap;
    struct tb_chunk_item *table;
    size_t table_cap;
    struct tb_holds holds;
};
int tb_chunk_append(struct tb_codec *codec, struct tb_chunk *chunk, PyObject *const *args, Py_ssize_t nargs,
                    unsigned flags);
/* Makes an empty chunk the ints start, start + step, ...: items of them, none beyond 64 bits. */
void tb_chunk_range(struct tb_chunk *chunk, int64_t start, int64_t step, uint32_t items);
int tb_chunk_finish(struct tb_chunk *chunk, uint8_t *small, size_t cap, const struct tb_room *room,
                    struct tb_payload *out);
void tb_chunk_clear(struct tb_chunk *chunk);
void tb_chunk_fini(struct tb_chunk *chunk);

/* ---- Leases -----------------------------------------------------------------------------------------------
 * Decoded objects may be views into a block. A lease keeps the block until the last view is gone: it is a Python
 * object whose dealloc calls release(ctx, ref), with the GIL held. Make one per payload with view.ref != 0,
 * decode with it, then drop your reference (the views hold theirs); a payload inline in a slot needs none (NULL).
 * writable: views of writable buffers are writable (this process is the only reader); else they are copied. */
PyObject *tb_lease_new(struct tb_codec *codec, void (*release)(void *ctx, uint64_t ref), void *ctx,
                       uint64_t ref, bool writable);
/* Are there views besides the caller's own reference? */
bool tb_lease_is_shared(PyObject *lease);
/* The payload came with parcels: `open` gives the bytes of number i, and a lease of their own (a new reference; NULL
 * with an exception), from the lease's ctx. */
typedef PyObject *tb_parcel_opener(struct tb_codec *codec, void *ctx, uint32_t i, struct td_view *view);
void tb_lease_set_parcels(PyObject *lease, tb_parcel_opener *open);

/* ---- Decoding ---------------------------------------------------------------------------------------------
 * lease may be NULL: then large buffers are copied. */
PyObject *tb_decode_value(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease);
/* A new reference to the exception object, its __cause__ the worker's traceback. */
PyObject *tb_decode_error(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease);
/* Decodes a call and makes it: what fn returned. *called (may be NULL) tells a failed call from failed decoding. */
PyObject *tb_decode_and_call(struct tb_codec *codec, PyObject *fn, const void *data, uint64_t len,
                             PyObject *lease, bool *called);
/* (args, kwargs) of a call payload, for the slow paths in the parent. */
PyObject *tb_decode_call_objects(struct tb_codec *codec, const void *data, uint64_t len, PyObject *lease);
/* (args, kwargs) of item `item` of a chunk's argument payload. */
PyObject *tb_decode_chunk_item(struct tb_codec *codec, const void *data, uint64_t len, uint32_t item,
                               PyObject *lease);

/* ---- A chunk's results (parent) ---------------------------------------------------------------------------
 * Records lie one after the other, in the order of the items [begin, ...) of the part; the number of items done
 * comes from the engine (td_task_range), never from the bytes. */
struct tb_results {
    const uint8_t *data;
    uint64_t len, at;
};
void tb_results_open(struct tb_results *results, const void *data, uint64_t len);
/* The next item's result: 0 and *value (new reference), *ok telling a result from the exception that the call raised;
 * -1 with CorruptData (or what loading raised) set. The cursor passes the record even when loading it failed. */
int tb_results_next(struct tb_codec *codec, struct tb_results *results, PyObject *lease, bool *ok,
                    PyObject **value);

/* ---- Functions that travel by value -----------------------------------------------------------------------
 * treadle._travel.pack_function(fn, by_reference_main) -> (bytes, key). key True: importable by name, the number
 * that td_pool_intern gave may be cached for this object. key a Watch: the number may be cached and used as long as
 * tb_watch_holds; then pack again. key None: pack at each submit. */
bool tb_watch_check(const struct tb_codec *codec, PyObject *object);
/* True while nothing of what the function refers to has changed. Never raises. ~20 ns for a small function. */
bool tb_watch_holds(PyObject *watch);

/* ---- Worker and zygote: module functions (birth.c, fork.c) ------------------------------------------------ */
extern PyMethodDef tb_worker_methods[];
extern PyMethodDef tb_fork_methods[];

#endif
