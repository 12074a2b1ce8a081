/* A user who has a claim is never told SOLD_OUT.
 *
 * The last free slot goes to the first request of the user. Another request of the same user has seen an empty index
 * word, and then that nothing is free: it looks at the word once more before it says SOLD_OUT. Nothing was free because
 * the slot had been granted, and it is granted only after the word was written; each step between is a CAS or an
 * acquire load, also that of a third thread that has set the bit over the slot. (The CAS that publishes need not
 * release for this: the CAS that makes the slot granted comes after it.)
 *
 * Transcribes:
 *   hbcore/_claims/claim.pyx: ledger_claim, hold, take, take_in, search
 *   hbcore/_claims/ledger.pxd: probe, make_granted
 *   hbcore/_claims/free_map.pyx: free_map_mark, block_is_final, free_map_none
 * Asserts: who finds nothing free then finds the user's word.
 * Configurations:
 *   PLAIN: one request is granted, one thread sets the bit, one asks for the same user
 * Plants:
 *   1 (PLAIN): the load of the slot by the thread that sets the bit is relaxed
 *   2 (PLAIN): the load of the root is relaxed
 *   3 (PLAIN): the CAS that makes the slot granted orders nothing
 *   4 (PLAIN): the CAS that sets the bit orders nothing
 */
#include "kernel.h"

enum { ENTRY = 11 };
static uint64_t state_word, word, root;

static void *claim(void *unused)
{
    hb_cas(&state_word, SLOT_STATE(FREE, 0, 0), SLOT_STATE(HELD, 1, 1));
    hb_cas(&word, 0, ENTRY);
    planted_cas(3, &state_word, SLOT_STATE(HELD, 1, 1), SLOT_STATE(GRANTED, 1, 100));
    return unused;
}

static void *mark(void *unused)
{
    uint64_t before = hb_load_acquire(&root);
    if (slot_is_final(planted_load(1, &state_word)))
        planted_cas(4, &root, before, before | 1);
    return unused;
}

static void *ask_again(void *unused)
{
    if (hb_load_acquire(&word))
        return unused;
    if (planted_load(2, &root) & 1 || slot_is_final(hb_load_acquire(&state_word)))
        assert(hb_load_acquire(&word) == ENTRY);
    return unused;
}

int main(void)
{
    RUN(claim, mark, ask_again);
    return 0;
}
