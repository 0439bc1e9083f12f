/* settle.c: from a final task to Python objects, in the thread that asks.
 * Invariants  I1 the outcome is stored once; who decodes at the same moment drops its copy and takes the stored one.
 *             I2 a result's block lives as long as a view of it: the lease holds task and pool. A parcel's lives by
 *                itself: once the result was read, only views of it keep it.
 * Crash       nothing here outlives the process.   Tests  tests/unit/test_future_engine.py */
#include "codec_internal.h"
#include "future.h"

void tb_spent_from(const td_task *task, struct tb_spent *spent)
{
    struct td_timing timing;
    td_task_timing(task, &timing);
    bool ran = timing.started_ns != 0;
    int64_t until = ran ? timing.started_ns : timing.completed_ns;
    bool answered = ran && timing.ended_ns != 0;
    *spent = (struct tb_spent){
        .queued_ns = until > timing.submitted_ns ? until - timing.submitted_ns : 0,
        .run_ns = answered ? timing.ended_ns - timing.started_ns : 0,
        .transfer_ns =
            answered && timing.completed_ns > timing.ended_ns ? timing.completed_ns - timing.ended_ns : 0,
        .pid = timing.worker_pid,
        .attempts = timing.attempts,
    };
}

/* ---- Leases ------------------------------------------------------------------------------------------------- */

struct result_hold {
    td_task *task;
    struct tb_handle *handle;
};

static void result_release(void *ctx, uint64_t ref)
{
    struct result_hold *hold = ctx;
    (void)ref;
    td_task_unref(hold->task);
    Py_DECREF(hold->handle);
    PyMem_Free(hold);
}

static void parcel_release(void *ctx, uint64_t ref)
{
    (void)ref;
    td_parcel_unref(ctx);
}

static PyObject *parcel_open(struct tb_codec *codec, void *ctx, uint32_t i, struct td_view *view)
{
    const struct result_hold *hold = ctx;
    td_parcel_ref *parcel;
    if (td_task_parcel(hold->task, i, &parcel, view) != TD_OK) {
        tb_codec_raise_corrupt(codec, "a buffer's parcel did not come");
        return NULL;
    }
    PyObject *lease = tb_lease_new(codec, parcel_release, parcel, view->ref, true);
    if (lease == NULL)
        td_parcel_unref(parcel);
    return lease;
}

int tb_task_lease(struct tb_state *state, td_task *task, struct tb_handle *handle, const struct td_view *view,
                  PyObject **lease)
{
    *lease = NULL;
    if (view->ref == 0)
        return 0;
    struct result_hold *hold = PyMem_Malloc(sizeof *hold);
    if (hold == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    hold->task = td_task_ref(task);
    hold->handle = (struct tb_handle *)Py_NewRef((PyObject *)handle);
    *lease = tb_lease_new(&state->codec, result_release, hold, view->ref, true);
    if (*lease == NULL) {
        result_release(hold, 0);
        return -1;
    }
    if (td_task_parcels(task) != 0)
        tb_lease_set_parcels(*lease, parcel_open);
    return 0;
}

/* ---- Decoding ----------------------------------------------------------------------------------------------- */

PyObject *tb_task_decode(struct tb_state *state, td_task *task, struct tb_handle *handle, bool *ok)
{
    struct td_view view;
    PyObject *lease, *value;
    td_status status = td_task_result(task, &view);
    if (status != TD_OK) {
        (void)tb_raise_status(state, status, NULL);
        return NULL;
    }
    if (tb_task_lease(state, task, handle, &view, &lease) < 0)
        return NULL;
    *ok = td_task_state(task) == TD_TASK_RESULT;
    value = *ok ? tb_decode_value(&state->codec, view.data, view.bytes, lease)
                : tb_decode_error(&state->codec, view.data, view.bytes, lease);
    Py_XDECREF(lease);
    return value;
}

int tb_ending_read(struct tb_state *state, td_task *task, struct tb_handle *handle, PyObject *name,
                   int64_t timeout_ns, struct tb_ending *outcome)
{
    bool ok = false;
    PyObject *value;
    *outcome = (struct tb_ending){.state = TB_FINISHED};
    switch (td_task_state(task)) {
    case TD_TASK_RESULT:
    case TD_TASK_ERROR:
        value = tb_task_decode(state, task, handle, &ok);
        break;
    case TD_TASK_CANCELLED:
        outcome->state = TB_NOTIFIED;
        return 0;
    default:
        value = tb_task_exception(state, task, handle->pool, name, timeout_ns);
        break;
    }
    if (value == NULL) {
        if (!tb_is_ordinary_error())
            return -1;
        ok = false;
        value = tb_exception_take();
    }
    *(ok ? &outcome->result : &outcome->exception) = value;
    return 0;
}

int tb_future_settle(struct tb_state *state, struct tb_future *future)
{
    td_task *task = NULL;
    struct tb_handle *handle = NULL;
    Py_BEGIN_CRITICAL_SECTION(future);
    if (future->state == TB_ENGINE) {
        task = td_task_ref(future->task);
        handle = (struct tb_handle *)Py_NewRef((PyObject *)future->handle);
    }
    Py_END_CRITICAL_SECTION();
    if (task == NULL)
        return 0;
    struct tb_ending outcome;
    int done = tb_ending_read(state, task, handle, future->name, future->timeout_ns, &outcome);
    bool first = false;
    if (done == 0) {
        Py_BEGIN_CRITICAL_SECTION(future);
        first = future->state == TB_ENGINE;
        if (first) {
            tb_spent_from(task, &future->spent);
            future->result = outcome.result;
            future->exception = outcome.exception;
            future->state = (uint8_t)outcome.state;
            future->task = NULL;
            future->handle = NULL;
            PyObject *held = outcome.result != NULL ? outcome.result : outcome.exception;
            if (held != NULL && PyObject_IS_GC(held))
                tb_future_track(future);
        }
        Py_END_CRITICAL_SECTION();
        if (first) { /* the references that the future had */
            td_task_drop_parcels(task);
            td_task_unref(task);
            Py_DECREF(handle);
        } else {
            Py_XDECREF(outcome.result);
            Py_XDECREF(outcome.exception);
        }
    }
    td_task_unref(task);
    Py_DECREF(handle);
    return done;
}
