/* cache/folder.h: a store's folder, which all stores of a process that are in it share. */
#ifndef TD_CACHE_FOLDER_H
#define TD_CACHE_FOLDER_H

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>

#include "base/atomic.h"
#include "base/list.h"
#include "cache/store.h"

#define TD_NAME_BYTES (3 + 2 * TD_KEY_BYTES + 1) /* "ab/", the key in hexadecimal */
#define TD_FLIGHT_BUCKETS 64u
#define TD_SEEN_SLOTS 4096u

struct td_seen; /* get.c */

struct td_folder {
    td_list link;       /* in the list of folders */
    td_atomic_u32 refs; /* stores, and threads that ask for a lock; gone with the last under the list's lock */
    dev_t device;
    ino_t inode;
    char *path; /* absolute */
    bool shared;
    int fd;       /* of PATH/store-1; -1: it is not there, and can't be made */
    int readonly; /* errno */

    pthread_mutex_t lock;               /* of what follows */
    int state_fd;                       /* -1: not open yet, or not to be opened */
    bool no_locks;                      /* the file system has none */
    td_list flights[TD_FLIGHT_BUCKETS]; /* flight.c */
    td_list waits;                      /* wait.c */
    struct td_seen *seen;               /* get.c */
    bool pruning;                       /* prune.c: a thread of ours does */

    td_atomic_u64 unsaved_bytes; /* put since the total was last written; modulo 2^64 */
};

struct td_store {
    struct td_folder *folder;
    struct td_store_options options;
};

/* The folder of that path, opened once. As td_store_open. */
td_status td__folder_open(const char *path, bool shared, struct td_folder **out);
/* Of one that the caller has a reference to. */
void td__folder_ref(struct td_folder *folder);
void td__folder_unref(struct td_folder *folder);

/* After a failure: if the whole folder was removed, it is made again, under the same descriptors. */
bool td__folder_revive(struct td_folder *folder);

/* The descriptor of the folder's state, whose ranges are the locks; -1: there is none. Needs the lock. */
int td__folder_state_locked(struct td_folder *folder);

/* Where a key's entry is, within the folder. */
void td__entry_name(const struct td_key *key, char name[TD_NAME_BYTES]);
/* The key of a file's name, without its folder; false: it is no entry's. */
bool td__entry_key(const char *name, struct td_key *key);
uint64_t td__key_hash(const struct td_key *key);
/* What td_entry_stamp says of the file. */
uint64_t td__stamp(const struct stat *file);

/* ---- Locks: each is a byte of the state's file, locked by its open description ------------------------- */

#define TD_LOCK_TOTAL 0                 /* the total is being written */
#define TD_LOCK_PRUNE 1                 /* somebody makes room */
#define TD_LOCK_WAITS 4096              /* and as many as there are records of waits: it is written (wait.c) */
#define TD_LOCK_PLACES 8192             /* likewise: somebody has its place */
#define TD_LOCK_KEYS (INT64_C(1) << 32) /* and its hash: somebody computes what is under a key */

enum td_lock { TD_LOCKED, TD_LOCK_HELD, TD_LOCK_NONE /* the file system has no locks */ };
enum td_lock td__lock_try(int fd, int64_t at);
/* Waits, for as long as it takes. */
enum td_lock td__lock_wait(int fd, int64_t at);
void td__lock_end(int fd, int64_t at);
/* Does another description have it? */
bool td__lock_is_held(int fd, int64_t at);

/* ---- Beside other files -------------------------------------------------------------------------------- */

/* flight.c: forgets all flights: the folder goes, or this is a forked child. How many threads asked for locks, which a
 * child has not. Needs the lock. */
uint32_t td__flights_forget_locked(struct td_folder *folder);
/* total.c: adds to what is known of the folder's size, and makes room where there is too much. */
void td__total_add(td_store *store, int64_t bytes);
/* total.c: tells other processes now. KNOWN: *total is it. */
enum td_total { TD_TOTAL_KNOWN, TD_TOTAL_UNKNOWN, TD_TOTAL_BUSY };
enum td_total td__total_save(struct td_folder *folder, int64_t *total);
/* total.c: before and after a look at all entries, which then are of so many bytes. */
void td__total_forget(struct td_folder *folder);
void td__total_set(struct td_folder *folder, int64_t bytes);
/* prune.c: as td_store_prune, unless somebody does already. */
td_status td__prune(struct td_folder *folder, const struct td_limits *limits, uint64_t *items, uint64_t *bytes);
/* write.c: removes what dead writers left. */
void td__sweep(struct td_folder *folder);
/* get.c: looks at an entry in every byte, without its use being noted. *bytes is the file's size, when it was there. */
td_status td__entry_examine(struct td_folder *folder, const char *name, const struct td_key *key);
/* get.c: removes the entry if it is still this file; it is gone then. */
bool td__entry_remove(struct td_folder *folder, const char *name, const struct stat *file);

#endif
