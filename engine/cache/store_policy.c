/*
 * store_policy.c: who stays in a shard: window, probation, protected, and
 * the sketch that remembers how often a key was asked for. Called under the
 * shard's lock.
 */

#include "cache/store_int.h"

#define POLICY_ROWS      4
#define POLICY_MAX       255          /* of a counter of 8 bits */
#define POLICY_SAMPLE    160          /* additions per block until it halves */
#define POLICY_HALF      0x7f7f7f7f7f7f7f7full
#define POLICY_PERIOD    64           /* requests between looks at the hit
                                       * ratio, at least */
#define POLICY_DROP      0.1          /* of the average: the world changed, */
#define POLICY_SURE      5            /* if by so many standard deviations */
#define POLICY_RISE      4            /* and known keys that leave are such a
                                       * part of it more */
#define POLICY_KNOWN     3            /* times asked for */
#define POLICY_SMOOTH    4            /* periods of the average */


void
store_list_add(store_shard_t *s, uint32_t list, uint32_t i)
{
    store_list_t   *l = &s->list[list];
    store_entry_t  *e = &store_entries(s)[i];

    e->list = list;
    e->newer = STORE_NONE;
    e->older = l->newest;
    if (l->newest != STORE_NONE) {
        store_entries(s)[l->newest].newer = i;
    } else {
        l->oldest = i;
    }
    l->newest = i;
    l->blocks += e->n_blocks;
}

void
store_list_remove(store_shard_t *s, uint32_t i)
{
    store_entry_t  *all = store_entries(s), *e = &all[i];
    store_list_t   *l = &s->list[e->list];

    if (e->newer != STORE_NONE) {
        all[e->newer].older = e->older;
    } else {
        l->newest = e->older;
    }
    if (e->older != STORE_NONE) {
        all[e->older].newer = e->newer;
    } else {
        l->oldest = e->newer;
    }
    l->blocks -= e->n_blocks;
    e->list = STORE_FREE;
}

/* ---- the sketch ---- */

/* Counter of a row: word and shift. The key is a hash already; each row
 * takes other bits of it, mixed once. */
static uint64_t *
policy_counter(const store_shard_t *s, const uint8_t *key, uint32_t row,
    uint32_t *shift)
{
    uint64_t  lo, hi, x;

    memcpy(&lo, key, sizeof(lo));
    memcpy(&hi, key + sizeof(lo), sizeof(hi));
    x = (lo >> 32 ^ hi) + row * (hi | 1);
    x = (x ^ x >> 29) * 0x9e3779b97f4a7c15ull;
    x ^= x >> 32;
    *shift = (uint32_t) (8 * (x >> 28 & 7));
    return &store_sketch(s)[(uint32_t) x & (s->n_words - 1)];
}

uint32_t
store_frequency(const store_shard_t *s, const uint8_t *key)
{
    uint32_t   row, shift, n, least = POLICY_MAX;
    uint64_t  *w;

    for (row = 0; row < POLICY_ROWS; row++) {
        w = policy_counter(s, key, row, &shift);
        n = (uint32_t) (*w >> shift & POLICY_MAX);
        least = n < least ? n : least;
    }
    return least;
}

static void
policy_halve(store_shard_t *s)
{
    uint32_t   i;
    uint64_t  *w = store_sketch(s);

    for (i = 0; i < s->n_words; i++) {
        w[i] = w[i] >> 1 & POLICY_HALF;
    }
    s->additions /= 2;
}

/* Only the rows that hold the least are raised, which keeps the counts of
 * rare keys that share a counter with frequent ones low. */
uint32_t
store_asked(store_shard_t *s, const uint8_t *key)
{
    uint32_t   row, n, shift[POLICY_ROWS], least = POLICY_MAX;
    uint64_t  *w[POLICY_ROWS];

    for (row = 0; row < POLICY_ROWS; row++) {
        w[row] = policy_counter(s, key, row, &shift[row]);
        n = (uint32_t) (*w[row] >> shift[row] & POLICY_MAX);
        least = n < least ? n : least;
    }
    if (least == POLICY_MAX) {
        return POLICY_MAX;
    }
    for (row = 0; row < POLICY_ROWS; row++) {
        /* two rows may have one counter */
        if ((*w[row] >> shift[row] & POLICY_MAX) == least) {
            *w[row] += 1ull << shift[row];
        }
    }
    if (++s->additions >= POLICY_SAMPLE * s->n_blocks) {
        policy_halve(s);
    }
    return least + 1;
}

/* Those that were protected stay longer than what is new, though nobody may
 * want them any more: all are on probation again, they behind the others. */
static void
policy_demote(store_shard_t *s)
{
    uint32_t        i;
    store_list_t   *from = &s->list[STORE_PROTECTED];
    store_list_t   *to = &s->list[STORE_PROBATION];
    store_entry_t  *all = store_entries(s);

    if (from->newest == STORE_NONE) {
        return;
    }
    for (i = from->newest; i != STORE_NONE; i = all[i].older) {
        all[i].list = STORE_PROBATION;
    }
    if (to->oldest != STORE_NONE) {
        all[to->oldest].older = from->newest;
        all[from->newest].newer = to->oldest;
    } else {
        to->newest = from->newest;
    }
    to->oldest = from->oldest;
    to->blocks += from->blocks;
    from->newest = from->oldest = STORE_NONE;
    from->blocks = 0;
}

