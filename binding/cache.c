/* cache.c: treadle._engine.Store, the store on disk (core/cache).
 *
 * Invariant  the GIL is not held while a file is opened, read, written or waited for; buffers that are put are held
 *            meanwhile.
 * Tests  tests/unit/test_cache_store.py, tests/fault/test_cache_deaths.py */
#include "cache.h"

#include <errno.h>

struct store {
    PyObject_HEAD td_store *store;
    PyObject *path;
};

/* ---- Errors and arguments ------------------------------------------------------------------------------ */

static const struct td_key no_key; /* where an error is about none */

static PyObject *raise(struct store *self, td_status status, const struct td_key *key)
{
    struct tb_state *state = tb_state_of_final((PyObject *)self);
    PyObject *made = NULL;
    switch (status) {
    case TD_EOS:
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, self->path);
    case TD_EFOREIGN:
        made = PyObject_CallFunction(PyExc_PermissionError, "isO", EPERM, td_status_text(status), self->path);
        break;
    case TD_ECORRUPT:
        made = tb_call_errors(state, "corrupt_entry", "(Oy#)", self->path, key->bytes, (Py_ssize_t)key->length);
        break;
    default:
        (void)tb_raise_status(state, status, NULL);
        return NULL;
    }
    if (made != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(made), made);
    Py_XDECREF(made);
    return NULL;
}

static int read_key(PyObject *object, struct td_key *key)
{
    if (!PyBytes_Check(object)) {
        PyErr_Format(PyExc_TypeError, "a key is bytes, not %.200s", Py_TYPE(object)->tp_name);
        return -1;
    }
    const Py_ssize_t length = PyBytes_GET_SIZE(object);
    if (length < 1 || length > (Py_ssize_t)TD_KEY_BYTES) {
        PyErr_Format(PyExc_ValueError, "a key has 1 to %u bytes, not %zd", TD_KEY_BYTES, length);
        return -1;
    }
    key->length = (uint32_t)length;
    memcpy(key->bytes, PyBytes_AS_STRING(object), (size_t)length);
    return 0;
}

static struct td_store *handle_of(PyObject *self)
{
    return ((struct store *)self)->store;
}

/* ---- Getting and putting ------------------------------------------------------------------------------- */

static int read_access(PyObject *mode, enum td_access *access)
{
    *access = TD_ACCESS_COPY;
    if (mode == NULL || mode == Py_None)
        return 0;
    if (PyUnicode_Check(mode) && PyUnicode_CompareWithASCIIString(mode, "r") == 0)
        *access = TD_ACCESS_VIEW;
    else if (PyUnicode_Check(mode) && PyUnicode_CompareWithASCIIString(mode, "c") == 0)
        *access = TD_ACCESS_PRIVATE;
    if (*access != TD_ACCESS_COPY)
        return 0;
    PyErr_Format(PyExc_ValueError, "the mode is None, 'r' or 'c', not %R", mode);
    return -1;
}

static PyObject *get(PyObject *self, PyObject *key_object, enum td_access access)
{
    struct td_key key;
    if (read_key(key_object, &key) < 0)
        return NULL;
    td_entry *entry = NULL;
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_store_get(handle_of(self), &key, access, &entry);
    error = errno;
    Py_END_ALLOW_THREADS;
    errno = error;
    if (status != TD_OK)
        return raise((struct store *)self, status, &key);
    if (entry == NULL)
        Py_RETURN_NONE;
    return tb_entry_of(tb_state_of_final(self), entry, access == TD_ACCESS_VIEW || access == TD_ACCESS_PEEK);
}

static PyObject *store_get(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    enum td_access access;
    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "get() takes 1 or 2 arguments (%zd given)", count);
    return read_access(count > 1 ? args[1] : NULL, &access) == 0 ? get(self, args[0], access) : NULL;
}

static PyObject *store_peek(PyObject *self, PyObject *key)
{
    return get(self, key, TD_ACCESS_PEEK);
}

/* Buffers of a sequence, held. */
struct buffers {
    Py_buffer *views;
    struct td_part *parts;
    Py_ssize_t count;
};

static void let_go(struct buffers *buffers)
{
    for (Py_ssize_t i = 0; i < buffers->count; i++)
        PyBuffer_Release(&buffers->views[i]);
    PyMem_Free(buffers->views);
    PyMem_Free(buffers->parts);
}

