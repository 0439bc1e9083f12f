/* watch.c: has anything changed that a function which travels by value refers to?
 *
 * Such a function is pickled at each submit, lest a changed global go unseen. A Watch makes that cheap: it keeps,
 * by identity, everything the pickle was made from (code, defaults, closure cells, globals) where all of these are
 * immutable or travel by name; as long as each is still in its place, so are the bytes. treadle._travel decides
 * what can be watched at all.
 * Invariants  W1 a Watch that holds means: pickling again gives the same bytes.
 *             W2 checking runs no Python code but the lookup of str keys in plain dicts.
 * Tests  tests/unit/test_travel.py */
#include "codec_internal.h"

enum kind { WATCH_FUNCTION, WATCH_CLASS, WATCH_NAME, WATCH_CELL, WATCH_SIZE };

/* All strong. */
struct entry {
    enum kind kind;
    PyObject *object;          /* function, class, dict or cell */
    PyObject *key;             /* of a dict */
    PyObject *value;           /* NULL: missing, or an empty cell; a function's keyword defaults */
    PyObject *code, *defaults; /* of a function; defaults may be NULL */
    Py_ssize_t size;           /* of a dict, a function's own included; a class's version */
};

struct watch {
    PyObject_VAR_HEAD struct entry entries[];
};

/* A new reference or NULL: the key's value. */
static PyObject *dict_value(PyObject *dict, PyObject *key)
{
#if PY_VERSION_HEX >= 0x030d0000
    PyObject *value;
    return PyDict_GetItemRef(dict, key, &value) > 0 ? value : NULL;
#else
    return Py_XNewRef(PyDict_GetItemWithError(dict, key));
#endif
}

static Py_ssize_t function_dict_size(PyObject *function)
{
    PyObject *dict = ((PyFunctionObject *)function)->func_dict;
    return dict == NULL ? 0 : PyDict_GET_SIZE(dict);
}

/* A number that the interpreter gives a class anew whenever an attribute of it, or of a base, is set; 0: none. */
static Py_ssize_t class_version(PyObject *type)
{
    return (Py_ssize_t)__atomic_load_n(&((PyTypeObject *)type)->tp_version_tag, __ATOMIC_RELAXED);
}

/* Has the interpreter give it one: 0, or -1 with an exception. */
static int class_number(PyObject *type)
{
#if PY_VERSION_HEX >= 0x030c0000
    (void)PyUnstable_Type_AssignVersionTag((PyTypeObject *)type);
#else
    PyObject *looked_up = PyObject_GetAttrString(type, "__init__"); /* to look up is to number */
    if (looked_up == NULL)
        return -1;
    Py_DECREF(looked_up);
#endif
    if (class_version(type) != 0)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "the class changes too often to be watched");
    return -1;
}

static bool entry_holds(const struct entry *entry)
{
    PyObject *now;
    switch (entry->kind) {
    case WATCH_FUNCTION:
        return PyFunction_GET_CODE(entry->object) == entry->code &&
               PyFunction_GET_DEFAULTS(entry->object) == entry->defaults &&
               PyFunction_GET_KW_DEFAULTS(entry->object) == entry->value &&
               function_dict_size(entry->object) == entry->size;
    case WATCH_CLASS:
        return class_version(entry->object) == entry->size;
    case WATCH_NAME:
        now = dict_value(entry->object, entry->key);
        break;
    case WATCH_CELL:
        now = PyCell_Get(entry->object);
        break;
    case WATCH_SIZE:
    default:
        return PyDict_GET_SIZE(entry->object) == entry->size;
    }
    Py_XDECREF(now); /* compared by address only, and our own reference keeps that address taken */
    return now == entry->value;
}

bool tb_watch_check(const struct tb_codec *codec, PyObject *object)
{
    return Py_IS_TYPE(object, codec->watch_type);
}

bool tb_watch_holds(PyObject *self)
{
    const struct watch *watch = (const struct watch *)self;
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        if (!entry_holds(&watch->entries[i]))
            return false;
    return true;
}

