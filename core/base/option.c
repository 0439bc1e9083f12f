/* base/option.c: options from the environment, parsed once and read by any thread.
 * Invariants  I1 a text handed out is never freed: texts are kept in a list for the life of the process, each different
 *                one once, so reloading the same environment costs nothing.
 *             I2 a reload publishes all or nothing; each option by itself is consistent, two options read around a
 *                reload may be from different environments.
 * Ordering    O: write values -> release loaded -> acquire loaded -> read values.
 *             T (option_T): write a text -> release its pointer -> acquire pointer -> read the text.
 * Lock        `reloading` covers the list and the writing of values; readers take no lock, but for the very first.
 * Fork        it waits for a reload in another thread; handlers that run before a fork must not be the first reader.
 * Tests       tests/base/test_option.c */
#include "base/option.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/atomic.h"

#define PROBLEM_BYTES 512

typedef struct option_row {
    const char *name;
    td_option_type type;
    const char *default_text, *help;
} option_row;

static const option_row rows[TD_OPTION_COUNT] = {
#define OPTION_ROW(id, variable, type, text, help) [TD_OPT_##id] = {variable, TD_OPTION_##type, text, help},
    TD_OPTION_TABLE(OPTION_ROW)
#undef OPTION_ROW
};

static const char *const type_names[] = {"bool", "int", "bytes", "duration", "spin", "string"};
static const char *const type_expectations[] = {
    "expected 0 or 1",
    "expected a whole number that is not negative",
    "expected bytes, such as 4096, 64M or 2G",
    "expected a duration, such as 500ms, 2s, 10min or 0.5",
    "expected auto, off or microseconds",
    "",
};

/* ---- Parsing ---- */

typedef struct unit {
    const char *suffix;
    int64_t scale;
} unit;

static const unit byte_units[] = {
    {"", 1}, {"K", INT64_C(1) << 10}, {"M", INT64_C(1) << 20}, {"G", INT64_C(1) << 30}, {"T", INT64_C(1) << 40},
    {0}};
static const unit second_units[] = {{"", 1000000000},
                                    {"ns", 1},
                                    {"us", 1000},
                                    {"ms", 1000000},
                                    {"s", 1000000000},
                                    {"min", INT64_C(60000000000)},
                                    {"h", INT64_C(3600000000000)},
                                    {0}};
static const unit micro_units[] = {{"", 1000},      {"ns", 1},         {"us", 1000},
                                   {"ms", 1000000}, {"s", 1000000000}, {0}};
static const unit plain_units[] = {{"", 1}, {0}};

static bool is_digit(char letter)
{
    return letter >= '0' && letter <= '9';
}

static const char *skip_blanks(const char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    return text;
}

/* The scale of the suffix at `text`, which must end there; 0 when there is no such unit. */
static int64_t scale_of(const char *text, const unit *units)
{
    size_t length = strcspn(text, " \t");
    if (*skip_blanks(text + length))
        return 0;
    for (const unit *u = units; u->suffix; u++)
        if (strlen(u->suffix) == length && strncasecmp(u->suffix, text, length) == 0)
            return u->scale;
    return 0;
}

/* digits[.digits] [unit]. Not strtod: that follows the locale. A fraction is cut off below one of the smallest unit. */
static td_status parse_number(const char *text, const unit *units, bool fraction_allowed, int64_t *value)
{
    text = skip_blanks(text);
    if (!is_digit(*text))
        return TD_EINVAL;
    int64_t whole = 0, fraction = 0, fraction_scale = 1, result;
    for (; is_digit(*text); text++)
        if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *text - '0', &whole))
            return TD_EINVAL;
    if (*text == '.' && fraction_allowed)
        for (text++; is_digit(*text); text++)
            if (fraction_scale < 1000000) {
                fraction = fraction * 10 + (*text - '0');
                fraction_scale *= 10;
            }
    int64_t scale = scale_of(skip_blanks(text), units);
    if (scale == 0 || __builtin_mul_overflow(whole, scale, &result) ||
        __builtin_add_overflow(result, scale * fraction / fraction_scale, &result))
        return TD_EINVAL;
    *value = result;
    return TD_OK;
}

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcasecmp(text, *words) == 0)
            return true;
    return false;
}

static td_status parse_bool(const char *text, int64_t *value)
{
    static const char *const yes[] = {"1", "on", "true", "yes", NULL}, *const no[] = {"0", "off", "false", "no",
                                                                                      NULL};
    bool truth = is_one_of(text, yes);
    if (!truth && !is_one_of(text, no))
        return TD_EINVAL;
    *value = truth;
    return TD_OK;
}

static td_status parse_spin(const char *text, int64_t *value)
{
    static const char *const never[] = {"off", "false", "no", NULL}, *const automatic[] = {"auto", "on", "true",
                                                                                           "yes", NULL};
    if (is_one_of(text, automatic))
        *value = TD_SPIN_AUTO;
    else if (is_one_of(text, never))
        *value = 0;
    else
        return parse_number(text, micro_units, true, value);
    return TD_OK;
}

