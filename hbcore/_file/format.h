/* The file format, version 3, on which all processes that open a mapping agree.
 *
 * A mapping is a header, a table of workers, the first level of the directory, and then a chain of extents that is only
 * ever appended to. All integers are little-endian and of fixed width; offsets count bytes from the start of the
 * mapping; amounts are in minor units; what has never been written is zero, and zero always means "not yet". Fields
 * marked [atomic] are changed while others read them, by the operations of atomics.h only; the two words of an
 * [atomic pair] are changed together. All other fields are written once, before the object that holds them can be
 * found. (There are two exceptions: the process that puts a file right after a reboot writes the header's boot id and
 * clock anew, and the process that holds the lock of a worker's entry writes that entry.) Whatever is read from a
 * mapping may be damaged, and is checked where it is used.
 */
#ifndef HBCORE_FORMAT_H
#define HBCORE_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "../_split/terms.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "hbcore runs on little-endian machines only");

#define HB_MAGIC "hbcore\r\n" /* the line end shows a transfer in text mode */
#define HB_VERSION 3
#define HB_BYTE_ORDER UINT64_C(0x0102030405060708)
#define HB_HEADER_SIZE 4096
#define HB_WORKER_LIMIT 1024
#define HB_DIRECTORY_LEVELS 8
#define HB_UNIT 64 /* space is handed out in units of one cache line */

/* Bytes of a grain. A file grows in whole grains, and what lies beyond its last whole grain is never used. A kernel
 * that makes a file longer zeroes the rest of the block in which the file ended before, and may do so after other
 * processes can see the new length (ext4 does, observed with Linux 6.18). What a process faster than that had written
 * there through its mapping would be lost. No file system has larger blocks than this. */
#define HB_GRAIN 65536

struct hb_header {
    char magic[8];
    uint32_t version;
    uint32_t header_size;
    uint64_t byte_order;
    uint64_t capacity;             /* bytes of address space, whole grains; fixed at creation */
    uint64_t created_at_ms;        /* since 1970 */
    unsigned char engine_id[16];   /* random bytes that tell this engine from every other */
    unsigned char boot_id[16];     /* the boot under which the file was made, or last put right (opening.pyx) */
    uint64_t key_is_kept;          /* 1: the key of the user hashes stands below; 0: its owner keeps it */
    unsigned char key_check[16];   /* tells the right key from a wrong one */
    unsigned char key[32];         /* the key of the user hashes; 0: its owner keeps it */
    uint64_t directory_key[2];     /* key of the directory, and of the checks of objects and of the clock */
    unsigned char check[16];       /* keyed hash of all that stands before it but the boot id */
    uint64_t clock_offset_ms;      /* what to add, in this boot, to the machine's boot clock for the grant times of */
                                   /*   claims that can lapse */
    uint64_t clock_check;          /* keyed hash of that offset and the boot id */
    unsigned char reserved1[80];
    uint64_t frontier; /* [atomic] hint: an offset near the end of the chain, and never beyond it */
    unsigned char reserved2[120];
    uint64_t directory[HB_DIRECTORY_LEVELS]; /* [atomic] offset of each level after the first; 0: not made yet */
    unsigned char reserved3[HB_HEADER_SIZE - 384 - 8 * HB_DIRECTORY_LEVELS];
};

/* A process that has the mapping open. As long as it lives it holds two OFD locks on bytes far beyond the end of any
 * file. The first is on HB_LOCK_ENTRIES + number: the process that holds it may write the entry, and raises the epoch.
 * The second is on HB_LOCK_LIVES + (number << 30 | epoch), which stands for this one process and no other. The kernel
 * alone says which process is alive; nothing in the file does. */
struct hb_worker {
    uint64_t epoch;            /* [atomic] epoch of the last process that had this number */
    uint64_t pid;              /* for people; it proves nothing */
    uint64_t registered_at_ms; /* since 1970 */
    unsigned char reserved[40];
};
#define HB_EPOCH_BITS 30
#define HB_LOCK_LIVES (INT64_C(1) << 60)
#define HB_LOCK_ENTRIES (INT64_C(1) << 61)
/* The process that puts a file right after a reboot holds this lock. */
#define HB_LOCK_RECOVERY (HB_LOCK_ENTRIES + HB_WORKER_LIMIT)

/* An extent of the chain. state [atomic]: units (36 bits) | worker (24 bits) | phase (4 bits).
 *   0 -> MAKING(worker) -> LIVE, or -> RETIRED where another process or thread made the same object first
 * One CAS makes an object that has a name: the one that puts its extent into the directory. So a MAKING extent that the
 * directory names is complete. A MAKING extent that it does not name belongs to its worker while that lives, and to
 * nobody afterwards. RETIRED extents and those that belong to nobody become MAKING again when space is short. Until an
 * extent is named, only its first HB_PREFACE bytes are written, so an extent that belongs to nobody is clean beyond
 * them. */
