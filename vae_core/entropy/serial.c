/* Loops that go on from what they found one step before, which numpy has no words for: rows of a key, copies, rows
   by number, adaptive bits. exact/recall.py, exact/sorting.py and weights.py are the specification. */

#include <stdint.h>

#define FACTOR ((uint64_t)0x9E3779B97F4A7C15)
#define FOLD 29
#define AHEAD 8
#ifdef __GNUC__
#define PREFETCH(place) __builtin_prefetch(place)
#else
#define PREFETCH(place) ((void)0)
#endif

static int64_t place_of(const int64_t *const *columns, int64_t n_columns, int64_t row, int64_t bits) {
    uint64_t key = 0;
    for (int64_t k = 0; k < n_columns; k++) {
        key = (key ^ (uint64_t)columns[k][row]) * FACTOR;
        key ^= key >> FOLD;
    }
    return (int64_t)(key * FACTOR >> (64 - bits));
}

/* Of each active row the last one before it that holds the same in all columns, -1 for none and where a row is not active. `cells`
   are 2^bits zeros, more than there are rows. Returns 0 where rows fall on the same cells so often that sorting them is quicker. */
int64_t lp_links(const int64_t *const *columns, int64_t n_columns, const uint8_t *active, int64_t n, int64_t bits, int32_t *cells,
                 int64_t *previous) {
    int64_t mask = ((int64_t)1 << bits) - 1, left = 16 * n + 64, places[AHEAD];
    for (int64_t i = 0; i < n && i < AHEAD; i++) places[i] = place_of(columns, n_columns, i, bits);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = places[i % AHEAD];
        if (i + AHEAD < n) {
            places[i % AHEAD] = place_of(columns, n_columns, i + AHEAD, bits);
            PREFETCH(&cells[places[i % AHEAD]]);
        }
        previous[i] = -1;
        if (active && !active[i]) continue;
        for (; cells[at]; at = (at + 1) & mask) {
            int64_t row = cells[at] - 1, k = 0;
            while (k < n_columns && columns[k][row] == columns[k][i]) k++;
            if (k == n_columns) {
                previous[i] = row;
                break;
            }
            if (!left--) return 0;
        }
        cells[at] = (int32_t)(i + 1);
    }
    return 1;
}

/* Rows that are the same as what they are linked to take its value, which may be a copy itself. */
void lp_copy(int64_t *values, const int64_t *same, const int64_t *previous, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (same[i] && previous[i] >= 0) values[i] = values[previous[i]];
}

/* Where rows of each number, 0 .. n_numbers - 1, begin when they are sorted by it; `starts` are n_numbers zeros. 0 where a number is another. */
static int starts_of(const int64_t *numbers, int64_t n, int64_t n_numbers, int32_t *starts) {
    for (int64_t i = 0; i < n; i++) {
        if (numbers[i] < 0 || numbers[i] >= n_numbers) return 0;
        starts[numbers[i]]++;
    }
    int32_t start = 0;
    for (int64_t k = 0; k < n_numbers; k++) {
        int32_t some = starts[k];
        starts[k] = start;
        start += some;
    }
    return 1;
}

/* Rows by their numbers, ties as they come in `before`, or in order of rows where that is null. Returns 0 as above. */
int64_t lp_order(const int64_t *numbers, const int64_t *before, int64_t n, int64_t n_numbers, int32_t *starts, int64_t *order) {
    if (!starts_of(numbers, n, n_numbers, starts)) return 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = before ? before[i] : i;
        order[starts[numbers[row]]++] = row;
    }
    return 1;
}

/* Values that stand in that order, each at its row. */
int64_t lp_spread(const int64_t *numbers, int64_t n, int64_t n_numbers, int32_t *starts, const int64_t *values, int64_t *found) {
    if (!starts_of(numbers, n, n_numbers, starts)) return 0;
    for (int64_t i = 0; i < n; i++) found[i] = values[starts[numbers[i]]++];
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
