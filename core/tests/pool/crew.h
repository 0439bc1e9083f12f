/* tests/pool/crew.h: whole pools without Python: a zygote, which is this test program started again (or a fork of it,
 * for TD_START_ADOPTED), and workers that understand a dozen simple tasks.
 *
 *     TD_TEST(a_task_comes_back)
 *     {
 *         struct crew crew;
 *         crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
 *         td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1, .b = 2});
 *         CHECK_EQ(crew_value(task), 3);
 *         crew_close(&crew);
 *     }
 *
 *     CREW_TEST_MAIN
 *
 * Test and workers share a *board*: gates at which tasks wait until the test opens them, and counters. crew_close joins
 * the pool, and waits until the native thread is gone, so that what is open afterwards is a leak. */
#ifndef TD_TESTS_POOL_CREW_H
#define TD_TESTS_POOL_CREW_H

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "loop/drain.h"
#include "loop/native.h"
#include "os/channel.h"
#include "os/futex.h"
#include "os/process.h"
#include "pool/birth.h"
#include "ring/completion.h"
#include "ring/doorbell.h"
#include "ring/submission.h"
#include "tests/harness.h"
#include "treadle.h"

#define CREW_GATES 64u
#define CREW_NOTES (1u << 17)
#define CREW_PATIENCE_NS test_patience_ns()

struct board {
    td_atomic_u32 open[CREW_GATES];    /* gates */
    td_atomic_u32 entered[CREW_GATES]; /* tasks that have come to the gate, ever */
    td_atomic_u32 runs[CREW_NOTES];    /* of each id: begun (low half) and finished (high half) */
    td_atomic_u32 pids[CREW_NOTES];    /* of each id: who began it last */
    td_atomic_u32 leaks;               /* processes that have lost memory */
};

enum op_code {
    OP_ADD,          /* a + b */
    OP_ECHO,         /* the arguments' bytes, however long */
    OP_SPIN,         /* busy for a ns */
    OP_GATE,         /* waits at gate a; an interruption is an error, once b signals have come to nothing */
    OP_CARELESS,     /* waits at gate a; b interruptions are lost, the next one is an error */
    OP_DEAF,         /* waits at gate a, whatever the signal */
    OP_EXIT,         /* _exit(a) */
    OP_RAISE,        /* dies of signal a */
    OP_BIG,          /* a block of a bytes of value b */
    OP_FAIL,         /* an exception's payload: a */
    OP_FN,           /* the bytes of the function */
    OP_LEAVE,        /* as after SIGTERM: the worker leaves after it */
    OP_ITEMS,        /* a chunk: each item's result is a u64, item * 2; at item b: the code in c, with a */
    OP_ATTEMPT,      /* the number of the attempt; below a it dies */
    OP_WRITE,        /* overwrites its arguments' block, if it may: 1 */
    OP_STACK,        /* writes to the stack file, and dies */
    OP_SEE,          /* the first word of the shared block that is named behind the op */
    OP_KEEP,         /* the same, and keeps it in place a */
    OP_LET_GO,       /* the first word of what is in place a, which it lets go of */
    OP_SEE_AT_GATE,  /* opens the block, waits at gate a, and sees */
    OP_PARCELS,      /* a parcels of b bytes, number i full of i + 1; every other one says that it is a copy */
    OP_ITEM_PARCELS, /* a chunk: each item's result is a u64 and a parcel of a bytes; dies at item b */
    OP_ROGUE,        /* damages shared memory in way a, and waits to be killed */
};

enum rogue {
    ROGUE_REF,           /* a result in a block that there is not */
    ROGUE_LENGTH,        /* more bytes than a slot holds */
    ROGUE_COUNT,         /* more completions than there are slots */
    ROGUE_ENTRY,         /* completions that were never claimed; then dies */
    ROGUE_HOARD,         /* claims a second task, and dies */
    ROGUE_RING,          /* dies when it is about to wake the parent's waiter, once that sleeps */
    ROGUE_WAKE,          /* dies when it is about to wake the other of two workers, once that sleeps */
    ROGUE_CLOSE,         /* closes all its descriptors */
    ROGUE_PARCEL_REF,    /* a parcel in a block that there is not, behind a good one */
    ROGUE_PARCEL_LENGTH, /* one of more bytes than its block has */
    ROGUE_PARCEL_COUNT,  /* more than fit the result's block */
    ROGUE_LAG,           /* says that it searches, as one does that has just claimed, and waits at gate 1 */
};

