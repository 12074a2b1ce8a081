/* The free map: a free slot never lies under a set bit, whichever process dies, and whenever.
 *
 * A releaser first pins the word over the slot and clears the bit and raises the version of every word up to the root,
 * and only then makes the slot RELEASING. A marker reads the word before it looks at the slot, and sets the bit by a
 * CAS from what it has read. If its look is older than RELEASING, its CAS fails on the version, or the clearing undoes
 * it; if its look is newer, it finds the pin or a slot that is not final. (Its load of the slot may be relaxed: that
 * the look is newer is known by the word, which it acquires.)
 *
 * A releaser leaves the root alone if it pinned a word that was neither full nor pinned: then whoever made it less than
 * full has been at the root before taking its pin away, and the releaser that reads the word without that pin has all
 * of that before it.
 *
 * Blocks have one slot here, and each level has one child.
 *
 * Transcribes:
 *   hbcore/_claims/free_map.pyx: free_map_mark, uncover, free_map_pin, free_map_unpin, free_map_none, is_full
 *   hbcore/_claims/free_map.pyx: block_is_final, may_be_covered
 *   hbcore/_claims/transitions.pyx: give_back, finish_release
 * Asserts: who sees the slot free or on its way to it, and then the root full, sees that the slot was taken meanwhile;
 *   at the end no bit lies over a slot that is not final.
 * Configurations:
 *   PLAIN: one level; a releaser, a marker, and a thread that looks at the slot and at the root
 *   TWO_LEVELS: the same with two levels
 *   DIES: the releaser dies when the slot is RELEASING
 *   DIES + TWO_LEVELS: the same with two levels
 *   RETAKE: the marker takes the slot that became free, and marks again
 *   RETAKE + TWO_LEVELS: the same with two levels
 *   TWO_RELEASE + TWO_LEVELS: two would release the slot, which is marked up to the root, and a third looks
 *   AGAIN + TWO_LEVELS: one pins and finds that it is not to release; another releases; a third looks
 * Plants:
 *   1 (PLAIN, TWO_LEVELS, DIES + TWO_LEVELS, RETAKE, RETAKE + TWO_LEVELS): the marker's load of the word is relaxed
 *   2 (TWO_LEVELS, DIES + TWO_LEVELS, RETAKE + TWO_LEVELS): the CAS that pins and clears orders nothing
 *   3 (PLAIN, TWO_LEVELS, RETAKE, RETAKE + TWO_LEVELS): the CAS that takes the pin away orders nothing
 *   4 (PLAIN, TWO_LEVELS, DIES + TWO_LEVELS, RETAKE, RETAKE + TWO_LEVELS): the version is not raised
 *   5 (PLAIN, TWO_LEVELS, DIES, DIES + TWO_LEVELS, RETAKE, RETAKE + TWO_LEVELS): the marker does not look at pins
 *   6 (PLAIN, TWO_LEVELS, DIES, DIES + TWO_LEVELS, RETAKE, RETAKE + TWO_LEVELS): the word is pinned after RELEASING
 *   7 (TWO_RELEASE + TWO_LEVELS, AGAIN + TWO_LEVELS): a releaser leaves the root alone though another has pinned
 *   8 (TWO_LEVELS, DIES + TWO_LEVELS, RETAKE + TWO_LEVELS, TWO_RELEASE + TWO_LEVELS, AGAIN + TWO_LEVELS): a releaser
 *     always leaves the root alone
 */
#include "kernel.h"

#ifdef TWO_LEVELS
enum { LEVELS = 2 };
#else
enum { LEVELS = 1 };
#endif
#define PIN ((uint64_t)1 << 32)
#define VERSION ((uint64_t)1 << 40)

#if defined(TWO_RELEASE) || defined(AGAIN)
static uint64_t state_word = SLOT_STATE(GRANTED, 1, 100), level_words[LEVELS] = {1, 1};
#else
static uint64_t state_word = SLOT_STATE(GRANTED, 1, 100), level_words[LEVELS];
#endif

