/* base/atomic.h: atomics with the order in the name; the only file that includes <stdatomic.h>.
 *
 * The operations are macros over C11's generic functions, so one name serves td_atomic_u32, td_atomic_u64 and
 * td_atomic_ptr. There are no fences: ThreadSanitizer can't see them. All three types are lock-free, which makes
 * them address-free: they work in memory shared between processes.
 *
 * Edges. Each release/acquire pair has a letter, written where it is used. A letter that a test guards is written
 * with TD_EDGE, which names it and says what the weakened form is:
 *
 *     TD_EDGE(spsc_P, td_atomic_store_release, td_atomic_store_relaxed)(&ring->tail, tail + 1);
 *
 * is td_atomic_store_release(...), and td_atomic_store_relaxed(...) in a build with -DTD_WEAKEN_spsc_P=1. The test
 * of the edge is built both ways under ThreadSanitizer: the plain build must pass, the weakened one must fail. */
#ifndef TD_BASE_ATOMIC_H
#define TD_BASE_ATOMIC_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic(uint32_t) td_atomic_u32;
typedef _Atomic(uint64_t) td_atomic_u64;
typedef _Atomic(void *) td_atomic_ptr;

_Static_assert(sizeof(td_atomic_u32) == 4 && sizeof(td_atomic_u64) == 8 && sizeof(td_atomic_ptr) == 8,
               "atomics have the layout of the plain types, on 64-bit machines only");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_POINTER_LOCK_FREE == 2,
               "atomics in shared memory must be lock-free");

/* For storage that nobody else sees yet. */
#define td_atomic_init(word, value) atomic_init((word), (value))

#define td_atomic_load_relaxed(word) atomic_load_explicit((word), memory_order_relaxed)
#define td_atomic_load_acquire(word) atomic_load_explicit((word), memory_order_acquire)
#define td_atomic_load_seq(word) atomic_load_explicit((word), memory_order_seq_cst)

#define td_atomic_store_relaxed(word, value) atomic_store_explicit((word), (value), memory_order_relaxed)
#define td_atomic_store_release(word, value) atomic_store_explicit((word), (value), memory_order_release)
#define td_atomic_store_seq(word, value) atomic_store_explicit((word), (value), memory_order_seq_cst)

/* Read-modify-write operations give back the value before. */
#define td_atomic_exchange_relaxed(word, value) atomic_exchange_explicit((word), (value), memory_order_relaxed)
#define td_atomic_exchange_acquire(word, value) atomic_exchange_explicit((word), (value), memory_order_acquire)
#define td_atomic_exchange_acqrel(word, value) atomic_exchange_explicit((word), (value), memory_order_acq_rel)
#define td_atomic_exchange_seq(word, value) atomic_exchange_explicit((word), (value), memory_order_seq_cst)

#define td_atomic_fetch_add_relaxed(word, value)                                                               \
    atomic_fetch_add_explicit((word), (value), memory_order_relaxed)
#define td_atomic_fetch_add_release(word, value)                                                               \
    atomic_fetch_add_explicit((word), (value), memory_order_release)
#define td_atomic_fetch_add_acqrel(word, value) atomic_fetch_add_explicit((word), (value), memory_order_acq_rel)
#define td_atomic_fetch_add_seq(word, value) atomic_fetch_add_explicit((word), (value), memory_order_seq_cst)
#define td_atomic_fetch_sub_relaxed(word, value)                                                               \
    atomic_fetch_sub_explicit((word), (value), memory_order_relaxed)
#define td_atomic_fetch_sub_acqrel(word, value) atomic_fetch_sub_explicit((word), (value), memory_order_acq_rel)
#define td_atomic_fetch_sub_seq(word, value) atomic_fetch_sub_explicit((word), (value), memory_order_seq_cst)
#define td_atomic_fetch_or_relaxed(word, value) atomic_fetch_or_explicit((word), (value), memory_order_relaxed)
#define td_atomic_fetch_or_acqrel(word, value) atomic_fetch_or_explicit((word), (value), memory_order_acq_rel)
#define td_atomic_fetch_or_seq(word, value) atomic_fetch_or_explicit((word), (value), memory_order_seq_cst)
#define td_atomic_fetch_and_relaxed(word, value)                                                               \
    atomic_fetch_and_explicit((word), (value), memory_order_relaxed)