/* ---- Making one ------------------------------------------------------------------------------------------- */

/* place: a function; a class; (dict, name); a cell; a dict, of which only the size is watched. */
static int entry_init(struct entry *entry, PyObject *place)
{
    if (PyFunction_Check(place)) {
        entry->kind = WATCH_FUNCTION;
        entry->code = Py_NewRef(PyFunction_GET_CODE(place));
        entry->defaults = Py_XNewRef(PyFunction_GET_DEFAULTS(place));
        entry->value = Py_XNewRef(PyFunction_GET_KW_DEFAULTS(place));
        entry->size = function_dict_size(place);
    } else if (PyType_Check(place)) {
        if (class_number(place) < 0)
            return -1;
        entry->kind = WATCH_CLASS;
        entry->size = class_version(place);
    } else if (PyCell_Check(place)) {
        entry->kind = WATCH_CELL;
        entry->value = PyCell_Get(place);
    } else if (PyDict_CheckExact(place)) {
        entry->kind = WATCH_SIZE;
        entry->size = PyDict_GET_SIZE(place);
    } else if (PyTuple_CheckExact(place) && PyTuple_GET_SIZE(place) == 2 &&
               PyDict_CheckExact(PyTuple_GET_ITEM(place, 0)) &&
               PyUnicode_CheckExact(PyTuple_GET_ITEM(place, 1))) {
        entry->kind = WATCH_NAME;
        entry->key = Py_NewRef(PyTuple_GET_ITEM(place, 1));
        place = PyTuple_GET_ITEM(place, 0);
        entry->value = dict_value(place, entry->key);
    } else {
        PyErr_SetString(PyExc_TypeError,
                        "a Watch takes functions, classes, cells, dicts and (dict, name) pairs");
        return -1;
    }
    entry->object = Py_NewRef(place);
    return 0;
}

static PyObject *watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *places;
    static char *names[] = {"places", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:Watch", names, &PyList_Type, &places))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(places);
    PyObject *self = type->tp_alloc(type, count);
    if (self == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (entry_init(&((struct watch *)self)->entries[i], PyList_GET_ITEM(places, i)) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return self;
}

static int watch_traverse(PyObject *self, visitproc visit, void *arg)
{
    const struct watch *watch = (const struct watch *)self;
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) {
        Py_VISIT(watch->entries[i].object);
        Py_VISIT(watch->entries[i].key);
        Py_VISIT(watch->entries[i].value);
        Py_VISIT(watch->entries[i].code);
        Py_VISIT(watch->entries[i].defaults);
    }
    return 0;
}

static int watch_clear(PyObject *self)
{
    struct watch *watch = (struct watch *)self;
    Py_ssize_t count = Py_SIZE(self);
    Py_SET_SIZE((PyVarObject *)self, 0); /* nobody looks at half-cleared entries */
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_CLEAR(watch->entries[i].object);
        Py_CLEAR(watch->entries[i].key);
        Py_CLEAR(watch->entries[i].value);
        Py_CLEAR(watch->entries[i].code);
        Py_CLEAR(watch->entries[i].defaults);
    }
    return 0;
}

static void watch_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)watch_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *watch_holds(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(tb_watch_holds(self));
}

static PyMethodDef watch_methods[] = {
    {"holds", watch_holds, METH_NOARGS, PyDoc_STR("Is everything still in its place?")},
    {0},
};

static PyType_Slot watch_slots[] = {
    {Py_tp_new, watch_new},
    {Py_tp_dealloc, watch_dealloc},
    {Py_tp_traverse, watch_traverse},
    {Py_tp_clear, watch_clear},
    {Py_tp_methods, watch_methods},
    {Py_tp_doc, (void *)(uintptr_t) "Watch(places): the identities of all that a function refers to."},
    {0, NULL},
};

PyType_Spec tb_watch_spec = {
    .name = "treadle._engine.Watch",
    .basicsize = sizeof(struct watch),
    .itemsize = sizeof(struct entry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = watch_slots,
};