#define HB_PREFACE 1024
struct hb_extent {
    uint64_t state;
    uint32_t kind;
    uint16_t name_length;   /* bytes of UTF-8 */
    uint16_t name_offset;   /* from the start of the extent */
    uint64_t parent;        /* offset of the object that this one belongs to; 0: the engine */
    uint64_t created_at_ms; /* since 1970 */
    uint64_t refund[2];     /* [atomic pair] in a child: generation of the last refund that has reached its budget, */
                            /*   and the sum of all refunds up to that one */
    uint64_t passed_on;     /* [atomic] hint, in an envelope: late refunds credited to the budget, plus 1; 0: the */
                            /*   refunds at closing are not credited either */
    unsigned char reserved[8];
};
enum { HB_PHASE_MAKING = 1, HB_PHASE_LIVE = 2, HB_PHASE_RETIRED = 3 };
enum {
    HB_KIND_DIRECTORY = 1,
    HB_KIND_ENVELOPE = 2,
    HB_KIND_BUDGET = 3,
    HB_KIND_LEVEL = 4,
    HB_KIND_TOP_UP = 5,
    HB_KIND_TRANCHE = 6,
    HB_KIND_TABLE = 7,
};

/* The directory has levels of 512 * 8**level buckets of one cache line; the first level stands in front of the chain of
 * extents. A word [atomic] is tag (28 bits) | offset of the object in units (36 bits); 0 is empty, and a word that is
 * not empty never changes again. A name is looked for in one bucket of each level in turn. An insertion goes to the
 * first empty word of that path, so two racing makers of one name meet there. */

/* What the claims of an envelope that end write. Claims that are granted read none of it. */
struct hb_hints {
    uint64_t tombstones;     /* [atomic] hint: words of the current index that are tombstones */
    uint64_t next_expiry_ms; /* [atomic] hint: no claim lapses before this time; 0: unknown */
    uint64_t late_refunds;   /* [atomic] hint: packets that were refunded after the closing */
};

/* An envelope: its terms, and then, inside the extent, its name, a word for each stratum, the free map, the first table
 * of the index and the slots. The free map, the table and the slots have room for max_packets packets, and the table
 * and the slots begin at a cache line each. In an envelope that has room for more than HB_SMALL packets, the others do
 * too, and the hints have a line of their own behind the name, so that no release takes away a line that claims read.
 * In a small one they stand in the header, and name, strata and free map share what lines they need: packets.pxd has
 * the layout. The second table is an extent of its own (HB_KIND_TABLE), where it stands behind the extent's header. */
#define HB_SMALL 64
struct hb_envelope {
    struct hb_extent extent;
    struct hb_terms terms;
    unsigned char check[16];  /* keyed hash of the terms, the name and the parent */
    uint64_t following;       /* [atomic] offset of the tranche of the first top-up; 0: none yet */
    uint64_t closed;          /* [atomic] time of closing in ms since 1970; 0: not closed */
    uint64_t index_state;     /* [atomic] generation << 2 | phase of a replacement */
    uint64_t open_count;      /* [atomic] slots that may be taken */
    uint64_t cleared_count;   /* [atomic] slots whose bits in the free map are cleared: no old bit can hide them. The */
                              /*   two counts differ while slots are being opened: see free_map.pyx */
    uint64_t second_table;    /* [atomic] offset of the second table of the index; 0: not made yet */
    struct hb_hints hints;    /* of a small envelope */
};
#define HB_HINTS_OFFSET offsetof(struct hb_envelope, hints)

/* The tranche that one top-up has added to an envelope: an object without a name, then a word for each of its strata.
 * An envelope and its tranches are a chain that is only ever appended to, and their packets are numbered through. */
struct hb_tranche {
    struct hb_extent extent;
    uint64_t total;
    uint64_t packets;
    uint64_t key[2]; /* keyed hash: the key of the hold in the envelope's budget, and of the top-up in the envelope */
    unsigned char seed[32];
    unsigned char check[16]; /* keyed hash of all this and the parent */
    uint64_t following;      /* [atomic] offset of the next tranche; 0: none yet */
    unsigned char reserved[40];
};

/* One packet. state [atomic]: kind (3 bits) | generation (19 bits) | worker or time in ms (42 bits). */
struct hb_slot {
    uint64_t state;
    uint64_t user[2]; /* [atomic] keyed hash; it belongs to the state that was read both before and after it */
    uint64_t amount;  /* [atomic] 0: not computed yet; else the amount under a check of its own, see packets.pxd */
};

/* The money that one key of a budget holds. account.pyx says who changes what, and when. */
struct hb_hold {
    uint64_t key[2]; /* [atomic] keyed hash, written before a word of the index names the hold, and not changed after */
    uint64_t state;  /* [atomic pair] kind (4 bits) | generation (18 bits) | time in ms (42 bits), */
    uint64_t value;  /*   and what the operation of this state is about: an amount or an offset, see hold.pxd */
    uint64_t amount; /* [atomic] written before the hold is granted, and not changed after */
    uint64_t link;   /* [atomic] written when amount is: a check of key and amount; in a child's hold, its offset */
    unsigned char reserved[16];
};

