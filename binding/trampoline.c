/* trampoline.c: faulthandler's dump from a signal's handler, where the interpreter is between two functions.
 *
 * The dump begins with the thread's innermost frame, and takes it for whole. It need not be:
 * - CPython 3.12 and 3.13 put a frame without code below those that a C function has called. While such a call ends,
 *   which takes as long as the destructors of what it had, that frame is the innermost.
 * - CPython 3.11 and 3.12 link what holds the innermost frame, on the C stack, before they set it: for an instant
 *   in each call from C it is whatever was there.
 * The process would die of either. Here the dump begins with the caller's frame then.
 * Invariant  the thread's frame is as it was when the handler returns; nobody else looks meanwhile: threads look at
 *            other threads' frames with the GIL, and find an outer one.
 * Tests      tests/unit/watchdog/ */
#include "watchdog.h"

#if PY_VERSION_HEX < 0x030e0000
#define Py_BUILD_CORE 1
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <internal/pycore_frame.h>

typedef struct _PyInterpreterFrame frame_t;

static void dump_from(frame_t **place, frame_t *frame, void (*dump)(int), int number)
{
    frame_t *innermost = *place;
    *place = frame;
    dump(number);
    *place = innermost;
}

#if PY_VERSION_HEX >= 0x030d0000

void tb_dump_over_trampoline(void (*dump)(int), int number)
{
    PyThreadState *thread = PyGILState_GetThisThreadState();
    frame_t *frame = thread != NULL ? thread->current_frame : NULL;
    if (frame != NULL && frame->owner == FRAME_OWNED_BY_CSTACK)
        dump_from(&thread->current_frame, frame->previous, dump, number);
    else
        dump(number);
}

#else

#define FRAMES_MOST 10000
/* What is read here may have been given back. */
#define UNCHECKED __attribute__((no_sanitize_address))

/* The kernel looks at a new mask before it refuses to do anything with it. */
static bool is_readable(const void *place)
{
    const int saved = errno;
    const bool refused = syscall(SYS_rt_sigprocmask, -1, place, NULL, sizeof(uint64_t)) != 0 && errno != EFAULT;
    errno = saved;
    return refused;
}

/* The frame with which a call from C begins; in 3.12 it is the one without a function. */
UNCHECKED static bool is_entry(const frame_t *frame)
{
#if PY_VERSION_HEX >= 0x030c0000
    return frame->owner == FRAME_OWNED_BY_CSTACK;
#else
    return frame->is_entry;
#endif
}

static bool has_function(const frame_t *frame)
{
    return PY_VERSION_HEX < 0x030c0000 || !is_entry(frame);
}

UNCHECKED static bool has_code(const frame_t *frame)
{
    const PyObject *code = (const PyObject *)frame->f_code;
    return is_readable(code) && is_readable(&code->ob_type) && code->ob_type == &PyCode_Type;
}

/* Are these frames those of a call from C, up to its caller's? */
UNCHECKED static bool lead_to(const frame_t *frame, const frame_t *caller)
{
    for (uint32_t i = 0; i < FRAMES_MOST; i++) {
        if (!is_readable(frame) || !is_readable((const char *)(frame + 1) - sizeof(uint64_t)) ||
            !has_code(frame))
            return false;
        if (is_entry(frame))
            return frame->previous == caller;
        frame = frame->previous;
    }
    return false;
}

void tb_dump_over_trampoline(void (*dump)(int), int number)
{
    const PyThreadState *thread = PyGILState_GetThisThreadState();
    _PyCFrame *call = thread != NULL ? thread->cframe : NULL;
    if (call == NULL || call->previous == NULL) {
        dump(number);
        return;
    }
    frame_t *caller = is_readable(call->previous) ? call->previous->current_frame : NULL;
    if (lead_to(call->current_frame, caller) && has_function(call->current_frame))
        dump(number);
    else
        dump_from(&call->current_frame, caller, dump, number);
}

#endif

#else

void tb_dump_over_trampoline(void (*dump)(int), int number)
{
    dump(number);
}

#endif
