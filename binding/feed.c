/* feed.c: a map's input: how much to read, in chunks of which size, and sending them.
 *
 * Sizes. A chunk should take 1/32 of the time that the map will have run when a worker comes to it, from CHUNK_NS to
 * CHUNK_NS_MAX: long against the 2 us that sending and fetching a chunk costs and, in a long map, against the 15 us of
 * waking the reader; short against the time that a caller notices. Until the first chunk is back the time of an item
 * is unknown; then a chunk has at most 1/64 of what was sent before it, so that sending costs little and a wrong guess
 * does too.
 * Where the input tells its length, chunks shrink towards the end to what is left per worker, halved, so that the
 * workers finish together (what still goes wrong the engine splits).
 * Bounds. Unless asked otherwise no more than ITEMS_OUT items and td_pool_ahead_bytes bytes are in flight, so an
 * endless input works. Those are the bytes sent, and those that will come back: as many for each item as those that are
 * back have, a sample of them that are not read yet included (while the first one is late, the others may fill the
 * memory). A slow input ends a chunk early: results that are ready do not wait for it.
 * Tests  tests/unit/test_map.py */
#include "base/clock.h"
#include "frame.h"
#include "map.h"
#include "shared.h"

#define CHUNK_NS INT64_C(150000)
#define CHUNK_NS_MAX INT64_C(2000000)
#define CHUNK_ITEMS 4096u
#define ITEMS_OUT 65536u
#define CHUNK_SHARE 16u         /* of the bytes that may be in flight, a chunk has at most this part */
#define UNKNOWN_ITEMS 32u       /* for each worker */
#define SAMPLED 16u             /* of the line, looked at for the size of results */
#define CHECK_ITEMS 16u         /* of a fast input, between looks at the clock */
#define CHECK_ITEMS_PROMPT 256u /* where only what the items take to write can be slow */
#define CHECK_NS INT64_C(10000) /* of a slow input, between looks at the clock, about */

/* ---- The line --------------------------------------------------------------------------------------------------- */

static int flights_push(struct tb_flights *flights, struct tb_flight flight)
{
    if (flights->count == flights->capacity) {
        size_t capacity = flights->capacity != 0 ? flights->capacity * 2 : 16;
        struct tb_flight *grown = PyMem_New(struct tb_flight, capacity);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (size_t i = 0; i < flights->count; i++)
            grown[i] = flights->at[(flights->head + i) & (flights->capacity - 1)];
        PyMem_Free(flights->at);
        *flights = (struct tb_flights){.at = grown, .capacity = capacity, .count = flights->count};
    }
    flights->at[(flights->head + flights->count) & (flights->capacity - 1)] = flight;
    flights->count++;
    return 0;
}

struct tb_flight tb_flights_take(struct tb_flights *flights)
{
    struct tb_flight first = flights->at[flights->head];
    flights->head = (flights->head + 1) & (flights->capacity - 1);
    flights->count--;
    return first;
}

