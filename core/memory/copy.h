/* memory/copy.h: memcpy for what is large, and read next by somebody else: another process, on another CPU.
 * Why, and from which size on: docs/decisions/0017-large-copies-go-around-the-cache.md. */
#ifndef TD_MEMORY_COPY_H
#define TD_MEMORY_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copies `bytes` between places that do not overlap. What was copied is visible to whoever acquires what the caller
 * releases afterwards. Any thread; it may take milliseconds, and start a second thread that is gone when it returns. */
void td_copy(void *to, const void *from, size_t bytes);

/* ---- The parts, for tests and benchmarks ----------------------------------------------------------------- */

#define TD__COPY_STREAM_BYTES (UINT64_C(16) << 20) /* from here on around the cache */
#define TD__COPY_SHARE_BYTES (UINT64_C(128) << 20) /* from here on by two threads, where a CPU is idle */

/* Can this machine store around its cache? */
bool td__copy_streams(void);
/* streaming: only where it can. */
void td__copy_alone(bool streaming, void *to, const void *from, size_t bytes);
/* By two threads; by one where no other can be started. */
void td__copy_by_two(bool streaming, void *to, const void *from, size_t bytes);

#endif
