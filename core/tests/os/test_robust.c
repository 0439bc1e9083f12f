/* tests/os/test_robust.c: owned words, beside the C library's robust mutexes. */
#include "os/robust.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "os/futex.h"
#include "tests/memory/peers.h"

static uint32_t word_of(struct td_robust *robust)
{
    return td_atomic_load_relaxed(&robust->word);
}

TD_TEST(a_word_is_owned_once)
{
    need_robust();
    struct td_robust robust = {0};
    CHECK_STATUS(td_robust_free(&robust, 1, false), TD_ENOTHELD);
    CHECK_OK(td_robust_take_until(&robust, 0));
    CHECK_STATUS(td_robust_take_until(&robust, 0), TD_ETIMEDOUT);
    CHECK_STATUS(td_robust_take_until(&robust, TD_FOREVER), TD_EDEADLOCK);
    CHECK_OK(td_robust_free(&robust, 1, false));
    CHECK_EQ(word_of(&robust), 0u);
    CHECK_OK(td_robust_take_until(&robust, TD_FOREVER));
    CHECK_OK(td_robust_free(&robust, 1, true));
    CHECK_STATUS(td_robust_take_until(&robust, TD_FOREVER), TD_EHOLDER);
    CHECK_OK(td_robust_free(&robust, 1, false));
    CHECK_EQ(word_of(&robust), 0u);
}

struct shelf {
    struct td_robust ours[3];
    pthread_mutex_t theirs[3];
};

static void mutexes_init(struct shelf *shelf)
{
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    for (int i = 0; i < 3; i++) {
        pthread_mutexattr_setprotocol(&robust, i == 1 ? PTHREAD_PRIO_INHERIT : PTHREAD_PRIO_NONE);
        pthread_mutex_init(&shelf->theirs[i], &robust);
    }
}

/* Ends with the two last of each. */
static void *take_all_and_end(void *context)
{
    struct shelf *shelf = context;
    for (int i = 0; i < 3; i++) {
        CHECK_OK(td_robust_take_until(&shelf->ours[i], 0));
        CHECK_EQ(pthread_mutex_lock(&shelf->theirs[i]), 0);
    }
    CHECK_OK(td_robust_free(&shelf->ours[1], 1, false));
    pthread_mutex_unlock(&shelf->theirs[1]);
    pthread_mutex_unlock(&shelf->theirs[2]);
    CHECK_EQ(pthread_mutex_lock(&shelf->theirs[1]), 0);
    CHECK_EQ(pthread_mutex_lock(&shelf->theirs[2]), 0);
    CHECK_OK(td_robust_take_until(&shelf->ours[1], 0));
    pthread_mutex_unlock(&shelf->theirs[0]);
    CHECK_OK(td_robust_free(&shelf->ours[0], 1, false));
    return NULL;
}

TD_TEST(owned_words_and_robust_mutexes_share_the_threads_list)
{
    need_robust();
    struct shelf shelf = {0};
    pthread_t thread;
    mutexes_init(&shelf);
    REQUIRE_EQ(pthread_create(&thread, NULL, take_all_and_end, &shelf), 0);
    pthread_join(thread, NULL);
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(td_robust_take_until(&shelf.ours[i], TD_FOREVER), i == 0 ? TD_OK : TD_EHOLDER);
        CHECK_EQ(pthread_mutex_lock(&shelf.theirs[i]), i == 0 ? 0 : EOWNERDEAD);
        if (i > 0)
            pthread_mutex_consistent(&shelf.theirs[i]);
    }
    for (int i = 0; i < 3; i++) {
        pthread_mutex_unlock(&shelf.theirs[i]);
        CHECK_OK(td_robust_free(&shelf.ours[i], 1, false));
        pthread_mutex_destroy(&shelf.theirs[i]);
    }
}

/* Words are taken and freed in any order, by any of the threads; each guards a number. */
enum { WORDS = 5 };

struct model {
    struct td_robust words[WORDS];
    uint64_t numbers[WORDS];
    td_atomic_u64 taken;
};

static void *take_and_free(void *context)
{
    struct model *model = context;
    uint64_t random = test_seed ^ (uintptr_t)&random, taken = 0;
    bool mine[WORDS] = {false};
    for (uint64_t i = 0; i < test_rounds(20000); i++) {
        const uint64_t n = test_random_below(&random, WORDS);
        if (mine[n]) {
            CHECK_OK(td_robust_free(&model->words[n], 1, false));
            mine[n] = false;
            continue;
        }
        const td_status status = td_robust_take_until(&model->words[n], 0);
        if (status == TD_OK) {
            mine[n] = true;
            taken++;
            model->numbers[n]++;
        } else {
            CHECK_STATUS(status, TD_ETIMEDOUT);
        }
    }
    for (uint64_t n = 0; n < WORDS; n++)
        if (mine[n])
            CHECK_OK(td_robust_free(&model->words[n], 1, false));
    td_atomic_fetch_add_relaxed(&model->taken, taken);
    return NULL;
}

TD_TEST(words_taken_in_any_order_are_owned_by_one_thread_each)
{
    need_robust();
    struct model model = {0};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, take_and_free, &model), 0);
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (int n = 0; n < WORDS; n++)
        sum += model.numbers[n];
    CHECK_EQ(sum, td_atomic_load_relaxed(&model.taken));
}

