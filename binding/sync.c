/* sync.c: events, barriers and counters (core/memory/flag.c, barrier.c, counter.c) as functions of their blocks.
 * Invariant  the block is held by the call's argument for as long as the call takes.
 * Tests      tests/unit/test_sync.py */
#include "sync.h"

#include "base/clock.h"
#include "module.h"
#include "shared.h"

/* None, or NULL with the status's exception. */
static PyObject *done(PyObject *module, td_status status)
{
    if (status == TD_OK)
        Py_RETURN_NONE;
    (void)tb_raise_status(tb_state_of(module), status, NULL);
    return NULL;
}

/* A new block as a SharedBlock. */
static PyObject *made(PyObject *module, td_status status, td_hold *hold)
{
    return status == TD_OK ? tb_shared_of(tb_codec_of(module), hold) : done(module, status);
}

/* ---- Events ------------------------------------------------------------------------------------------------ */

static PyObject *flag_new(PyObject *module, PyObject *Py_UNUSED(unused))
{
    td_hold *flag = NULL;
    const td_status status = td_flag_new(&flag);
    return made(module, status, flag);
}

static PyObject *flag_set(PyObject *module, PyObject *block)
{
    td_hold *flag = tb_shared_hold(tb_codec_of(module), block);
    return flag != NULL ? done(module, td_flag_set(flag)) : NULL;
}

static PyObject *flag_clear(PyObject *module, PyObject *block)
{
    td_hold *flag = tb_shared_hold(tb_codec_of(module), block);
    return flag != NULL ? done(module, td_flag_clear(flag)) : NULL;
}

static PyObject *flag_is_set(PyObject *module, PyObject *block)
{
    td_hold *flag = tb_shared_hold(tb_codec_of(module), block);
    return flag != NULL ? PyBool_FromLong(td_flag_is_set(flag)) : NULL;
}

struct flag_wait {
    td_hold *flag;
    uint32_t ticket;
};

static td_status wait_for_flag(void *subject, int64_t deadline_ns)
{
    const struct flag_wait *wait = subject;
    return td_flag_wait_until(wait->flag, wait->ticket, deadline_ns);
}

static PyObject *flag_wait(PyObject *module, PyObject *args)
{
    PyObject *block, *timeout;
    int64_t deadline_ns;
    if (!PyArg_ParseTuple(args, "OO:flag_wait", &block, &timeout) || tb_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    td_hold *flag = tb_shared_hold(tb_codec_of(module), block);
    if (flag == NULL)
        return NULL;
    struct flag_wait wait = {.flag = flag, .ticket = td_flag_ticket(flag)};
    const int set = tb_poll_or_wait(tb_state_of(module), NULL, wait_for_flag, &wait, deadline_ns);
    return set < 0 ? NULL : PyBool_FromLong(set);
}

/* ---- Barriers ---------------------------------------------------------------------------------------------- */

static PyObject *barrier_new(PyObject *module, PyObject *parties)
{
    td_hold *barrier = NULL;
    const long count = PyLong_AsLong(parties);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (count < 1 || count > (long)TD_MAX_PARTIES)
        return PyErr_Format(PyExc_ValueError, "a barrier has 1 to %u parties, not %ld", TD_MAX_PARTIES, count);
    const td_status status = td_barrier_new((uint32_t)count, &barrier);
    return made(module, status, barrier);
}

/* As tb_wait_until, but that a deadline that passes breaks the barrier, so that who only looks whether a signal came
 * stays there meanwhile. */
static td_status stay(td_hold *barrier, int64_t deadline_ns, uint32_t *index)
{
    uint32_t party = TD_NO_PARTY;
    for (int64_t pause_ns = 5 * TD_NS_PER_MS;; pause_ns *= 2) {
        td_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = td_barrier_stay_until(barrier, deadline_ns, td_deadline_after(pause_ns), &party, index);
        Py_END_ALLOW_THREADS;
        if (status != TD_EINTR && status != TD_EAGAIN)
            return status;
        if (PyErr_CheckSignals() < 0) {
            if (party != TD_NO_PARTY)
                (void)td_barrier_leave(barrier, party, index);
            return TD_EINTR;
        }
        td_signals_heeded();
    }
}

static PyObject *barrier_wait(PyObject *module, PyObject *args)
{
    PyObject *block, *timeout;
    int64_t deadline_ns;
    uint32_t index = 0;
    if (!PyArg_ParseTuple(args, "OO:barrier_wait", &block, &timeout) || tb_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    td_hold *barrier = tb_shared_hold(tb_codec_of(module), block);
    if (barrier == NULL)
        return NULL;
    const td_status status = stay(barrier, deadline_ns, &index);
    if (status == TD_OK)
        return PyLong_FromUnsignedLong(index);
    return status == TD_EINTR ? NULL : done(module, status);
}

static PyObject *end_barrier(PyObject *module, PyObject *block, td_status (*end)(td_hold *barrier))
{
    td_hold *barrier = tb_shared_hold(tb_codec_of(module), block);
    td_status status;
    if (barrier == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = end(barrier);
    Py_END_ALLOW_THREADS;
    return done(module, status);
}

static PyObject *barrier_abort(PyObject *module, PyObject *block)
{
    return end_barrier(module, block, td_barrier_abort);
}

static PyObject *barrier_reset(PyObject *module, PyObject *block)
{
    return end_barrier(module, block, td_barrier_reset);
}

static PyObject *barrier_info(PyObject *module, PyObject *block)
{
    td_hold *barrier = tb_shared_hold(tb_codec_of(module), block);
    struct td_barrier_info info;
    if (barrier == NULL)
        return NULL;
    const td_status status = td_barrier_get_info(barrier, &info);
    if (status != TD_OK)
        return done(module, status);
    return Py_BuildValue("(IIO)", info.parties, info.waiting, info.broken ? Py_True : Py_False);
}

/* ---- Counters ---------------------------------------------------------------------------------------------- */

static int read_number(PyObject *object, int64_t *number)
{
    const long long value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred())
        return -1;
    *number = value;
    return 0;
}

static PyObject *counter_new(PyObject *module, PyObject *value)
{
    td_hold *counter = NULL;
    int64_t number;
    if (read_number(value, &number) < 0)
        return NULL;
    const td_status status = td_counter_new(number, &counter);
    return made(module, status, counter);
}

/* The counter of the first of two arguments, and the number that is the second. */
static td_hold *counter_and_number(PyObject *module, PyObject *const *args, Py_ssize_t count, int64_t *number)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "a counter and a number are needed");
        return NULL;
    }
    return read_number(args[1], number) == 0 ? tb_shared_hold(tb_codec_of(module), args[0]) : NULL;
}