struct tb_flight *tb_flights_find(const struct tb_flights *flights, uint64_t first)
{
    size_t low = 0, high = flights->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        struct tb_flight *flight = &flights->at[(flights->head + middle) & (flights->capacity - 1)];
        if (flight->first == first && flight->task != NULL)
            return flight;
        if (flight->first < first)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- The executor's list ----------------------------------------------------------------------------------------- */

void tb_map_list(struct tb_map *map)
{
    struct tb_executor *executor = map->executor;
    Py_BEGIN_CRITICAL_SECTION(executor);
    map->previous = NULL;
    map->next = executor->maps;
    if (map->next != NULL)
        map->next->previous = map;
    executor->maps = map;
    map->listed = map->kept = true;
    Py_INCREF((PyObject *)map);
    Py_END_CRITICAL_SECTION();
}

void tb_map_unlist(struct tb_map *map)
{
    struct tb_executor *executor = map->executor;
    if (!map->listed)
        return;
    Py_BEGIN_CRITICAL_SECTION(executor);
    if (map->previous != NULL)
        map->previous->next = map->next;
    else
        executor->maps = map->next;
    if (map->next != NULL)
        map->next->previous = map->previous;
    map->next = map->previous = NULL;
    map->listed = false;
    Py_END_CRITICAL_SECTION();
    tb_map_unkeep(map);
}

void tb_map_unkeep(struct tb_map *map)
{
    if (map->kept) {
        map->kept = false;
        Py_DECREF((PyObject *)map); /* the caller has another */
    }
}

/* ---- Sizes ------------------------------------------------------------------------------------------------------- */

/* `part` is back: so many bytes for each item. */
static void measure_bytes(struct tb_map *map, const td_task *part)
{
    const uint64_t sum = td_task_result_bytes(part);
    uint32_t begin, end;
    td_task_range(part, &begin, &end);
    if (begin >= end || sum == 0)
        return;
    const uint64_t bytes = sum / (end - begin);
    struct tb_pace *pace = &map->pace;
    pace->item_bytes = pace->item_bytes == 0 ? bytes : (pace->item_bytes * 3 + bytes) / 4;
}

void tb_map_measure(struct tb_map *map, const td_task *part, uint32_t items)
{
    struct td_timing timing;
    td_task_timing(part, &timing);
    if (items == 0 || timing.started_ns == 0 || timing.ended_ns <= timing.started_ns)
        return;
    int64_t item_ns = (timing.ended_ns - timing.started_ns) / items + 1;
    struct tb_pace *pace = &map->pace;
    pace->item_ns = pace->item_ns == 0 ? item_ns : (pace->item_ns * 3 + item_ns) / 4;
    measure_bytes(map, part);
}

/* One of those next in line, another one each time. */
static void sample_bytes(struct tb_map *map)
{
    const struct tb_flights *flights = &map->flights;
    const size_t near = flights->count < SAMPLED ? flights->count : SAMPLED;
    if (near == 0)
        return;
    const td_task *task =
        flights->at[(flights->head + map->pace.sampled++ % near) & (flights->capacity - 1)].task;
    if (task != NULL && tb_is_final(td_task_state(task)))
        measure_bytes(map, task);
}

/* Is as much in flight as there is memory for? Where that is scarce, nothing is known of the results' size before the
 * first one is back, and a few items could fill it. */
static bool is_memory_taken(const struct tb_map *map)
{
    if (map->pace.item_bytes == 0 && map->ahead_bytes < TD_AHEAD_BYTES &&
        map->items_out >= UNKNOWN_ITEMS * (uint64_t)map->executor->workers)
        return true;
    return map->bytes_out + map->items_out * map->pace.item_bytes >= map->ahead_bytes;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* How long the next chunk should take. What is in flight comes first. */
static int64_t chunk_ns(const struct tb_map *map)
{
    int64_t ahead_ns = (int64_t)map->items_out * map->pace.item_ns / map->executor->workers;
    int64_t share_ns = (td_now_ns() - map->pace.begun_ns + ahead_ns) / 32;
    return share_ns < CHUNK_NS ? CHUNK_NS : share_ns > CHUNK_NS_MAX ? CHUNK_NS_MAX : share_ns;
}

/* How many items the next chunk should have; 0: the window is full. */
static uint32_t chunk_size(const struct tb_map *map)
{
    uint64_t workers = map->executor->workers;
    uint64_t window = map->window != 0 ? map->window : ITEMS_OUT;
    if (map->items_out >= window || (map->window == 0 && is_memory_taken(map)))
        return 0;
    if (map->chunk_items != 0)
        return (uint32_t)smaller(map->chunk_items, window - map->items_out);
    if (map->options.timeout_ns != 0) /* it is for each call */
        return 1;
    const struct tb_pace *pace = &map->pace;
    uint64_t size = pace->item_ns != 0 ? (uint64_t)(chunk_ns(map) / pace->item_ns) : pace->fed / 64;
    size = smaller(size, CHUNK_ITEMS);
    if (pace->item_bytes != 0)
        size = smaller(size, map->ahead_bytes / CHUNK_SHARE / pace->item_bytes);
    if (map->remaining >= 0)
        size = smaller(size, (uint64_t)map->remaining / (2 * workers));
    if (map->window != 0) /* a narrow one is for all workers */
        size = smaller(size, window / (2 * workers));
    size = smaller(size, window - map->items_out);
    return size != 0 ? (uint32_t)size : 1;
}

bool tb_map_is_hungry(const struct tb_map *map)
{
    uint64_t out = map->group != NULL ? map->tasks_out : map->flights.count;
    return map->inputs != NULL && out < 2 * (uint64_t)map->executor->workers + 2;
}

/* ---- Kinds of input -------------------------------------------------------------------------------------------- */

/* Iterators of the interpreter's own, over what it keeps in memory. */
static bool is_prompt(PyObject *iterator)
{
    const PyTypeObject *type = Py_TYPE(iterator);
    return type == &PyListIter_Type || type == &PyTupleIter_Type || type == &PyRangeIter_Type ||
           type == &PyDictIterKey_Type || type == &PyDictIterValue_Type || type == &PySetIter_Type;
}

static bool read_number(PyObject *object, const char *attribute, int64_t *out)
{
    int overflow = 1;
    PyObject *value = PyObject_GetAttrString(object, attribute);
    if (value != NULL)
        *out = PyLong_AsLongLongAndOverflow(value, &overflow);
    Py_XDECREF(value);
    PyErr_Clear();
    return overflow == 0;
}

void tb_map_look_at_inputs(struct tb_map *map, PyObject *iterables)
{
    map->prompt = true;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(map->inputs); i++)
        map->prompt = map->prompt && is_prompt(PyTuple_GET_ITEM(map->inputs, i));
    if (map->star || map->remaining <= 0 || PyTuple_GET_SIZE(iterables) != 1 ||
        Py_TYPE(PyTuple_GET_ITEM(iterables, 0)) != &PyRange_Type)
        return;
    PyObject *range = PyTuple_GET_ITEM(iterables, 0);
    int64_t distance, last;
    map->counts = read_number(range, "start", &map->next_number) && read_number(range, "step", &map->step) &&
                  !__builtin_mul_overflow(map->step, (int64_t)map->remaining - 1, &distance) &&
                  !__builtin_add_overflow(map->next_number, distance, &last);
}

/* ---- Gathering --------------------------------------------------------------------------------------------------- */

#define ARGUMENTS_INLINE 8

/* The next item's arguments, new references in args. 1; 0: the shortest input is at its end; -1: it raised. */
static int next_arguments(PyObject *inputs, PyObject **args, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *iterator = PyTuple_GET_ITEM(inputs, i);
        args[i] = Py_TYPE(iterator)->tp_iternext(iterator);
        if (args[i] != NULL)
            continue;
        while (i > 0)
            Py_DECREF(args[--i]);
        if (PyErr_Occurred() == NULL)
            return 0;
        if (!PyErr_ExceptionMatches(PyExc_StopIteration))
            return -1;
        PyErr_Clear();
        return 0;
    }
    return 1;
}