static void *add_under(void *context)
{
    struct model *model = context;
    for (uint64_t i = 0; i < test_rounds(3000); i++) {
        while (td_robust_take_until(&model->words[0], TD_FOREVER) != TD_OK) {
        }
        model->numbers[0]++;
        CHECK_OK(td_robust_free(&model->words[0], 1, false));
    }
    return NULL;
}

TD_TEST(what_was_done_before_a_word_is_freed_is_seen_by_its_next_owner) /* robust_T */
{
    need_robust();
    struct model model = {0};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, add_under, &model), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(model.numbers[0], 3 * test_rounds(3000));
}

static void *watch_for_a_change(void *context)
{
    struct model *model = context;
    const uint32_t seen = word_of(&model->words[0]);
    if ((seen & TD_ROBUST_WAITED) != 0)
        CHECK_OK(td_robust_watch_until(&model->words[0], seen, TD_FOREVER));
    return NULL;
}

TD_TEST(a_nudge_sends_all_who_watch_to_look_again)
{
    need_robust();
    struct model model = {0};
    pthread_t threads[3];
    CHECK_OK(td_robust_take_until(&model.words[0], 0));
    td_atomic_fetch_or_relaxed(&model.words[0].word, TD_ROBUST_WAITED);
    for (int i = 0; i < 3; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, watch_for_a_change, &model), 0);
    td_robust_nudge(&model.words[0]);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(word_of(&model.words[0]) & ~TD_ROBUST_OWNER, 0u);
    CHECK_OK(td_robust_free(&model.words[0], 1, false));
}

static int own_nothing(td_hold *hold, struct board *board, uint32_t number)
{
    (void)hold;
    (void)number;
    struct td_robust *robust = (struct td_robust *)(void *)&board->plain[0];
    if (td_robust_free(robust, 1, false) != TD_ENOTHELD || td_robust_take_until(robust, 0) != TD_ETIMEDOUT)
        return 1;
    struct td_robust own = {0};
    return td_robust_take_until(&own, 0) == TD_OK && td_robust_free(&own, 1, false) == TD_OK ? 0 : 2;
}

TD_TEST(a_forked_child_owns_nothing)
{
    need_robust();
    struct board *board = board_new();
    _Static_assert(sizeof(struct td_robust) <= sizeof board->plain, "there is room");
    struct td_robust *robust = (struct td_robust *)(void *)&board->plain[0];
    CHECK_OK(td_robust_take_until(robust, 0));
    CHECK_EQ(test_wait_child(peer(own_nothing, NULL, board, 0)), 0);
    CHECK_OK(td_robust_free(robust, 1, false));
    board_free(board);
}

struct queue {
    struct td_robust robust;
    struct board board;
};

/* A process that sleeps: all that these ever sleep for is the word. */
static void await_sleep(pid_t pid)
{
    char path[64], text[256], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    while (state != 'S') {
        FILE *file = fopen(path, "r");
        REQUIRE(file != NULL);
        if (fgets(text, sizeof text, file) != NULL)
            state = strrchr(text, ')')[2];
        fclose(file);
        sched_yield();
    }
}

/* As one that takes the word, up to where it was woken; it dies there. */
static int wake_and_die(struct queue *queue)
{
    struct robust_list_head *head = NULL;
    size_t bytes = 0;
    if (syscall(SYS_get_robust_list, 0, &head, &bytes) != 0)
        return 1;
    head->list_op_pending = (struct robust_list *)(void *)&queue->robust.next;
    const uint32_t seen = td_atomic_fetch_or_acqrel(&queue->robust.word, TD_ROBUST_WAITED) | TD_ROBUST_WAITED;
    (void)td_futex_wait_until(&queue->robust.word, seen, TD_FOREVER, true);
    td_atomic_store_release(&queue->board.word[0], 1);
    await_word(&queue->board.word[1], 1);
    raise(SIGKILL);
    return 2;
}

static int take_it(struct queue *queue)
{
    return td_robust_take_until(&queue->robust, TD_FOREVER) == TD_OK &&
                   td_robust_free(&queue->robust, 1, false) == TD_OK
               ? 0
               : 1;
}

static pid_t begin(int (*body)(struct queue *queue), struct queue *queue)
{
    fflush(NULL);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(body(queue));
    await_sleep(pid);
    return pid;
}

TD_TEST(a_sleeper_that_dies_once_woken_takes_nobodys_turn)
{
    need_robust();
    struct queue *queue = mmap(NULL, sizeof *queue, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(queue != MAP_FAILED);
    REQUIRE_OK(td_robust_take_until(&queue->robust, 0));
    const pid_t first = begin(wake_and_die, queue), second = begin(take_it, queue);
    CHECK_OK(td_robust_free(&queue->robust, 1, false));
    CHECK_OK(td_robust_take_until(&queue->robust, 0)); /* before the one that was woken could */
    await_word(&queue->board.word[0], 1);
    td_atomic_store_release(&queue->board.word[1], 1);
    CHECK_EQ(test_wait_child(first), -SIGKILL);
    CHECK_OK(td_robust_free(&queue->robust, 1, false));
    CHECK_EQ(test_wait_child(second), 0);
    CHECK_EQ(word_of(&queue->robust), 0u);
    munmap(queue, sizeof *queue);
}

TD_TEST_MAIN