static int hold(PyObject *sequence, struct buffers *buffers)
{
    PyObject *tuple = PySequence_Tuple(sequence); /* a list could change when a buffer is asked for */
    if (tuple == NULL)
        return -1;
    const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    *buffers = (struct buffers){.views = PyMem_New(Py_buffer, (size_t)count + 1),
                                .parts = PyMem_New(struct td_part, (size_t)count + 1)};
    bool held = buffers->views != NULL && buffers->parts != NULL;
    if (!held)
        PyErr_NoMemory();
    while (held && buffers->count < count) {
        Py_buffer *view = &buffers->views[buffers->count];
        held = PyObject_GetBuffer(PyTuple_GET_ITEM(tuple, buffers->count), view, PyBUF_SIMPLE) == 0;
        if (held)
            buffers->parts[buffers->count++] =
                (struct td_part){.data = view->buf, .bytes = (uint64_t)view->len};
    }
    Py_DECREF(tuple);
    if (!held)
        let_go(buffers);
    return held ? 0 : -1;
}

static PyObject *store_put(PyObject *self, PyObject *args)
{
    PyObject *key_object, *sequence;
    const char *kind = "";
    struct td_key key;
    struct buffers buffers;
    if (!PyArg_ParseTuple(args, "OO|s:put", &key_object, &sequence, &kind) || read_key(key_object, &key) < 0)
        return NULL;
    if (strlen(kind) > TD_KIND_BYTES)
        return PyErr_Format(PyExc_ValueError, "a kind has at most %u bytes: %s", TD_KIND_BYTES, kind);
    if (hold(sequence, &buffers) < 0)
        return NULL;
    uint64_t bytes = 0;
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_store_put(handle_of(self), &key, kind, buffers.parts,
                          buffers.count > UINT32_MAX ? UINT32_MAX : (uint32_t)buffers.count, &bytes);
    error = errno;
    Py_END_ALLOW_THREADS;
    let_go(&buffers);
    errno = error;
    return status == TD_OK ? PyLong_FromUnsignedLongLong(bytes) : raise((struct store *)self, status, &key);
}

static PyObject *store_drop(PyObject *self, PyObject *key_object)
{
    struct td_key key;
    if (read_key(key_object, &key) < 0)
        return NULL;
    bool dropped = false;
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_store_drop(handle_of(self), &key, &dropped);
    error = errno;
    Py_END_ALLOW_THREADS;
    errno = error;
    return status == TD_OK ? PyBool_FromLong(dropped) : raise((struct store *)self, status, &key);
}

/* ---- One computation for each key ---------------------------------------------------------------------- */

struct entering {
    td_store *store;
    struct td_key key;
    uint64_t owner, stale;
    enum td_role role;
};

static td_status enter(void *subject, int64_t deadline_ns)
{
    struct entering *entering = subject;
    return td_store_enter_until(entering->store, &entering->key, entering->owner, entering->stale, deadline_ns,
                                &entering->role);
}

static PyObject *store_enter(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "timeout", "stale", "owner", NULL};
    PyObject *key, *timeout = Py_None;
    unsigned long long stale = 0, owner = 0;
    int64_t deadline_ns;
    struct entering entering = {.store = handle_of(self)};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|O$KK:enter", names, &key, &timeout, &stale, &owner) ||
        read_key(key, &entering.key) < 0 || tb_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    entering.owner = owner;
    entering.stale = stale;
    const int entered = tb_poll_or_wait(tb_state_of_final(self), NULL, enter, &entering, deadline_ns);
    if (entered == 0)
        PyErr_SetString(PyExc_TimeoutError, "what is under the key is still being computed");
    return entered > 0 ? PyLong_FromLong((long)entering.role) : NULL;
}

static PyObject *store_leave(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "owner", NULL};
    PyObject *key_object;
    unsigned long long owner = 0;
    struct td_key key;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$K:leave", names, &key_object, &owner) ||
        read_key(key_object, &key) < 0)
        return NULL;
    return PyBool_FromLong(td_store_leave(handle_of(self), &key, owner) == TD_OK);
}

/* ---- All entries --------------------------------------------------------------------------------------- */

struct found {
    struct td_entry_info *entries;
    size_t count, room;
    bool failed;
};

static bool find(void *ctx, const struct td_entry_info *info)
{
    struct found *found = ctx;
    if (found->count == found->room) {
        const size_t room = found->room ? 2 * found->room : 256;
        struct td_entry_info *entries = PyMem_RawRealloc(found->entries, room * sizeof *entries);
        found->failed = entries == NULL;
        if (found->failed)
            return false;
        found->entries = entries;
        found->room = room;
    }
    found->entries[found->count++] = *info;
    return true;
}

