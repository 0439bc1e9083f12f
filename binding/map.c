/* map.c: the iterator that Executor.map returns: results in the order of the input, or as they come.
 *
 * next() reads the part at hand item by item; at its end it takes the next part of the chunk, else the next chunk,
 * and on the way sends more input (feed.c): always when few chunks are in flight, and while it would have to wait.
 * Invariants  I1 flights holds a reference to every chunk that is not read; part is the one being read.
 *             I2 the parts of a chunk are read from its task along td_task_rest, which is fixed once that is final.
 *             I3 one thread reads, one feeds (flags, as generators have one): others get ValueError. A reader with
 *                nothing to read waits for another thread that feeds; what ends the map meanwhile takes effect when
 *                that comes back.
 * An iterator that was begun and is let go of cancels what has not run; one that was not begun lets it run.
 * Tests  tests/unit/test_map.py */
#include "map.h"

#include "base/clock.h"
#include "compact.h"

/* ---- The end ----------------------------------------------------------------------------------------------------- */

static void part_drop(struct tb_map *map)
{
    td_task *part = map->part;
    map->part = NULL;
    map->part_open = false;
    map->part_left = 0;
    Py_CLEAR(map->lease);
    Py_CLEAR(map->part_error);
    if (part != NULL) {
        td_task_drop_parcels(part);
        td_task_unref(part);
    }
}

static void cancel_chain(td_task *task)
{
    for (; task != NULL; task = tb_is_final(td_task_state(task)) ? td_task_rest(task) : NULL)
        (void)td_task_cancel(task, false);
}

void tb_map_finish(struct tb_map *map, bool cancel)
{
    if (map->executor == NULL)
        return;
    tb_map_end_input(map);
    map->cancels |= cancel;
    map->ending = map->feeding;
    if (map->ending)
        return;
    cancel = map->cancels;
    if (cancel && map->part != NULL)
        cancel_chain(map->part);
    part_drop(map);
    while (map->flights.count != 0) {
        struct tb_flight flight = tb_flights_take(&map->flights);
        if (flight.task != NULL) {
            if (cancel)
                cancel_chain(flight.task);
            td_task_unref(flight.task);
        }
        Py_XDECREF(flight.error);
    }
    if (map->group != NULL)
        td_group_free(map->group);
    map->group = NULL;
    PyMem_Free(map->flights.at);
    map->flights = (struct tb_flights){0};
    tb_chunk_fini(&map->building);
    Py_CLEAR(map->function);
    Py_CLEAR(map->executor);
    Py_CLEAR(map->handle);
}

/* ---- Parts ------------------------------------------------------------------------------------------------------- */

/* The part is final: makes it readable. -1: an exception that belongs to the caller. */
static int part_open(struct tb_map *map)
{
    td_task *part = map->part;
    uint32_t begin = 0, end = 0;
    bool ok = false;
    td_task_range(part, &begin, &end);
    uint32_t items = end > begin ? end - begin : 0;
    PyObject *error = NULL;
    switch (td_task_state(part)) {
    case TD_TASK_RESULT: {
        struct td_view view;
        td_status status = td_task_result(part, &view);
        if (status != TD_OK)
            return tb_raise_status(map->state, status, map->handle->pool);
        if (tb_task_lease(map->state, part, map->handle, &view, &map->lease) < 0)
            return -1;
        tb_results_open(&map->results, view.data, view.bytes);
        tb_map_measure(map, part, items);
        break;
    }
    case TD_TASK_ERROR:
        error = tb_task_decode(map->state, part, map->handle, &ok);
        if (error == NULL && tb_is_ordinary_error()) /* what can't be loaded is what the items raise */
            error = tb_exception_take();
        break;
    case TD_TASK_CANCELLED:
        error = PyObject_CallNoArgs(map->state->cancelled_error);
        break;
    default:
        error = tb_task_exception(map->state, part, map->handle->pool, map->name, map->options.timeout_ns);
        break;
    }
    if (error == NULL && PyErr_Occurred() != NULL)
        return -1;
    map->part_error = error;
    map->part_left = items;
    map->part_open = true;
    return 0;
}

