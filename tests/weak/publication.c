/* Publication: who sees a claim sees its key and its amount.
 *
 * The amounts of a stratum are written by whichever thread comes first, and a claimer may find its amount there by a
 * relaxed load. It is not the claimer's own writing that it publishes then, and no operation of the claimer has
 * acquired it. Readers see it all the same: the claimer's load comes before its publishing CAS, so by coherence nobody
 * who acquires that CAS can read an older word. An amount is never changed once it is there, so it is the right one.
 * (ledger_claim_plain reads the amount even before it takes the slot, which is no difference to any of this.)
 *
 * Transcribes:
 *   hbcore/_claims/packets.pyx: prepare_packet, open_stratum
 *   hbcore/_claims/amount.pxd: amount_read
 *   hbcore/_claims/claim.pyx: hold, ledger_claim
 *   hbcore/_claims/group.pyx: ledger_claim_plain
 *   hbcore/_claims/ledger.pxd: probe, make_granted
 *   hbcore/_claims/ledger.pyx: ledger_find, ledger_read
 * Asserts: whoever reads the index word, or a granted state, reads key and amount.
 * Configurations:
 *   PLAIN: a thread opens the stratum for another packet, one claims, one comes by the index word, one by the slot
 * Plants:
 *   1 (PLAIN): the CAS that publishes orders nothing
 *   2 (PLAIN): the load of the index word is relaxed
 *   3 (PLAIN): the load of the state by the thread that looks at the slot alone is relaxed
 *   4 (PLAIN): the CAS that makes the slot granted orders nothing
 */
#include "kernel.h"

enum { ANN = 1, ENTRY = 11, AMOUNT = 5, STRATUM_OPEN = 1 };
static struct slot slot = {SLOT_STATE(HELD, 1, 1), {0, 0}, 0};
static uint64_t word, stratum;

static void open_stratum(void)
{
    if (hb_load_acquire(&stratum) == 0)
        hb_cas(&stratum, 0, STRATUM_OPEN);
    assert(hb_load_acquire(&stratum) == STRATUM_OPEN);
    hb_store_relaxed(&slot.amount, AMOUNT);
}

static void make_granted(void)
{
    planted_cas(4, &slot.state, SLOT_STATE(HELD, 1, 1), SLOT_STATE(GRANTED, 1, 100));
}

static void *claim_another_packet(void *unused)
{
    open_stratum();
    return unused;
}

static void *claim(void *unused)
{
    if (hb_load_relaxed(&slot.amount) == 0)
        open_stratum();
    assert(hb_load_relaxed(&slot.amount) == AMOUNT);
    hb_fence_release();
    hb_store_relaxed(&slot.user[0], ANN);
    hb_store_relaxed(&slot.user[1], ANN);
    planted_cas(1, &word, 0, ENTRY);
    make_granted();
    return unused;
}

static void *find(void *unused)
{
    if (planted_load(2, &word) == ENTRY) {
        assert(hb_load_relaxed(&slot.user[0]) == ANN && hb_load_relaxed(&slot.user[1]) == ANN);
        assert(hb_load_relaxed(&slot.amount) == AMOUNT);
        make_granted();
    }
    return unused;
}

static void *count(void *unused)
{
    if (slot_kind(planted_load(3, &slot.state)) == GRANTED)
        assert(hb_load_relaxed(&slot.amount) == AMOUNT && hb_load_relaxed(&slot.user[0]) == ANN);
    return unused;
}

int main(void)
{
    RUN(claim_another_packet, claim, find, count);
    return 0;
}
