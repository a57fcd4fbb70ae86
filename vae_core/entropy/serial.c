/* Loops that go on from what they found one step before, which numpy has no words for: rows of a key, copies, rows
   by number, adaptive bits. exact/recall.py, exact/sorting.py and weights.py are the specification. */

#include <stdint.h>

#define FACTOR ((uint64_t)0x9E3779B97F4A7C15)
#define FOLD 29
#define AHEAD 8
#define MOST_KEYS ((uint64_t)1 << 62)
#define PLACE_OF(key, bits) ((int64_t)((key) * FACTOR >> (64 - (bits))))
#ifdef __GNUC__
#define PREFETCH(place) __builtin_prefetch(place)
#else
#define PREFETCH(place) ((void)0)
#endif

/* To keys[i] a key of row i. Returns how many there may be where rows of one key hold the same in all columns: then keys count from 0;
   0 where columns reach too far for that, and other rows may have the same key. */
static uint64_t make_keys(const int64_t *const *columns, int64_t n_columns, int64_t n, uint64_t *keys) {
    uint64_t all = 1;
    for (int64_t k = 0; k < n_columns; k++) {
        const int64_t *column = columns[k];
        int64_t low = column[0], high = column[0];
        for (int64_t i = 1; i < n; i++) {
            low = column[i] < low ? column[i] : low;
            high = column[i] > high ? column[i] : high;
        }
        uint64_t span = (uint64_t)high - (uint64_t)low;
        if (span >= MOST_KEYS / all) break;
        for (int64_t i = 0; i < n; i++) keys[i] = (k ? keys[i] * (span + 1) : 0) + ((uint64_t)column[i] - (uint64_t)low);
        all *= span + 1;
        if (k + 1 == n_columns) return all;
    }
    for (int64_t i = 0; i < n; i++) {
        uint64_t key = 0;
        for (int64_t k = 0; k < n_columns; k++) {
            key = (key ^ (uint64_t)columns[k][i]) * FACTOR;
            key ^= key >> FOLD;
        }
        keys[i] = key;
    }
    return 0;
}

static int are_same(const int64_t *const *columns, int64_t n_columns, int64_t a, int64_t b) {
    int64_t k = 0;
    while (k < n_columns && columns[k][a] == columns[k][b]) k++;
    return k == n_columns;
}

/* Of each active row the last one before it that holds the same in all columns, -1 for none and where a row is not active, and whether
   there is one. `cells` are 2^bits zeros, more than there are rows; `keys` are n of anything. Returns 0 where rows fall on the same cells
   so often that sorting them is quicker. */
int64_t lp_links(const int64_t *const *columns, int64_t n_columns, const uint8_t *active, int64_t n, int64_t bits, int32_t *cells,
                 uint64_t *keys, int32_t *previous, uint8_t *seen) {
    int64_t mask = ((int64_t)1 << bits) - 1, left = 16 * n + 64;
    uint64_t all = n ? make_keys(columns, n_columns, n, keys) : 0;
    if (all && all <= (uint64_t)mask + 1) {  /* a cell of every key */
        for (int64_t i = 0; i < n; i++) {
            previous[i] = -1;
            seen[i] = 0;
            if (active && !active[i]) continue;
            previous[i] = cells[keys[i]] - 1;
            seen[i] = cells[keys[i]] > 0;
            cells[keys[i]] = (int32_t)(i + 1);
        }
        return 1;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = PLACE_OF(keys[i], bits);
        if (i + AHEAD < n) PREFETCH(&cells[PLACE_OF(keys[i + AHEAD], bits)]);
        previous[i] = -1;
        seen[i] = 0;
        if (active && !active[i]) continue;
        for (; cells[at]; at = (at + 1) & mask) {
            int32_t row = cells[at] - 1;
            if (keys[row] == keys[i] && (all || are_same(columns, n_columns, row, i))) {
                previous[i] = row;
                seen[i] = 1;
                break;
            }
            if (!left--) return 0;
        }
        cells[at] = (int32_t)(i + 1);
    }
    return 1;
}

/* Rows that are the same as what they are linked to take its value, which may be a copy itself. */
void lp_copy(int64_t *values, const int64_t *same, const int32_t *previous, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (same[i] && previous[i] >= 0) values[i] = values[previous[i]];
}

