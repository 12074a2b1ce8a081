/* A line of the hold index: its words are taken in turn, so where the first empty one stands says where a path ends.
 *
 * A word that is seen taken behind one that was seen empty means only that the empty one was taken meanwhile, since
 * words are read from the first on. Read again, the empty one must be seen taken, because whoever took the word behind
 * it had seen that. If it is not, a word is lost, and the file is damaged. (That taker's own load may be relaxed, by
 * coherence: it comes before the CAS that the reader acquires.)
 *
 * Transcribes:
 *   hbcore/_lib/atomics.h: hb_set_words
 *   hbcore/_money/hold_index.pxd: locate_in, occupy
 * Asserts: the look again finds the word taken.
 * Configurations:
 *   PLAIN: one takes the first word, one the second, one looks
 * Plants:
 *   1 (PLAIN): the CAS that takes the second word orders nothing
 *   2 (PLAIN): the loads of the line are relaxed
 */
#include "kernel.h"

enum { WORDS = 2 };
#define TAKEN ((uint64_t)1 << 63)
static uint64_t words[WORDS];

static void *take_first(void *unused)
{
    hb_cas(&words[0], 0, TAKEN | 1);
    return unused;
}

static void *take_second(void *unused)
{
    if (hb_load_acquire(&words[0]))
        planted_cas(1, &words[1], 0, TAKEN | 2);
    return unused;
}

static void *look(void *unused)
{
    unsigned int set;
    if (is_planted(2)) {
        set = (unsigned int)(hb_load_relaxed(&words[0]) >> 63);
        set |= (unsigned int)(hb_load_relaxed(&words[1]) >> 63) << 1;
    } else {
        int is_like;
        set = hb_set_words(words, WORDS, 0, ~(uint64_t)0 << 36, &is_like);
    }
    if (set == 2)
        assert(hb_load_acquire(&words[0]) & TAKEN);
    return unused;
}

int main(void)
{
    RUN(take_first, take_second, look);
    return 0;
}