/* A budget: its terms, then its name, rounded up to whole units, then level 0 of the index and segment 0 of the holds.
 * All other levels and segments are extents of their own (HB_KIND_LEVEL), where they stand behind the extent's header.
 * A word of a level [atomic] is 0 if it is empty; 1 if nothing is here and the path goes on in the next level; else
 * 1 | tag (27 bits) | number of the hold (36 bits). A path begins at the first of 8 words. Segments have 64, 64, 128,
 * 256 ... holds, which are numbered through. */
#define HB_LEVELS 13
#define HB_SEGMENTS 31
struct hb_budget {
    struct hb_extent extent;
    uint64_t total;          /* what the budget was made with, without its top-ups */
    unsigned char check[16]; /* keyed hash of the total, the name and the parent */
    unsigned char reserved1[40];
    uint64_t levels[16];   /* [atomic] offset of each of the HB_LEVELS levels after the first; 0: not made yet */
    uint64_t segments[32]; /* [atomic] offset of each of the HB_SEGMENTS segments after the first; 0: not made yet */
    uint64_t money[2];     /* [atomic pair] the operation that changed it last; the amount that is available */
    uint64_t next;         /* [atomic] hint: number of the next hold to be used; only damage makes it too low */
    uint64_t pledged;      /* [atomic] hint, without a parent only: no less than all that was added to the budget */
    uint64_t completed;    /* [atomic] the last operation of the money that is known to be written into its hold; */
                           /*   0: none is */
    unsigned char reserved2[88];
};

/* Money that its parent has added to a budget, as a hold in the parent: an object without a name. */
struct hb_top_up {
    struct hb_extent extent;
    uint64_t total;
    uint64_t key[2];         /* keyed hash: the key of the hold in the parent, and of the hold in the budget */
    unsigned char check[16]; /* keyed hash of all this and the parent */
    unsigned char reserved[24];
};

static_assert(sizeof(struct hb_header) == HB_HEADER_SIZE, "header size");
static_assert(offsetof(struct hb_header, capacity) == 24, "capacity");
static_assert(offsetof(struct hb_header, key_is_kept) == 72, "key_is_kept");
static_assert(offsetof(struct hb_header, directory_key) == 128, "directory_key");
static_assert(offsetof(struct hb_header, boot_id) == 56, "boot_id");
static_assert(offsetof(struct hb_header, check) == 144, "check");
static_assert(offsetof(struct hb_header, frontier) == 256, "frontier");
static_assert(offsetof(struct hb_header, directory) == 384, "directory");
static_assert(sizeof(struct hb_worker) == 64, "worker size");
static_assert(sizeof(struct hb_extent) == 64, "extent size");
static_assert(offsetof(struct hb_extent, kind) == 8 && offsetof(struct hb_extent, name_length) == 12
                  && offsetof(struct hb_extent, name_offset) == 14,
              "heading_of reads these three as one word");
static_assert(offsetof(struct hb_extent, refund) == 32, "refund");
static_assert(sizeof(struct hb_envelope) == 256, "envelope size");
static_assert(offsetof(struct hb_envelope, terms) == 64, "total of an envelope");
static_assert(offsetof(struct hb_envelope, terms.seed) == 136, "seed");
static_assert(offsetof(struct hb_envelope, check) == 168, "check of an envelope");
static_assert(offsetof(struct hb_envelope, closed) == 192, "closed");
static_assert(HB_HINTS_OFFSET == 232, "hints of a small envelope");
static_assert(sizeof(struct hb_tranche) == 192, "tranche size");
static_assert(offsetof(struct hb_tranche, check) == 128, "check of a tranche");
static_assert(sizeof(struct hb_slot) == 32, "slot size");
static_assert(sizeof(struct hb_hold) == 64, "hold size");
static_assert(sizeof(struct hb_budget) == 640, "budget size");
static_assert(offsetof(struct hb_budget, total) == 64, "total of a budget");
static_assert(offsetof(struct hb_budget, check) == 64 + 8, "check of a budget");
static_assert(offsetof(struct hb_budget, levels) == 128, "levels");
static_assert(offsetof(struct hb_budget, segments) == 256, "segments");
static_assert(offsetof(struct hb_budget, money) == 512, "money");
static_assert(sizeof(struct hb_top_up) == 128, "size of a top-up");
static_assert(offsetof(struct hb_top_up, total) == 64, "total of a top-up");
static_assert(offsetof(struct hb_top_up, check) == 64 + 24, "check of a top-up");
static_assert(offsetof(struct hb_tranche, total) == 64, "total of a tranche");

#endif
