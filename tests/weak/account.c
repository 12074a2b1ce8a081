/* The account: all that is decided is decided on the money, a pair of words, and every thread helps.
 *
 * A request is written into its hold before the money changes. The money names every operation in turn, and no thread
 * changes it before the operation that it names was completed in its hold. So when a hold is still undecided after the
 * money was read and its last operation completed, this operation is none of those that led to that money; and the CAS
 * succeeds on that very pair only. What complete writes beside the state is the same whichever thread writes it, and
 * the CAS that makes the hold granted releases it.
 *
 * A batch makes the hold first, without a request (UNUSED), and names it; then it writes the request into it as another
 * one is written. The request is another generation than the hold was made with.
 *
 * A pair is one word here, because GenMC knows no CAS of 16 bytes: the state or the operation above, the value or the
 * available money below. So both loads of a pair are looks at one word; read_pair.c shows that each of them is needed.
 *
 * Transcribes:
 *   hbcore/_money/account.pyx: reserve, account_reserve_located, fulfil, complete, grant, read_hold, settle_down
 *   hbcore/_money/hold_group.pyx: account_reserve_group, prepare, make
 *   hbcore/_money/hold_index.pxd: occupy
 *   hbcore/_money/hold.pxd: read_pair
 * Asserts: of two requests of 3 exactly one is granted if there are 5, and both if there are 6, and the money agrees;
 *   who finds a granted hold reads its amount and check; a hold that is not granted has taken nothing.
 * Configurations:
 *   PLAIN: two requests, 5 available, and a thread of another process that settles the first hold down
 *   ENOUGH: the same, 6 available
 *   PREPARED: the same as PLAIN, but both holds are made without a request first
 * Plants:
 *   1 (PLAIN, ENOUGH, PREPARED): the loads of a pair are relaxed
 *   2 (PLAIN, ENOUGH, PREPARED): the CAS of a pair orders nothing
 *   3 (ENOUGH, PREPARED): the word that says which operation was completed is relaxed
 *   4 (ENOUGH): the last operation is not completed before the money changes
 *   5 (PLAIN, ENOUGH, PREPARED): the load of the index word is relaxed
 *   6 (PLAIN, ENOUGH, PREPARED): the CAS that publishes the hold orders nothing
 */
#include "kernel.h"

enum { UNUSED, PENDING, DONE }; /* DONE: granted */
#ifdef ENOUGH
enum { AVAILABLE = 6, WISH = 3, TURNS = 4 };
#else
enum { AVAILABLE = 5, WISH = 3, TURNS = 4 };
#endif
#ifdef PREPARED
enum { GENERATION = 2 };
#else
enum { GENERATION = 1 };
#endif
#define PAIR(first, second) ((uint64_t)(first) << 32 | (second))
#define HOLD_STATE(kind, generation) ((uint64_t)(kind) << 8 | (generation))
#define OPERATION(number) ((uint64_t)0x100 | (uint64_t)(number))
#define FAIL ((uint64_t)0x200)
#define CHECK_OF(key, amount) ((key) * 1000 + (amount))
#define KEY_OF(number) ((uint64_t)(number) + 7)

static struct {
    uint64_t pair, amount, link, key;
} holds[2];
static uint64_t money = PAIR(0, AVAILABLE), completed, words[2];

static void read_pair(const uint64_t *pair, uint64_t *first, uint64_t *second)
{
    uint64_t before = planted_load(1, pair);
    *second = planted_load(1, pair) & 0xffffffff;
    *first = hb_load_relaxed(pair) >> 32;
    assume(before >> 32 == *first);
}

static int cas_pair(uint64_t *pair, uint64_t first, uint64_t second, uint64_t next_first, uint64_t next_second)
{
    return planted_cas(2, pair, PAIR(first, second), PAIR(next_first, next_second));
}

static void grant(int number, uint64_t state, uint64_t value)
{
    uint64_t key = hb_load_relaxed(&holds[number].key);
    hb_store_relaxed(&holds[number].amount, value);
    hb_store_relaxed(&holds[number].link, CHECK_OF(key, value));
    cas_pair(&holds[number].pair, state, value, HOLD_STATE(DONE, state & 255), 0);
}