/* The next item of the open part: a new reference, or NULL with what the item raises. */
static PyObject *part_next(struct tb_map *map)
{
    PyObject *value = NULL;
    bool ok = false;
    map->part_left--;
    map->items_out--;
    if (map->part_error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(map->part_error), map->part_error);
        return NULL;
    }
    if (tb_results_next(&map->state->codec, &map->results, map->lease, &ok, &value) < 0)
        return NULL;
    if (ok)
        return value;
    PyErr_SetObject((PyObject *)Py_TYPE(value), value);
    Py_DECREF(value);
    return NULL;
}

/* In completion order, where nothing that was read may be kept because something before it is late: what is left of the
 * part's chunk takes its place in the line. */
static void flight_advance(struct tb_map *map, td_task *rest)
{
    struct tb_flight *flight = tb_flights_find(&map->flights, td_task_tag(map->part));
    if (rest != NULL && td_group_add(map->group, rest) != TD_OK)
        rest = NULL;
    map->tasks_out += rest != NULL;
    if (flight == NULL)
        return;
    td_task_unref(flight->task);
    flight->task = rest != NULL ? td_task_ref(rest) : NULL;
    if (rest == NULL)
        map->bytes_out -= flight->bytes;
}

/* The part is read: on to the rest of its chunk, if there is one. */
static void part_advance(struct tb_map *map)
{
    td_task *rest = td_task_rest(map->part);
    if (map->group != NULL) {
        flight_advance(map, rest);
        part_drop(map);
        return;
    }
    if (rest != NULL)
        rest = td_task_ref(rest);
    part_drop(map);
    map->part = rest;
    if (rest == NULL)
        map->bytes_out -= map->part_bytes;
}

/* ---- Waiting for the next part ----------------------------------------------------------------------------------- */

/* All but FOUND_PART and FOUND_END set an exception: an item's, the deadline's, or the wait's own. */
enum found { FOUND_PART, FOUND_ERROR, FOUND_END, FOUND_LATE, FOUND_NOTHING };

static enum found raise_flight(struct tb_map *map, struct tb_flight flight)
{
    map->items_out--;
    PyErr_SetObject((PyObject *)Py_TYPE(flight.error), flight.error);
    Py_DECREF(flight.error);
    return FOUND_ERROR;
}

static enum found raise_timeout(void)
{
    PyErr_SetNone(PyExc_TimeoutError);
    return FOUND_LATE;
}

/* Before a wait: sends more, as long as there is room and `task` is not final. 1: it is; 0: wait; -1. */
static int feed_while_waiting(struct tb_map *map, td_task *task)
{
    int fed = 1;
    while (fed > 0 && !td_task_poll(task))
        fed = tb_map_feed(map);
    return fed < 0 ? -1 : fed > 0;
}

/* FOUND_PART: there may be one now. */
static enum found await_feeder(struct tb_map *map, int64_t deadline_ns)
{
    const int sent = tb_map_await_feeder(map, deadline_ns);
    if (sent == 0)
        return raise_timeout();
    return sent > 0 ? FOUND_PART : FOUND_NOTHING;
}

/* In the order of the input. */
static enum found find_in_order(struct tb_map *map, int64_t deadline_ns)
{
    if (map->part == NULL) {
        while (map->flights.count == 0) {
            int fed = tb_map_feed(map);
            if (fed < 0)
                return FOUND_NOTHING;
            if (fed != 0 || map->flights.count != 0)
                continue;
            if (!map->feeding)
                return FOUND_END;
            const enum found sent = await_feeder(map, deadline_ns);
            if (sent != FOUND_PART)
                return sent;
        }
        struct tb_flight flight = tb_flights_take(&map->flights);
        if (flight.task == NULL)
            return raise_flight(map, flight);
        map->part = flight.task;
        map->part_bytes = flight.bytes;
    }
    int ready = feed_while_waiting(map, map->part);
    if (ready == 0)
        ready = tb_task_wait(map->state, map->part, deadline_ns);
    if (ready == 0)
        return raise_timeout();
    return ready > 0 ? FOUND_PART : FOUND_NOTHING;
}