struct op {
    uint32_t code, id;
    uint64_t a, b, c;
};

struct crew {
    td_pool *pool;
    uint32_t fn;
    int board_fd;
};

static struct board *crew_board;

/* Tests fork while threads run, and the children make threads of their own. */
const char *__tsan_default_options(void);
TEST_UNUSED const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}

/* LeakSanitizer, where it is there: have blocks been lost so far? */
int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static bool crew_is_anew; /* no fork of a test, which has its test's blocks and not what leads to them */

__attribute__((noreturn)) static void crew_leave(int code)
{
    if (crew_is_anew && __lsan_do_recoverable_leak_check != NULL && __lsan_do_recoverable_leak_check() != 0)
        td_atomic_fetch_add_seq(&crew_board->leaks, 1);
    _exit(code);
}

/* ---- In the worker ------------------------------------------------------------------------------------------- */

static td_worker *crew_worker;
static struct td_segment_map crew_map; /* its own view of the pool's memory, to do damage in */
static struct td_bell_map crew_bell;
static int crew_stack_fd;
static uint32_t crew_id; /* of the task; 0: none */
static td_atomic_u32 crew_interrupted;
static sigjmp_buf crew_way_out; /* of a wait, so that no signal is missed between the look and the sleep */
static volatile sig_atomic_t crew_may_jump;
static volatile sig_atomic_t crew_to_miss; /* so many exception signals come to nothing */
static volatile sig_atomic_t crew_to_lose; /* so many interruptions are lost once they are known */

static void crew_on_urgent(int signal)
{
    (void)signal;
    if (crew_to_miss > 0) {
        crew_to_miss--;
        return;
    }
    if (!td_worker_interrupted(crew_worker))
        return;
    if (crew_to_lose > 0) {
        crew_to_lose--;
        td_worker_interrupt_again(crew_worker);
        return;
    }
    td_atomic_store_relaxed(&crew_interrupted, 1);
    if (crew_may_jump)
        siglongjmp(crew_way_out, 1);
}

static void crew_on_term(int signal)
{
    (void)signal;
    td_worker_leave(crew_worker);
}

static void crew_die(int signal)
{
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigaction(signal, &by_default, NULL);
    raise(signal);
}

static void crew_sleep_at_gate(td_atomic_u32 *gate)
{
    while (td_atomic_load_acquire(gate) == 0)
        if (td_futex_wait_until(gate, 0, TD_FOREVER, true) == TD_EINTR)
            kill(getpid(), 0); /* ThreadSanitizer keeps a handler until the next call that it knows of */
}

static void crew_enter_gate(uint64_t gate)
{
    td_atomic_fetch_add_seq(&crew_board->entered[gate], 1);
    td_futex_wake(&crew_board->entered[gate], INT_MAX, true);
}

/* False: interrupted. */
static bool crew_wait_at_gate(uint64_t gate)
{
    crew_enter_gate(gate);
    if (sigsetjmp(crew_way_out, 1) == 0) {
        crew_may_jump = 1;
        if (td_atomic_load_relaxed(&crew_interrupted) == 0)
            crew_sleep_at_gate(&crew_board->open[gate]);
    }
    crew_may_jump = 0;
    return td_atomic_load_relaxed(&crew_interrupted) == 0;
}

static bool crew_wait_deaf(uint64_t gate)
{
    crew_enter_gate(gate);
    crew_sleep_at_gate(&crew_board->open[gate]);
    return true;
}

static void crew_begin(uint32_t id)
{
    crew_id = id < CREW_NOTES ? id : 0;
    if (crew_id == 0)
        return;
    td_atomic_store_relaxed(&crew_board->pids[id], (uint32_t)getpid());
    td_atomic_fetch_add_relaxed(&crew_board->runs[id], 1);
}

/* Before the reply: from then on the test may look. */
static void crew_finish(void)
{
    if (crew_id != 0)
        td_atomic_fetch_add_relaxed(&crew_board->runs[crew_id], 1u << 16);
}

static void crew_reply_bytes(bool ok, const void *bytes, uint64_t len)
{
    struct td_block block = {0};
    if (len > TD_INLINE_RESULT) {
        if (td_worker_block(crew_worker, len, &block) != TD_OK)
            _exit(101);
        memcpy(block.data, bytes, len);
        bytes = NULL;
    }
    crew_finish();
    if (td_worker_reply(crew_worker, ok, bytes, block.ref != 0 ? &block : NULL, len, false) != TD_OK)
        _exit(102);
}

