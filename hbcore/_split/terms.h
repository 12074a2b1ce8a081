/* The terms of an envelope: one struct, which is the same in the file, in memory and in a request, and is assigned as a
 * whole. Amounts are in minor units, times in milliseconds. */
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
    uint64_t expires_at_ms; /* since 1970; 0: the envelope never expires */                                            \
    uint64_t hold_ms;       /* a claim that is not settled for so long lapses; 0: claims never lapse */                \
    uint64_t per_user;      /* packets that one user may claim */                                                      \
    uint64_t max_packets;   /* packets that there is room for, those of top-ups included */                            \
    unsigned char seed[32];

struct hb_terms {
    HB_TERMS_FIELDS
};

/* The terms of a split, with what terms_prepare derives from them. The fields of hb_terms can be reached by their own
 * names, or all together as `given`. */
struct hb_split_terms {
    union {
        struct hb_terms given;
        struct {
            HB_TERMS_FIELDS
        };
    };
    uint64_t stratum_count;
    uint64_t stratum_size; /* packets in each of the smaller strata */
    uint64_t larger_count; /* strata, the first ones, that have one packet more */
    uint64_t rotation;     /* packet i stands at position (i + rotation) % packets */
};

static_assert(sizeof(struct hb_terms) == 104, "terms size: no padding, so that terms are compared as bytes");

#endif
