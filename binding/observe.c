/* observe.c: who wants to be told that a future is done, and telling them.
 *
 * An event (cancelled, started, finished, announced) is applied in one step in the future's critical section, which
 * also takes what must be told: sleepers are woken in that step; the stdlib's waiters are told under _condition, as
 * its wait and as_completed count on; callbacks run after it, in the order they were added, in this thread.
 * Invariants  I1 where _condition exists, state changes (as _state tells them) happen only while it is held.
 *             I2 a callback is in the list, or the future was done for it when it was added: it runs once.
 *             I3 observed: the dispatcher's queue has, or will have, the task, and a reference to the future.
 * Lock order  _condition, then the critical section. Python code is called under the first only.
 * Tests  tests/unit/test_future.py, tests/unit/test_wait.py */
#include "future.h"

#include "call.h"

static bool is_done(enum tb_future_state state)
{
    return state >= TB_CANCELLED;
}

/* ---- Watching ----------------------------------------------------------------------------------------------- */

int tb_future_watch(struct tb_future *future)
{
    if (future->watch != NULL)
        return 0;
    future->watch = PyMem_Calloc(1, sizeof *future->watch);
    if (future->watch == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    tb_future_track(future);
    return 0;
}

int tb_future_observe(struct tb_state *state, struct tb_future *future)
{
    if (future->state != TB_ENGINE)
        return !is_done((enum tb_future_state)future->state);
    const bool first = !future->observed;
    if (first ? tb_is_final(td_task_state(future->task)) : !future->unannounced)
        return 0;
    if (first) { /* before the engine may hand it out */
        future->observed = future->unannounced = true;
        Py_INCREF((PyObject *)future);
    }
    const td_status status = td_task_observe(future->task);
    if (status == TD_OK || (status != TD_EFORKED && !first))
        return 1;
    if (first) {
        future->observed = future->unannounced = false;
        Py_DECREF((PyObject *)future);
    }
    return status == TD_EFORKED ? tb_raise_status(state, status, NULL) : 0;
}

/* ---- Telling ------------------------------------------------------------------------------------------------ */

/* What one event set off, taken out of the future in the step that applied it. */
struct news {
    bool applied, done;
    const char *waiter_method; /* add_result, add_exception, add_cancelled, or NULL: waiters hear nothing */
    PyObject *callbacks;       /* list or NULL */
};

static void wake_sleepers(struct tb_watch_list *watch)
{
    for (struct tb_sleeper *sleeper = watch->sleepers; sleeper != NULL; sleeper = sleeper->next) {
        if (!sleeper->woken)
            PyThread_release_lock(sleeper->lock);
        sleeper->woken = true;
    }
}

static const char *method_for(struct tb_future *future)
{
    if (tb_future_state(future) != TB_FINISHED)
        return "add_cancelled";
    return tb_future_has_failed(future) ? "add_exception" : "add_result";
}

/* May it happen in this state? As the stdlib's methods have it. */
static bool event_fits(const struct tb_future *future, enum tb_event event)
{
    enum tb_future_state now = (enum tb_future_state)future->state;
    switch (event) {
    case TB_EVENT_ANNOUNCE:
        return future->unannounced;
    case TB_EVENT_CANCEL:
        return now == TB_PENDING;
    case TB_EVENT_START:
        return now == TB_PENDING || now == TB_CANCELLED;
    default:
        return now == TB_PENDING || now == TB_RUNNING;
    }
}

/* Critical section held; value's reference is taken over for a result or an exception. */
static void apply(struct tb_future *future, enum tb_event event, PyObject *value, struct news *news)
{
    news->applied = event_fits(future, event);
    if (!news->applied)
        return;
    bool silent = false;
    switch (event) {
    case TB_EVENT_ANNOUNCE:
        future->unannounced = false;
        break;
    case TB_EVENT_CANCEL:
        future->state = TB_CANCELLED;
        silent = true; /* waiters hear of it when an executor meets it */
        break;
    case TB_EVENT_START:
        if (future->state == TB_PENDING) {
            future->state = TB_RUNNING;
            return;
        }
        future->state = TB_NOTIFIED;
        break;
    default:
        *(event == TB_EVENT_RESULT ? &future->result : &future->exception) = value;
        future->state = TB_FINISHED;
        if (PyObject_IS_GC(value))
            tb_future_track(future);
        break;
    }
    if (future->watch == NULL)
        return;
    news->done = event != TB_EVENT_START;
    news->waiter_method = silent ? NULL : method_for(future);
    if (news->done) {
        wake_sleepers(future->watch);
        news->callbacks = future->watch->callbacks;
        future->watch->callbacks = NULL;
    }
}

/* Under the condition: the stdlib's waiters, then everybody in condition.wait(). */
static int tell_waiters(struct tb_future *future, PyObject *condition, const struct news *news)
{
    PyObject *waiters = future->watch->waiters;
    if (waiters != NULL && news->waiter_method != NULL) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(waiters); i++) {
            PyObject *waiter = Py_NewRef(PyList_GET_ITEM(waiters, i));
            PyObject *told = PyObject_CallMethod(waiter, news->waiter_method, "O", future);
            Py_DECREF(waiter);
            if (told == NULL)
                return -1;
            Py_DECREF(told);
        }
    }
    if (!news->done)
        return 0;
    PyObject *notified = PyObject_CallMethod(condition, "notify_all", NULL);
    Py_XDECREF(notified);
    return notified == NULL ? -1 : 0;
}

