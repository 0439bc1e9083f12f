/* cache/store.h: a content-addressed store on disk: what was computed once, found again by the hash of what it was
 * computed from, by any process of the user.
 *
 *     PATH/store-1/            1 is the format's version: others may live beside it
 *         ab/abcd...           an entry: written once, whole or not there; the name is its key in hexadecimal
 *         tmp/                 entries that are being written, on file systems without O_TMPFILE
 *         state                records of who waits, the size of it all; its byte ranges are the locks
 *
 * Any thread may call anything. A store is open in a process once for a folder, however often it is opened. */
#ifndef TD_CACHE_STORE_H
#define TD_CACHE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define TD_KEY_BYTES 32u  /* at most */
#define TD_KIND_BYTES 16u /* likewise */

struct td_key {
    uint32_t length; /* 1 to TD_KEY_BYTES */
    uint8_t bytes[TD_KEY_BYTES];
};

struct td_part {
    const void *data;
    uint64_t bytes;
};

typedef struct td_store td_store;
typedef struct td_entry td_entry;

struct td_store_options {
    uint64_t cap_bytes; /* 0: none. Above it the least recently used entries go */
    bool durable;       /* an entry is on the disk when put returns */
    bool heads_only;    /* get does not look at the checksums of parts */
    bool shared;        /* other users may write there: their entries are trusted */
    bool no_locks;      /* act as on a file system without locks; */
    bool no_tmpfile;    /* ... without O_TMPFILE */
};

/* Opens the store in the folder, which is made where it is missing, for this user alone unless `shared`. A folder that
 * can't be written to is opened for reading.
 *   TD_EFOREIGN  another user can write there
 *   TD_EOS (errno), TD_ENOMEM, TD_ENOFD */
td_status td_store_open(const char *path, const struct td_store_options *options, td_store **out);
/* What the store led (td_store_enter) is let go of when the last one of its folder is closed. */
void td_store_close(td_store *store);

/* Can entries be put? 0, or why not, as errno. */
int td_store_readonly(const td_store *store);
/* Do the folder's locks work, as far as was seen? */
bool td_store_has_locks(const td_store *store);

/* ---- Entries ------------------------------------------------------------------------------------------- */

enum td_access {
    TD_ACCESS_COPY,    /* memory of the caller's own, writable */
    TD_ACCESS_VIEW,    /* mapped for reading, where that pays */
    TD_ACCESS_PRIVATE, /* mapped; what is written there nobody else sees */
    TD_ACCESS_PEEK, /* as a view, for who lists entries: no use, large parts are not checked, nothing is removed */
};

/* The entry of that key; *out is NULL where there is none. It stays good when it is evicted meanwhile. The parts of an
 * entry are checked at a process's first use of it, small ones always; a part begins at a multiple of 64 bytes.
 *   TD_ECORRUPT  it was torn, or changed, and is removed
 *   TD_EOS (errno), TD_ENOMEM, TD_ENOFD */
td_status td_store_get(td_store *store, const struct td_key *key, enum td_access access, td_entry **out);

void td_entry_free(td_entry *entry);
uint32_t td_entry_count(const td_entry *entry);
/* A part; writable unless it is a view. */
void *td_entry_part(const td_entry *entry, uint32_t i, uint64_t *bytes);
uint64_t td_entry_bytes(const td_entry *entry); /* of the file */
int64_t td_entry_created_ns(const td_entry *entry);
void td_entry_kind(const td_entry *entry, char kind[TD_KIND_BYTES + 1]);
/* Tells this entry from what was, or will be, under its key at another time; never 0. */
uint64_t td_entry_stamp(const td_entry *entry);

/* Writes an entry, in place of one that is there. `kind` says what wrote it, in 16 bytes at most. `bytes` (or NULL) is
 * the size of the file.
 *   TD_EOS  errno: ENOSPC, EDQUOT, EFBIG (nothing was written), EROFS, EACCES, EIO, ...
 *   TD_EINVAL, TD_ENOMEM, TD_ENOFD */
td_status td_store_put(td_store *store, const struct td_key *key, const char *kind, const struct td_part *parts,
                       uint32_t count, uint64_t *bytes);

/* Removes an entry; was there one? TD_EOS (errno). */
td_status td_store_drop(td_store *store, const struct td_key *key, bool *dropped);

/* ---- One computation for each key ---------------------------------------------------------------------- */

enum td_role {
    TD_ROLE_LANDED,  /* the entry is there now: get it */
    TD_ROLE_LEADER,  /* compute, put, and leave */
    TD_ROLE_CYCLE,   /* compute, and don't leave: waiting would wait for the caller itself, or can't be */
    TD_ROLE_NOLOCKS, /* as LEADER, but that other processes may compute it, too */
};

/* Asks to compute what is under the key: waits while another thread or process does. `owner` is who asks, for those who
 * may go on on another thread; 0: this thread. `stale` is the stamp of an entry that the caller has seen and can't use,
 * or 0.
 *   TD_ETIMEDOUT, TD_EINTR, TD_ENOMEM */
td_status td_store_enter_until(td_store *store, const struct td_key *key, uint64_t owner, uint64_t stale,
                               int64_t deadline_ns, enum td_role *role);
/* The owner computes it no more, with or without having put it. TD_ENOTHELD: it did not lead, or a fork was between. */
td_status td_store_leave(td_store *store, const struct td_key *key, uint64_t owner);

/* ---- All of them --------------------------------------------------------------------------------------- */

struct td_entry_info {
    struct td_key key;
    uint64_t bytes;
    int64_t created_ns, used_ns; /* since 1970; used is exact to a second or so */
};
/* Tells of each entry, in no order. `tell` returns false to end it. TD_EOS (errno). */
td_status td_store_walk(td_store *store, bool (*tell)(void *ctx, const struct td_entry_info *info), void *ctx);

#define TD_NO_LIMIT UINT64_MAX
struct td_limits {
    uint64_t bytes, items; /* TD_NO_LIMIT: none */
    int64_t age_ns;        /* since the last use; INT64_MAX: none */
};
/* Removes the least recently used entries until the rest is within the limits, and what dead writers left. */
td_status td_store_prune(td_store *store, const struct td_limits *limits, uint64_t *items, uint64_t *bytes);

/* Looks at every byte of every entry and tells of those that are not right; with `remove` they go. */
td_status td_store_verify(td_store *store, bool remove, void (*tell)(void *ctx, const struct td_key *key),
                          void *ctx, uint64_t *checked);

#endif
