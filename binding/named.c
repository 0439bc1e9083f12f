/* named.c: shared memory with a name, as Python sees it: a Segment is the handle, which knows name and size and can
 * unlink; a Mapping is the memory, which exports it as a buffer.
 *
 *     SharedMemory ──▶ Segment ◀── Mapping ◀── memoryview ◀── slices, arrays
 *
 * Invariants  M1 the memory is unmapped when the Mapping is freed, and not by any call: so whoever has a reference to
 *                it, with a buffer out or without (numpy.ndarray(buffer=...) keeps the object alone), can't crash.
 *             M2 a Segment has one Mapping; what that leaves of the td_named is the Segment's.
 *             M3 unmapping and removing are without the GIL: a large segment takes time.
 * Tests  tests/unit/test_shared_memory.py */
#include "named.h"

#include <errno.h>

#include "named/named.h"

struct segment {
    PyObject_HEAD td_named *named;
};

struct mapping {
    PyObject_HEAD struct segment *segment;
};

/* ---- Errors ---- */

/* A name as shm_open takes it; NULL with an exception. */
static const char *name_of(PyObject *name)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text != NULL && strlen(text) != (size_t)length) {
        PyErr_SetString(PyExc_ValueError, "embedded null character");
        return NULL;
    }
    return text;
}

static PyObject *raise(td_status status, PyObject *name)
{
    switch (status) {
    case TD_EOS:
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, name);
    case TD_EINVAL:
        PyErr_SetString(PyExc_ValueError, "cannot mmap an empty file");
        return NULL;
    default:
        return PyErr_NoMemory();
    }
}

/* ---- Making ---- */

/* (Segment, memoryview of its Mapping). */
static PyObject *segment_new(PyObject *module, td_named *named)
{
    const struct tb_state *state = tb_state_of(module);
    struct segment *segment = PyObject_New(struct segment, state->segment_type);
    if (segment == NULL) {
        td_named_free(named);
        return NULL;
    }
    segment->named = named;
    PyObject *pair = NULL, *view = NULL;
    struct mapping *mapping = PyObject_New(struct mapping, state->mapping_type);
    if (mapping != NULL) {
        mapping->segment = (struct segment *)Py_NewRef((PyObject *)segment);
        view = PyMemoryView_FromObject((PyObject *)mapping);
        Py_DECREF(mapping);
    }
    if (view != NULL)
        pair = PyTuple_Pack(2, (PyObject *)segment, view);
    Py_XDECREF(view);
    Py_DECREF(segment);
    return pair;
}

/* Makes a segment of so many bytes, or attaches to one: 0. */
static PyObject *open_segment(PyObject *module, PyObject *name, uint64_t bytes, bool track)
{
    const char *text = name_of(name);
    if (text == NULL)
        return NULL;
    td_named *named;
    td_status status;
    do {
        int error;
        Py_BEGIN_ALLOW_THREADS;
        status = bytes != 0 ? td_named_create(text, bytes, track, &named) : td_named_attach(text, &named);
        error = errno;
        Py_END_ALLOW_THREADS;
        errno = error;
    } while (status == TD_EINTR && PyErr_CheckSignals() == 0);
    if (status == TD_OK)
        return segment_new(module, named);
    return status == TD_EINTR ? NULL : raise(status, name);
}

PyDoc_STRVAR(create_doc, "segment_create(name, size, track, /)\n--\n\n"
                         "Makes a segment of shared memory: it, and its memory.");

static PyObject *segment_create(PyObject *module, PyObject *args)
{
    PyObject *name;
    Py_ssize_t bytes;
    int track;
    if (!PyArg_ParseTuple(args, "Unp:segment_create", &name, &bytes, &track))
        return NULL;
    if (bytes > 0)
        return open_segment(module, name, (uint64_t)bytes, track != 0);
    errno = EINVAL;
    return raise(TD_EOS, name);
}

PyDoc_STRVAR(attach_doc, "segment_attach(name, /)\n--\n\nThe segment of that name, and its memory.");

static PyObject *segment_attach(PyObject *module, PyObject *name)
{
    return open_segment(module, name, 0, false);
}

/* ---- The memory ---- */

static int mapping_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    const td_named *named = ((struct mapping *)self)->segment->named;
    return PyBuffer_FillInfo(view, self, td_named_data(named), (Py_ssize_t)td_named_bytes(named), 0, flags);
}

static void mapping_dealloc(PyObject *self)
{
    struct segment *segment = ((struct mapping *)self)->segment;
    PyTypeObject *type = Py_TYPE(self);
    Py_BEGIN_ALLOW_THREADS;
    td_named_detach(segment->named);
    Py_END_ALLOW_THREADS;
    Py_DECREF(segment);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot mapping_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t) "The memory of a Segment."},
    {Py_tp_dealloc, (void *)mapping_dealloc},
    {Py_bf_getbuffer, (void *)mapping_getbuffer},
    {0, NULL},
};

