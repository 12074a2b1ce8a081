/* Reading a hold by its number, while its number is given back and taken for another key.
 *
 * A hold that no word names yet may be given back, and then be another key's. The key of what was granted stays; so a
 * reader reads the key, then the hold, then the key again, and the same key before and after means that what was read
 * in between is that key's. The order stands on two things: the reader acquires the first word of the key before it
 * reads the hold; and the writer releases it after the second word, so a reader that sees the new key sees the hold
 * without the old request.
 *
 * Both requests fall into one millisecond, so the state that they write is the same. Pairs are two words here, as these
 * stores are of 8 bytes each.
 *
 * Transcribes:
 *   hbcore/_money/account.pyx: account_read, settle_down, look_only
 *   hbcore/_money/hold_index.pxd: occupy, give_number_back, take_number
 *   hbcore/_money/hold.pxd: read_pair
 * Asserts: what is told as the value of a key is the value of that key's request.
 * Configurations:
 *   PLAIN: one request is overtaken and gives its hold back, another takes it, is granted and dies, one process reads
 * Plants:
 *   1 (PLAIN): the store of the first word of the key is relaxed
 *   2 (PLAIN): the first load of the first word of the key is relaxed
 *   3 (PLAIN): the second look at the key is left out
 *   4 (PLAIN): the store of the state is relaxed
 */
#include "kernel.h"

enum { ANN = 1, BOB = 2, ANN_ASKS = 10, BOB_ASKS = 20, PENDING = 0x1001, OPERATION = 7 };
static uint64_t key[2], state_word, value, next = 1, word, money_operation;

static void write_request(uint64_t user, uint64_t amount)
{
    hb_store_relaxed(&key[1], user);
    planted_store(1, &key[0], user);
    hb_store_release(&value, amount);
    planted_store(4, &state_word, PENDING);
}

static void *ask_and_give_back(void *unused)
{
    write_request(ANN, ANN_ASKS);
    hb_store_relaxed(&state_word, 0);
    hb_store_relaxed(&key[1], 0);
    hb_store_relaxed(&key[0], 0);
    hb_cas(&next, 1, 0);
    return unused;
}

static void *take_and_be_granted(void *unused)
{
    assume(hb_load_acquire(&next) == 0);
    if (!hb_cas(&next, 0, 1))
        return unused;
    assert(hb_load_relaxed(&key[0]) == 0 && hb_load_relaxed(&state_word) == 0);
    write_request(BOB, BOB_ASKS);
    hb_cas(&word, 0, 1);
    hb_cas(&money_operation, 0, OPERATION);
    return unused;
}

static void *read(void *unused)
{
    if (hb_load_acquire(&state_word) == 0)
        return unused;
    uint64_t low = planted_load(2, &key[0]), high = hb_load_relaxed(&key[1]);
    uint64_t before = hb_load_acquire(&state_word), asked = hb_load_acquire(&value);
    uint64_t state = hb_load_relaxed(&state_word);
    assume(state == before);
    if (state == 0)
        return unused;
    uint64_t operation = hb_load_acquire(&money_operation);
    if (hb_load_acquire(&state_word) != state || operation != OPERATION)
        return unused;
    if (is_planted(3) || (hb_load_acquire(&key[0]) == low && hb_load_acquire(&key[1]) == high))
        assert(low == high && asked == (low == ANN ? ANN_ASKS : BOB_ASKS));
    return unused;
}

int main(void)
{
    RUN(ask_and_give_back, take_and_be_granted, read);
    return 0;
}