static uint64_t pins(uint64_t word) { return word >> 32 & 255; }
static int is_full(uint64_t word) { return (word & 1) && pins(word) == 0; }
static int is_seen_pinned(uint64_t word) { return !is_planted(5) && pins(word); }

static void mark(void)
{
    for (int level = 0; level < LEVELS; level++) {
        uint64_t word = planted_load(1, &level_words[level]), version = word / VERSION;
        if (is_seen_pinned(word))
            return;
        if (!(word & 1)) {
            if (level == 0 ? !slot_is_final(hb_load_acquire(&state_word))
                           : !is_full(hb_load_acquire(&level_words[level - 1])))
                return;
            while (!hb_cas(&level_words[level], word, word | 1)) {
                word = hb_load_acquire(&level_words[level]);
                if (word / VERSION != version || is_seen_pinned(word))
                    return;
                if (word & 1)
                    break;
            }
            word |= 1;
        }
        if (!is_full(word))
            return;
    }
}

static int may_be_covered(uint64_t word)
{
    return !is_planted(8) && ((word & 1) || (!is_planted(7) && pins(word)));
}

static void pin(void)
{
    for (int level = 0; level < LEVELS; level++)
        for (;;) {
            uint64_t word = hb_load_acquire(&level_words[level]);
            uint64_t cleared = (word & ~(uint64_t)1) + (is_planted(4) ? 0 : VERSION) + (level == 0 ? PIN : 0);
            if (planted_cas(2, &level_words[level], word, cleared)) {
                if (level == 0 && !may_be_covered(word))
                    return;
                break;
            }
        }
}

static void unpin(void)
{
    uint64_t word = hb_load_acquire(&level_words[0]);
    while (pins(word) && !planted_cas(3, &level_words[0], word, word - PIN))
        word = hb_load_acquire(&level_words[0]);
}

static int none(void) { return is_full(hb_load_acquire(&level_words[LEVELS - 1])); }

static void *release(void *unused)
{
    if (!is_planted(6))
        pin();
    if (!hb_cas(&state_word, SLOT_STATE(GRANTED, 1, 100), SLOT_STATE(RELEASING, 1, 1))) {
        unpin();
        return unused;
    }
    if (is_planted(6))
        pin();
#ifdef DIES
    return unused;
#endif
    hb_cas(&state_word, SLOT_STATE(RELEASING, 1, 1), SLOT_STATE(FREE, 1, 0));
    unpin();
    return unused;
}

static void *pin_only(void *unused)
{
    pin();
    unpin();
    return unused;
}

static void *mark_it(void *unused)
{
    mark();
#ifdef RETAKE
    if (hb_load_acquire(&state_word) == SLOT_STATE(FREE, 1, 0)
        && hb_cas(&state_word, SLOT_STATE(FREE, 1, 0), SLOT_STATE(HELD, 2, 2))) {
        hb_cas(&state_word, SLOT_STATE(HELD, 2, 2), SLOT_STATE(GRANTED, 2, 200));
        mark();
    }
#endif
    return unused;
}

static void *look(void *unused)
{
    uint64_t state = hb_load_acquire(&state_word);
    if ((slot_kind(state) == FREE || slot_kind(state) == RELEASING) && none())
        assert(hb_load_acquire(&state_word) != state);
    return unused;
}

int main(void)
{
#if defined(TWO_RELEASE)
    RUN(release, release, look);
#elif defined(AGAIN)
    RUN(pin_only, release, look);
#else
    RUN(release, mark_it, look);
#endif
    if (!slot_is_final(hb_load_relaxed(&state_word))) {
        assert(!none());
        for (int level = 0; level < LEVELS; level++)
            assert(!(hb_load_relaxed(&level_words[level]) & 1));
    }
    return 0;
}