/* starmap: the item is a sequence of arguments. */
static int append_star(struct tb_map *map, PyObject *item)
{
    PyObject *tuple = PyTuple_CheckExact(item) ? Py_NewRef(item) : PySequence_Tuple(item);
    if (tuple == NULL)
        return -1;
    int done = tb_chunk_append(&map->state->codec, &map->building, ((PyTupleObject *)tuple)->ob_item,
                               PyTuple_GET_SIZE(tuple), map->executor->encode_flags);
    Py_DECREF(tuple);
    return done;
}

enum gathered {
    GATHER_FULL,     /* as many as wanted */
    GATHER_SLOW,     /* fewer: it took too long */
    GATHER_END,      /* the input is at its end */
    GATHER_BAD_ITEM, /* the last item can't be sent: an exception is set */
    GATHER_BAD_INPUT /* the input raised: an exception is set */
};

/* After so many items in so long a time: how many until the next look at the clock? */
static uint32_t check_after(const struct tb_map *map, uint32_t items, int64_t took_ns)
{
    const uint32_t most = map->prompt && map->building.layout == TB_DENSE ? CHECK_ITEMS_PROMPT : CHECK_ITEMS;
    const uint64_t check = (uint64_t)items * CHECK_NS / (uint64_t)(took_ns + 1);
    return check < 1 ? 1 : check > most ? most : (uint32_t)check;
}

static enum gathered gather_into(struct tb_map *map, uint32_t wanted, PyObject *inputs, PyObject **args)
{
    struct tb_pace *pace = &map->pace;
    Py_ssize_t count = PyTuple_GET_SIZE(inputs);
    int64_t begun_ns = td_now_ns();
    uint32_t check = pace->check;
    for (uint32_t i = 1;; i++) {
        int more = next_arguments(inputs, args, count);
        if (more <= 0)
            return more == 0 ? GATHER_END : GATHER_BAD_INPUT;
        int done = map->star ? append_star(map, args[0])
                             : tb_chunk_append(&map->state->codec, &map->building, args, count,
                                               map->executor->encode_flags);
        for (Py_ssize_t j = 0; j < count; j++)
            Py_DECREF(args[j]);
        pace->fed++;
        if (map->remaining > 0)
            map->remaining--;
        if (done < 0)
            return GATHER_BAD_ITEM;
        if (i >= wanted || map->building.bytes > map->ahead_bytes / CHUNK_SHARE)
            return GATHER_FULL;
        if (i < check)
            continue;
        int64_t took_ns = td_now_ns() - begun_ns;
        pace->check = check_after(map, i, took_ns);
        check = i + pace->check;
        if (took_ns > CHUNK_NS && map->chunk_items == 0)
            return GATHER_SLOW;
    }
}

