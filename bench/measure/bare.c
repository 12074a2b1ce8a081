/* The limit: what a claim cannot do without, as a bare loop. For each user a hash, one compare-and-swap on a random word
 * of a table (fetched ahead), one packet from a shared counter, one 32-byte record. No dead workers, no retries of the
 * same user, no law, no release, no checks. */
#include <stdint.h>

struct record {
    uint64_t state, user, hash, amount;
};

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

/* table: zeros, mask + 1 words, at least twice as many as users; records: one for each user. Returns the sum of packets. */
uint64_t bare_claims(uint64_t *table, uint64_t mask, struct record *records, uint64_t *counter, const uint64_t *users,
                     uint64_t count)
{
    enum { AHEAD = 16 };
    uint64_t i, sum = 0;
    for (i = 0; i < count; i++) {
        uint64_t hash = mix(users[i]), at = hash & mask, packet;
        if (i + AHEAD < count)
            __builtin_prefetch(&table[mix(users[i + AHEAD]) & mask], 1, 3);
        packet = __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
        records[packet].user = users[i];
        records[packet].hash = hash;
        records[packet].amount = packet + 1;
        __atomic_store_n(&records[packet].state, hash | 1, __ATOMIC_RELEASE);
        for (;;) {
            uint64_t empty = 0;
            if (__atomic_compare_exchange_n(&table[at], &empty, packet + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE))
                break;
            at = (at + 1) & mask;
        }
        sum += packet;
    }
    return sum;
}