#define td_atomic_fetch_and_acqrel(word, value) atomic_fetch_and_explicit((word), (value), memory_order_acq_rel)
#define td_atomic_fetch_and_seq(word, value) atomic_fetch_and_explicit((word), (value), memory_order_seq_cst)

/* cas(word, &expected, desired): true when swapped; else `expected` holds the value found, read with the load half
 * of the same order. The weak forms may fail without a reason and belong in loops. */
#define td_atomic_cas_weak_relaxed(word, expected, desired)                                                    \
    atomic_compare_exchange_weak_explicit((word), (expected), (desired), memory_order_relaxed,                 \
                                          memory_order_relaxed)
#define td_atomic_cas_weak_acqrel(word, expected, desired)                                                     \
    atomic_compare_exchange_weak_explicit((word), (expected), (desired), memory_order_acq_rel,                 \
                                          memory_order_acquire)
#define td_atomic_cas_weak_seq(word, expected, desired)                                                        \
    atomic_compare_exchange_weak_explicit((word), (expected), (desired), memory_order_seq_cst,                 \
                                          memory_order_seq_cst)
#define td_atomic_cas_strong_relaxed(word, expected, desired)                                                  \
    atomic_compare_exchange_strong_explicit((word), (expected), (desired), memory_order_relaxed,               \
                                            memory_order_relaxed)
#define td_atomic_cas_strong_acqrel(word, expected, desired)                                                   \
    atomic_compare_exchange_strong_explicit((word), (expected), (desired), memory_order_acq_rel,               \
                                            memory_order_acquire)
#define td_atomic_cas_strong_seq(word, expected, desired)                                                      \
    atomic_compare_exchange_strong_explicit((word), (expected), (desired), memory_order_seq_cst,               \
                                            memory_order_seq_cst)

/* TD_EDGE(edge, strong, weak): `strong`, or `weak` when TD_WEAKEN_<edge> is defined as 1. The flag expands to 1 or
 * stays an unknown name; only TD_EDGE_SHIFT_1 is a macro, and its comma moves `weak` into second place. Each step
 * expands what the step before has made, hence their number. */
#define TD_EDGE(edge, strong, weak) TD_EDGE_FLAG_(TD_WEAKEN_##edge, strong, weak)
#define TD_EDGE_FLAG_(flag, strong, weak) TD_EDGE_PASTE_(flag, strong, weak)
#define TD_EDGE_PASTE_(flag, strong, weak) TD_EDGE_PLACE_(TD_EDGE_SHIFT_##flag, strong, weak)
#define TD_EDGE_PLACE_(shift, strong, weak) TD_EDGE_SECOND_(shift weak, strong, 0)
#define TD_EDGE_SECOND_(first, second, ...) second
#define TD_EDGE_SHIFT_1 ,

/* For the weakened form of an edge, where one thread writes: on x86-64 every read-modify-write is a barrier, whatever
 * its order. */
static inline uint32_t td_atomic_fetch_add_apart(td_atomic_u32 *word, uint32_t value)
{
    const uint32_t before = td_atomic_load_relaxed(word);
    td_atomic_store_relaxed(word, before + value);
    return before;
}

#define TD_CACHELINE 64
#define TD_ALIGNED(bytes) __attribute__((aligned(bytes)))

/* What stands above it is done before what stands below, as a signal or the end of this thread sees it; it orders
 * nothing for others. */
#define td_in_program_order() __asm__ __volatile__("" ::: "memory")

/* One turn of a spin loop: lets the other hyperthread run. `isb` rather than `yield` on arm, where `yield` is a
 * no-op on most cores. */
static inline void td_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#else
#error "Treadle's engine builds for x86-64 and aarch64 only"
#endif
}

#endif