static void crew_reply(bool ok, uint64_t value)
{
    crew_reply_bytes(ok, &value, sizeof value);
}

static void crew_spin(uint64_t ns)
{
    const int64_t end = td_deadline_after((int64_t)ns);
    while (td_now_ns() < end && td_atomic_load_relaxed(&crew_interrupted) == 0)
        td_pause();
}

/* What ends a worker, or keeps it; else false. */
static bool crew_act(const struct op *op, uint64_t code)
{
    switch (code) {
    case OP_GATE:
        crew_to_miss = (sig_atomic_t)op->b;
        return crew_wait_at_gate(op->a);
    case OP_CARELESS:
        crew_to_lose = (sig_atomic_t)op->b;
        return crew_wait_at_gate(op->a);
    case OP_DEAF:
        return crew_wait_deaf(op->a);
    case OP_SPIN:
        crew_spin(op->a);
        return td_atomic_load_relaxed(&crew_interrupted) == 0;
    case OP_EXIT:
        _exit((int)op->a);
    case OP_RAISE:
        crew_die((int)op->a);
        return true;
    case OP_LEAVE:
        td_worker_leave(crew_worker);
        return true;
    default:
        return false;
    }
}

#include "tests/pool/crew_results.h"

#include "tests/pool/crew_rogue.h"

#include "tests/pool/crew_shared.h"

static void crew_run(const struct td_assignment *task)
{
    struct op op;
    if (task->args.bytes < sizeof op)
        _exit(100);
    memcpy(&op, task->args.data, sizeof op);
    crew_begin(op.id);
    switch ((enum op_code)op.code) {
    case OP_ADD:
        crew_reply(true, op.a + op.b);
        return;
    case OP_ECHO:
        crew_reply_bytes(true, task->args.data, task->args.bytes);
        return;
    case OP_BIG:
        crew_run_big(&op);
        return;
    case OP_FAIL:
        crew_reply(false, op.a);
        return;
    case OP_FN:
        crew_reply_bytes(true, task->fn_bytes.data, task->fn_bytes.bytes);
        return;
    case OP_ITEMS:
        crew_run_items(&op);
        return;
    case OP_ATTEMPT:
        if (task->attempt < op.a)
            _exit(9);
        crew_reply(true, task->attempt);
        return;
    case OP_WRITE:
        if (task->args_data != NULL)
            memset(task->args_data, 0xff, task->args.bytes);
        crew_reply(true, task->args_data != NULL);
        return;
    case OP_SEE:
    case OP_KEEP:
    case OP_SEE_AT_GATE:
        crew_see(&op, &task->args);
        return;
    case OP_LET_GO:
        crew_let_go(op.a);
        return;
    case OP_PARCELS:
    case OP_ITEM_PARCELS:
        crew_send_parcels(&op);
        return;
    case OP_ROGUE:
        crew_go_rogue(op.a);
    case OP_STACK:
        if (write(crew_stack_fd, "in line 7", 9) != 9)
            _exit(107);
        crew_die(SIGSEGV);
        return;
    default:
        crew_reply(crew_act(&op, op.code), op.a);
        return;
    }
}

static void crew_handle(int signal, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, NULL);
}

__attribute__((noreturn)) static void crew_work(struct td_birth *birth)
{
    const char *context = birth->context_bytes > 0 ? birth->context : "";
    const bool fails = strcmp(context, "fail") == 0, dies = strcmp(context, "die") == 0;
    crew_stack_fd = birth->stack_fd;
    birth->stack_fd = -1;
    if (dies)
        _exit(7);
    if (td_segment_attach(&crew_map, dup(birth->control_fd)) != TD_OK ||
        td_bell_attach(&crew_bell, dup(birth->bell_fd), dup(birth->event_fd), dup(birth->loop_fd)) != TD_OK ||
        td_worker_attach(birth, &crew_worker) != TD_OK)
        _exit(110);
    td_birth_fini(birth);
    crew_handle(SIGURG, crew_on_urgent);
    crew_handle(SIGTERM, crew_on_term);
    if (fails) {
        td_worker_failed(crew_worker, "the initializer said no");
        _exit(1);
    }
    td_worker_ready(crew_worker);
    for (;;) {
        struct td_assignment task;
        td_atomic_store_relaxed(&crew_interrupted, 0); /* a signal may be here before the task */
        const td_status status = td_worker_next(crew_worker, &task);
        if (status == TD_EINTR)
            continue;
        if (status != TD_OK)
            crew_leave(status == TD_ECLOSED ? 0 : 111);
        crew_run(&task);
    }
}

