/* codec_internal.h: what the codec's files and worker.c share. */
#ifndef TB_CODEC_INTERNAL_H
#define TB_CODEC_INTERNAL_H

#include "codec.h"

/* The module's attribute, kept in *slot from the first use on; borrowed, NULL with an exception. */
PyObject *tb_codec_import(PyObject **slot, const char *module, const char *attribute);

/* Sets CorruptData. Returns -1. */
void tb_codec_raise_corrupt(struct tb_codec *codec, const char *what);
static inline int tb_codec_corrupt(struct tb_codec *codec, const char *what)
{
    tb_codec_raise_corrupt(codec, what);
    return -1;
}

/* What loading raised becomes an error that says so; what only passes through (Ctrl-C, a cancelled task) stays.
 * Returns NULL. */
PyObject *tb_cannot_load(struct tb_codec *codec, const char *what);

/* Types: specs that codec.c makes the types from. */
extern PyType_Spec tb_lease_spec, tb_span_spec, tb_watch_spec, tb_birth_spec;
extern PyMethodDef tb_codec_methods[];

/* From now on the lease does nothing at its end, until armed; the worker arms those whose views outlive the call. And
 * where it is not writable, what it stands for can be mapped anew (td_worker_map_private). */
void tb_lease_belongs_to_worker(PyObject *lease, td_worker *worker);
void tb_lease_arm(PyObject *lease);
/* A view of [data, data+len) that keeps the lease. */
PyObject *tb_span_new(struct tb_codec *codec, PyObject *lease, const void *data, uint64_t len, bool readonly);
bool tb_lease_is_writable(PyObject *lease);
/* Parcel i: see tb_lease_set_parcels. CorruptData where the payload came with none. */
PyObject *tb_lease_open_parcel(struct tb_codec *codec, PyObject *lease, uint32_t i, struct td_view *view);

/* A writable view of memory that shows [data, data+len), where that is to be had and cheaper than a copy: 1; else 0; or
 * -1 with an exception. */
int tb_span_new_private(struct tb_codec *codec, PyObject *lease, const void *data, uint64_t len,
                        PyObject **out);

#endif
