/* The terms of an envelope: one struct, the same in the file, in memory and in a request, and assigned as a whole. */
#ifndef HBCORE_TERMS_H
#define HBCORE_TERMS_H

#include <assert.h>
#include <stdint.h>

#define HB_TERMS_FIELDS                                                                                                \
    uint64_t total;                                                                                                    \
    uint64_t packets;                                                                                                  \
    uint64_t min;                                                                                                      \
    uint64_t max;                                                                                                      \
    uint32_t law;                                                                                                      \
    uint32_t concentration;                                                                                            \
    uint64_t expires_at_ms; /* 0: never */                                                                             \
    uint64_t hold_ms;       /* a claim that is not settled for so long goes back; 0: never */                          \
    uint64_t per_user;      /* packets that one user may claim */                                                      \
    uint64_t max_packets;   /* room for so many, those of top-ups included */                                          \
    unsigned char seed[32];

struct hb_terms {
    HB_TERMS_FIELDS
};

/* The terms of a split, with what terms_prepare derives from them. The fields are those of hb_terms, by their own names
 * or all together as `given`. */
struct hb_split_terms {
    union {
        struct hb_terms given;
        struct {
            HB_TERMS_FIELDS
        };
    };
    uint64_t stratum_count;
    uint64_t stratum_size; /* packets of the smaller strata */
    uint64_t larger_count; /* the first so many strata hold one packet more */
    uint64_t rotation;     /* packet i is at position (i + rotation) % packets */
};

static_assert(sizeof(struct hb_terms) == 104, "terms size: no padding, so that terms are compared as bytes");

#endif