/* In completion order: places that were read. */
static void prune_flights(struct tb_map *map)
{
    while (map->flights.count != 0) {
        const struct tb_flight *first = tb_flights_first(&map->flights);
        if (first->task != NULL || first->error != NULL)
            return;
        (void)tb_flights_take(&map->flights);
    }
}

/* 1: popped into part; 0: the deadline passed; -1. */
static int pop_group(struct tb_map *map, int64_t deadline_ns)
{
    const int popped = tb_group_pop(map->state, map->handle->pool, map->group, deadline_ns, &map->part);
    if (popped > 0)
        map->tasks_out--;
    return popped;
}

/* In the order of completion. */
static enum found find_completed(struct tb_map *map, int64_t deadline_ns)
{
    if (map->part != NULL)
        return FOUND_PART;
    for (;;) {
        prune_flights(map);
        if (map->flights.count != 0 && tb_flights_first(&map->flights)->task == NULL &&
            (!tb_flights_first(&map->flights)->is_end || map->tasks_out == 0))
            return raise_flight(map, tb_flights_take(&map->flights));
        if (map->tasks_out != 0) {
            int ready = pop_group(map, 0);
            if (ready != 0)
                return ready > 0 ? FOUND_PART : FOUND_NOTHING;
        }
        int fed = tb_map_feed(map);
        if (fed < 0)
            return FOUND_NOTHING;
        if (fed > 0)
            continue;
        if (map->tasks_out == 0 && map->feeding) {
            const enum found sent = await_feeder(map, deadline_ns);
            if (sent != FOUND_PART)
                return sent;
            continue;
        }
        if (map->tasks_out == 0)
            return map->flights.count == 0 ? FOUND_END : raise_flight(map, tb_flights_take(&map->flights));
        int ready = pop_group(map, deadline_ns);
        if (ready == 0)
            return raise_timeout();
        return ready > 0 ? FOUND_PART : FOUND_NOTHING;
    }
}

/* ---- next() ------------------------------------------------------------------------------------------------------ */

/* Between parts: sees to it that the workers have work, then finds the next part and opens it. */
static enum found next_part(struct tb_map *map, int64_t deadline_ns)
{
    int fed = 1;
    while (fed == 1 && tb_map_is_hungry(map))
        fed = tb_map_feed(map);
    if (fed < 0)
        return FOUND_NOTHING;
    enum found found = map->group == NULL ? find_in_order(map, deadline_ns) : find_completed(map, deadline_ns);
    if (found == FOUND_PART && part_open(map) < 0)
        return FOUND_NOTHING;
    return found;
}

/* Ends the iteration with the exception that is set: what has not run is cancelled, as when a generator raises. */
static void end_with_error(struct tb_map *map)
{
    PyObject *raised = tb_exception_take();
    tb_map_finish(map, true);
    tb_exception_give(raised);
}

/* patient: running out of time does not end the iteration. */
static PyObject *read_item(struct tb_map *map, int64_t deadline_ns, bool patient)
{
    while (map->part_left == 0) {
        if (map->part_open)
            part_advance(map);
        enum found found = next_part(map, deadline_ns);
        if (found == FOUND_PART)
            continue;
        if (found == FOUND_END)
            tb_map_finish(map, false);
        else if (found == FOUND_ERROR  ? !map->keep_going
                 : found == FOUND_LATE ? !patient
                                       : !tb_is_ordinary_error())
            end_with_error(map);
        return NULL;
    }
    PyObject *value = part_next(map);
    if (value == NULL && !map->keep_going)
        end_with_error(map);
    return value;
}

