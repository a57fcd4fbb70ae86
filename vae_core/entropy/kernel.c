/* One pass over a column by compiled code: contexts to frequencies, frequencies to symbols, symbols to counts, chunk after chunk.
   rans.py and exact/counts.py are the specification: every function here gives their bits. Sizes, context numbers and symbols to
   be written were checked by the caller; what a hostile stream controls is `position` alone, and that is checked here: whatever
   the states hold, a symbol found is one of its alphabet, so every context number made from it lies inside its table. */

#include <stdint.h>

#define SLOT_BITS 24
#define SLOT_MASK (((uint64_t)1 << SLOT_BITS) - 1)
#define LOWER ((uint64_t)1 << 32)
#define MAX_DEPTH 8
/* A product with an inverse this much too large is never below the true quotient, and with quotients up to 2^24 and divisors up
   to 2^25 (rows of a block: 2^22, in sixteenths) never reaches the next integer: truncated, it is the floor of the quotient. */
#define UP (1.0 + 0x1p-50)

typedef struct {
    int32_t total; /* symbols counted under this context */
    int32_t row;   /* 1 + its row in this chunk, 0: none yet */
} context;

typedef struct {
    int64_t n_symbols, depth;        /* levels 0..depth; level 0 has one context */
    const int64_t *weights;          /* of each level */
    const int64_t *strides;          /* of each level: what the digit before counts in the context number */
    int32_t *const *counts;          /* of each level, (contexts, n_symbols) */
    context *const *seen;            /* of each level, (contexts,) */
    const int32_t *const *contexts;  /* of each level, of each row of the pass, without the digit before; NULL: all 0 */
    int32_t *chance;                 /* rows of all levels but the deepest, those of a chunk; row 0 has no context and no counts */
    uint32_t *cumulative;            /* rows of the deepest level, n_symbols + 1 */
    double *scale;                   /* of each of them: 2^24 / total */
    int64_t n_chance, n_rows;        /* rows in use */
} digit;

typedef struct {
    uint64_t *state;
    uint32_t *words; /* words before `position` were read: there is room for those that folds bring */
    int64_t n_words;
    const int64_t *folds;
    int64_t n_folds;
    int64_t position, lanes, step, fold;
    int64_t error;
} stream;

enum { ENDED = -1, MISFOLDED = -2 };

/* below = (2^24 count + weight above) / total in sixteenths and weight */
#define SMOOTH                                                                                                                     \
    for (int64_t s = 0; s < n; s++)                                                                                                \
        below[s] = (int32_t)(((double)count[s] * 16777216.0 + weight * (double)above[s]) * inverse);