/* What was popular is not any more when hits get rare of a sudden, and keys
 * that are asked for again and again have to leave all the while: a long
 * memory, right while nothing changes, would then keep the wrong entries.
 * Hits get rare also beside a scan, whose keys are hardly known, and after
 * ends of time and purges, which leave room. */
void
store_outcome(store_shard_t *s, int hit)
{
    double    ratio, drop, noise, rise;
    uint32_t  period = s->n_blocks / 2;

    period = period > POLICY_PERIOD ? period : POLICY_PERIOD;
    s->period_hits += hit != 0;
    if (++s->period_asked < period) {
        return;
    }

    ratio = (double) s->period_hits / s->period_asked;
    drop = s->average - ratio;
    rise = (double) s->period_lost / s->period_asked - s->average_lost;
    noise = s->average * (1 - s->average) / s->period_asked;
    s->period_asked = s->period_hits = s->period_lost = 0;

    if (drop > s->average * POLICY_DROP && rise > drop / POLICY_RISE
        && drop * drop > POLICY_SURE * POLICY_SURE * noise)
    {
        memset(store_sketch(s), 0, s->n_words * sizeof(uint64_t));
        s->additions = 0;
        policy_demote(s);
        s->average = ratio;
        s->average_lost += rise;
        return;
    }
    s->average -= drop / POLICY_SMOOTH;
    s->average_lost += rise / POLICY_SMOOTH;
}

/* ---- segments ---- */

static uint32_t
policy_window_max(const store_shard_t *s)
{
    uint32_t  n = s->n_blocks / 400;

    return n > 0 ? n : 1;
}

static uint32_t
policy_protected_max(const store_shard_t *s)
{
    return (s->n_blocks - policy_window_max(s)) / 5 * 4;
}

static void
policy_move(store_shard_t *s, uint32_t i, uint32_t list)
{
    store_list_remove(s, i);
    store_list_add(s, list, i);
}

void
store_touch(store_shard_t *s, uint32_t i)
{
    uint32_t       list = store_entries(s)[i].list;
    store_list_t  *kept = &s->list[STORE_PROTECTED];

    if (list != STORE_PROBATION && s->list[list].newest == i) {
        return;
    }
    if (list == STORE_WINDOW) {
        policy_move(s, i, STORE_WINDOW);
        return;
    }

    policy_move(s, i, STORE_PROTECTED);
    while (kept->blocks > policy_protected_max(s) && kept->oldest != i) {
        policy_move(s, kept->oldest, STORE_PROBATION);
    }
}

/* The one to go when there is no room: not `but`. */
static uint32_t
policy_victim(const store_shard_t *s, uint32_t but)
{
    static const uint8_t  order[] = { STORE_PROBATION, STORE_PROTECTED,
                                      STORE_WINDOW };
    uint32_t              i, at;

    for (i = 0; i < sizeof(order); i++) {
        at = s->list[order[i]].oldest;
        if (at == but && at != STORE_NONE) {
            at = store_entries(s)[at].newer;
        }
        if (at != STORE_NONE) {
            return at;
        }
    }
    return STORE_NONE;
}

/* Candidate c came out of the window and must find room in the main part.
 * 0: it was turned away. */
static int
policy_contest(store_shard_t *s, uint32_t c)
{
    const store_entry_t  *all = store_entries(s);
    uint32_t              v, theirs, ours = store_frequency(s, all[c].key);

    while (s->used > s->n_blocks) {
        v = policy_victim(s, c);
        theirs = v != STORE_NONE ? store_frequency(s, all[v].key)
                                 : POLICY_MAX;
        if (ours <= theirs) {
            store_entry_free(s, c);
            store_count(&s->rejects);
            s->period_lost += ours >= POLICY_KNOWN;
            return 0;
        }
        store_entry_free(s, v);
        store_count(&s->evictions);
        s->period_lost += theirs >= POLICY_KNOWN;
    }
    return 1;
}

int
store_admit(store_shard_t *s, uint32_t i)
{
    int            kept = 1;
    uint32_t       c;
    store_list_t  *window = &s->list[STORE_WINDOW];

    store_list_add(s, STORE_WINDOW, i);
    s->used += store_entries(s)[i].n_blocks;

    while (window->blocks > policy_window_max(s)) {
        c = window->oldest;
        policy_move(s, c, STORE_PROBATION);
        if (!policy_contest(s, c) && c == i) {
            kept = 0;
        }
    }
    /* the main part had grown into an empty window */
    while (s->used > s->n_blocks) {
        store_entry_free(s, policy_victim(s, kept ? i : STORE_NONE));
        store_count(&s->evictions);
    }
    return kept;
}