static PyObject *map_read(struct tb_map *map, int64_t deadline_ns, bool patient)
{
    if (map->executor == NULL || map->ending)
        return NULL;
    if (map->reading) {
        PyErr_SetString(PyExc_ValueError, "map iterator already executing");
        return NULL;
    }
    map->iterated = map->reading = true;
    tb_map_unkeep(map);
    PyObject *value = read_item(map, deadline_ns, patient);
    map->reading = false;
    return value;
}

/* map_read in the middle of a part. NULL without an exception: it is not, or the result is not a quick one. */
static inline PyObject *map_read_quick(struct tb_map *map)
{
    if (map->part_left == 0 || map->part_error != NULL || map->reading)
        return NULL;
    PyObject *value = tb_results_quick(&map->results);
    if (value != NULL) {
        map->part_left--;
        map->items_out--;
    }
    return value;
}

static PyObject *map_iternext(PyObject *self)
{
    struct tb_map *map = (struct tb_map *)self;
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = map_read_quick(map);
    if (value == NULL)
        value = map_read(map, map->deadline_ns, false);
    Py_END_CRITICAL_SECTION();
    return value;
}

PyDoc_STRVAR(next_doc,
             "next($self, timeout=None)\n--\n\n"
             "The next result; TimeoutError when it is not there in so many seconds: it can be asked again.");

static PyObject *map_next(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    struct tb_map *map = (struct tb_map *)self;
    PyObject *timeout = Py_None, *value;
    int64_t deadline_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:next", keywords, &timeout) ||
        tb_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    bool patient = deadline_ns < map->deadline_ns;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = map_read(map, patient ? deadline_ns : map->deadline_ns, patient);
    Py_END_CRITICAL_SECTION();
    if (value == NULL && PyErr_Occurred() == NULL)
        PyErr_SetNone(PyExc_StopIteration);
    return value;
}

static PyObject *map_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_map *map = (struct tb_map *)self;
    bool busy;
    Py_BEGIN_CRITICAL_SECTION(self);
    busy = map->reading || map->feeding;
    if (!busy)
        tb_map_finish(map, true);
    Py_END_CRITICAL_SECTION();
    if (busy)
        return PyErr_Format(PyExc_ValueError, "map iterator already executing");
    Py_RETURN_NONE;
}

/* ---- The executor's side ----------------------------------------------------------------------------------------- */

/* Nobody will read it: its results are dropped as they come, so that what is in flight stays bounded. */
static int feed_unread(struct tb_map *map)
{
    while (map->inputs != NULL) {
        int fed = tb_map_feed(map);
        if (fed < 0 || PyErr_CheckSignals() < 0)
            return -1;
        if (fed > 0 || map->flights.count == 0)
            continue;
        struct tb_flight flight = tb_flights_take(&map->flights);
        int done = flight.task != NULL ? tb_task_wait(map->state, flight.task, TD_FOREVER) : 1;
        if (flight.task != NULL)
            td_task_unref(flight.task);
        Py_XDECREF(flight.error);
        if (done < 0)
            return -1;
        map->bytes_out -= flight.bytes;
        map->items_out -= flight.items;
    }
    return 0;
}

/* The first listed map that still gets the rest of its input: a new reference, or NULL. */
static struct tb_map *map_to_pump(struct tb_executor *executor)
{
    struct tb_map *map;
    Py_BEGIN_CRITICAL_SECTION(executor);
    map = executor->maps;
    while (map != NULL && (map->feeding || (map->iterated && map->remaining < 0)))
        map = map->next;
    Py_XINCREF((PyObject *)map);
    Py_END_CRITICAL_SECTION();
    return map;
}

int tb_maps_pump(struct tb_executor *executor)
{
    struct tb_map *map;
    int done = 0;
    while (done == 0 && (map = map_to_pump(executor)) != NULL) {
        Py_BEGIN_CRITICAL_SECTION(map);
        if (map->feeding_lock == NULL)
            map->feeding_lock = PyThread_allocate_lock(); /* without memory readers get ValueError */
        done = map->kept && Py_REFCNT((PyObject *)map) == 2 ? feed_unread(map) : tb_map_feed_all(map);
        if (done == 0)
            tb_map_end_input(map);
        Py_END_CRITICAL_SECTION();
        Py_DECREF((PyObject *)map);
    }
    return done;
}

