/* INSUFFICIENT is never told of a key that was granted.
 *
 * A request whose key has no hold yet first looks at the money. If there is not enough, it looks at the empty index
 * word once more: another request of the same key may have taken the money, and that one's word was written before the
 * money changed. So the money brings the word along, also if a third thread has changed the money on behalf of one that
 * died.
 *
 * Transcribes:
 *   hbcore/_money/account.pyx: reserve, shortage, account_available, fulfil
 *   hbcore/_money/hold_index.pxd: hold_index_locate, occupy
 * Asserts: who finds too little money then finds the word.
 * Configurations:
 *   PLAIN: one request takes the money, another of its key looks
 *   HELPED: the first dies when its word is written, and another thread takes the money for it
 * Plants:
 *   1 (PLAIN, HELPED): the load of the money is relaxed
 *   2 (PLAIN, HELPED): the CAS of the money orders nothing
 */
#include "kernel.h"

enum { AVAILABLE = 5, WISH = 3 };
static uint64_t word, money = AVAILABLE;

static void *reserve(void *unused)
{
    hb_cas(&word, 0, 1);
#ifndef HELPED
    planted_cas(2, &money, AVAILABLE, AVAILABLE - WISH);
#endif
    return unused;
}

static void *help(void *unused)
{
    if (hb_load_acquire(&word))
        planted_cas(2, &money, AVAILABLE, AVAILABLE - WISH);
    return unused;
}

static void *reserve_again(void *unused)
{
    if (hb_load_acquire(&word) == 0 && planted_load(1, &money) < WISH)
        assert(hb_load_acquire(&word) != 0);
    return unused;
}

int main(void)
{
#ifdef HELPED
    RUN(reserve, help, reserve_again);
#else
    RUN(reserve, reserve_again);
#endif
    (void)help;
    return 0;
}