static int run_callbacks(struct tb_state *state, struct tb_future *future, PyObject *callbacks)
{
    int done = 0;
    for (Py_ssize_t i = 0; done == 0 && i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *callback = Py_NewRef(PyList_GET_ITEM(callbacks, i));
        done = tb_future_call_back(state, future, callback);
        Py_DECREF(callback);
    }
    return done;
}

/* The future's condition, a new reference, or NULL. */
static PyObject *condition_of(struct tb_future *future)
{
    PyObject *condition = NULL;
    Py_BEGIN_CRITICAL_SECTION(future);
    if (future->watch != NULL)
        condition = Py_XNewRef(future->watch->condition);
    Py_END_CRITICAL_SECTION();
    return condition;
}

static int condition_do(PyObject *condition, const char *method)
{
    PyObject *done = PyObject_CallMethod(condition, method, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Releases it whatever is set, and keeps the first exception. */
static int condition_release(PyObject *condition, int done)
{
    PyObject *raised = done < 0 ? tb_exception_take() : NULL;
    int released = condition_do(condition, "release");
    Py_DECREF(condition);
    if (raised == NULL)
        return released;
    PyErr_Clear();
    tb_exception_give(raised);
    return -1;
}

int tb_future_pass_condition(struct tb_future *future)
{
    PyObject *condition = condition_of(future);
    if (condition == NULL)
        return 0;
    if (condition_do(condition, "acquire") < 0) {
        Py_DECREF(condition);
        return -1;
    }
    return condition_release(condition, 0);
}

int tb_future_apply(struct tb_state *state, struct tb_future *future, enum tb_event event, PyObject *value)
{
    struct news news = {0};
    bool settled = false;
    int done = 0;
    Py_XINCREF(value);
    do {
        PyObject *condition = condition_of(future);
        if (condition != NULL && condition_do(condition, "acquire") < 0) {
            Py_DECREF(condition);
            done = -1;
            break;
        }
        Py_BEGIN_CRITICAL_SECTION(future);
        /* One that was made while we were not looking must be taken first. */
        settled = future->watch == NULL || future->watch->condition == condition;
        if (settled)
            apply(future, event, value, &news);
        Py_END_CRITICAL_SECTION();
        if (condition != NULL) {
            if (settled && news.applied)
                done = tell_waiters(future, condition, &news);
            done = condition_release(condition, done);
        }
    } while (!settled && done == 0);
    bool taken = news.applied && (event == TB_EVENT_RESULT || event == TB_EVENT_EXCEPTION);
    if (!taken)
        Py_XDECREF(value);
    if (news.callbacks != NULL) {
        if (done == 0)
            done = run_callbacks(state, future, news.callbacks);
        Py_DECREF(news.callbacks);
    }
    return done < 0 ? -1 : news.applied;
}

/* ---- Callbacks ---------------------------------------------------------------------------------------------- */

/* LOGGER.error('exception calling callback for %r', future, exc_info=exception) */
static int log_callback_error(struct tb_state *state, struct tb_future *future, PyObject *exception)
{
    int logged = -1;
    PyObject *logger = PyObject_GetAttrString(state->futures_base, "LOGGER");
    PyObject *method = logger != NULL ? PyObject_GetAttrString(logger, "error") : NULL;
    PyObject *args = Py_BuildValue("(sO)", "exception calling callback for %r", future);
    PyObject *kwargs = Py_BuildValue("{sO}", "exc_info", exception);
    if (method != NULL && args != NULL && kwargs != NULL) {
        PyObject *done = PyObject_Call(method, args, kwargs);
        Py_XDECREF(done);
        logged = done == NULL ? -1 : 0;
    }
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(method);
    Py_XDECREF(logger);
    return logged;
}

int tb_future_call_back(struct tb_state *state, struct tb_future *future, PyObject *callback)
{
    PyObject *returned = PyObject_CallOneArg(callback, (PyObject *)future);
    if (returned != NULL) {
        Py_DECREF(returned);
        return 0;
    }
    if (!tb_is_ordinary_error())
        return -1;
    PyObject *exception = tb_exception_take();
    int logged = log_callback_error(state, future, exception);
    Py_DECREF(exception);
    return logged;
}

PyObject *tb_future_add_done_callback(PyObject *self, PyObject *callback)
{
    struct tb_future *future = (struct tb_future *)self;
    struct tb_state *state = tb_state_of_final(self);
    int added = 0; /* 1: in the list; 0: done already; -1 */
    const int chained = future->state == TB_ENGINE ? tb_call_chain(future, callback) : 0;
    if (chained < 0)
        return NULL;
    if (chained > 0)
        Py_RETURN_NONE;
    /* Before it is listed, so that a failure to start leaves nothing behind. */
    if (future->state == TB_ENGINE && !future->observed && tb_dispatch_start(state) < 0)
        return NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    added = tb_future_watch(future) < 0 ? -1 : tb_future_observe(state, future);
    if (added > 0) {
        if (future->watch->callbacks == NULL)
            future->watch->callbacks = PyList_New(0);
        added =
            future->watch->callbacks != NULL && PyList_Append(future->watch->callbacks, callback) == 0 ? 1 : -1;
    }
    Py_END_CRITICAL_SECTION();
    if (added == 0)
        added = tb_future_call_back(state, future, callback);
    if (added < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- What the stdlib reaches for: _state, _condition, _waiters, _done_callbacks, _result, _exception -------- */

static PyObject *get_state(PyObject *self, void *Py_UNUSED(closure))
{
    struct tb_future *future = (struct tb_future *)self;
    enum tb_future_state now;
    Py_BEGIN_CRITICAL_SECTION(self);
    now = tb_future_state(future);
    if (future->unannounced && is_done(now))
        now = TB_RUNNING;
    Py_END_CRITICAL_SECTION();
    return Py_NewRef(tb_state_of_final(self)->state_names[now]);
}

static int refuse_for_engine(struct tb_future *future)
{
    if (future->state != TB_ENGINE)
        return 0;
    PyErr_SetString(PyExc_AttributeError, "this future is the engine's: its outcome cannot be set");
    return -1;
}

static int set_state(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    struct tb_future *future = (struct tb_future *)self;
    struct tb_state *state = tb_state_of_final(self);
    if (refuse_for_engine(future) < 0)
        return -1;
    for (uint8_t i = TB_PENDING; value != NULL && i <= TB_FINISHED; i++) {
        int same = PyObject_RichCompareBool(value, state->state_names[i], Py_EQ);
        if (same < 0)
            return -1;
        if (same) {
            Py_BEGIN_CRITICAL_SECTION(self);
            future->state = i;
            if (i >= TB_CANCELLED && future->watch != NULL)
                wake_sleepers(future->watch);
            Py_END_CRITICAL_SECTION();
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "%R is no state of a future", value != NULL ? value : Py_None);
    return -1;
}

/* closure: offset of the field. */
static PyObject *get_outcome(PyObject *self, void *closure)
{
    struct tb_future *future = (struct tb_future *)self;
    if (tb_future_is_done(future) && tb_future_settle(tb_state_of_final(self), future) < 0)
        return NULL;
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = closure == NULL ? future->result : future->exception;
    value = Py_NewRef(value != NULL ? value : Py_None);
    Py_END_CRITICAL_SECTION();
    return value;
}

static int set_outcome(PyObject *self, PyObject *value, void *closure)
{
    struct tb_future *future = (struct tb_future *)self;
    if (refuse_for_engine(future) < 0)
        return -1;
    if (value == Py_None && closure != NULL)
        value = NULL;
    Py_XINCREF(value);
    Py_BEGIN_CRITICAL_SECTION(self);
    PyObject **field = closure == NULL ? &future->result : &future->exception;
    PyObject *old = *field;
    *field = value;
    value = old;
    tb_future_track(future);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(value);
    return 0;
}

static PyObject *new_condition(void)
{
    PyObject *threading = PyImport_ImportModule("threading");
    if (threading == NULL)
        return NULL;
    PyObject *condition = PyObject_CallMethod(threading, "Condition", NULL);
    Py_DECREF(threading);
    return condition;
}

/* Whatever the stdlib asks for makes all of it: it will wait. */
static int make_stdlib_parts(struct tb_state *state, struct tb_future *future)
{
    PyObject *condition = NULL, *waiters = NULL;
    if (future->watch == NULL || future->watch->condition == NULL) {
        if (future->state == TB_ENGINE && tb_dispatch_start(state) < 0)
            return -1;
        condition = new_condition();
        waiters = condition != NULL ? PyList_New(0) : NULL;
        if (waiters == NULL) {
            Py_XDECREF(condition);
            return -1;
        }
    }
    int made;
    Py_BEGIN_CRITICAL_SECTION(future);
    made = tb_future_watch(future);
    if (made == 0 && future->watch->condition == NULL) {
        future->watch->condition = condition;
        future->watch->waiters = waiters;
        condition = waiters = NULL;
    }
    if (made == 0 && tb_future_observe(state, future) < 0)
        made = -1;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(condition);
    Py_XDECREF(waiters);
    return made;
}

static PyObject *get_condition(PyObject *self, void *Py_UNUSED(closure))
{
    struct tb_future *future = (struct tb_future *)self;
    if (make_stdlib_parts(tb_state_of_final(self), future) < 0)
        return NULL;
    return Py_NewRef(future->watch->condition);
}

static PyObject *get_waiters(PyObject *self, void *Py_UNUSED(closure))
{
    struct tb_future *future = (struct tb_future *)self;
    if (make_stdlib_parts(tb_state_of_final(self), future) < 0)
        return NULL;
    return Py_NewRef(future->watch->waiters);
}

static PyObject *get_callbacks(PyObject *self, void *Py_UNUSED(closure))
{
    struct tb_future *future = (struct tb_future *)self;
    PyObject *callbacks = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (future->watch != NULL && future->watch->callbacks != NULL)
        callbacks = PyList_GetSlice(future->watch->callbacks, 0, PY_SSIZE_T_MAX);
    else
        callbacks = PyList_New(0);
    Py_END_CRITICAL_SECTION();
    return callbacks;
}

static char exception_field;

PyGetSetDef tb_future_stdlib_getset[] = {
    {"_state", get_state, set_state, NULL, NULL},
    {"_result", get_outcome, set_outcome, NULL, NULL},
    {"_exception", get_outcome, set_outcome, NULL, &exception_field},
    {"_condition", get_condition, NULL, NULL, NULL},
    {"_waiters", get_waiters, NULL, NULL, NULL},
    {"_done_callbacks", get_callbacks, NULL, NULL, NULL},
    {0},
};