void tb_maps_drop(struct tb_executor *executor)
{
    while (executor->maps != NULL) {
        struct tb_map *map = (struct tb_map *)Py_NewRef((PyObject *)executor->maps);
        tb_map_unlist(map);
        Py_DECREF((PyObject *)map);
    }
}

int tb_maps_traverse(struct tb_executor *executor, visitproc visit, void *arg)
{
    for (struct tb_map *map = executor->maps; map != NULL; map = map->next)
        if (map->kept)
            Py_VISIT(map);
    return 0;
}

/* ---- Making one -------------------------------------------------------------------------------------------------- */

static PyObject *iterators_of(PyObject *iterables)
{
    Py_ssize_t count = PyTuple_GET_SIZE(iterables);
    PyObject *inputs = PyTuple_New(count);
    for (Py_ssize_t i = 0; inputs != NULL && i < count; i++) {
        PyObject *iterator = PyObject_GetIter(PyTuple_GET_ITEM(iterables, i));
        if (iterator == NULL)
            Py_CLEAR(inputs);
        else
            PyTuple_SET_ITEM(inputs, i, iterator);
    }
    return inputs;
}

/* The length of the shortest, where all tell theirs; else -1. */
static Py_ssize_t shortest(PyObject *iterables)
{
    Py_ssize_t least = PyTuple_GET_SIZE(iterables) != 0 ? PY_SSIZE_T_MAX : 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(iterables); i++) {
        PyObject *iterable = PyTuple_GET_ITEM(iterables, i);
        const PyTypeObject *type = Py_TYPE(iterable);
        bool sized = (type->tp_as_sequence != NULL && type->tp_as_sequence->sq_length != NULL) ||
                     (type->tp_as_mapping != NULL && type->tp_as_mapping->mp_length != NULL);
        Py_ssize_t length = sized ? PyObject_Size(iterable) : -1;
        if (length < 0) {
            PyErr_Clear();
            return -1;
        }
        if (length < least)
            least = length;
    }
    return least;
}

static struct tb_map *map_new(struct tb_executor *executor, PyObject *callable)
{
    PyTypeObject *type = executor->state->map_type;
    struct tb_map *map = (struct tb_map *)type->tp_alloc(type, 0);
    if (map == NULL)
        return NULL;
    map->state = executor->state;
    map->executor = (struct tb_executor *)Py_NewRef((PyObject *)executor);
    map->pace = (struct tb_pace){.begun_ns = td_now_ns(), .check = 1};
    map->function = tb_executor_function(executor, callable);
    if (map->function == NULL) {
        Py_DECREF((PyObject *)map);
        return NULL;
    }
    map->handle = (struct tb_handle *)Py_NewRef((PyObject *)map->function->handle);
    return map;
}

/* None or a count of at least 1; 0 stands for None. */
static int count_argument(PyObject *value, const char *what, uint64_t most, uint64_t *count)
{
    *count = 0;
    if (value == Py_None)
        return 0;
    Py_ssize_t number = PyNumber_AsSsize_t(value, NULL);
    if (number == -1 && PyErr_Occurred())
        return -1;
    if (number < 1) {
        PyErr_Format(PyExc_ValueError, "%s must be >= 1.", what);
        return -1;
    }
    *count = (uint64_t)number < most ? (uint64_t)number : most;
    return 0;
}

struct map_request {
    PyObject *callable, *iterables, *chunksize, *buffersize, *timeout, *options;
    int star, ordered, keep_going;
};

