/* entry.c: treadle._engine.Entry, what is got from a Store.
 *
 *     Entry ──▶ tuple of memoryviews ──▶ Part ──▶ Pages (the td_entry)
 *
 * Invariant  a view of a part keeps the Pages, and these the file's bytes: whatever is evicted, closed or collected
 *            meanwhile.
 * Tests      tests/unit/test_cache_store.py */
#include "cache.h"

/* The bytes of an entry, for its parts. */
struct pages {
    PyObject_HEAD td_entry *entry;
    bool readonly;
};

struct part {
    PyObject_HEAD struct pages *pages;
    uint32_t number;
};

struct entry {
    PyObject_HEAD PyObject *parts;
    PyObject *kind;
    uint64_t bytes, stamp;
    int64_t created_ns;
};

static void pages_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    td_entry *entry = ((struct pages *)self)->entry;
    Py_BEGIN_ALLOW_THREADS;
    td_entry_free(entry);
    Py_END_ALLOW_THREADS;
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot pages_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t) "The bytes of an entry."},
    {Py_tp_dealloc, (void *)pages_dealloc},
    {0, NULL},
};

static PyType_Spec pages_spec = {
    .name = "treadle._engine.Pages",
    .basicsize = sizeof(struct pages),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pages_slots,
};

static int part_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    const struct part *part = (struct part *)self;
    uint64_t bytes;
    void *data = td_entry_part(part->pages->entry, part->number, &bytes);
    return PyBuffer_FillInfo(view, self, data, (Py_ssize_t)bytes, part->pages->readonly, flags);
}

static void part_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((struct part *)self)->pages);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot part_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t) "A part of an entry: a buffer."},
    {Py_tp_dealloc, (void *)part_dealloc},
    {Py_bf_getbuffer, (void *)part_getbuffer},
    {0, NULL},
};

static PyType_Spec part_spec = {
    .name = "treadle._engine.Part",
    .basicsize = sizeof(struct part),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = part_slots,
};

static PyObject *part_new(const struct tb_state *state, struct pages *pages, uint32_t number)
{
    struct part *part = PyObject_New(struct part, state->part_type);
    if (part == NULL)
        return NULL;
    part->pages = (struct pages *)Py_NewRef((PyObject *)pages);
    part->number = number;
    PyObject *view = PyMemoryView_FromObject((PyObject *)part);
    Py_DECREF(part);
    return view;
}

static PyObject *parts_new(const struct tb_state *state, struct pages *pages)
{
    const uint32_t count = td_entry_count(pages->entry);
    PyObject *parts = PyTuple_New((Py_ssize_t)count);
    for (uint32_t i = 0; parts != NULL && i < count; i++) {
        PyObject *part = part_new(state, pages, i);
        if (part == NULL)
            Py_CLEAR(parts);
        else
            PyTuple_SET_ITEM(parts, (Py_ssize_t)i, part);
    }
    return parts;
}

PyObject *tb_entry_of(const struct tb_state *state, td_entry *handle, bool readonly)
{
    char kind[TD_KIND_BYTES + 1];
    struct pages *pages = PyObject_New(struct pages, state->pages_type);
    if (pages == NULL) {
        td_entry_free(handle);
        return NULL;
    }
    pages->entry = handle;
    pages->readonly = readonly;
    struct entry *entry = PyObject_New(struct entry, state->entry_type);
    if (entry != NULL) {
        td_entry_kind(handle, kind);
        entry->bytes = td_entry_bytes(handle);
        entry->stamp = td_entry_stamp(handle);
        entry->created_ns = td_entry_created_ns(handle);
        entry->kind = PyUnicode_DecodeUTF8(kind, (Py_ssize_t)strlen(kind), "replace");
        entry->parts = parts_new(state, pages);
        if (entry->kind == NULL || entry->parts == NULL)
            Py_CLEAR(entry);
    }
    Py_DECREF(pages);
    return (PyObject *)entry;
}

static void entry_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((struct entry *)self)->parts);
    Py_XDECREF(((struct entry *)self)->kind);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *entry_parts(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((struct entry *)self)->parts);
}

static PyObject *entry_kind(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((struct entry *)self)->kind);
}

static PyObject *entry_nbytes(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((struct entry *)self)->bytes);
}

static PyObject *entry_created_ns(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(((struct entry *)self)->created_ns);
}

static PyObject *entry_stamp(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((struct entry *)self)->stamp);
}

static PyGetSetDef entry_getset[] = {
    {"parts", entry_parts, NULL, PyDoc_STR("Its parts, as memoryviews."), NULL},
    {"kind", entry_kind, NULL, PyDoc_STR("What put() was told."), NULL},
    {"nbytes", entry_nbytes, NULL, PyDoc_STR("Of the file."), NULL},
    {"created_ns", entry_created_ns, NULL, PyDoc_STR("When it was put, in nanoseconds since 1970."), NULL},
    {"stamp", entry_stamp, NULL, PyDoc_STR("For enter(stale=...)."), NULL},
    {0},
};

static PyType_Slot entry_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t) "An entry of a Store, as it was got."},
    {Py_tp_dealloc, (void *)entry_dealloc},
    {Py_tp_getset, entry_getset},
    {0, NULL},
};

static PyType_Spec entry_spec = {
    .name = "treadle._engine.Entry",
    .basicsize = sizeof(struct entry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = entry_slots,
};

int tb_entry_init(PyObject *module)
{
    struct tb_state *state = tb_state_of(module);
    state->pages_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &pages_spec, NULL);
    state->part_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &part_spec, NULL);
    state->entry_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &entry_spec, NULL);
    if (state->pages_type == NULL || state->part_type == NULL || state->entry_type == NULL)
        return -1;
    return PyModule_AddType(module, state->entry_type);
}
