/* worker.c: a worker's loop, as seen from Python.
 *
 * The loop stays in C from one task to the next: take an assignment, find the function by its number, make its
 * arguments on the C stack, call, write the result into the slot or a block of the worker's arena, reply.
 * Invariants  W1 every assignment gets exactly one reply, whatever the task, its result or its exception does.
 *             W2 a chunk's results are published item by item: a death loses the running item only.
 *             W3 a block of arguments is kept (keep_args) exactly while views into it are alive; there are none into
 *                one that other tasks read.
 * Crash       what was not published is lost with the worker; the parent sees the death.
 * Tests  tests/unit/test_worker.py, tests/unit/test_forks.py */
#include <time.h>

#include "birth.h"
#include "compact.h"
#include "module.h"

#define RECORD_ROOM 256u                            /* bytes that an item's record can count on */
#define RECORD_SMALL (RECORD_ROOM - TB_RECORD_HEAD) /* of its payload, where that is written aside first */
#define CHUNK_BLOCK 2048u                           /* bytes of a chunk's first block, at least */
#define BYTES_PER_ITEM 16u                          /* of it for each item: a small result's record */

/* ---- Output ----------------------------------------------------------------------------------------------- */

/* Milliseconds or so of precision, for the price of a load. */
static int64_t coarse_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void flush_one(struct tb_birth *self, PyObject *name)
{
    PyObject *stream = Py_XNewRef(PyDict_GetItemWithError(self->sys_dict, name));
    if (stream != NULL && stream != Py_None) {
        PyObject *done = PyObject_CallMethodNoArgs(stream, self->name_flush);
        Py_XDECREF(done);
    }
    Py_XDECREF(stream);
    PyErr_Clear(); /* a stream that the task closed or broke is the task's affair */
}

static void flush_output(struct tb_birth *self)
{
    flush_one(self, self->name_stdout);
    flush_one(self, self->name_stderr);
}

static void flush_output_now_and_then(struct tb_birth *self)
{
    const int64_t now = coarse_now();
    if (now == self->flushed_at)
        return;
    self->flushed_at = now;
    flush_output(self);
}

/* ---- Functions -------------------------------------------------------------------------------------------- */

/* Makes the callable from its bytes: (callable, refresh or None), into the slot. */
static int load_function(struct tb_birth *self, const struct td_assignment *task, struct tb_function *slot)
{
    PyObject *load = tb_codec_import(&self->codec->load_function, "treadle._named", "load_for_worker");
    PyObject *bytes =
        load == NULL ? NULL : PyBytes_FromStringAndSize(task->fn_bytes.data, (Py_ssize_t)task->fn_bytes.bytes);
    PyObject *pair = bytes == NULL ? NULL : PyObject_CallOneArg(load, bytes);
    Py_XDECREF(bytes);
    if (pair == NULL) {
        (void)tb_cannot_load(self->codec, "the function could not be loaded in the worker");
        return -1;
    }
    PyObject *refresh = PyTuple_GetItem(pair, 1);
    if (refresh == NULL) {
        Py_DECREF(pair);
        return -1;
    }
    slot->number = task->fn;
    slot->ref = task->fn_holds ? task->fn_bytes.ref : 0;
    self->holding += task->fn_holds;
    slot->epoch = self->codec->globals_epoch;
    Py_XSETREF(slot->refresh, refresh == Py_None ? NULL : Py_NewRef(refresh));
    Py_XSETREF(slot->callable, Py_NewRef(PyTuple_GET_ITEM(pair, 0)));
    Py_DECREF(pair);
    return 0;
}

/* Functions by value share their globals, and each version of one comes with values of its own for them: a version
 * that is used again after another one gets its values back. */
static int refresh_globals(struct tb_birth *self, struct tb_function *slot)
{
    PyObject *done = PyObject_CallNoArgs(slot->refresh);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    slot->epoch = self->codec->globals_epoch;
    return 0;
}

