/* cache/flight.h: what is being computed in this process, and who waits for it (flight.c, wait.c). */
#ifndef TD_CACHE_FLIGHT_H
#define TD_CACHE_FLIGHT_H

#include "cache/folder.h"

/* One key that somebody of this process computes or waits for. */
struct td_flight {
    td_list link; /* in its bucket */
    struct td_key key;
    uint64_t hash;
    uint64_t owner;     /* who computes it; 0: nobody here */
    bool locked;        /* this process has the key's lock */
    bool asking;        /* a thread of ours waits for the lock */
    uint32_t waiters;   /* and all that enter until they leave the table */
    td_atomic_u32 turn; /* changes when those who wait have to look again */
};

/* The wait of somebody who computes something himself: he could be waited for in turn. */
struct td_wait {
    td_list link; /* in the folder's waits */
    uint64_t owner, wanted;
    int slot; /* of its record; -1: other processes can't know of it */
    bool made;
};

struct td_flight *td__flight_find_locked(struct td_folder *folder, uint64_t hash);

/* Tells everybody that the owner is about to wait for the key, if others could wait for him. True: that would be a
 * cycle, or it can't be known. The wait is over with td__wait_end_locked, also after that. Both need the folder's
 * lock. */
bool td__wait_begin_locked(struct td_folder *folder, bool locks, struct td_wait *wait, uint64_t owner,
                           uint64_t wanted);
void td__wait_end_locked(struct td_folder *folder, struct td_wait *wait);

#endif