static PyObject *list_of(const struct found *found)
{
    PyObject *list = PyList_New((Py_ssize_t)found->count);
    for (size_t i = 0; list != NULL && i < found->count; i++) {
        const struct td_entry_info *info = &found->entries[i];
        PyObject *row = Py_BuildValue("(y#KLL)", info->key.bytes, (Py_ssize_t)info->key.length,
                                      (unsigned long long)info->bytes, (long long)info->created_ns,
                                      (long long)info->used_ns);
        if (row == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, row);
    }
    return list;
}

static PyObject *store_entries(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct found found = {0};
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_store_walk(handle_of(self), find, &found);
    error = errno;
    Py_END_ALLOW_THREADS;
    errno = error;
    PyObject *list = NULL;
    if (status != TD_OK)
        (void)raise((struct store *)self, status, &no_key);
    else
        list = found.failed ? PyErr_NoMemory() : list_of(&found);
    PyMem_RawFree(found.entries);
    return list;
}

static int read_limit(PyObject *object, const char *name, uint64_t *limit)
{
    if (object == Py_None)
        return 0;
    const long long value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (value < 0) {
        PyErr_Format(PyExc_ValueError, "%s is not negative", name);
        return -1;
    }
    *limit = (uint64_t)value;
    return 0;
}

static PyObject *store_prune(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"bytes", "items", "age_s", NULL};
    PyObject *bytes = Py_None, *items = Py_None, *age = Py_None;
    struct td_limits limits = {.bytes = TD_NO_LIMIT, .items = TD_NO_LIMIT, .age_ns = INT64_MAX};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$OOO:prune", names, &bytes, &items, &age) ||
        read_limit(bytes, "bytes", &limits.bytes) < 0 || read_limit(items, "items", &limits.items) < 0)
        return NULL;
    if (age != Py_None) {
        const double seconds = PyFloat_AsDouble(age);
        if (seconds == -1.0 && PyErr_Occurred())
            return NULL;
        limits.age_ns = seconds <= 0 ? 0 : seconds < 9e9 ? (int64_t)(seconds * 1e9) : INT64_MAX;
    }
    uint64_t removed = 0, freed = 0;
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_store_prune(handle_of(self), &limits, &removed, &freed);
    error = errno;
    Py_END_ALLOW_THREADS;
    errno = error;
    if (status != TD_OK)
        return raise((struct store *)self, status, &no_key);
    return Py_BuildValue("(KK)", (unsigned long long)removed, (unsigned long long)freed);
}

static void find_bad(void *ctx, const struct td_key *key)
{
    const struct td_entry_info info = {.key = *key};
    (void)find(ctx, &info);
}

static PyObject *keys_of(const struct found *found)
{
    PyObject *list = PyList_New((Py_ssize_t)found->count);
    for (size_t i = 0; list != NULL && i < found->count; i++) {
        const struct td_key *key = &found->entries[i].key;
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)key->bytes, (Py_ssize_t)key->length);
        if (bytes == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, bytes);
    }
    return list;
}

static PyObject *store_verify(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"remove", NULL};
    int remove = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$p:verify", names, &remove))
        return NULL;
    struct found found = {0};
    uint64_t checked = 0;
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_store_verify(handle_of(self), remove != 0, find_bad, &found, &checked);
    error = errno;
    Py_END_ALLOW_THREADS;
    errno = error;
    PyObject *keys = NULL;
    if (status != TD_OK)
        (void)raise((struct store *)self, status, &no_key);
    else
        keys = found.failed ? PyErr_NoMemory() : keys_of(&found);
    PyMem_RawFree(found.entries);
    return keys != NULL ? Py_BuildValue("(KN)", (unsigned long long)checked, keys) : NULL;
}

/* ---- The store ----------------------------------------------------------------------------------------- */

static int read_verify(const char *verify, bool *heads_only)
{
    *heads_only = strcmp(verify, "header") == 0;
    if (*heads_only || strcmp(verify, "full") == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "verify is 'full' or 'header', not '%s'", verify);
    return -1;
}