td_status td_option_parse(td_option_type type, const char *text, int64_t *value)
{
    switch (type) {
    case TD_OPTION_BOOL:
        return parse_bool(text, value);
    case TD_OPTION_INT:
        return parse_number(text, plain_units, false, value);
    case TD_OPTION_BYTES:
        return parse_number(text, byte_units, true, value);
    case TD_OPTION_DURATION:
        return parse_number(text, second_units, true, value);
    case TD_OPTION_SPIN:
        return parse_spin(text, value);
    case TD_OPTION_STRING:
        break;
    }
    return TD_EINVAL;
}

/* ---- The values in force ---- */

static td_atomic_u64 values[TD_OPTION_COUNT];
static td_atomic_ptr texts[TD_OPTION_COUNT];    /* NULL: not set */
static td_atomic_ptr problems[TD_OPTION_COUNT]; /* NULL: none */
static td_atomic_u32 loaded;

static pthread_mutex_t reloading = PTHREAD_MUTEX_INITIALIZER;

typedef struct kept_text {
    struct kept_text *next;
    char text[];
} kept_text;

static kept_text *kept;

static char *keep_locked(const char *text)
{
    for (kept_text *k = kept; k; k = k->next)
        if (strcmp(k->text, text) == 0)
            return k->text;
    size_t bytes = strlen(text) + 1;
    kept_text *fresh = malloc(sizeof *fresh + bytes);
    if (!fresh)
        return NULL;
    memcpy(fresh->text, text, bytes);
    fresh->next = kept;
    kept = fresh;
    return fresh->text;
}

typedef struct option_value {
    int64_t value;
    char *text, *problem;
} option_value;

static int64_t default_of(const option_row *row)
{
    int64_t value = 0;
    td_option_parse(row->type, row->default_text, &value); /* a string stays at 0 */
    return value;
}

/* TD_EINVAL: the default, with the problem filled in. */
static td_status read_variable_locked(const option_row *row, option_value *out)
{
    *out = (option_value){.value = default_of(row)};
    const char *text = getenv(row->name);
    if (!text || !*text)
        return TD_OK;
    out->text = keep_locked(text);
    if (!out->text)
        return TD_ENOMEM;
    if (row->type == TD_OPTION_STRING || td_option_parse(row->type, text, &out->value) == TD_OK)
        return TD_OK;
    char problem[PROBLEM_BYTES];
    snprintf(problem, sizeof problem, "%s=%.200s: %s", row->name, text, type_expectations[row->type]);
    out->problem = keep_locked(problem);
    return out->problem ? TD_EINVAL : TD_ENOMEM;
}

static td_status reload_locked(void)
{
    option_value fresh[TD_OPTION_COUNT];
    td_status result = TD_OK;
    for (int i = 0; i < TD_OPTION_COUNT; i++) {
        td_status status = read_variable_locked(&rows[i], &fresh[i]);
        if (status == TD_ENOMEM)
            return status;
        if (status != TD_OK)
            result = status;
    }
    for (int i = 0; i < TD_OPTION_COUNT; i++) {
        td_atomic_store_relaxed(&values[i], (uint64_t)fresh[i].value);
        TD_EDGE(option_T, td_atomic_store_release, td_atomic_store_relaxed)(&texts[i], fresh[i].text);
        TD_EDGE(option_T, td_atomic_store_release, td_atomic_store_relaxed)(&problems[i], fresh[i].problem);
    }
    td_atomic_store_release(&loaded, 1); /* O */
    return result;
}

td_status td_options_reload(void)
{
    pthread_mutex_lock(&reloading);
    td_status status = reload_locked();
    pthread_mutex_unlock(&reloading);
    return status;
}

/* ---- Fork ---- */

static void before_fork(void)
{
    pthread_mutex_lock(&reloading);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&reloading);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork);
}

void td_options_after_fork_child(void)
{
    pthread_mutex_init(&reloading, NULL); /* whoever held it is not here */
}

/* ---- Reading ---- */

/* False when nothing could be read for want of memory: the defaults hold. */
static bool ensure_loaded(void)
{
    return td_atomic_load_acquire(&loaded) /* O */ || td_options_reload() != TD_ENOMEM;
}

int64_t td_option_int(td_option option)
{
    if (!ensure_loaded())
        return default_of(&rows[option]);
    return (int64_t)td_atomic_load_relaxed(&values[option]);
}

const char *td_option_string(td_option option)
{
    const char *text = ensure_loaded() ? td_atomic_load_acquire(&texts[option]) : NULL; /* T */
    return text ? text : rows[option].default_text;
}

void td_option_describe(td_option option, td_option_info *info)
{
    const option_row *row = &rows[option];
    const char *text = td_option_string(option);
    *info = (td_option_info){
        .name = row->name,
        .type = type_names[row->type],
        .text = text,
        .default_text = row->default_text,
        .help = row->help,
        .problem = td_atomic_load_acquire(&problems[option]), /* T */
        .is_set = td_atomic_load_acquire(&texts[option]) != NULL,
    };
}

const char *td_options_problem(void)
{
    ensure_loaded();
    for (int i = 0; i < TD_OPTION_COUNT; i++) {
        const char *problem = td_atomic_load_acquire(&problems[i]); /* T */
        if (problem)
            return problem;
    }
    return NULL;
}