/* ---- In the zygote ------------------------------------------------------------------------------------------- */

__attribute__((noreturn)) static void crew_zygote(int channel)
{
    for (;;) {
        struct td_birth birth;
        const td_status status = td_zygote_serve(channel, &birth);
        if (status == TD_EINTR)
            continue;
        if (status != TD_OK)
            crew_leave(0);
        const pid_t pid = fork();
        td_zygote_forked(channel, &birth, pid < 0 ? -errno : pid);
        if (pid == 0)
            crew_work(&birth);
    }
}

__attribute__((noreturn)) static void crew_single(int channel)
{
    struct td_birth birth;
    if (td_birth_receive(channel, &birth) != TD_OK)
        _exit(0);
    crew_work(&birth);
}

/* What this program does when it was started by a pool: argv is {program, role, channel}. */
TEST_UNUSED static void crew_play_role(int argc, char **argv)
{
    const char *board = getenv("CREW_BOARD");
    if (argc < 3 || board == NULL)
        return;
    const int fd = open(board, O_RDWR | O_CLOEXEC), channel = atoi(argv[2]);
    if (fd < 0)
        _exit(112);
    crew_board = mmap(NULL, sizeof *crew_board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (crew_board == MAP_FAILED)
        _exit(113);
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    crew_is_anew = true;
    if (strcmp(argv[1], "--zygote") == 0)
        crew_zygote(channel);
    if (strcmp(argv[1], "--single") == 0)
        crew_single(channel);
    if (strcmp(argv[1], "--fails") == 0)
        td_zygote_fail(channel, "a preload raised");
    _exit(1);
}

#define CREW_TEST_MAIN                                                                                         \
    int main(int argc, char **argv)                                                                            \
    {                                                                                                          \
        crew_play_role(argc, argv);                                                                            \
        return test_main(argc, argv);                                                                          \
    }

/* ---- In the test --------------------------------------------------------------------------------------------- */

/* The command that runs this program where the machine is emulated; NULL where it isn't. */
static const char *crew_emulator(void)
{
    const char *emulator = getenv("TREADLE_TEST_EMULATOR");
    return emulator != NULL && emulator[0] != '\0' ? emulator : NULL;
}

TEST_UNUSED static void crew_make_board(struct crew *crew)
{
    crew->board_fd = memfd_create("board", MFD_CLOEXEC);
    REQUIRE(crew->board_fd >= 0);
    REQUIRE_EQ(ftruncate(crew->board_fd, sizeof *crew_board), 0);
    crew_board = mmap(NULL, sizeof *crew_board, PROT_READ | PROT_WRITE, MAP_SHARED, crew->board_fd, 0);
    REQUIRE(crew_board != MAP_FAILED);
}

static void crew_launch_as(struct crew *crew, const char *role)
{
    static const char *const kept[] = {"PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"};
    char board[64], own[4][1024], self[PATH_MAX], wrapper[256];
    const char *argv[16], *envp[6] = {board};
    size_t words = 0;
    snprintf(board, sizeof board, "CREW_BOARD=/proc/%d/fd/%d", (int)getpid(), crew->board_fd);
    for (size_t i = 0; i < 4; i++) {
        const char *value = getenv(kept[i]);
        snprintf(own[i], sizeof own[i], "%s=%s", kept[i], value != NULL ? value : "");
        envp[i + 1] = own[i];
    }
    snprintf(wrapper, sizeof wrapper, "%s", crew_emulator() != NULL ? crew_emulator() : "");
    for (char *word = strtok(wrapper, " "); word != NULL && words < 12; word = strtok(NULL, " "))
        argv[words++] = word;
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    REQUIRE(length > 0);
    self[length] = '\0';
    argv[words++] = self;
    argv[words++] = role;
    argv[words] = NULL;
    REQUIRE_OK(td_pool_set_launch(crew->pool, argv, envp));
}

static void crew_adopt(struct crew *crew)
{
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        crew_zygote(ends[1]);
    }
    close(ends[1]);
    REQUIRE_OK(td_pool_adopt_zygote(crew->pool, pid, ends[0]));
}

/* The first worker of an adopted pool, forked from here. */
TEST_UNUSED static pid_t crew_fork_worker(struct crew *crew)
{
    int ends[2];
    REQUIRE_OK(td_channel_new(ends));
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0 && close(ends[0]) == 0)
        crew_single(ends[1]);
    close(ends[1]);
    REQUIRE_OK(td_pool_adopt_worker(crew->pool, pid, ends[0]));
    return pid;
}