static PyType_Spec mapping_spec = {
    .name = "treadle._engine.Mapping",
    .basicsize = sizeof(struct mapping),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = mapping_slots,
};

/* ---- The handle ---- */

static void segment_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    td_named_free(((struct segment *)self)->named);
    PyObject_Free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(unlink_doc, "unlink($self, name, /)\n--\n\nRemoves the segment's name; views stay good.");

static PyObject *segment_unlink(PyObject *self, PyObject *name)
{
    const struct segment *segment = (struct segment *)self;
    const char *text = name_of(name);
    if (text == NULL)
        return NULL;
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_named_unlink(segment->named, text);
    error = errno;
    Py_END_ALLOW_THREADS;
    errno = error;
    if (status != TD_OK)
        return raise(status, name);
    Py_RETURN_NONE;
}

static PyObject *segment_size(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(td_named_bytes(((struct segment *)self)->named));
}

static PyMethodDef segment_methods[] = {
    {"unlink", segment_unlink, METH_O, unlink_doc},
    {0},
};

static PyGetSetDef segment_getset[] = {
    {"size", segment_size, NULL, "Bytes.", NULL},
    {0},
};

static PyType_Slot segment_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t) "A segment of shared memory with a name."},
    {Py_tp_dealloc, (void *)segment_dealloc},
    {Py_tp_methods, segment_methods},
    {Py_tp_getset, segment_getset},
    {0, NULL},
};

static PyType_Spec segment_spec = {
    .name = "treadle._engine.Segment",
    .basicsize = sizeof(struct segment),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = segment_slots,
};

/* ---- The guardian and what is left behind ---- */

PyDoc_STRVAR(guardian_doc, "segments_guardian(program, /)\n--\n\n"
                           "The program that removes what killed processes leave.");

static PyObject *segments_guardian(PyObject *Py_UNUSED(module), PyObject *program)
{
    PyObject *path;
    if (!PyUnicode_FSConverter(program, &path))
        return NULL;
    td_named_set_guardian(PyBytes_AS_STRING(path));
    Py_DECREF(path);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(problem_doc,
             "segments_problem()\n--\n\nWhy no guardian could be started, as errno; 0: one could.");

static PyObject *segments_problem(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(td_named_guardian_problem());
}

PyDoc_STRVAR(on_duty_doc, "segments_guarded()\n--\n\nIs a guardian on duty?");

static PyObject *segments_guarded(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(td_named_guardian_on_duty());
}

static void add_row(void *ctx, const struct td_named_info *info)
{
    PyObject *rows = ctx;
    if (PyErr_Occurred() != NULL)
        return;
    PyObject *name = PyUnicode_DecodeFSDefault(info->name);
    if (name == NULL)
        return;
    PyObject *row = Py_BuildValue("(NKOO)", name, (unsigned long long)info->bytes,
                                  info->held ? Py_True : Py_False, info->removed ? Py_True : Py_False);
    if (row != NULL) {
        (void)PyList_Append(rows, row);
        Py_DECREF(row);
    }
}

PyDoc_STRVAR(sweep_doc, "segments_sweep(clean=False, /)\n--\n\n"
                        "This user's tracked segments: (name, size, held, removed). With clean, removes those "
                        "that no process holds.");

static PyObject *segments_sweep(PyObject *Py_UNUSED(module), PyObject *args)
{
    int clean = 0;
    if (!PyArg_ParseTuple(args, "|p:segments_sweep", &clean))
        return NULL;
    PyObject *rows = PyList_New(0);
    if (rows == NULL)
        return NULL;
    td_status status = td_named_sweep(clean, add_row, rows);
    if (status == TD_OK && PyErr_Occurred() == NULL)
        return rows;
    Py_DECREF(rows);
    return PyErr_Occurred() != NULL ? NULL : PyErr_SetFromErrno(PyExc_OSError);
}

static PyMethodDef named_methods[] = {
    {"segment_create", segment_create, METH_VARARGS, create_doc},
    {"segment_attach", segment_attach, METH_O, attach_doc},
    {"segments_guardian", segments_guardian, METH_O, guardian_doc},
    {"segments_problem", segments_problem, METH_NOARGS, problem_doc},
    {"segments_guarded", segments_guarded, METH_NOARGS, on_duty_doc},
    {"segments_sweep", segments_sweep, METH_VARARGS, sweep_doc},
    {0},
};

int tb_named_init(PyObject *module, struct tb_state *state)
{
    state->segment_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &segment_spec, NULL);
    if (state->segment_type == NULL || PyModule_AddType(module, state->segment_type) < 0)
        return -1;
    state->mapping_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &mapping_spec, NULL);
    if (state->mapping_type == NULL)
        return -1;
    return PyModule_AddFunctions(module, named_methods);
}
