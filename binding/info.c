/* info.c: the options in force, the CPU and memory budget, the clock and the trace, as Python sees them.
 * Tests  tests/unit/test_engine_module.py */
#include "info.h"

#include <stdbool.h>

#include "base/clock.h"
#include "base/option.h"
#include "base/trace.h"
#include "os/budget.h"

PyDoc_STRVAR(options_doc, "options()\n--\n\n"
                          "Every option of the engine: (name, type, value, default, help, is_set, problem).");

static PyObject *info_options(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    PyObject *rows = PyList_New(0);
    if (rows == NULL)
        return NULL;
    for (int option = 0; option < TD_OPTION_COUNT; option++) {
        td_option_info info;
        td_option_describe((td_option)option, &info);
        PyObject *row = Py_BuildValue("(sssssOz)", info.name, info.type, info.text, info.default_text,
                                      info.help, info.is_set ? Py_True : Py_False, info.problem);
        if (row == NULL || PyList_Append(rows, row) < 0) {
            Py_XDECREF(row);
            Py_DECREF(rows);
            return NULL;
        }
        Py_DECREF(row);
    }
    return rows;
}

PyDoc_STRVAR(option_doc, "option(name, /)\n--\n\n"
                         "The value in force of the option TREADLE_<name>: int (durations in ns) or str.");

static PyObject *info_option(PyObject *Py_UNUSED(module), PyObject *arg)
{
    const char *name = PyUnicode_AsUTF8(arg);
    if (name == NULL)
        return NULL;
    for (int option = 0; option < TD_OPTION_COUNT; option++) {
        td_option_info info;
        td_option_describe((td_option)option, &info);
        if (strcmp(info.name + strlen("TREADLE_"), name) != 0)
            continue;
        if (strcmp(info.type, "string") == 0)
            return PyUnicode_DecodeFSDefault(td_option_string((td_option)option));
        return PyLong_FromLongLong(td_option_int((td_option)option));
    }
    return PyErr_Format(PyExc_KeyError, "no option %R", arg);
}

PyDoc_STRVAR(reload_doc, "reload_options()\n--\n\n"
                         "Reads the environment again. Returns what is wrong with it, or None.");

static PyObject *info_reload(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    if (td_options_reload() == TD_ENOMEM)
        return PyErr_NoMemory();
    const char *problem = td_options_problem();
    if (problem == NULL)
        Py_RETURN_NONE;
    return PyUnicode_DecodeFSDefault(problem);
}

PyDoc_STRVAR(budget_doc, "budget()\n--\n\nCPUs and memory that this process may use, and what limits them.");

static PyObject *info_budget(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    td_cpu_budget cpu;
    td_memory_budget memory;
    td_cpu_budget_read("", &cpu);
    td_memory_budget_init(&memory, "");
    PyObject *budget = Py_BuildValue(
        "{sIssszsIsIsdsKsK}", "cpus", cpu.cpus, "limit", td_cpu_limit_text(cpu.limit), "quota_file",
        cpu.quota_file[0] != '\0' ? cpu.quota_file : NULL, "online", cpu.online, "affinity", cpu.affinity,
        "quota", cpu.quota, "memory", (unsigned long long)td_memory_budget_bytes(&memory), "memory_total",
        (unsigned long long)memory.total);
    td_memory_budget_fini(&memory);
    return budget;
}

PyDoc_STRVAR(cpus_doc, "cpus()\n--\n\nThe CPU budget: affinity mask and cgroup quota, at least 1.");

static PyObject *info_cpus(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    td_cpu_budget cpu;
    td_cpu_budget_read("", &cpu);
    return PyLong_FromUnsignedLong(cpu.cpus);
}

PyDoc_STRVAR(now_doc, "now_ns()\n--\n\nThe engine's clock (CLOCK_MONOTONIC), in nanoseconds.");

static PyObject *info_now(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLongLong(td_now_ns());
}

PyDoc_STRVAR(trace_on_doc, "trace_on()\n--\n\nTrace points record from here on.");

static PyObject *info_trace_on(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    td_trace_enable(true);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(trace_dump_doc,
             "trace_dump(fd, /)\n--\n\n"
             "Writes this process's trace as lines of text: time in ns, process, thread, event, a, b.");

static PyObject *info_trace_dump(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = PyObject_AsFileDescriptor(arg);
    if (fd < 0)
        return NULL;
    td_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = td_trace_dump(fd);
    Py_END_ALLOW_THREADS;
    if (status != TD_OK)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(clear_flag_doc,
             "clear_flag(name, /)\n--\n\n"
             "Makes sys.flags.<name> 0: this interpreter has caught up on what it was told to leave out.");

static PyObject *info_clear_flag(PyObject *Py_UNUSED(module), PyObject *name)
{
    PyObject *flags = PySys_GetObject("flags"); /* borrowed */
    PyObject *names =
        flags != NULL ? PyObject_GetAttrString((PyObject *)Py_TYPE(flags), "__match_args__") : NULL;
    Py_ssize_t place = names != NULL ? PySequence_Index(names, name) : -1;
    Py_XDECREF(names);
    if (place < 0)
        return PyErr_Occurred() != NULL ? NULL : PyErr_Format(PyExc_KeyError, "no flag %R", name);
    PyObject *zero = PyLong_FromLong(0);
    if (zero == NULL)
        return NULL;
    PyObject *before =
        PyStructSequence_GetItem(flags, place); /* ours from here on: the setter only overwrites */
    PyStructSequence_SetItem(flags, place, zero);
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyMethodDef info_methods[] = {
    {"options", info_options, METH_NOARGS, options_doc},
    {"option", info_option, METH_O, option_doc},
    {"reload_options", info_reload, METH_NOARGS, reload_doc},
    {"budget", info_budget, METH_NOARGS, budget_doc},
    {"cpus", info_cpus, METH_NOARGS, cpus_doc},
    {"now_ns", info_now, METH_NOARGS, now_doc},
    {"trace_on", info_trace_on, METH_NOARGS, trace_on_doc},
    {"trace_dump", info_trace_dump, METH_O, trace_dump_doc},
    {"clear_flag", info_clear_flag, METH_O, clear_flag_doc},
    {0},
};

int tb_info_init(PyObject *module)
{
    return PyModule_AddFunctions(module, info_methods);
}