/* A pool whose first worker, and then its zygote, are forked from here. */
TEST_UNUSED static pid_t crew_open_own(struct crew *crew, uint32_t max_workers)
{
    const struct td_pool_config config = {.max_workers = max_workers, .start = TD_START_ADOPTED};
    crew_make_board(crew);
    REQUIRE_OK(td_pool_new(&config, &crew->pool));
    REQUIRE_OK(td_pool_intern(crew->pool, "crew", 4, &crew->fn));
    const pid_t pid = crew_fork_worker(crew);
    crew_adopt(crew);
    return pid;
}

TEST_UNUSED static void crew_add_pool(struct crew *crew, const struct td_pool_config *config)
{
    REQUIRE_OK(td_pool_new(config, &crew->pool));
    REQUIRE_OK(td_pool_intern(crew->pool, "crew", 4, &crew->fn));
    if (config->start == TD_START_ADOPTED)
        crew_adopt(crew);
    else
        crew_launch_as(crew, config->start == TD_START_SINGLE ? "--single" : "--zygote");
}

TEST_UNUSED static void crew_open(struct crew *crew, const struct td_pool_config *config)
{
    crew_make_board(crew);
    crew_add_pool(crew, config);
}

/* Whatever was closed: the native thread ends after its last pool. */
TEST_UNUSED static void crew_settle(struct crew *crew)
{
    td_native_end();
    td_drain_forget();
    const uint32_t leaking_processes = td_atomic_load_seq(&crew_board->leaks);
    CHECK_EQ(leaking_processes, 0u);
    munmap(crew_board, sizeof *crew_board);
    close(crew->board_fd);
}

TEST_UNUSED static void crew_end_pool(struct crew *crew, uint32_t flags)
{
    CHECK_OK(td_pool_close(crew->pool, flags));
    CHECK_OK(td_pool_join_until(crew->pool, td_deadline_after(CREW_PATIENCE_NS)));
    td_pool_unref(crew->pool);
}

TEST_UNUSED static void crew_close_with(struct crew *crew, uint32_t flags)
{
    crew_end_pool(crew, flags);
    crew_settle(crew);
}

TEST_UNUSED static void crew_close(struct crew *crew)
{
    crew_close_with(crew, 0);
}

TEST_UNUSED static struct td_call crew_call(const struct crew *crew, const struct op *op)
{
    return (struct td_call){.fn = crew->fn, .args = op, .args_bytes = sizeof *op};
}

TEST_UNUSED static td_task *crew_submit(const struct crew *crew, const struct op *op)
{
    const struct td_call call = crew_call(crew, op);
    td_task *task = NULL;
    REQUIRE_OK(td_pool_submit(crew->pool, &call, &task));
    return task;
}

TEST_UNUSED static enum td_task_state crew_wait(td_task *task)
{
    CHECK_OK(td_task_wait_until(task, td_deadline_after(CREW_PATIENCE_NS)));
    return td_task_state(task);
}

/* Waits for a task whose result is a number, and lets go of it. */
TEST_UNUSED static uint64_t crew_value(td_task *task)
{
    struct td_view view = {0};
    uint64_t value = UINT64_MAX;
    crew_wait(task);
    CHECK_OK(td_task_result(task, &view));
    CHECK_EQ(view.bytes, sizeof value);
    if (view.bytes == sizeof value)
        memcpy(&value, view.data, sizeof value);
    td_task_unref(task);
    return value;
}

/* Waits until `count` tasks have come to the gate. */
TEST_UNUSED static void crew_await_gate(uint32_t gate, uint32_t count)
{
    const int64_t deadline = td_deadline_after(CREW_PATIENCE_NS);
    for (uint32_t seen; (seen = td_atomic_load_acquire(&crew_board->entered[gate])) < count;)
        if (td_futex_wait_until(&crew_board->entered[gate], seen, deadline, true) == TD_ETIMEDOUT) {
            test_fail(__FILE__, __LINE__, "gate %u: %u of %u tasks came", gate, seen, count);
            test_end();
        }
}

TEST_UNUSED static void crew_open_gate(uint32_t gate)
{
    td_atomic_store_release(&crew_board->open[gate], 1);
    td_futex_wake(&crew_board->open[gate], INT_MAX, true);
}

#endif
