/* compat.h: what differs between CPython 3.11 and 3.14, under one name. */
#ifndef TB_COMPAT_H
#define TB_COMPAT_H

#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

/* A critical section is the object's own lock on a free-threaded build; elsewhere the GIL is that lock. */
#ifndef Py_BEGIN_CRITICAL_SECTION
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* An exact int of one digit: quicker than asking for its value. Where the interpreter does not tell, none is. */
static inline bool tb_is_short_int(PyObject *object, int32_t *value)
{
#if PY_VERSION_HEX >= 0x030c0000
    if (PyLong_CheckExact(object) && PyUnstable_Long_IsCompact((PyLongObject *)object)) {
        *value = (int32_t)PyUnstable_Long_CompactValue((PyLongObject *)object);
        return true;
    }
#else
    (void)object;
    (void)value;
#endif
    return false;
}

/* The exception that is set, as a new reference with its traceback, and none is set any more. NULL: none was. */
static inline PyObject *tb_exception_take(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Sets an exception again that tb_exception_take gave: steals the reference, changes nothing in it. */
static inline void tb_exception_give(PyObject *exception)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyErr_SetRaisedException(exception);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
#endif
}

/* The instance dict of an object whose type has the interpreter manage it (a C type under a Python base class). */
static inline int tb_visit_managed_dict(PyObject *object, visitproc visit, void *arg)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyObject_VisitManagedDict(object, visit, arg);
#elif PY_VERSION_HEX >= 0x030c0000
    return _PyObject_VisitManagedDict(object, visit, arg);
#else
    PyObject **dict = _PyObject_GetDictPtr(object);
    if (dict != NULL)
        Py_VISIT(*dict);
    return 0;
#endif
}

static inline void tb_clear_managed_dict(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030d0000
    PyObject_ClearManagedDict(object);
#elif PY_VERSION_HEX >= 0x030c0000
    _PyObject_ClearManagedDict(object);
#else
    PyObject **dict = _PyObject_GetDictPtr(object);
    if (dict != NULL)
        Py_CLEAR(*dict);
#endif
}

#endif
