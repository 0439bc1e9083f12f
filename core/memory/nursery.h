/* memory/nursery.h: where arrays are born that may go to another process as they are.
 *
 * A nursery gives blocks of an arena that its process owns to an allocator that stands in for malloc (NumPy's), knows
 * each by its address, and tells of each, when a result is to leave, whether anybody in this process still has it.
 *
 *              take                 claim                    give                 adopt
 *   the arena ------> live --------------------> claimed ---------------> dropped ------> the caller's, of the arena
 *             <------  ^                            |                        |
 *               give   '---------- unclaim ---------'        unclaim         |
 *             <--------------------------------------------------------------'
 *
 * It gives warm memory only, as long as there is any: what would need fresh pages is the usual allocator's, but for as
 * much as results were copied for lack of it (td_nursery_miss).
 *
 * In a forked child the blocks are its own memory, with the content of the moment of the fork: it gives none of them
 * back, and takes no more. What the child of vfork(2), or of a clone(2) past the C library, does with them shows in
 * this process. */
#ifndef TD_MEMORY_NURSERY_H
#define TD_MEMORY_NURSERY_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/arena.h"

/* Holds a reference on the arena. `most_bytes`: of fresh pages it takes none while live and warm blocks have so many.
 * TD_ENOMEM; TD_ENOSYS: pages are larger than the arena's granules. */
td_status td_nursery_new(td_arena *arena, uint64_t most_bytes, td_nursery **out);
void td_nursery_free(td_nursery *nursery); /* and what lives in it; NULL is fine */

/* ---- What an allocator calls, from any thread ------------------------------------------------------------------ */

/* NULL: there is no warm memory, or so little is wanted that it would share its pages. 64-byte aligned; the content is
 * anything. */
void *td_nursery_take(td_nursery *nursery, uint64_t bytes);
/* Was this memory taken here? From its address alone. */
bool td_nursery_owns(const td_nursery *nursery, const void *data);
/* The end of memory that was taken here. */
void td_nursery_give(td_nursery *nursery, void *data);
/* How many bytes fit there. */
uint64_t td_nursery_capacity(td_nursery *nursery, const void *data);

/* ---- What sends results calls ---------------------------------------------------------------------------------- */

struct td_claim {
    uint64_t ref;    /* of the block; the arena's owner's */
    uint64_t offset; /* of the bytes in it */
};

/* Keeps a live block in its place although it may be given meanwhile. False: the bytes are in none, or are less than
 * half of it, or it is claimed already. */
bool td_nursery_claim(td_nursery *nursery, const void *data, uint64_t bytes, struct td_claim *out);
/* True: it was given, so nobody here has it: the block is the caller's, as if allocated. Ends the claim. */
bool td_nursery_adopt(td_nursery *nursery, uint64_t ref);
/* Ends the claim; what was given meanwhile is freed. */
void td_nursery_unclaim(td_nursery *nursery, uint64_t ref);

/* So many bytes of a result had to be copied, because they were not here: the next blocks may take fresh pages for as
 * much. */
void td_nursery_miss(td_nursery *nursery, uint64_t bytes);
/* From now on blocks may have come back to the arena: the next to be taken looks. */
void td_nursery_look(td_nursery *nursery);
/* Was anything taken or given since this was asked last? */
bool td_nursery_stirred(td_nursery *nursery);

#endif