/* The next numbers of a range, as one run. */
static enum gathered gather_numbers(struct tb_map *map, uint32_t wanted)
{
    const uint32_t items = (uint32_t)smaller(wanted, (uint64_t)map->remaining);
    if (items == 0)
        return GATHER_END;
    tb_chunk_range(&map->building, map->next_number, map->step, items);
    map->remaining -= items;
    map->pace.fed += items;
    if (map->remaining > 0)
        map->next_number += (int64_t)items * map->step;
    return GATHER_FULL;
}

static enum gathered gather(struct tb_map *map, uint32_t wanted)
{
    PyObject *few[ARGUMENTS_INLINE], **args = few;
    if (map->counts)
        return gather_numbers(map, wanted);
    PyObject *inputs = Py_NewRef(map->inputs); /* the iterators may close this map */
    if (PyTuple_GET_SIZE(inputs) > ARGUMENTS_INLINE) {
        args = PyMem_New(PyObject *, (size_t)PyTuple_GET_SIZE(inputs));
        if (args == NULL) {
            Py_DECREF(inputs);
            PyErr_NoMemory();
            return GATHER_BAD_INPUT;
        }
    }
    enum gathered gathered = gather_into(map, wanted, inputs, args);
    if (args != few)
        PyMem_Free(args);
    Py_DECREF(inputs);
    return gathered;
}

/* ---- Sending ----------------------------------------------------------------------------------------------------- */

/* The exception that is set takes a place in the line, when it is an ordinary one. */
static int push_error(struct tb_map *map, bool is_end)
{
    if (!tb_is_ordinary_error())
        return -1;
    struct tb_flight flight = {.error = tb_exception_take(),
                               .first = is_end ? map->pace.fed : map->pace.fed - 1,
                               .items = 1,
                               .is_end = is_end};
    if (flights_push(&map->flights, flight) < 0) {
        Py_DECREF(flight.error);
        return -1;
    }
    map->items_out++;
    return 0;
}

/* Takes over the task's reference. */
static int push_task(struct tb_map *map, td_task *task, uint32_t items, uint64_t bytes)
{
    struct tb_flight flight = {.task = task, .bytes = bytes, .first = td_task_tag(task), .items = items};
    td_status status = map->group != NULL ? td_group_add(map->group, task) : TD_OK;
    int done =
        status == TD_OK ? flights_push(&map->flights, flight) : tb_raise_status(map->state, status, NULL);
    if (done < 0) {
        (void)td_task_cancel(task, false);
        td_task_unref(task);
        return -1;
    }
    map->tasks_out += map->group != NULL;
    map->items_out += items;
    map->bytes_out += bytes;
    return 0;
}

/* Sends what was gathered, the map's items from `first` on. When the pool refuses, that is what the line ends with. */
static int send_chunk(struct tb_map *map, uint64_t first)
{
    uint8_t small[TD_INLINE_ARGS];
    struct tb_payload payload = {0};
    td_pool *pool = map->handle->pool;
    struct tb_pool_room ctx = {.state = map->state, .pool = pool};
    struct tb_room room = tb_pool_room_of(&ctx);
    uint32_t items = map->building.items;
    if (items == 0)
        return 0;
    if (map->executor != NULL && tb_executor_refresh(map->executor, pool) < 0)
        return -1;
    if (tb_chunk_finish(&map->building, small, sizeof small, &room, &payload) < 0) {
        tb_chunk_clear(&map->building);
        tb_map_end_input(map);
        return push_error(map, true);
    }
    const struct td_call call = {
        .fn = map->function->number,
        .items = items,
        .args = payload.block.data == NULL ? small : NULL,
        .block = payload.block,
        .args_bytes = payload.len,
        .timeout_ns = map->options.timeout_ns,
        .retries = map->options.retries,
        .name = PyUnicode_AsUTF8(map->name),
        .tag = first,
        .holds = payload.holds.items,
        .hold_count = (uint32_t)payload.holds.count,
    };
    if (call.name == NULL)
        PyErr_Clear(); /* it has surrogates */
    td_task *task;
    td_status status = td_pool_submit(pool, &call, &task);
    tb_holds_fini(&payload.holds);
    if (status == TD_OK)
        return push_task(map, task, items, payload.len);
    if (payload.block.data != NULL)
        td_pool_block_drop(pool, &payload.block);
    (void)tb_raise_status(map->state, status, pool);
    tb_map_end_input(map);
    return push_error(map, true);
}