/* Borrowed. A number that is used again for another function is a different one by its generation. */
static PyObject *find_function(struct tb_birth *self, const struct td_assignment *task)
{
    struct tb_function *slot = &self->functions[task->fn & (TB_FUNCTIONS - 1)];
    if (slot->callable == NULL || slot->number != task->fn) {
        if (load_function(self, task, slot) < 0)
            return NULL;
    } else if (slot->refresh != NULL && slot->epoch != self->codec->globals_epoch) {
        if (refresh_globals(self, slot) < 0)
            return NULL;
    }
    return slot->callable;
}

/* Drops callables that hold shared blocks, and that the parent has dropped: those blocks would stay as long as this
 * process. */
static void drop_released(struct tb_birth *self)
{
    if (self->holding == 0)
        return;
    self->holding = 0;
    for (uint32_t i = 0; i < TB_FUNCTIONS; i++) {
        struct tb_function *slot = &self->functions[i];
        if (slot->ref == 0)
            continue;
        if (td_worker_has_fn(self->worker, slot->ref)) {
            self->holding++;
            continue;
        }
        slot->ref = 0;
        Py_CLEAR(slot->callable);
        Py_CLEAR(slot->refresh);
    }
}

/* ---- Room for results ------------------------------------------------------------------------------------- */

static int worker_take(void *ctx, uint64_t bytes, struct td_block *out)
{
    struct tb_birth *self = ctx;
    td_status status = self->disowned ? TD_EFORKED : td_worker_block(self->worker, bytes, out);
    return status == TD_OK ? 0 : tb_birth_raise(self, status);
}

/* In a child that a task forked, the block is still its parent's; so it is with the arguments' below. */
static void worker_drop(void *ctx, struct td_block *block)
{
    const struct tb_birth *self = ctx;
    if (!self->disowned)
        td_worker_block_drop(self->worker, block);
}

static void worker_fill(void *ctx, void *to, const void *from, uint64_t bytes)
{
    td_worker_block_fill(((struct tb_birth *)ctx)->worker, to, from, bytes);
}

static void worker_release_args(void *ctx, uint64_t ref)
{
    const struct tb_birth *self = ctx;
    if (!self->disowned)
        td_worker_give_args(self->worker, ref);
}

/* Writes the last resort of an answer: an error that needs no room but cap bytes. Returns its length. */
static uint64_t write_no_room(uint8_t *at, size_t cap)
{
    static const char text[] = "no room for the task's result or error";
    size_t len = sizeof text - 1 < cap - 1 ? sizeof text - 1 : cap - 1;
    at[0] = TB_NO_MEMORY;
    memcpy(at + 1, text, len);
    return 1 + len;
}

/* The exception that is set, as a payload. An exception that arrives meanwhile (a signal's) takes its place. */
static void encode_raised(struct tb_birth *self, uint8_t *small, size_t cap, const struct tb_room *room,
                          struct tb_payload *out)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        PyObject *exception = tb_exception_take();
        int rc = tb_encode_error(self->codec, exception, small, cap, room, out);
        Py_DECREF(exception);
        if (rc == 0)
            return;
    }
    PyErr_Clear();
    out->block = (struct td_block){0};
    out->len = write_no_room(small, cap);
}

/* ---- A plain task ----------------------------------------------------------------------------------------- */

static PyObject *lease_for(struct tb_birth *self, const struct td_assignment *task)
{
    PyObject *lease =
        tb_lease_new(self->codec, worker_release_args, self, task->args.ref, task->args_data != NULL);
    if (lease != NULL)
        tb_lease_belongs_to_worker(lease, self->worker);
    return lease;
}

static const void *args_of(const struct td_assignment *task)
{
    return task->args_data != NULL ? task->args_data : task->args.data;
}

static void call_after_task(struct tb_birth *self)
{
    if (self->codec->after_task == NULL)
        return;
    PyObject *call = Py_NewRef(self->codec->after_task), *done = PyObject_CallNoArgs(call);
    if (done == NULL)
        PyErr_WriteUnraisable(call);
    Py_XDECREF(done);
    Py_DECREF(call);
}