static PyObject *store_open(PyTypeObject *type, PyObject *path, const struct td_store_options *options)
{
    PyObject *encoded;
    if (!PyUnicode_FSConverter(path, &encoded))
        return NULL;
    struct store *self = PyObject_New(struct store, type);
    if (self == NULL) {
        Py_DECREF(encoded);
        return NULL;
    }
    self->store = NULL;
    self->path = Py_NewRef(path);
    td_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = td_store_open(PyBytes_AS_STRING(encoded), options, &self->store);
    error = errno;
    Py_END_ALLOW_THREADS;
    Py_DECREF(encoded);
    errno = error;
    if (status != TD_OK) {
        (void)raise(self, status, &no_key);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *store_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "cap_bytes", "durable", "verify", "shared", "locks", NULL};
    PyObject *path, *cap = Py_None;
    int durable = 0, shared = 0, locks = 1;
    const char *verify = "full";
    struct td_store_options options = {0};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$Opspp:Store", names, &path, &cap, &durable, &verify,
                                     &shared, &locks) ||
        read_limit(cap, "cap_bytes", &options.cap_bytes) < 0 || read_verify(verify, &options.heads_only) < 0)
        return NULL;
    options.durable = durable != 0;
    options.shared = shared != 0;
    options.no_locks = locks == 0;
    return store_open(type, path, &options);
}

static void store_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    td_store *store = handle_of(self);
    Py_BEGIN_ALLOW_THREADS;
    td_store_close(store);
    Py_END_ALLOW_THREADS;
    Py_XDECREF(((struct store *)self)->path);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *store_path(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((struct store *)self)->path);
}

static PyObject *store_readonly(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(td_store_readonly(handle_of(self)) != 0);
}

static PyObject *store_locks(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(td_store_has_locks(handle_of(self)));
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef store_methods[] = {
    {"get", (PyCFunction)(void (*)(void))store_get, METH_FASTCALL,
     PyDoc_STR("get($self, key, mode=None, /)\n--\n\nThe entry of that key, or None.")},
    {"peek", store_peek, METH_O, PyDoc_STR("peek($self, key, /)\n--\n\nThe entry, to look at, or None.")},
    {"put", store_put, METH_VARARGS,
     PyDoc_STR("put($self, key, parts, kind='', /)\n--\n\nWrites an entry; the bytes of its file.")},
    {"drop", store_drop, METH_O, PyDoc_STR("drop($self, key, /)\n--\n\nRemoves an entry; was there one?")},
    {"enter", KEYWORDS(store_enter), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "enter($self, key, /, timeout=None, *, stale=0, owner=0)\n--\n\nAsks to compute what is under it.")},
    {"leave", KEYWORDS(store_leave), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("leave($self, key, /, *, owner=0)\n--\n\nIt is computed no more; was it led?")},
    {"entries", store_entries, METH_NOARGS,
     PyDoc_STR("entries($self, /)\n--\n\n(key, bytes, created_ns, used_ns) of each.")},
    {"prune", KEYWORDS(store_prune), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("prune($self, /, *, bytes=None, items=None, age_s=None)\n--\n\n(entries, bytes) that went.")},
    {"verify", KEYWORDS(store_verify), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("verify($self, /, *, remove=False)\n--\n\n(how many were looked at, the keys of bad ones).")},
    {0},
};

static PyGetSetDef store_getset[] = {
    {"path", store_path, NULL, PyDoc_STR("As it was given."), NULL},
    {"readonly", store_readonly, NULL, PyDoc_STR("Can nothing be put?"), NULL},
    {"locks", store_locks, NULL, PyDoc_STR("Does its file system have locks, as far as was seen?"), NULL},
    {0},
};

static PyType_Slot store_slots[] = {
    {Py_tp_doc,
     (void *)(uintptr_t) "Store(path, /, *, cap_bytes=None, durable=False, verify='full', shared=False, "
                         "locks=True)\n--\n\nA store of entries in a folder."},
    {Py_tp_new, (void *)store_new},
    {Py_tp_dealloc, (void *)store_dealloc},
    {Py_tp_methods, store_methods},
    {Py_tp_getset, store_getset},
    {0, NULL},
};

static PyType_Spec store_spec = {
    .name = "treadle._engine.Store",
    .basicsize = sizeof(struct store),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = store_slots,
};

int tb_cache_init(PyObject *module)
{
    if (tb_entry_init(module) < 0)
        return -1;
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &store_spec, NULL);
    if (type == NULL)
        return -1;
    const int added = PyModule_AddType(module, type);
    Py_DECREF(type);
    if (added < 0 || PyModule_AddIntConstant(module, "LANDED", TD_ROLE_LANDED) < 0 ||
        PyModule_AddIntConstant(module, "LEADER", TD_ROLE_LEADER) < 0 ||
        PyModule_AddIntConstant(module, "CYCLE", TD_ROLE_CYCLE) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "NOLOCKS", TD_ROLE_NOLOCKS);
}