static void smooth_plain(const int32_t *restrict count, const int32_t *restrict above, double weight, double inverse, int64_t n,
                         int32_t *restrict below) {
    SMOOTH
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void smooth_avx2(const int32_t *restrict count, const int32_t *restrict above, double weight,
                                                        double inverse, int64_t n, int32_t *restrict below) {
    SMOOTH
}
#define SMOOTH_BEST (__builtin_cpu_supports("avx2") ? smooth_avx2 : smooth_plain)
#else
#define SMOOTH_BEST smooth_plain
#endif

typedef void smoother(const int32_t *restrict, const int32_t *restrict, double, double, int64_t, int32_t *restrict);

static int64_t number(const digit *d, int64_t k, int64_t i, int64_t before) {
    return d->strides[k] * before + (d->contexts[k] ? d->contexts[k][i] : 0);
}

/* The cumulative frequencies of a context that this chunk meets for the first time. */
static int64_t new_row(digit *d, smoother *smooth, int64_t i, int64_t before) {
    int64_t n = d->n_symbols;
    int32_t last[512];
    const int32_t *above = d->chance;
    int64_t above_row = 0;
    for (int64_t k = 0; k < d->depth; k++) {
        int64_t c = number(d, k, i, before);
        context *found = &d->seen[k][c];
        if (!found->row) {
            if (found->total) {
                above_row = d->n_chance++;
                int32_t *below = d->chance + above_row * n;
                double weight = (double)d->weights[k];
                smooth(d->counts[k] + c * n, above, weight, UP / (16.0 * found->total + weight), n, below);
            } /* without counts it is the level above, exactly */
            found->row = (int32_t)above_row + 1;
        }
        above_row = found->row - 1;
        above = d->chance + above_row * n;
    }
    int64_t c = number(d, d->depth, i, before);
    context *found = &d->seen[d->depth][c];
    if (found->total) {
        double weight = (double)d->weights[d->depth];
        smooth(d->counts[d->depth] + c * n, above, weight, UP / (16.0 * found->total + weight), n, last);
        above = last;
    }
    int64_t row = d->n_rows++;
    uint32_t *out = d->cumulative + row * (n + 1), sum = 0;
    for (int64_t s = 0; s < n; s++) {
        out[s] = sum;
        sum += (uint32_t)above[s] + 1;
    }
    out[n] = sum;
    d->scale[row] = 16777216.0 * (UP / sum);
    found->row = (int32_t)row + 1;
    return row;
}

static inline int64_t row_of(digit *d, smoother *smooth, int64_t i, int64_t before) {
    int32_t row = d->seen[d->depth][number(d, d->depth, i, before)].row;
    return row ? row - 1 : new_row(d, smooth, i, before);
}

/* Count a chunk's symbols, and forget its rows. */
static void learn(digit *d, int64_t start, int64_t stop, const int64_t *before, const int64_t *symbols) {
    for (int64_t k = 0; k <= d->depth; k++) {
        int32_t *counts = d->counts[k];
        context *seen = d->seen[k];
        for (int64_t i = start; i < stop; i++) {
            int64_t c = number(d, k, i, before ? before[i] : 0);
            counts[c * d->n_symbols + symbols[i]]++;
            seen[c].total++;
            seen[c].row = 0;
        }
    }
    d->n_chance = 1;
    d->n_rows = 0;
}

/* Begin a step: fold the lanes that end before it. */
static int begin(stream *in) {
    for (; in->fold < in->n_folds && in->folds[in->fold] == in->step; in->fold++) {
        int64_t half = in->lanes / 2;
        if (half < 1 || in->position < half) return in->error = MISFOLDED, 0;
        in->position -= half;
        in->lanes = half;
        for (int64_t lane = 0; lane < half; lane++) {
            if (in->state[half + lane] >> 32 != 1) return in->error = MISFOLDED, 0;
            in->words[in->position + lane] = (uint32_t)in->state[half + lane];
        }
    }
    in->step++;
    return 1;
}

static int refill(stream *in, int64_t lane, uint64_t x) {
    if (x < LOWER) {
        if (in->position >= in->n_words) return in->error = ENDED, 0;
        x = (x << 32) | in->words[in->position++];
    }
    in->state[lane] = x;
    return 1;
}

static int read_digit(digit *d, smoother *smooth, stream *in, int64_t start, int64_t stop, const int64_t *before, int64_t *symbols) {
    int64_t lane = 0;
    if (start < stop && !begin(in)) return 0;
    for (int64_t i = start; i < stop; i++) {
        int64_t row = row_of(d, smooth, i, before ? before[i] : 0);
        const uint32_t *cumulative = d->cumulative + row * (d->n_symbols + 1);
        uint64_t x = in->state[lane], slot = x & SLOT_MASK;
        uint32_t target = (uint32_t)(((slot + 1) * cumulative[d->n_symbols] - 1) >> SLOT_BITS);
        int64_t first = 0, count = d->n_symbols;
        while (count > 1) {
            int64_t half = count >> 1;
            first = cumulative[first + half] <= target ? first + half : first;
            count -= half;
        }
        uint64_t low = (uint64_t)(int64_t)(cumulative[first] * d->scale[row]);
        uint64_t high = (uint64_t)(int64_t)(cumulative[first + 1] * d->scale[row]);
        symbols[i] = first;
        if (!refill(in, lane, (high - low) * (x >> SLOT_BITS) + slot - low)) return 0;
        if (++lane == in->lanes) lane = 0;
    }
    return 1;
}

/* Raw bits behind the first digits of a chunk, 16 of each row at a time from the low end. */
static int read_raw(const uint8_t *n_raw, stream *in, int64_t start, int64_t stop, const int64_t *symbols, int64_t *raw) {
    int more = 1;
    for (int64_t done = 0; done < 64 && more; done += 16) {
        int64_t lane = 0, begun = 0;
        more = 0;
        for (int64_t i = start; i < stop; i++) {
            int64_t left = n_raw[symbols[i]] - done;
            if (done == 0) raw[i] = 0;
            if (left <= 0) continue;
            if (!begun++ && !begin(in)) return 0;
            more |= left > 16;
            int64_t shift = SLOT_BITS - (left < 16 ? left : 16);
            uint64_t x = in->state[lane], slot = x & SLOT_MASK, piece = slot >> shift;
            raw[i] = (int64_t)((uint64_t)raw[i] | piece << done);
            if (!refill(in, lane, ((x >> SLOT_BITS) << shift) + slot - (piece << shift))) return 0;
            if (++lane == in->lanes) lane = 0;
        }
    }
    return 1;
}

/* Read the symbols of a pass, chunk by chunk up to each of `ends`: those of each digit, then raw bits, n_raw[first digit] of a
   row. `at` is position, lanes, step and fold, and moves on. Returns 0, ENDED when the words ran out, or MISFOLDED. */
int64_t lp_read(digit *digits, int64_t n_digits, const int64_t *ends, int64_t n_chunks, const uint8_t *n_raw, uint64_t *state,
                uint32_t *words, int64_t n_words, const int64_t *folds, int64_t n_folds, int64_t *at, int64_t *const *symbols,
                int64_t *raw) {
    smoother *smooth = SMOOTH_BEST;
    stream in = {state, words, n_words, folds, n_folds, at[0], at[1], at[2], at[3], 0};
    for (int64_t chunk = 0, start = 0; chunk < n_chunks; start = ends[chunk++]) {
        for (int64_t k = 0; k < n_digits; k++) {
            const int64_t *before = k ? symbols[k - 1] : 0;
            if (!read_digit(&digits[k], smooth, &in, start, ends[chunk], before, symbols[k])) return in.error;
            learn(&digits[k], start, ends[chunk], before, symbols[k]);
        }
        if (!read_raw(n_raw, &in, start, ends[chunk], symbols[0], raw)) return in.error;
    }
    at[0] = in.position, at[1] = in.lanes, at[2] = in.step, at[3] = in.fold;
    return 0;
}

/* Rows one after another: exact/forward.py is the specification. */

#define SHIFT 16
#define NOISE_LEVELS 48
#define MOST_SURPRISE ((int64_t)1 << 40)

enum { LEFT, GUESS, FRACTION, NOISE, MATCH, BACK, ROUGH };

typedef struct {
    int64_t digit, kind, which, n_edges;
    const int64_t *edges;
    const int64_t *strides; /* of each level of the digit: what one level more of the feature adds to the context number */
} own_feature;

/* What followed a key last time: exact/matches.py is the specification. */
typedef struct {
    int64_t n_lags, reach, bits;
    const int64_t *lags;
    const uint64_t *fixed; /* of each row: the hash of what the key has of other columns */
    uint64_t *keys;        /* 2^bits cells: hash of the key, 0 for none, and the value */
    int64_t *values;
    uint64_t *now;         /* of each lane: the key of the row at hand */
    uint8_t *level;        /* of each row */
} match;

#define FACTOR ((uint64_t)0x9E3779B97F4A7C15)
#define FOLD 29
#define MAX_MATCHES 64 /* more are tried at once than a plan has */
#define NEAR 15
#define FAR 128

typedef struct {
    int64_t n_steps, n_lanes, n_terms, n_own, n_matches, leader, last_chunk, n_dense, dense_shift; /* leader: -1, or the match that is the prediction */
    const int64_t *edges;             /* where each step begins, n_steps + 1 of them */
    const int64_t *lags, *weights;    /* of the terms that read the column itself */
    const int64_t *fixed;             /* of each row: the sum of all other terms */
    const own_feature *own;
    const match *matches;
    const int16_t *dense;             /* (n_dense, n_dense) weights of vectors: exact/dense.py */
    const int64_t *bias;              /* n_dense of them */
    const int64_t *lanes;             /* of each row its lane; null: the rows of a step are those of the first lanes */
    int64_t *past;                    /* (n_steps, n_lanes) values */
    int64_t *noise, *sums;            /* of each lane */
    int64_t *guess;                   /* of each row */
    uint8_t *fraction, *level;        /* of each row: of the prediction, of the noise */
    int64_t is_residual, lo, shift, escape; /* the scheme */
} walk;

static int64_t bits_of(int64_t x) { return x <= 0 ? 0 : 64 - __builtin_clzll((uint64_t)x); }

static int64_t bins(const own_feature *f, int64_t x) {
    int64_t low = 0, high = f->n_edges;
    while (low < high) {
        int64_t half = (low + high) >> 1;
        if (f->edges[half] <= x) low = half + 1;
        else high = half;
    }
    return low;
}

/* The cell that holds a row's key, -1 for none. */
static int64_t recall(const walk *w, const match *m, int64_t step, int64_t lane, int64_t i) {
    if (step < m->reach) return -1;
    uint64_t key = m->fixed[i];
    for (int64_t k = 0; k < m->n_lags; k++) {
        key = (key ^ (uint64_t)w->past[(step - m->lags[k]) * w->n_lanes + lane]) * FACTOR;
        key ^= key >> FOLD;
    }
    key = (key * FACTOR) | 1;
    m->now[lane] = key;
    int64_t cell = (int64_t)(key >> (64 - m->bits));
    return m->keys[cell] == key ? cell : -1;
}

/* What a cell holds, beside a row's prediction. */
static uint8_t match_level(const match *m, int64_t cell, int64_t guess) {
    if (cell < 0) return 0;
    int64_t off = (int64_t)((uint64_t)m->values[cell] - (uint64_t)guess);
    if (off >= -NEAR && off <= NEAR) return (uint8_t)(off + NEAR + 1);
    int64_t beyond = (off <= -32 || off >= 32) + (off <= -64 || off >= 64) + (off <= -FAR || off >= FAR);
    return (uint8_t)(32 + beyond + (off < 0 ? 4 : 0));
}

static int64_t back(const walk *w, int64_t step, int64_t lane, int64_t lag) {
    return w->past[(step > lag ? step - lag : 0) * w->n_lanes + lane];
}

static int64_t noise_level(int64_t noise) {
    int64_t size = bits_of(noise) > 2 ? bits_of(noise) : 2, level = 2 * (size - 4) + ((noise >> (size - 2)) & 1);
    return level < 0 ? 0 : level > NOISE_LEVELS - 2 ? NOISE_LEVELS - 2 : level;
}

static int64_t apart(int64_t a, int64_t b) {
    int64_t off = (int64_t)((uint64_t)a - (uint64_t)b);
    uint64_t size = off < 0 ? -(uint64_t)off : (uint64_t)off;
    return (int64_t)(size < (uint64_t)MOST_SURPRISE ? size : (uint64_t)MOST_SURPRISE);
}

static int64_t roughness(const walk *w, int64_t step, int64_t lane, int64_t width) {
    int64_t before = back(w, step, lane, 1), above = back(w, step, lane, width), beyond = back(w, step, lane, width + 1);
    int64_t beside = back(w, step, lane, width > 1 ? width - 1 : 1);
    return noise_level((apart(before, beyond) + apart(above, beyond) + apart(above, beside)) << 6);
}

/* What all elements before add to the predictions of a step of vectors. */
static void weigh(const walk *w, int64_t step) {
    int64_t n = w->lanes ? w->n_lanes : w->edges[step + 1] - w->edges[step];
    for (int64_t lane = 0; lane < n; lane++) w->sums[lane] = 0;
    for (int64_t k = 0; k < step; k++) {
        uint64_t weight = (uint64_t)(int64_t)w->dense[step * w->n_dense + k];
        const int64_t *past = w->past + k * w->n_lanes;
        if (weight)
            for (int64_t lane = 0; lane < n; lane++) w->sums[lane] = (int64_t)((uint64_t)w->sums[lane] + weight * (uint64_t)past[lane]);
    }
    for (int64_t lane = 0; lane < n; lane++)
        w->sums[lane] = (int64_t)(((uint64_t)w->sums[lane] << (SHIFT - w->dense_shift)) + (uint64_t)w->bias[step]);
}

/* Predictions of a step, and what its rows add to their contexts. */
static void predict(const walk *w, digit *digits, int64_t step) {
    int64_t first = w->edges[step];
    if (w->n_dense) weigh(w, step);
    for (int64_t i = first; i < w->edges[step + 1]; i++) {
        int64_t lane = w->lanes ? w->lanes[i] : i - first;
        uint64_t total = (uint64_t)w->fixed[i] + (w->n_dense ? (uint64_t)w->sums[lane] : 0);
        for (int64_t k = 0; step && k < w->n_terms; k++) {
            int64_t back = step > w->lags[k] ? step - w->lags[k] : 0;
            total += (uint64_t)w->weights[k] * (uint64_t)w->past[back * w->n_lanes + lane];
        }
        int64_t level = step < 2 ? NOISE_LEVELS - 1 : noise_level(w->noise[lane]);
        w->guess[i] = (int64_t)total >> SHIFT;
        w->fraction[i] = ((int64_t)total >> (SHIFT - 3)) & 7;
        w->level[i] = (uint8_t)level;
        int64_t cells[MAX_MATCHES];
        for (int64_t k = 0; k < w->n_matches; k++) cells[k] = recall(w, &w->matches[k], step, lane, i);
        if (w->leader >= 0 && cells[w->leader] >= 0) {
            w->guess[i] = w->matches[w->leader].values[cells[w->leader]];
            w->fraction[i] = 0;
        }
        for (int64_t k = 0; k < w->n_matches; k++) w->matches[k].level[i] = match_level(&w->matches[k], cells[k], w->guess[i]);
        for (int64_t k = 0; digits && k < w->n_own; k++) {
            const own_feature *f = &w->own[k];
            int64_t found = level;
            if (f->kind == LEFT) found = step ? bins(f, w->past[(step - 1) * w->n_lanes + lane]) : f->n_edges + 1;
            if (f->kind == GUESS) found = bins(f, w->guess[i]);
            if (f->kind == FRACTION) found = w->fraction[i];
            if (f->kind == MATCH) found = w->matches[f->which].level[i];
            if (f->kind == BACK) found = step ? bins(f, back(w, step, lane, f->which)) : f->n_edges + 1;
            if (f->kind == ROUGH) found = step ? roughness(w, step, lane, f->which) : NOISE_LEVELS - 1;
            digit *d = &digits[f->digit];
            for (int64_t at = 0; at <= d->depth; at++)
                if (f->strides[at]) ((int32_t *)d->contexts[at])[i] += (int32_t)(found * f->strides[at]);
        }
    }
}

/* Values of a step, now known. */
static void remember(const walk *w, int64_t step, const int64_t *values) {
    int64_t first = w->edges[step];
    if (step && w->lanes) /* cells without a value stand for those before them */
        for (int64_t lane = 0; lane < w->n_lanes; lane++) w->past[step * w->n_lanes + lane] = w->past[(step - 1) * w->n_lanes + lane];
    for (int64_t i = first; i < w->edges[step + 1]; i++) {
        int64_t lane = w->lanes ? w->lanes[i] : i - first;
        int64_t off = (int64_t)((uint64_t)values[i] - (uint64_t)w->guess[i]);
        uint64_t size = off < 0 ? -(uint64_t)off : (uint64_t)off;
        int64_t surprise = (int64_t)(size < (uint64_t)MOST_SURPRISE ? size : (uint64_t)MOST_SURPRISE) << 8;
        w->past[step * w->n_lanes + lane] = values[i];
        w->noise[lane] = step == 1 ? surprise : w->noise[lane] + ((surprise - w->noise[lane]) >> 3);
    }
    for (int64_t k = 0; k < w->n_matches; k++) {
        const match *m = &w->matches[k];
        for (int64_t i = first; step >= m->reach && i < w->edges[step + 1]; i++) {
            uint64_t key = m->now[w->lanes ? w->lanes[i] : i - first], cell = key >> (64 - m->bits);
            m->keys[cell] = key;
            m->values[cell] = values[i];
        }
    }
}

static int64_t join(const walk *w, const int64_t *const *symbols, int64_t n_digits, int64_t raw, int64_t i) {
    int64_t token = symbols[0][i];
    if (token == w->escape) return raw;
    uint64_t below = n_digits > 1 ? (uint64_t)symbols[1][i] : 0;
    if (!w->is_residual) return (int64_t)((((uint64_t)token << w->shift) | below) + (uint64_t)w->lo);
    int64_t kind = (token + 1) >> 1, extra = kind < 4 ? 0 : ((kind - 4) >> 1) + 1, low = extra > 5 ? extra - 5 : 0;
    uint64_t rest = ((below << low) | (uint64_t)raw) & (((uint64_t)1 << extra) - 1);
    uint64_t size = rest + (kind < 4 ? (uint64_t)kind : (uint64_t)(2 + (kind & 1)) << extra);
    return (int64_t)((uint64_t)w->guess[i] + (token & 1 ? -size : size));
}

/* Walk over known values: predictions of all rows, and their contexts where there are digits. */
void lp_walk(const walk *w, digit *digits, const int64_t *values) {
    for (int64_t step = 0; step < w->n_steps; step++) {
        predict(w, digits, step);
        remember(w, step, values);
    }
}

/* As lp_read, for rows one after another; `values` takes what the symbols make. */
int64_t lp_read_forward(digit *digits, int64_t n_digits, const walk *w, const uint8_t *n_raw, uint64_t *state, uint32_t *words,
                        int64_t n_words, const int64_t *folds, int64_t n_folds, int64_t *at, int64_t *const *symbols, int64_t *raw,
                        int64_t *values) {
    smoother *smooth = SMOOTH_BEST;
    stream in = {state, words, n_words, folds, n_folds, at[0], at[1], at[2], at[3], 0};
    for (int64_t step = 0; step < w->n_steps; step++) {
        predict(w, digits, step);
        for (int64_t start = w->edges[step], stop; start < w->edges[step + 1]; start = stop) {
            int64_t length = start / 2 < 64 ? 64 : start / 2;
            stop = start + (length < w->last_chunk ? length : w->last_chunk);
            if (stop > w->edges[step + 1]) stop = w->edges[step + 1];
            for (int64_t k = 0; k < n_digits; k++) {
                const int64_t *before = k ? symbols[k - 1] : 0;
                if (!read_digit(&digits[k], smooth, &in, start, stop, before, symbols[k])) return in.error;
                learn(&digits[k], start, stop, before, symbols[k]);
            }
            if (!read_raw(n_raw, &in, start, stop, symbols[0], raw)) return in.error;
        }
        for (int64_t i = w->edges[step]; i < w->edges[step + 1]; i++)
            values[i] = join(w, (const int64_t *const *)symbols, n_digits, raw[i], i);
        remember(w, step, values);
    }
    at[0] = in.position, at[1] = in.lanes, at[2] = in.step, at[3] = in.fold;
    return 0;
}

/* The slots of the symbols of a pass as lp_read will ask for them; lengths of the steps they make. Returns the number of steps. */
int64_t lp_write(digit *digits, int64_t n_digits, const int64_t *ends, int64_t n_chunks, const uint8_t *n_raw,
                 const int64_t *const *symbols, const int64_t *raw, uint32_t *low, uint32_t *width, int64_t *lengths) {
    smoother *smooth = SMOOTH_BEST;
    int64_t at = 0, n_steps = 0;
    for (int64_t chunk = 0, start = 0; chunk < n_chunks; start = ends[chunk++]) {
        for (int64_t k = 0; k < n_digits; k++) {
            digit *d = &digits[k];
            const int64_t *before = k ? symbols[k - 1] : 0;
            for (int64_t i = start; i < ends[chunk]; i++, at++) {
                int64_t row = row_of(d, smooth, i, before ? before[i] : 0);
                const uint32_t *edge = d->cumulative + row * (d->n_symbols + 1) + symbols[k][i];
                low[at] = (uint32_t)(int64_t)(edge[0] * d->scale[row]);
                width[at] = (uint32_t)(int64_t)(edge[1] * d->scale[row]) - low[at];
            }
            lengths[n_steps++] = ends[chunk] - start;
            learn(d, start, ends[chunk], before, symbols[k]);
        }
        int more = 1;
        for (int64_t done = 0; done < 64 && more; done += 16) {
            int64_t first = at;
            more = 0;
            for (int64_t i = start; i < ends[chunk]; i++) {
                int64_t left = n_raw[symbols[0][i]] - done;
                if (left <= 0) continue;
                more |= left > 16;
                int64_t n_bits = left < 16 ? left : 16, shift = SLOT_BITS - n_bits;
                low[at] = (uint32_t)((((uint64_t)raw[i] >> done) & (((uint64_t)1 << n_bits) - 1)) << shift);
                width[at++] = (uint32_t)1 << shift;
            }
            lengths[n_steps++] = at - first;
        }
    }
    return n_steps;
}

/* Encode steps of slots backwards; words are written downwards from words[position - 1]. `at` is position, lanes, step (those
   not yet encoded), number of folds, and moves on; where there are words for it, lanes double up to `most`. */
void lp_encode(const uint32_t *low, const uint32_t *width, const int64_t *lengths, int64_t n_steps, uint64_t *state, int64_t most,
               uint32_t *words, int64_t n_words, int64_t *folds, int64_t *at) {
    int64_t end = 0, position = at[0], lanes = at[1];
    for (int64_t k = 0; k < n_steps; k++) end += lengths[k];
    for (int64_t k = n_steps - 1; k >= 0; end -= lengths[k--]) {
        if (!lengths[k]) continue;
        int64_t lane = (lengths[k] - 1) % lanes;
        for (int64_t i = end - 1; i >= end - lengths[k]; i--) {
            uint64_t x = state[lane], w = width[i];
            if ((x >> 40) >= w) {
                words[--position] = (uint32_t)x;
                x >>= 32;
            }
            state[lane] = ((x / w) << SLOT_BITS) + x % w + low[i];
            lane = lane ? lane - 1 : lanes - 1;
        }
        for (at[2]--; at[2] && lanes < most && n_words - position >= lanes; lanes *= 2) {
            for (int64_t i = 0; i < lanes; i++) state[lanes + i] = LOWER + words[position++];
            folds[at[3]++] = at[2];
        }
    }
    at[0] = position, at[1] = lanes;
}
