/* stats.c: a pool's figures, its workers and its dead, as Python objects: copies, as they are now.
 *
 * Of a pool that has ended the executor keeps the last ones (tb_executor_end).
 * Tests  tests/unit/test_engine_module.py, tests/unit/test_submit.py, tests/fault/test_worker_death.py */
#include "executor.h"
#include "pool.h"

/* ---- Figures -------------------------------------------------------------------------------------------------- */

PyObject *tb_pool_stats(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_executor *executor = (struct tb_executor *)self;
    struct td_pool_stats s = executor->last_stats;
    struct tb_handle *handle = tb_executor_handle(executor);
    if (handle != NULL)
        td_pool_get_stats(handle->pool, &s);
    Py_XDECREF((PyObject *)handle);
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"submitted", s.submitted},
        {"queued", s.queued},
        {"running", s.running},
        {"succeeded", s.succeeded},
        {"failed", s.failed},
        {"cancelled", s.cancelled},
        {"died", s.died},
        {"timed_out", s.timed_out},
        {"retried", s.retried},
        {"bytes_moved", s.bytes_moved},
        {"bytes_copied", s.bytes_copied},
        {"argument_bytes_live", s.argument_bytes_live},
        {"result_bytes_live", s.result_bytes_live},
        {"workers_alive", s.workers_alive},
        {"workers_idle", s.workers_idle},
        {"workers_started", s.workers_started},
        {"restarts", s.restarts},
        {"barren_deaths", s.barren_deaths},
        {"zygote_starts", s.zygote_starts},
        {"zygote_pid", (uint64_t)(uint32_t)s.zygote_pid},
    };
    PyObject *stats = PyDict_New();
    for (size_t i = 0; stats != NULL && i < sizeof rows / sizeof rows[0]; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(rows[i].value);
        if (value == NULL || PyDict_SetItemString(stats, rows[i].name, value) < 0)
            Py_CLEAR(stats);
        Py_XDECREF(value);
    }
    return stats;
}

/* ---- Workers -------------------------------------------------------------------------------------------------- */

static PyObject *worker_row(const struct td_worker_info *info)
{
    static const char *const states[] = {"absent", "starting", "idle", "busy", "leaving", "dead"};
    bool known = (unsigned)info->state < sizeof states / sizeof states[0];
    return Py_BuildValue("{sisssKsKsKsL}", "pid", (int)info->pid, "state", known ? states[info->state] : "?",
                         "tasks_done", (unsigned long long)info->tasks_done, "rss_bytes",
                         (unsigned long long)info->rss_bytes, "busy_ns", (unsigned long long)info->busy_ns,
                         "started_ns", (long long)info->started_ns);
}

PyObject *tb_pool_workers(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_executor *executor = (struct tb_executor *)self;
    PyObject *rows = PyList_New(0);
    struct tb_handle *handle = rows != NULL ? tb_executor_handle(executor) : NULL;
    if (handle == NULL)
        return rows;
    struct td_worker_info *infos = PyMem_New(struct td_worker_info, executor->workers);
    uint32_t count = 0;
    if (infos == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(rows);
    } else {
        count = td_pool_get_workers(handle->pool, infos, executor->workers);
    }
    if (count > executor->workers)
        count = executor->workers;
    for (uint32_t i = 0; rows != NULL && i < count; i++) {
        PyObject *row = worker_row(&infos[i]);
        if (row == NULL || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    PyMem_Free(infos);
    Py_DECREF((PyObject *)handle);
    return rows;
}

/* ---- Deaths --------------------------------------------------------------------------------------------------- */

static const char *fate_of(const struct td_death_record *record)
{
    switch (record->fate) {
    case TD_TASK_QUEUED:
        return "retried";
    case TD_TASK_CANCELLED:
        return "cancelled";
    case TD_TASK_TIMED_OUT:
        return "timed out";
    default:
        return "died";
    }
}

/* Takes the name over. Items of a map are counted from its first one: its tag says where the chunk began. */
static PyObject *death_row(const struct td_death_record *record, PyObject *name)
{
    bool chunk = record->lost && record->end > record->begin;
    return Py_BuildValue("{sKsisIsNsNsOsNsNsNsNsNsI}", "number", (unsigned long long)record->number, "pid",
                         (int)record->pid, "worker", (unsigned)record->worker, "signal",
                         record->signal > 0 ? PyLong_FromLong(record->signal) : Py_NewRef(Py_None), "exit_code",
                         record->exit_code >= 0 ? PyLong_FromLong(record->exit_code) : Py_NewRef(Py_None),
                         "lost", record->lost ? Py_True : Py_False, "fate",
                         record->lost ? PyUnicode_FromString(fate_of(record)) : Py_NewRef(Py_None), "name",
                         name, "items",
                         chunk ? Py_BuildValue("(KK)", (unsigned long long)(record->tag + record->begin),
                                               (unsigned long long)(record->tag + record->end))
                               : Py_NewRef(Py_None),
                         "tag", PyLong_FromUnsignedLongLong(record->tag), "position",
                         PyLong_FromUnsignedLongLong(record->position), "attempt", (unsigned)record->attempt);
}

static int append_death(PyObject *rows, struct tb_executor *executor, const struct td_death_record *record)
{
    PyObject *name = record->lost && record->name[0] == '\0' ? tb_executor_name(executor, record->fn) : NULL;
    if (name == NULL) /* the bytes kept may end in the middle of a character */
        name = PyUnicode_DecodeUTF8(record->name, (Py_ssize_t)strlen(record->name), "ignore");
    PyObject *row = name != NULL ? death_row(record, name) : NULL;
    int done = row != NULL ? PyList_Append(rows, row) : -1;
    Py_XDECREF(row);
    return done;
}

/* _deaths(): the engine's log, oldest first. */
PyObject *tb_pool_deaths(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_executor *executor = (struct tb_executor *)self;
    struct tb_handle *handle = tb_executor_handle(executor);
    if (handle == NULL)
        return executor->last_deaths != NULL ? PyList_GetSlice(executor->last_deaths, 0, TD_DEATHS_KEPT)
                                             : PyList_New(0);
    PyObject *rows = PyList_New(0);
    struct td_death_record *records = PyMem_New(struct td_death_record, TD_DEATHS_KEPT);
    if (records == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(rows);
    }
    uint32_t count = rows != NULL ? td_pool_get_deaths(handle->pool, records, TD_DEATHS_KEPT) : 0;
    for (uint32_t i = 0; i < count && rows != NULL; i++)
        if (append_death(rows, executor, &records[i]) < 0)
            Py_CLEAR(rows);
    PyMem_Free(records);
    Py_DECREF((PyObject *)handle);
    return rows;
}
