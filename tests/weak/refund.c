/* Refunds of one child follow each other, and each counts once.
 *
 * Each refund says what all refunds of the child come to; beside the child stands the pair of the last one that has
 * reached the budget: its generation and its sum. A helper reads that pair, and then looks whether the hold is still in
 * the state that it has read. If it is, the pair was that of the refund before, so the CAS from it succeeds only once;
 * a helper that comes late changes nothing.
 *
 * A pair is one word here, and the money is a sum with the generation of the last operation.
 *
 * Transcribes:
 *   hbcore/_money/account.pyx: account_refund, fulfil, complete, decide
 * Asserts: in the end the hold, the pair beside the child and the money all say 8; and nobody meets a sum that is less
 *   than what has been given back before.
 * Configurations:
 *   PLAIN: one thread refunds 5 and then 8 in all, another helps with whatever it finds
 *   LATE: and a third comes late, to complete the first refund
 * Plants:
 *   1 (PLAIN, LATE): the load of the pair beside the child is relaxed
 *   2 (PLAIN, LATE): the second look at the hold is left out
 *   3 (PLAIN, LATE): the CAS of the pair beside the child orders nothing
 */
#include "kernel.h"

enum { FUNDED = 8, REFUNDING = 9, TURNS = 3 };
#define PAIR(kind, generation, value) ((uint64_t)(kind) << 40 | (uint64_t)(generation) << 20 | (value))
#define KIND_OF(pair) ((pair) >> 40)
#define GENERATION_OF(pair) ((pair) >> 20 & 0xfffff)
#define VALUE_OF(pair) ((pair) & 0xfffff)

static uint64_t hold = PAIR(REFUNDING, 2, 5), refunded = PAIR(0, 0, 0), money = PAIR(0, 0, 0);

static void complete(uint64_t generation)
{
    uint64_t state = hb_load_acquire(&hold);
    if (GENERATION_OF(state) != generation || KIND_OF(state) != REFUNDING)
        return;
    uint64_t before = planted_load(1, &refunded);
    if (!is_planted(2) && hb_load_acquire(&hold) != state)
        return;
    if (GENERATION_OF(before) != generation)
        planted_cas(3, &refunded, before, PAIR(0, generation, VALUE_OF(state)));
    hb_cas(&hold, state, PAIR(FUNDED, generation, VALUE_OF(state)));
}

static void fulfil(uint64_t state)
{
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t before = hb_load_acquire(&money);
        if (GENERATION_OF(before))
            complete(GENERATION_OF(before));
        if (hb_load_acquire(&hold) != state)
            return;
        uint64_t last = hb_load_acquire(&refunded);
        if (GENERATION_OF(last) == GENERATION_OF(state) || VALUE_OF(last) > VALUE_OF(state)) {
            if (hb_load_acquire(&hold) != state)
                return;
            if (hb_load_acquire(&money) != before)
                continue;
            assert(!"the file is not damaged");
        }
        uint64_t sum = VALUE_OF(before) + VALUE_OF(state) - VALUE_OF(last);
        if (hb_cas(&money, before, PAIR(0, GENERATION_OF(state), sum))) {
            complete(GENERATION_OF(state));
            return;
        }
    }
}

static void *refund_twice(void *unused)
{
    fulfil(PAIR(REFUNDING, 2, 5));
    if (hb_cas(&hold, PAIR(FUNDED, 2, 5), PAIR(REFUNDING, 3, 8)))
        fulfil(PAIR(REFUNDING, 3, 8));
    return unused;
}

static void *help(void *unused)
{
    uint64_t state = hb_load_acquire(&hold);
    if (KIND_OF(state) == REFUNDING)
        fulfil(state);
    return unused;
}

static void *complete_late(void *unused)
{
    uint64_t generation = GENERATION_OF(hb_load_acquire(&money));
    assume(generation == 2);
    complete(generation);
    return unused;
}

int main(void)
{
#ifdef LATE
    RUN(refund_twice, help, complete_late);
#else
    RUN(refund_twice, help);
#endif
    (void)complete_late;
    assert(hold == PAIR(FUNDED, 3, 8) && VALUE_OF(money) == 8 && refunded == PAIR(0, 3, 8));
    return 0;
}