static int map_set_up(struct tb_map *map, const struct map_request *request)
{
    PyObject *timeout, *retries, *name;
    uint64_t chunk_items;
    if (!PyArg_ParseTuple(request->options, "OOO:_map", &timeout, &retries, &name) ||
        tb_options_parse(timeout, retries, name, &map->options) < 0 ||
        count_argument(request->chunksize, "chunksize", UINT32_MAX / 2, &chunk_items) < 0 ||
        count_argument(request->buffersize, "buffersize", UINT64_MAX / 2, &map->window) < 0 ||
        tb_deadline(request->timeout, &map->deadline_ns) < 0)
        return -1;
    map->chunk_items = (uint32_t)chunk_items;
    map->ahead_bytes = td_pool_ahead_bytes(map->handle->pool);
    map->name = Py_NewRef(map->options.name != NULL ? map->options.name : map->function->name);
    map->star = request->star != 0;
    map->keep_going = request->keep_going != 0;
    map->remaining = shortest(request->iterables);
    map->inputs = iterators_of(request->iterables);
    if (map->inputs == NULL)
        return -1;
    tb_map_look_at_inputs(map, request->iterables);
    if (!request->ordered) {
        td_status status = td_group_new(&map->group);
        if (status != TD_OK)
            return tb_raise_status(map->state, status, NULL);
    }
    if (PyTuple_GET_SIZE(map->inputs) == 0) /* zip() of nothing is empty */
        Py_CLEAR(map->inputs);
    else
        tb_map_list(map);
    return tb_map_feed_first(map);
}

PyObject *tb_executor_map(PyObject *self, PyObject *args)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    struct map_request request;
    if (!PyArg_ParseTuple(args, "OO!pOOpOO!p:_map", &request.callable, &PyTuple_Type, &request.iterables,
                          &request.star, &request.chunksize, &request.buffersize, &request.ordered,
                          &request.timeout, &PyTuple_Type, &request.options, &request.keep_going))
        return NULL;
    if (tb_executor_prepare(executor) < 0)
        return NULL;
    struct tb_map *map = map_new(executor, request.callable);
    if (map == NULL)
        return NULL;
    if (map_set_up(map, &request) < 0) {
        PyObject *raised = tb_exception_take();
        tb_map_finish(map, true);
        Py_DECREF((PyObject *)map);
        tb_exception_give(raised);
        return NULL;
    }
    return (PyObject *)map;
}

/* ---- The type ---------------------------------------------------------------------------------------------------- */

static int map_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tb_map *map = (struct tb_map *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(map->executor);
    Py_VISIT(map->function);
    Py_VISIT(map->inputs);
    Py_VISIT(map->lease);
    Py_VISIT(map->part_error);
    for (size_t i = 0; i < map->flights.count; i++)
        Py_VISIT(map->flights.at[(map->flights.head + i) & (map->flights.capacity - 1)].error);
    return 0;
}

static int map_clear(PyObject *self)
{
    struct tb_map *map = (struct tb_map *)self;
    tb_map_finish(map, map->iterated);
    Py_CLEAR(map->name);
    Py_CLEAR(map->handle);
    if (map->feeding_lock != NULL)
        PyThread_free_lock(map->feeding_lock);
    map->feeding_lock = NULL;
    return 0;
}

static PyMethodDef map_methods[] = {
    {"next", (PyCFunction)(void (*)(void))map_next, METH_VARARGS | METH_KEYWORDS, next_doc},
    {"close", map_close, METH_NOARGS, PyDoc_STR("close($self)\n--\n\nEnds it: what has not run is cancelled.")},
    {0},
};

static const struct tb_iterator_type map_type = {
    .name = "treadle._engine.MapIterator",
    .doc = "The results of a map.",
    .basicsize = sizeof(struct tb_map),
    .traverse = map_traverse,
    .clear = map_clear,
    .next = map_iternext,
    .methods = map_methods,
};

int tb_map_init(PyObject *module, struct tb_state *state)
{
    state->map_type = tb_iterator_type_new(module, &map_type);
    return state->map_type != NULL ? PyModule_AddType(module, state->map_type) : -1;
}