/* A child that a task forked has come to the end of the call, or of packing its result. */
static td_status come_back_as_child(PyObject *result, PyObject *lease)
{
    PyErr_Clear();
    Py_XDECREF(result);
    Py_XDECREF(lease);
    return TD_ECLOSED;
}

/* Replies, and settles whose the arguments' block is from here on. The lease may be NULL. */
static td_status reply(struct tb_birth *self, bool ok, const void *small, struct td_block *block, uint64_t len,
                       PyObject *lease)
{
    call_after_task(self);
    if (!self->disowned)
        drop_released(self);
    if (!self->disowned)
        flush_output(self);
    if (self->disowned)
        return come_back_as_child(NULL, lease);
    bool keep = lease != NULL && tb_lease_is_shared(lease);
    if (keep)
        tb_lease_arm(lease);
    bool in_slot = block->data == NULL;
    td_status status =
        td_worker_reply(self->worker, ok, in_slot ? small : NULL, in_slot ? NULL : block, len, keep);
    Py_XDECREF(lease);
    return status;
}

/* The parcels of the value that was encoded last go with the block that it is in; `used`: of that, to the value's end.
 * A failure is a bug's, and ends the worker. */
static td_status enclose(struct tb_birth *self, const struct td_block *block, uint64_t used, uint32_t first)
{
    const struct tb_moves *moves = &self->moves;
    return td_worker_enclose(self->worker, block, used, moves->parcels + first, moves->count - first);
}

static td_status run_task(struct tb_birth *self, const struct td_assignment *task)
{
    uint8_t small[TD_INLINE_RESULT];
    struct tb_room room = {worker_take, worker_drop, worker_fill, self};
    struct tb_payload payload = {0};
    PyObject *lease = NULL, *result = NULL, *function = find_function(self, task);
    if (function == NULL)
        goto failed;
    if (task->args.ref != 0 && (lease = lease_for(self, task)) == NULL)
        goto failed;
    tb_moves_begin(&self->moves, self->worker, &room);
    Py_INCREF(function); /* the call may load others into its slot */
    result = tb_decode_and_call(self->codec, function, args_of(task), task->args.bytes, lease, NULL);
    Py_DECREF(function);
    if (self->disowned) /* what it has to say is written nowhere */
        return come_back_as_child(result, lease);
    if (result == NULL)
        goto failed;
    if (tb_encode_moving(self->codec, &self->moves, result, small, sizeof small, &room, &payload) < 0)
        goto failed;
    const td_status enclosed = enclose(self, &payload.block, payload.len, 0);
    return enclosed != TD_OK ? enclosed : reply(self, true, small, &payload.block, payload.len, lease);
failed:
    encode_raised(self, small, sizeof small, &room, &payload);
    return reply(self, false, small, &payload.block, payload.len, lease);
}

/* ---- A chunk ---------------------------------------------------------------------------------------------- */

/* The block that a chunk's records are written to, one after the other; the table of their parcels is at its end. */
struct output {
    struct tb_birth *self;
    struct td_block block;
    uint64_t used;
};

static uint64_t output_table(const struct output *out)
{
    return out->self->moves.count * sizeof(struct td_parcel);
}

static int output_reserve(struct output *out, uint64_t end)
{
    end += output_table(out);
    if (end <= out->block.capacity)
        return 0;
    uint64_t bytes = out->block.capacity * 2 > end ? out->block.capacity * 2 : end;
    td_status status = td_worker_block_grow(out->self->worker, &out->block, out->used, bytes);
    return status == TD_OK ? 0 : tb_birth_raise(out->self, status);
}

/* The room for one record that does not fit the rest of the block: at its aligned place in the grown block. */
static int output_take(void *ctx, uint64_t bytes, struct td_block *taken)
{
    struct output *out = ctx;
    uint64_t at = tb_record_payload_at(out->used, true);
    if (out->self->disowned)
        return tb_birth_raise(out->self, TD_EFORKED);
    if (output_reserve(out, at + bytes + RECORD_ROOM) < 0)
        return -1;
    *taken = (struct td_block){.data = (uint8_t *)out->block.data + at, .ref = 0, .capacity = bytes};
    return 0;
}

