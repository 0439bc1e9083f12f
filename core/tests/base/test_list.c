/* tests/base/test_list.c: the intrusive list against an array. */
#include "base/list.h"

#include "tests/harness.h"

#define ITEMS 16

typedef struct item {
    int number;
    td_list link;
} item;

static int number_of(td_list *node)
{
    return TD_LIST_ENTRY(node, item, link)->number;
}

TD_TEST(a_new_list_is_empty)
{
    td_list head;
    td_list_init(&head);
    CHECK(td_list_empty(&head));
    CHECK(td_list_take_front(&head) == NULL);
}

TD_TEST(removing_twice_is_harmless)
{
    td_list head, node;
    td_list_init(&head);
    td_list_push_back(&head, &node);
    td_list_remove(&node);
    td_list_remove(&node);
    CHECK(td_list_empty(&head));
    CHECK(td_list_empty(&node));
}

TD_TEST(nodes_may_be_removed_while_walking)
{
    td_list head;
    item items[ITEMS];
    td_list_init(&head);
    for (int i = 0; i < ITEMS; i++) {
        items[i].number = i;
        td_list_push_back(&head, &items[i].link);
    }
    TD_LIST_EACH(node, &head)
    if (number_of(node) % 2)
        td_list_remove(node);
    int expected = 0;
    TD_LIST_EACH(node, &head)
    {
        CHECK_EQ(number_of(node), expected);
        expected += 2;
    }
    CHECK_EQ(expected, ITEMS);
}

/* The model: an array of numbers in order. */
static int model[ITEMS], model_count;

static void model_insert(int place, int number)
{
    memmove(model + place + 1, model + place, (size_t)(model_count - place) * sizeof model[0]);
    model[place] = number;
    model_count++;
}

static void model_remove(int number)
{
    for (int i = 0; i < model_count; i++)
        if (model[i] == number) {
            memmove(model + i, model + i + 1, (size_t)(model_count - i - 1) * sizeof model[0]);
            model_count--;
            return;
        }
}

static void check_against_model(td_list *head)
{
    int i = 0;
    TD_LIST_EACH(node, head)
    {
        CHECK(node->next->prev == node && node->prev->next == node);
        CHECK(i < model_count && number_of(node) == model[i]);
        i++;
    }
    CHECK_EQ(i, model_count);
}

TD_TEST(random_operations_agree_with_an_array)
{
    uint64_t random = test_seed;
    td_list head;
    item items[ITEMS];
    td_list_init(&head);
    for (int i = 0; i < ITEMS; i++) {
        items[i].number = i;
        td_list_init(&items[i].link);
    }
    for (uint64_t round = 0; round < test_rounds(5000); round++) {
        item *one = &items[test_random_below(&random, ITEMS)];
        if (!td_list_empty(&one->link)) {
            td_list_remove(&one->link);
            model_remove(one->number);
        } else if (test_random_below(&random, 2)) {
            td_list_push_front(&head, &one->link);
            model_insert(0, one->number);
        } else {
            td_list_push_back(&head, &one->link);
            model_insert(model_count, one->number);
        }
        check_against_model(&head);
    }
}

TD_TEST_MAIN