static int feed_chunk(struct tb_map *map, uint32_t wanted)
{
    uint64_t first = map->pace.fed;
    enum gathered gathered = gather(map, wanted);
    PyObject *raised = gathered >= GATHER_BAD_ITEM ? tb_exception_take() : NULL;
    if (map->inputs == NULL) { /* closed meanwhile */
        tb_chunk_clear(&map->building);
        Py_XDECREF(raised);
        return 0;
    }
    /* Pool.imap sends whole chunks alone: none of one whose items could not all be read. */
    if (gathered == GATHER_BAD_INPUT && map->keep_going && map->chunk_items != 0)
        tb_chunk_clear(&map->building);
    int done = send_chunk(map, first);
    if (raised != NULL) {
        if (done < 0) {
            Py_DECREF(raised);
            return -1;
        }
        tb_exception_give(raised);
        if (gathered == GATHER_BAD_INPUT)
            tb_map_end_input(map);
        done = push_error(map, gathered == GATHER_BAD_INPUT);
    } else if (gathered == GATHER_END) {
        tb_map_end_input(map);
    }
    if (done < 0)
        return -1;
    return gathered == GATHER_SLOW ? 2 : 1;
}

int tb_map_feed(struct tb_map *map)
{
    if (map->inputs == NULL || map->feeding)
        return 0;
    sample_bytes(map);
    uint32_t wanted = chunk_size(map);
    if (wanted == 0)
        return 0;
    PyThread_type_lock lock = map->feeding_lock;
    if (lock != NULL) /* at most a reader has it, which is about to let it go */
        (void)PyThread_acquire_lock(lock, WAIT_LOCK);
    map->feeder = PyThread_get_thread_ident();
    map->feeding = true;
    int fed = feed_chunk(map, wanted);
    map->feeding = false;
    if (lock != NULL)
        PyThread_release_lock(lock);
    if (map->ending)
        tb_map_finish(map, false);
    return fed;
}

int tb_map_await_feeder(struct tb_map *map, int64_t deadline_ns)
{
    PyThread_type_lock lock = map->feeding_lock;
    if (lock == NULL || map->feeder == PyThread_get_thread_ident()) { /* the input reads the results */
        PyErr_SetString(PyExc_ValueError, "map iterator already executing");
        return -1;
    }
    for (;;) {
        const int64_t left_ns = td_deadline_left(deadline_ns);
        PY_TIMEOUT_T left_us = deadline_ns == TD_FOREVER ? -1 : left_ns / 1000 + (left_ns % 1000 != 0);
        if (left_us > PY_TIMEOUT_MAX)
            left_us = PY_TIMEOUT_MAX;
        PyLockStatus slept;
        Py_BEGIN_ALLOW_THREADS;
        slept = PyThread_acquire_lock_timed(lock, left_us, 1);
        if (slept == PY_LOCK_ACQUIRED)
            PyThread_release_lock(lock);
        Py_END_ALLOW_THREADS;
        if (slept != PY_LOCK_INTR)
            return slept == PY_LOCK_ACQUIRED;
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

int tb_map_feed_first(struct tb_map *map)
{
    /* A length says that reading on costs only memory, of which there is a bound; an iterator may do anything. */
    bool sized = map->remaining >= 0, all = sized || map->window != 0;
    int fed = 1;
    while ((fed == 1 || (fed == 2 && sized)) && (all || tb_map_is_hungry(map))) {
        fed = tb_map_feed(map);
        if (map->pace.item_ns == 0 && map->flights.count != 0) {
            td_task *first = tb_flights_first(&map->flights)->task;
            if (first != NULL && td_task_poll(first))
                tb_map_measure(map, first, 1);
        }
    }
    return fed < 0 ? -1 : 0;
}

int tb_map_feed_all(struct tb_map *map)
{
    map->window = UINT64_MAX;
    while (map->inputs != NULL) {
        int fed = tb_map_feed(map);
        if (fed < 0 || PyErr_CheckSignals() < 0)
            return -1;
        if (fed == 0)
            break;
    }
    return 0;
}

void tb_map_end_input(struct tb_map *map)
{
    if (map->inputs == NULL)
        return;
    PyObject *inputs = map->inputs;
    map->inputs = NULL;
    tb_map_unlist(map);
    Py_DECREF(inputs);
}