static void output_drop(void *ctx, struct td_block *block)
{
    (void)ctx;
    (void)block;
}

static void output_fill(void *ctx, void *to, const void *from, uint64_t bytes)
{
    worker_fill(((struct output *)ctx)->self, to, from, bytes);
}

/* Appends a record: the value, whose reference it takes, or where value is NULL the exception that is set. Packing runs
 * code, which may fork: what it makes is written to the block, which the child shares, only when that is over. */
static td_status output_append_record(struct output *out, PyObject *value)
{
    struct tb_birth *self = out->self;
    struct tb_room room = {output_take, output_drop, output_fill, out};
    struct tb_payload payload = {0};
    uint8_t small[RECORD_SMALL];
    const uint32_t first = self->moves.count;
    enum tb_record_kind kind = TB_RECORD_VALUE;
    if (value == NULL ||
        tb_encode_moving(self->codec, &self->moves, value, small, sizeof small, &room, &payload) < 0) {
        kind = TB_RECORD_ERROR;
        encode_raised(self, small, sizeof small, &room, &payload);
    }
    if (self->disowned)
        return TD_OK;
    const bool aside = payload.block.data == NULL;
    const uint64_t at = tb_record_payload_at(out->used, !aside);
    if (aside)
        memcpy((uint8_t *)out->block.data + at, small, payload.len);
    out->used = tb_record_write(out->block.data, out->used, at, payload.len, kind);
    return enclose(self, &out->block, out->used, first);
}

/* Appends an item's result, whose reference it takes: a value that is compact and fits stands by itself. */
static td_status output_append(struct output *out, PyObject *value)
{
    uint8_t *data = out->block.data;
    struct tb_writer w = {data + out->used, data + out->block.capacity - output_table(out), NULL};
    if (value == NULL || tb_put_value(&w, value) != TB_WROTE)
        return output_append_record(out, value);
    out->used = (uint64_t)(w.at - data);
    Py_DECREF(value);
    return TD_OK;
}

/* A chunk's items, read in order but for the first. */
struct input {
    struct tb_chunk_view chunk;
    struct tb_reader reader; /* dense: at item `next` */
    uint32_t next;
    PyObject *lease;
};

static PyObject *no_such_item(struct tb_birth *self)
{
    (void)tb_codec_corrupt(self->codec, "a chunk has no such item");
    return NULL;
}