static PyObject *counter_add(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    int64_t number, sum;
    td_hold *counter = counter_and_number(module, args, count, &number);
    if (counter == NULL)
        return NULL;
    const td_status status = td_counter_add(counter, number, &sum);
    return status == TD_OK ? PyLong_FromLongLong(sum) : done(module, status);
}

static PyObject *counter_set(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    int64_t number;
    td_hold *counter = counter_and_number(module, args, count, &number);
    return counter != NULL ? done(module, td_counter_set(counter, number)) : NULL;
}

static PyObject *counter_get(PyObject *module, PyObject *block)
{
    const td_hold *counter = tb_shared_hold(tb_codec_of(module), block);
    int64_t value;
    if (counter == NULL)
        return NULL;
    const td_status status = td_counter_get(counter, &value);
    return status == TD_OK ? PyLong_FromLongLong(value) : done(module, status);
}

/* ---- The module's functions -------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"flag_new", flag_new, METH_NOARGS, PyDoc_STR("flag_new()\n--\n\nA new event's block.")},
    {"flag_set", flag_set, METH_O, PyDoc_STR("flag_set(block, /)\n--\n\nSets it, and wakes all who wait.")},
    {"flag_clear", flag_clear, METH_O, PyDoc_STR("flag_clear(block, /)\n--\n\nClears it.")},
    {"flag_is_set", flag_is_set, METH_O, PyDoc_STR("flag_is_set(block, /)\n--\n\nIs it set?")},
    {"flag_wait", flag_wait, METH_VARARGS,
     PyDoc_STR("flag_wait(block, timeout, /)\n--\n\nTrue when it is set; False: the timeout has passed.")},
    {"barrier_new", barrier_new, METH_O, PyDoc_STR("barrier_new(parties, /)\n--\n\nA new barrier's block.")},
    {"barrier_wait", barrier_wait, METH_VARARGS,
     PyDoc_STR("barrier_wait(block, timeout, /)\n--\n\nThe caller's index, when all have come.")},
    {"barrier_abort", barrier_abort, METH_O, PyDoc_STR("barrier_abort(block, /)\n--\n\nBreaks it.")},
    {"barrier_reset", barrier_reset, METH_O, PyDoc_STR("barrier_reset(block, /)\n--\n\nMakes it whole again.")},
    {"barrier_info", barrier_info, METH_O,
     PyDoc_STR("barrier_info(block, /)\n--\n\n(parties, how many wait, is it broken?)")},
    {"counter_new", counter_new, METH_O, PyDoc_STR("counter_new(value, /)\n--\n\nA new counter's block.")},
    {"counter_add", (PyCFunction)(void (*)(void))counter_add, METH_FASTCALL,
     PyDoc_STR("counter_add(block, number, /)\n--\n\nAdds the number; the sum.")},
    {"counter_set", (PyCFunction)(void (*)(void))counter_set, METH_FASTCALL,
     PyDoc_STR("counter_set(block, value, /)\n--\n\nSets it.")},
    {"counter_get", counter_get, METH_O, PyDoc_STR("counter_get(block, /)\n--\n\nIts value.")},
    {0},
};

int tb_sync_init(PyObject *module)
{
    return tb_lock_init(module) < 0 ? -1 : PyModule_AddFunctions(module, methods);
}
