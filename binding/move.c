/* move.c: see move.h.
 *
 * NumPy's arrays are born in blocks of the worker's arena (memory/nursery.h). When a result is encoded, those of its
 * buffers that lie in such blocks are claimed, and written down as parcels; then everything that holds the result is
 * let go of. What was freed by that is nobody's here any more, and moves. What was not is somebody's: a copy goes in
 * its place.
 * Invariants  V1 two buffers of a result never share a parcel, so what arrives does not alias.
 *             V2 a claim ends before tb_encode_moving does.
 *             V3 a parcel is the arena's own block, of no nursery, until it is enclosed or dropped.
 * Crash       all of it goes with the worker's arena.   Tests  tests/unit/test_moves.py, tests/fault/test_moves.py */
#include "move.h"

#include "base/option.h"
#include "memory/nursery.h"
#include "module.h"
#include "numpy_memory.h"
#include "pickled.h"

/* ---- Where arrays are born ------------------------------------------------------------------------------------- */

/* Zeros that nobody touches cost nothing as long as they are fresh pages of the kernel's. */
static void *born_take(void *ctx, size_t bytes, bool zeros)
{
    return zeros ? NULL : td_nursery_take(ctx, bytes);
}

static bool born_here(void *ctx, const void *data)
{
    return td_nursery_owns(ctx, data);
}

static void born_give(void *ctx, void *data)
{
    td_nursery_give(ctx, data);
}

static size_t born_capacity(void *ctx, const void *data)
{
    return td_nursery_capacity(ctx, data);
}

/* -1 with an exception. */
static int install(struct tb_moves *moves, size_t least)
{
    td_nursery *nursery;
    if (td_worker_nursery(moves->worker, &nursery) != TD_OK)
        return 0;
    const struct tb_memory_source source = {born_take, born_here, born_give, born_capacity, nursery, false};
    PyObject *handler = tb_numpy_handler("treadle", &source, least);
    PyObject *before = handler == NULL ? NULL : tb_numpy_set_handler(handler);
    Py_XDECREF(handler);
    if (before == NULL)
        return -1;
    Py_DECREF(before);
    moves->nursery = nursery;
    return 0;
}

void tb_moves_begin(struct tb_moves *moves, td_worker *worker, const struct tb_room *own)
{
    moves->worker = worker;
    moves->own = *own;
    moves->count = 0;
    if (moves->settled)
        return;
    if (moves->name_numpy == NULL)
        moves->name_numpy = PyUnicode_InternFromString("numpy");
    if (moves->name_numpy != NULL && PyDict_Contains(PyImport_GetModuleDict(), moves->name_numpy) > 0 &&
        tb_numpy_table() != NULL) {
        const int64_t least = td_option_int(TD_OPT_MOVE_BYTES);
        moves->settled = true;
        if (least > 0)
            (void)install(moves, (size_t)least);
    }
    PyErr_Clear(); /* without it results are copied */
}

/* ---- Claims ---------------------------------------------------------------------------------------------------- */

/* A buffer of one result, by number; and all of them. */
struct claim {
    uint64_t ref;
    const void *data;
    uint32_t span;
};

struct claims {
    struct tb_span_entry *entries; /* of each buffer; parcel 0: it is copied */
    struct claim *at;
    uint32_t count;
};

static void claims_fini(struct claims *claims)
{
    PyMem_Free(claims->entries);
    PyMem_Free(claims->at);
}

/* Room for as many as there are buffers. Without memory nothing moves. */
static bool claims_init(struct claims *claims, struct tb_moves *moves, uint32_t spans)
{
    *claims = (struct claims){.entries = PyMem_Calloc(spans, sizeof *claims->entries),
                              .at = PyMem_Calloc(spans, sizeof *claims->at)};
    if (moves->room - moves->count < spans) {
        const uint32_t room = moves->count + spans > 2 * moves->room ? moves->count + spans : 2 * moves->room;
        struct td_parcel *parcels = PyMem_Realloc(moves->parcels, room * sizeof *parcels);
        if (parcels != NULL) {
            moves->parcels = parcels;
            moves->room = room;
        }
    }
    return claims->entries != NULL && claims->at != NULL && moves->room - moves->count >= spans;
}

/* Claims what it can of a dump's buffers. */
static void claim_buffers(struct claims *claims, struct tb_moves *moves, const struct tb_pickled *p)
{
    for (uint32_t i = 0; i < p->spans; i++) {
        const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(p->buffers, i));
        struct td_claim claim;
        if (td_nursery_claim(moves->nursery, view->buf, (uint64_t)view->len, &claim)) {
            claims->entries[i] = (struct tb_span_entry){.offset = claim.offset,
                                                        .len = (uint64_t)view->len,
                                                        .parcel = moves->count + ++claims->count,
                                                        .readonly = view->readonly != 0};
            claims->at[claims->count - 1] = (struct claim){claim.ref, view->buf, i};
        } else if (!td_nursery_owns(moves->nursery, view->buf)) {
            td_nursery_miss(moves->nursery, (uint64_t)view->len);
        }
    }
}