static void complete(uint64_t operation)
{
    uint64_t state, value;
    int number = (int)(operation & 1);
    if (operation == 0 || operation == planted_load(3, &completed))
        return;
    read_pair(&holds[number].pair, &state, &value);
    if (state >> 8 != PENDING)
        return;
    if (operation & FAIL)
        cas_pair(&holds[number].pair, state, value, HOLD_STATE(UNUSED, state & 255), 0);
    else
        grant(number, state, value);
}

static void fulfil(int number, uint64_t mine)
{
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t operation, available, state, value;
        read_pair(&money, &operation, &available);
        if (!is_planted(4))
            complete(operation);
        read_pair(&holds[number].pair, &state, &value);
        if (state != mine)
            return;
        if (available < value) {
            if (cas_pair(&money, operation, available, OPERATION(number) | FAIL, available)) {
                complete(OPERATION(number) | FAIL);
                return;
            }
        } else if (cas_pair(&money, operation, available, OPERATION(number), available - value)) {
            grant(number, state, value);
            planted_store(3, &completed, OPERATION(number));
            return;
        }
    }
}

static void reserve(int number)
{
    hb_store_relaxed(&holds[number].key, KEY_OF(number));
#ifdef PREPARED
    hb_store_release(&holds[number].pair, PAIR(HOLD_STATE(UNUSED, 1), 0));
    planted_cas(6, &words[number], 0, 1);
    cas_pair(&holds[number].pair, HOLD_STATE(UNUSED, 1), 0, HOLD_STATE(PENDING, 2), WISH);
#else
    hb_store_release(&holds[number].pair, PAIR(HOLD_STATE(PENDING, 1), WISH));
    planted_cas(6, &words[number], 0, 1);
#endif
    fulfil(number, HOLD_STATE(PENDING, GENERATION));
}

static void *reserve_0(void *unused)
{
    reserve(0);
    return unused;
}

static void *reserve_1(void *unused)
{
    reserve(1);
    return unused;
}

static int is_paid_out(uint64_t state, uint64_t amount, uint64_t link)
{
    return state == HOLD_STATE(DONE, GENERATION) && amount == WISH && link == CHECK_OF(KEY_OF(0), WISH);
}

static void *settle_down(void *unused)
{
    uint64_t state, value, operation, available;
    assume(planted_load(5, &words[0]) == 1);
    read_pair(&holds[0].pair, &state, &value);
    uint64_t amount = hb_load_relaxed(&holds[0].amount), link = hb_load_relaxed(&holds[0].link);
    if (state >> 8 == UNUSED) {
        assert(state == HOLD_STATE(UNUSED, 1) || state == HOLD_STATE(UNUSED, GENERATION));
        return unused;
    }
    if (state >> 8 == DONE) {
        assert(is_paid_out(state, amount, link));
        return unused;
    }
    read_pair(&money, &operation, &available);
    if (operation != OPERATION(0)) {
        if (hb_load_acquire(&holds[0].pair) >> 32 == state)
            assert(operation & FAIL || AVAILABLE - available == (operation == OPERATION(1) ? WISH : 0));
        return unused;
    }
    complete(operation);
    read_pair(&holds[0].pair, &state, &value);
    amount = hb_load_relaxed(&holds[0].amount);
    link = hb_load_relaxed(&holds[0].link);
    assert(is_paid_out(state, amount, link));
    return unused;
}

int main(void)
{
    RUN(reserve_0, reserve_1, settle_down);
    uint64_t first = holds[0].pair >> 40, second = holds[1].pair >> 40, left = money & 0xffffffff;
#ifdef ENOUGH
    assert(first == DONE && second == DONE && left == AVAILABLE - 2 * WISH);
#else
    assert((first == DONE) + (second == DONE) == 1 && (first == UNUSED) + (second == UNUSED) == 1);
    assert(left == AVAILABLE - WISH);
#endif
    return 0;
}