static PyObject *call_with(PyObject *function, PyObject **values, Py_ssize_t count)
{
    return PyObject_Vectorcall(function, values + 1, (size_t)count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static PyObject *call_with_number(struct tb_birth *self, PyObject *function, const struct input *in,
                                  uint32_t item)
{
    int64_t number;
    if (!tb_chunk_number(&in->chunk, item, &number))
        return no_such_item(self);
    PyObject *values[2] = {NULL, PyLong_FromLongLong(number)};
    if (values[1] == NULL)
        return NULL;
    PyObject *result = call_with(function, values, 1);
    Py_DECREF(values[1]);
    return result;
}

static PyObject *call_dense(struct tb_birth *self, PyObject *function, struct input *in, uint32_t item)
{
    PyObject *values[1 + TB_DENSE_ARGS], *result = NULL;
    const Py_ssize_t nargs = in->chunk.nargs;
    Py_ssize_t count = 0;
    if (item != in->next && !tb_chunk_seek(&in->chunk, item, &in->reader))
        return no_such_item(self);
    in->next = UINT32_MAX; /* until all is read */
    for (; count < nargs; count++)
        if ((values[1 + count] = tb_get_value(self->codec, &in->reader)) == NULL)
            break;
    if (count == nargs) {
        in->next = item + 1;
        result = call_with(function, values, count);
    }
    while (count > 0)
        Py_DECREF(values[count--]);
    return result;
}

static PyObject *call_item(struct tb_birth *self, PyObject *function, struct input *in, uint32_t item)
{
    const uint8_t *data;
    uint64_t len;
    if (in->chunk.layout == TB_DENSE)
        return call_dense(self, function, in, item);
    if (in->chunk.layout == TB_RANGE)
        return call_with_number(self, function, in, item);
    if (!tb_chunk_item(&in->chunk, item, &data, &len))
        return no_such_item(self);
    return tb_decode_and_call(self->codec, function, data, len, in->lease, NULL);
}

/* Takes items until none is left. 0, or -1 with the exception that ends the whole chunk. */
static int run_items(struct output *out, PyObject *function, struct input *in)
{
    struct tb_birth *self = out->self;
    uint32_t item, done = 0;
    while (td_worker_take_item(self->worker, &item) == TD_OK) {
        if (output_reserve(out, out->used + RECORD_ROOM) < 0)
            return -1;
        PyObject *result = call_item(self, function, in, item);
        if (self->disowned) {
            (void)come_back_as_child(result, NULL);
            return 0;
        }
        const td_status status = output_append(out, result);
        if (status == TD_OK && !self->disowned)
            flush_output_now_and_then(self);
        if (self->disowned)
            return 0;
        if (status != TD_OK)
            return tb_birth_raise(self, status);
        td_worker_publish(self->worker, &out->block, out->used, ++done);
        if (self->interrupted) {
            PyErr_SetString(PyExc_InterruptedError, "the map was cancelled");
            return -1;
        }
    }
    return 0;
}

static td_status run_chunk(struct tb_birth *self, const struct td_assignment *task)
{
    uint8_t small[TD_INLINE_RESULT];
    struct tb_room room = {worker_take, worker_drop, worker_fill, self};
    struct tb_payload payload = {0};
    struct output out = {.self = self};
    struct input in = {.next = UINT32_MAX};
    uint64_t bytes = (uint64_t)(task->end - task->begin) * BYTES_PER_ITEM + RECORD_ROOM;
    PyObject *lease = NULL, *function = find_function(self, task);
    if (function == NULL)
        goto failed;
    if (!tb_chunk_open(args_of(task), task->args.bytes, &in.chunk)) {
        (void)tb_codec_corrupt(self->codec, "a chunk's table is wrong");
        goto failed;
    }
    /* Parts of a chunk share its block, and each ends by itself: only of a single item can a task keep views (W3). */
    if (task->args.ref != 0 && in.chunk.items == 1 && (lease = lease_for(self, task)) == NULL)
        goto failed;
    in.lease = lease;
    tb_moves_begin(&self->moves, self->worker, &room);
    if (worker_take(self, bytes < CHUNK_BLOCK ? CHUNK_BLOCK : bytes, &out.block) < 0)
        goto failed;
    Py_INCREF(function);
    int rc = run_items(&out, function, &in);
    Py_DECREF(function);
    if (self->disowned)
        return come_back_as_child(NULL, lease);
    if (rc == 0)
        return reply(self, true, NULL, &out.block, out.used, lease);
failed:
    encode_raised(self, small, sizeof small, &room, &payload);
    if (out.block.data != NULL)
        worker_drop(self, &out.block);
    return reply(self, false, small, &payload.block, payload.len, lease);
}

/* ---- The worker's life ------------------------------------------------------------------------------------ */

static td_status next_task(struct tb_birth *self, struct td_assignment *task)
{
    td_status status;
    Py_BEGIN_ALLOW_THREADS status = td_worker_next(self->worker, task);
    Py_END_ALLOW_THREADS return status;
}

PyObject *tb_birth_run(PyObject *object, PyObject *unused)
{
    struct tb_birth *self = (struct tb_birth *)object;
    struct td_assignment task;
    (void)unused;
    for (;;) {
        td_status status = next_task(self, &task);
        if (status == TD_OK) {
            self->interrupted = false;
            status = task.end > task.begin ? run_chunk(self, &task) : run_task(self, &task);
        }
        if (status == TD_ECLOSED)
            Py_RETURN_NONE;
        if (status == TD_EINTR) {
            if (PyErr_CheckSignals() < 0)
                PyErr_WriteUnraisable(object);
        } else if (status != TD_OK) {
            (void)tb_birth_raise(self, status);
            return NULL;
        }
    }
}