static void unclaim_from(const struct claims *claims, const struct tb_moves *moves, uint32_t first)
{
    for (uint32_t i = first; i < claims->count; i++)
        td_nursery_unclaim(moves->nursery, claims->at[i].ref);
}

/* Somebody here still has the array. -1 with an exception. */
static int copy_claimed(const struct claim *claim, struct tb_span_entry *entry, struct tb_moves *moves)
{
    struct td_block block;
    if (moves->own.take(moves->own.ctx, entry->len, &block) < 0)
        return -1;
    tb_room_fill(&moves->own, block.data, claim->data, entry->len);
    td_nursery_unclaim(moves->nursery, claim->ref);
    entry->offset = 0;
    moves->parcels[moves->count++] = (struct td_parcel){.ref = block.ref, .bytes = entry->len, .copied = 1};
    return 0;
}

/* The result was let go of: makes a parcel of each claim, and corrects what the payload says of what stays here. */
static int settle_claims(struct claims *claims, struct tb_moves *moves, uint8_t *payload)
{
    const uint32_t first = moves->count;
    for (uint32_t i = 0; i < claims->count; i++) {
        const struct claim *claim = &claims->at[i];
        struct tb_span_entry *entry = &claims->entries[claim->span];
        if (td_nursery_adopt(moves->nursery, claim->ref)) {
            moves->parcels[moves->count++] =
                (struct td_parcel){.ref = claim->ref, .bytes = entry->offset + entry->len};
            continue;
        }
        if (copy_claimed(claim, entry, moves) < 0) {
            unclaim_from(claims, moves, i);
            tb_moves_drop(moves, first);
            return -1;
        }
        tb_pickle_span_write(payload, claim->span, entry);
    }
    return 0;
}

void tb_moves_drop(struct tb_moves *moves, uint32_t first)
{
    while (moves->count > first) {
        struct td_block block = {.ref = moves->parcels[--moves->count].ref};
        moves->own.drop(moves->own.ctx, &block);
    }
}

/* ---- Encoding -------------------------------------------------------------------------------------------------- */

/* Lets go of what may run code as it goes; an exception that is set stays. Returns rc. */
static int let_go(PyObject *object, int rc)
{
    PyObject *raised = rc < 0 ? tb_exception_take() : NULL;
    Py_DECREF(object);
    if (raised != NULL)
        tb_exception_give(raised);
    return rc;
}

/* Writes the dump, and lets go of it and of the value. */
static int emit_and_release(struct tb_pickled *p, PyObject *value, uint64_t more_bytes, uint8_t *small,
                            size_t cap, const struct tb_room *room, struct tb_payload *out)
{
    int rc = 0;
    out->block = (struct td_block){0};
    if (p->spans > 0 || p->total > cap)
        rc = room->take(room->ctx, p->total + more_bytes, &out->block);
    if (rc == 0)
        rc = tb_pickled_emit(p, out->block.data != NULL ? out->block.data : small, room, out);
    return let_go(value, let_go(p->pair, rc));
}

static int emit_moving(struct tb_moves *moves, struct tb_pickled *p, PyObject *value, uint8_t *small,
                       size_t cap, const struct tb_room *room, struct tb_payload *out)
{
    struct claims claims = {0};
    if (p->spans > 0 && claims_init(&claims, moves, p->spans)) {
        claim_buffers(&claims, moves, p);
        p->elsewhere = claims.entries;
        (void)tb_pickled_measure(p); /* as it was, less what moves */
    }
    int rc = emit_and_release(p, value, claims.count * sizeof *moves->parcels, small, cap, room, out);
    if (rc < 0) {
        unclaim_from(&claims, moves, 0);
    } else if (claims.count > 0 && settle_claims(&claims, moves, out->block.data) < 0) {
        room->drop(room->ctx, &out->block);
        out->block = (struct td_block){0};
        rc = -1;
    }
    claims_fini(&claims);
    return rc;
}

int tb_encode_moving(struct tb_codec *codec, struct tb_moves *moves, PyObject *value, uint8_t *small,
                     size_t cap, const struct tb_room *room, struct tb_payload *out)
{
    struct tb_pickled p;
    if (moves->nursery == NULL)
        return let_go(value, tb_encode_value(codec, value, small, cap, room, out));
    const int compact = tb_encode_compact(value, small, cap, room, out);
    if (compact != 0)
        return let_go(value, compact < 0 ? -1 : 0);
    if (tb_pickled_open(&p, tb_dump_result(codec, value)) < 0)
        return let_go(value, -1);
    return emit_moving(moves, &p, value, small, cap, room, out);
}