/* How many rows of each number there are, to where they begin when rows are sorted by it. */
static void add_up(int64_t n_numbers, int32_t *starts) {
    int32_t start = 0;
    for (int64_t k = 0; k < n_numbers; k++) {
        int32_t some = starts[k];
        starts[k] = start;
        start += some;
    }
}

/* Rows by their numbers, ties as they come in `before`, or in order of rows where that is null. `starts` are n_numbers zeros. Returns 0
   where a number is none of 0 .. n_numbers - 1. */
int64_t lp_order(const int64_t *numbers, const int64_t *before, int64_t n, int64_t n_numbers, int32_t *starts, int64_t *order) {
    for (int64_t i = 0; i < n; i++) {
        if (numbers[i] < 0 || numbers[i] >= n_numbers) return 0;
        starts[numbers[i]]++;
    }
    add_up(n_numbers, starts);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = before ? before[i] : i;
        order[starts[numbers[row]]++] = row;
    }
    return 1;
}

/* Values that stand in that order, each at its row; or values of rows in that order. Returns 0 as above. */
int64_t lp_move(const int32_t *numbers, int64_t n, int64_t n_numbers, int32_t *starts, const uint16_t *values, uint16_t *found,
                int64_t to_rows) {
    for (int64_t i = 0; i < n; i++) {
        if (numbers[i] < 0 || numbers[i] >= n_numbers) return 0;
        starts[numbers[i]]++;
    }
    add_up(n_numbers, starts);
    if (to_rows)
        for (int64_t i = 0; i < n; i++) found[i] = values[starts[numbers[i]]++];
    else
        for (int64_t i = 0; i < n; i++) found[starts[numbers[i]]++] = values[i];
    return 1;
}

/* Adaptive binary range coder of weights.py: `count` integers as sizes and signs. */

#define PROBABILITY_BITS 15
#define HALF ((uint32_t)1 << (PROBABILITY_BITS - 1))
#define LEAST 32
#define LENGTHS 65

typedef struct {
    uint32_t p, n;
} bit;

typedef struct {
    const uint8_t *payload;
    int64_t n_bytes, at;
    uint32_t code, span;
} reader;

static uint8_t next_byte(reader *in) { return in->at < in->n_bytes ? in->payload[in->at++] : 0; }

static int get(reader *in, bit *b) {
    uint32_t split = (in->span >> PROBABILITY_BITS) * b->p, one = (uint32_t)1 << PROBABILITY_BITS, rate = b->n < 4 ? b->n + 2 : 6;
    int found = in->code < split;
    if (found) {
        in->span = split;
        b->p += (one - b->p) >> rate;
    } else {
        in->span -= split;
        in->code -= split;
        b->p -= b->p >> rate;
    }
    if (b->p < LEAST) b->p = LEAST;
    if (b->p > one - LEAST) b->p = one - LEAST;
    b->n += b->n < 4;
    while (in->span < (uint32_t)1 << 24) {
        in->span <<= 8;
        in->code = in->code << 8 | next_byte(in);
    }
    return found;
}

void lp_adaptive(const uint8_t *payload, int64_t n_bytes, int64_t count, uint64_t *sizes, uint8_t *negative) {
    reader in = {payload, n_bytes, 0, 0, 0xFFFFFFFF};
    bit lengths[LENGTHS], signs[3], below[LENGTHS][LENGTHS];
    for (int64_t i = 0; i < LENGTHS; i++) {
        lengths[i].p = HALF, lengths[i].n = 0;
        for (int64_t k = 0; k < LENGTHS; k++) below[i][k].p = HALF, below[i][k].n = 0;
    }
    for (int64_t i = 0; i < 3; i++) signs[i].p = HALF, signs[i].n = 0;
    for (int64_t i = 0; i < 4; i++) in.code = in.code << 8 | next_byte(&in);
    for (int64_t k = 0; k < count; k++) {
        int64_t n_bits = 0;
        while (n_bits < 64 && get(&in, &lengths[n_bits])) n_bits++;
        negative[k] = (uint8_t)(n_bits && get(&in, &signs[n_bits < 2 ? n_bits : 2]));
        uint64_t size = n_bits > 0;
        for (int64_t i = n_bits - 2; i >= 0; i--) size = size << 1 | (uint64_t)get(&in, &below[n_bits][i]);
        sizes[k] = size;
    }
}
