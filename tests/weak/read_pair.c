/* Reading two words that change together, of which the first never comes back.
 *
 * A reader loads the first word, the second, and the first again. Equal firsts mean that both words are of one moment,
 * if the three loads stay in this order; so both of the acquire loads are needed: the one keeps the second word from
 * being read before the first, the other keeps the last look at the first word behind it. What was written before the
 * pair was is read with it.
 *
 * The pair is changed by a CAS of 16 bytes, which GenMC does not know. Here the writer stores the two words one after
 * the other, each with release. Each of the two orders allows all that one atomic write allows, and more. So each
 * configuration asserts only what holds in its order; and the atomic write allows neither of the two mistakes. (What
 * Arm allows of loads of 8 bytes and a CAS of 16, mixed as they are, is a question for herd7, not for this kernel.)
 *
 * Transcribes:
 *   hbcore/_money/hold.pxd: read_pair
 *   hbcore/_money/account.pyx: read_hold, grant
 * Asserts: SECOND_WORD_FIRST: a new first word goes with the new second, and with what was written before.
 *   FIRST_WORD_FIRST: an old first word goes with the old second.
 * Configurations:
 *   SECOND_WORD_FIRST: the writer changes the second word, then the first
 *   FIRST_WORD_FIRST: the writer changes the first word, then the second
 * Plants:
 *   1 (SECOND_WORD_FIRST): the first load is relaxed
 *   2 (FIRST_WORD_FIRST): the second load is relaxed
 *   3 (FIRST_WORD_FIRST): the last look at the first word is left out
 */
#include "kernel.h"

enum { OLD = 1, NEW = 2, AMOUNT = 5 };
static uint64_t pair[2] = {OLD, OLD}, amount;

static void *change(void *unused)
{
    hb_store_relaxed(&amount, AMOUNT);
#ifdef SECOND_WORD_FIRST
    hb_store_release(&pair[1], NEW);
    hb_store_release(&pair[0], NEW);
#else
    hb_store_release(&pair[0], NEW);
    hb_store_release(&pair[1], NEW);
#endif
    return unused;
}

static void *read(void *unused)
{
    uint64_t before = planted_load(1, &pair[0]);
    uint64_t second = planted_load(2, &pair[1]);
    uint64_t first = is_planted(3) ? before : hb_load_relaxed(&pair[0]);
    assume(first == before);
#ifdef SECOND_WORD_FIRST
    if (first == NEW)
        assert(second == NEW && hb_load_relaxed(&amount) == AMOUNT);
#else
    if (first == OLD)
        assert(second == OLD);
#endif
    return unused;
}

int main(void)
{
    RUN(change, read);
    return 0;
}
