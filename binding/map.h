/* map.h: a map in progress: input on one side (feed.c), results on the other (map.c).
 *
 *   iterables -> building (tb_chunk) -> chunks in flight, in order -> the part that is read -> items
 *
 * A chunk is a task of several items. It may come back in parts (the engine splits chunks for idle workers, and a
 * death ends a part): each is a task of its own, in a chain. An item that could not be sent, and an input that
 * raised, stand in the line as entries without a task.
 * An executor lists its maps that have input left, so that shutdown can feed the rest; it owns those that nobody has
 * begun to iterate (kept), so that `pool.map(f, xs)` alone runs. */
#ifndef TB_MAP_H
#define TB_MAP_H

#include "executor.h"
#include "future.h"

/* One place in the line of what is in flight. */
struct tb_flight {
    td_task *task;   /* a reference; in completion order to the part that is not read yet. Or NULL: */
    PyObject *error; /* what this place raises; NULL: it was read */
    uint64_t bytes;
    uint64_t first; /* of its items, in the input: the task's tag */
    uint32_t items;
    bool is_end; /* the error ended the input */
};

/* A growing ring, oldest first. */
struct tb_flights {
    struct tb_flight *at;
    size_t capacity, head, count;
};

/* How long an item takes and how much was sent: what chunk sizes follow from. */
struct tb_pace {
    int64_t begun_ns;    /* the map was made */
    int64_t item_ns;     /* smoothed; 0: not known yet */
    uint64_t fed;        /* items */
    uint64_t item_bytes; /* of an item's result, smoothed */
    size_t sampled;      /* how often one was looked at that is not read yet */
    uint32_t check;      /* look at the clock after so many items of gathering */
};

struct tb_map {
    PyObject_HEAD struct tb_state *state;
    struct tb_executor *executor; /* NULL when the map is over */
    struct tb_handle *handle;
    struct tb_function *function;
    struct tb_map *next, *previous; /* in executor->maps while listed */
    bool listed, kept;

    /* Input. */
    PyObject *inputs;     /* tuple of iterators; NULL: exhausted */
    Py_ssize_t remaining; /* items, where the input tells; else -1 */
    bool star;            /* an item is the tuple of arguments */
    bool counts;          /* the one input is a range: next_number stands for its iterator */
    bool prompt;          /* no input runs code of the user's, or waits */
    int64_t next_number, step;
    bool feeding;         /* a thread is at it */
    bool ending, cancels; /* it is over once that thread comes back; what has not run is cancelled */
    unsigned long feeder; /* that thread, and what it holds meanwhile: set once shutdown feeds */
    PyThread_type_lock feeding_lock;
    uint32_t chunk_items; /* as asked for; 0: adapts */
    uint64_t window;      /* items in flight at most; 0: the default */
    uint64_t ahead_bytes; /* bytes in flight at most, where the window is the default */
    struct tb_options options;
    PyObject *name; /* str; keeps options.name, or the function's */
    struct tb_chunk building;
    struct tb_pace pace;

    /* In flight. */
    struct tb_flights flights;
    uint64_t items_out, bytes_out; /* sent, not yet given to the caller */
    td_group *group;               /* completion order; NULL: input order */
    uint64_t tasks_out;            /* tasks in the group */

    /* Reading. */
    td_task *part;                /* what is read, or waited for next; a reference */
    struct tb_results results;    /* of the part, once it is open */
    PyObject *lease, *part_error; /* part_error: every item of the part raises it */
    uint32_t part_left;           /* items to come from it */
    uint64_t part_bytes;          /* of its flight, given back at its end */
    bool part_open, reading, iterated, keep_going;
    int64_t deadline_ns;
};

int tb_map_init(PyObject *module, struct tb_state *state);

/* Executor._map(fn, iterables, star, chunksize, buffersize, ordered, timeout, options, keep_going) */
PyObject *tb_executor_map(PyObject *self, PyObject *args);
/* Lets go of everything, at once or when the thread that feeds comes back; cancel: what has not run never will.
 * Idempotent. */
void tb_map_finish(struct tb_map *map, bool cancel);
/* Shutdown: the rest of the input of all listed maps is sent, but for endless iterators that somebody reads. */
int tb_maps_pump(struct tb_executor *executor);
/* The executor goes: it lets go of its maps. */
void tb_maps_drop(struct tb_executor *executor);
int tb_maps_traverse(struct tb_executor *executor, visitproc visit, void *arg);

/* ---- feed.c --------------------------------------------------------------------------------------------------- */

/* What kind the inputs are, for tb_map_feed. A range whose numbers all have 64 bits is not iterated but counted. */
void tb_map_look_at_inputs(struct tb_map *map, PyObject *iterables);
/* Gathers and sends one chunk. 1: sent; 0: nothing to send (no input, no room in the window, another thread is at
 * it); 2: sent, but the input is slow; -1: an exception that belongs to the caller. */
int tb_map_feed(struct tb_map *map);
/* As far as the default window goes, when the map is made. */
int tb_map_feed_first(struct tb_map *map);
/* Without bound. */
int tb_map_feed_all(struct tb_map *map);
/* Nothing is in flight while another thread feeds: waits until that has come back. 1; 0: the deadline passed; -1. */
int tb_map_await_feeder(struct tb_map *map, int64_t deadline_ns);
/* Enough in flight to keep the workers busy? */
bool tb_map_is_hungry(const struct tb_map *map);
/* A part came back: so long for so many items. */
void tb_map_measure(struct tb_map *map, const td_task *part, uint32_t items);
/* No more input; lets go of the iterators, and the executor forgets the map. */
void tb_map_end_input(struct tb_map *map);

struct tb_flight tb_flights_take(struct tb_flights *flights);
/* The place of the chunk that begins with that item; NULL: it has none any more. */
struct tb_flight *tb_flights_find(const struct tb_flights *flights, uint64_t first);
static inline struct tb_flight *tb_flights_first(struct tb_flights *flights)
{
    return &flights->at[flights->head];
}

void tb_map_list(struct tb_map *map);
void tb_map_unlist(struct tb_map *map);
/* It is iterated now: the executor does not own it any more. */
void tb_map_unkeep(struct tb_map *map);

#endif
