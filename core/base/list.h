/* base/list.h: intrusive doubly linked list, circular around a head.
 * Invariants  I1 head and members form one cycle: x->next->prev == x == x->prev->next.
 *             I2 a node outside any list points at itself (td_list_init, td_list_remove), so removing it again is
 *                harmless and td_list_empty(node) tells whether it is linked.
 * Not thread-safe: the owner's lock covers it.   Tests  tests/base/test_list.c */
#ifndef TD_BASE_LIST_H
#define TD_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct td_list {
    struct td_list *next, *prev;
} td_list;

/* The struct of `type` whose field `member` is `node`. */
#define TD_LIST_ENTRY(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

/* Goes through the nodes after `head`; `node` may be removed in the body. */
#define TD_LIST_EACH(node, head)                                                                               \
    for (td_list *node = (head)->next, *td_next_ = node->next; node != (head);                                 \
         node = td_next_, td_next_ = node->next)

static inline void td_list_init(td_list *head)
{
    head->next = head->prev = head;
}

static inline bool td_list_empty(const td_list *head)
{
    return head->next == head;
}

/* Links `node`, which is in no list, behind `place`: behind the head it is the first. */
static inline void td_list_insert_after(td_list *place, td_list *node)
{
    node->prev = place;
    node->next = place->next;
    place->next->prev = node;
    place->next = node;
}

static inline void td_list_push_front(td_list *head, td_list *node)
{
    td_list_insert_after(head, node);
}

static inline void td_list_push_back(td_list *head, td_list *node)
{
    td_list_insert_after(head->prev, node);
}

static inline void td_list_remove(td_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    td_list_init(node);
}

/* Takes the first node, or gives NULL. */
static inline td_list *td_list_take_front(td_list *head)
{
    td_list *node = head->next;
    if (node == head)
        return NULL;
    td_list_remove(node); /* NOLINT(clang-analyzer-unix.Malloc): it takes the next node for one freed before */
    return node;
}

#endif
