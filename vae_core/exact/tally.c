/* What the search for contexts counts: symbols under contexts, and rows that repeat what their key last held. costs.py and keys.py
   are the specification; sums of logarithms are theirs up to rounding. Sizes, numbers and levels were checked by the caller. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define MANY 8 /* a count above which a product of its terms costs more than two logarithms */
#define ROOM(n) (4 * (n) + 4096)
#define FEW(n) (2 * (n)) /* cells that are looked through sooner than numbered */

/* Numbers in order of first sight: by a look-up where keys are few, else by hashing with linear probing. */
typedef struct {
    int32_t *ids; /* 1 + the number of a key, 0: free */
    uint64_t *keys;
    int64_t n, mask;
    int dense, shift;
} numbering;

typedef struct {
    int32_t *ids;          /* ROOM(n) */
    uint64_t *keys;        /* ROOM(n) */
    int32_t *context;      /* of each row */
    int32_t *pair;         /* of each row */
    int32_t *total;        /* of each context */
    int32_t *count, *owner; /* of each pair of context and symbol */
    double *prior;
} workspace;

static workspace workspace_of(int64_t n, uint64_t *at) {
    workspace w;
    int64_t room = ROOM(n);
    w.keys = at, at += room;
    w.prior = (double *)at, at += FEW(n);
    w.ids = (int32_t *)at;
    w.context = w.ids + room;
    w.pair = w.context + n;
    w.owner = w.pair + n;
    w.total = w.owner + n;
    w.count = w.total + FEW(n);
    return w;
}

/* 64-bit numbers a workspace for n rows takes. */
int64_t lp_workspace(int64_t n) { return ROOM(n) + FEW(n) + (ROOM(n) + 3 * n + 2 * FEW(n) + 1) / 2; }

static numbering number_of(const workspace *w, int64_t n, uint64_t range) {
    numbering t = {w->ids, w->keys, 0, 0, range <= (uint64_t)ROOM(n), 63};
    int64_t slots = 2;
    while (slots < 2 * n) slots *= 2, t.shift--;
    t.mask = slots - 1;
    memset(t.ids, 0, sizeof *t.ids * (t.dense ? range : (uint64_t)slots));
    return t;
}

static inline int32_t find(numbering *t, uint64_t key) {
    uint64_t at = key;
    if (!t->dense) {
        at = (key * 0x9E3779B97F4A7C15u) >> t->shift;
        while (t->ids[at] && t->keys[at] != key) at = (at + 1) & (uint64_t)t->mask;
        t->keys[at] = key;
    }
    if (!t->ids[at]) t->ids[at] = (int32_t)++t->n;
    return t->ids[at] - 1;
}

typedef struct {
    int64_t n, n_contexts, n_symbols;
    const int32_t *context, *symbols;
    const double *chance;
} chain;

/* Count the pairs of symbols and contexts one level deeper. Returns the number of contexts, and of pairs. */
static int64_t count(const chain *c, const int32_t *level, int64_t stride, int64_t size, workspace *w, int64_t *n_pairs) {
    int64_t n = c->n;
    numbering contexts = number_of(w, n, (uint64_t)c->n_contexts * (uint64_t)size);
    for (int64_t i = 0; i < n; i++) {
        int64_t before = contexts.n;
        int32_t k = find(&contexts, (uint64_t)c->context[i] * (uint64_t)size + (uint64_t)level[i * stride]);
        if (contexts.n > before) w->total[k] = 0;
        w->total[k]++;
        w->context[i] = k;
    }
    numbering pairs = number_of(w, n, (uint64_t)contexts.n * (uint64_t)c->n_symbols);
    for (int64_t i = 0; i < n; i++) {
        int64_t before = pairs.n;
        int32_t k = find(&pairs, (uint64_t)w->context[i] * (uint64_t)c->n_symbols + (uint64_t)c->symbols[i]);
        if (pairs.n > before) w->count[k] = 0, w->owner[k] = w->context[i], w->prior[k] = c->chance[i];
        w->count[k]++;
        w->pair[i] = k;
    }
    *n_pairs = pairs.n;
    return contexts.n;
}

/* The same without numbers, where the products of all ranges are few: contexts and pairs are what they are, some of them empty. */
static int64_t count_all(const chain *c, const int32_t *level, int64_t stride, int64_t size, workspace *w, int64_t *n_pairs) {
    int64_t found = c->n_contexts * size;
    *n_pairs = found * c->n_symbols;
    memset(w->total, 0, sizeof *w->total * (uint64_t)found);
    memset(w->count, 0, sizeof *w->count * (uint64_t)*n_pairs);
    for (int64_t i = 0; i < c->n; i++) {
        int64_t k = c->context[i] * size + level[i * stride], pair = k * c->n_symbols + c->symbols[i];
        w->total[k]++;
        w->count[pair]++;
        w->prior[pair] = c->chance[i];
    }
    return found;
}

/* log Gamma(z) but for a constant, z >= MANY: Stirling's series. */
static double stirling(double z) {
    double inverse = 1 / z, square = inverse * inverse;
    return (z - 0.5) * log(z) - z + inverse * (1.0 / 12 - square * (1.0 / 360 - square / 1260));
}

/* Sum over pairs of log(Gamma(a prior + count) / Gamma(a prior)): a product of its terms where these are few. */
static double rising(const workspace *w, int64_t n_pairs, double a) {
    double sum = 0, product = 1;
    for (int64_t k = 0; k < n_pairs; k++) {
        int32_t n = w->count[k];
        if (!n) continue;
        double x = a * w->prior[k];
        if (n > MANY) sum += stirling(x + n) - stirling(x + MANY);
        for (int32_t j = 0; j < (n > MANY ? MANY : n); j++) product *= x + j;
        if (product < 1e-150 || product > 1e150) sum += log(product), product = 1;
    }
    return sum + log(product);
}

static double cost(const workspace *w, int64_t n_contexts, int64_t n_pairs, double a, const double *table) {
    double above = 0;
    for (int64_t k = 0; k < n_contexts; k++) above += table[w->total[k]];
    return (above - rising(w, n_pairs, a)) / 0.6931471805599453;
}

/* Bits of a chain with one more feature by the best of the weights, for each of many: (n,) levels every `strides` int32, below their
   size. Each of the tables holds log(Gamma(a + k) / Gamma(a)) for k = 0..n, a = weight / 16. */
void lp_rank(int64_t n, int64_t n_contexts, int64_t n_symbols, const int32_t *context, const int32_t *symbols, const double *chance,
             int64_t n_features, const int32_t *const *levels, const int64_t *strides, const int64_t *sizes, int64_t n_weights,
             const int64_t *weights, const double *const *tables, uint64_t *scratch, double *bits) {
    chain c = {n, n_contexts, n_symbols, context, symbols, chance};
    workspace w = workspace_of(n, scratch);
    for (int64_t f = 0; f < n_features; f++) {
        int64_t few = n_contexts * sizes[f] * n_symbols <= FEW(n);
        int64_t n_pairs, found = (few ? count_all : count)(&c, levels[f], strides[f], sizes[f], &w, &n_pairs);
        for (int64_t k = 0; k < n_weights; k++) {
            double trial = cost(&w, found, n_pairs, (double)weights[k] / 16, tables[k]);
            if (!k || trial < bits[f]) bits[f] = trial;
        }
    }
}

/* The chain with one more feature: bits by the best of the weights, which of them it is, bits of the plug-in chances; of every row
   its context and its chance. Returns the number of contexts. */
int64_t lp_extend(int64_t n, int64_t n_contexts, int64_t n_symbols, const int32_t *context, const int32_t *symbols, const double *chance,
                  const int32_t *level, int64_t stride, int64_t size, int64_t n_weights, const int64_t *weights,
                  const double *const *tables, uint64_t *scratch, double *bits, int32_t *new_context, double *new_chance) {
    chain c = {n, n_contexts, n_symbols, context, symbols, chance};
    workspace w = workspace_of(n, scratch);
    int64_t n_pairs, found = count(&c, level, stride, size, &w, &n_pairs), best = 0;
    for (int64_t k = 0; k < n_weights; k++) {
        double trial = cost(&w, found, n_pairs, (double)weights[k] / 16, tables[k]);
        if (!k || trial < bits[0]) bits[0] = trial, best = k;
    }
    double a = (double)weights[best] / 16, plug_in = 0;
    for (int64_t k = 0; k < n_pairs; k++) {
        w.prior[k] = (w.count[k] + a * w.prior[k]) / (w.total[w.owner[k]] + a);
        plug_in -= w.count[k] * log2(w.prior[k]);
    }
    bits[1] = plug_in, bits[2] = (double)best;
    memcpy(new_context, w.context, sizeof *new_context * (uint64_t)n);
    for (int64_t i = 0; i < n; i++) new_chance[i] = w.prior[w.pair[i]];
    return found;
}

/* Of rows with keys below `range` and values: how many have a row before them with their key, and with the same value there. */
void lp_recalled(int64_t n, const int64_t *key, uint64_t range, const int64_t *values, uint64_t *scratch, int64_t *seen_same) {
    workspace w = workspace_of(n, scratch);
    numbering keys = number_of(&w, n, range);
    int32_t *last = w.context;
    for (int64_t i = 0; i < n; i++) {
        int64_t before = keys.n;
        int32_t k = find(&keys, (uint64_t)key[i]);
        if (keys.n == before) {
            seen_same[0]++;
            seen_same[1] += values[last[k]] == values[i];
        }
        last[k] = (int32_t)i;
    }
}

/* Keys below `range` by their first sight: the number of each row's. Returns how many there are. */
int64_t lp_number(int64_t n, const int64_t *key, uint64_t range, uint64_t *scratch, int64_t *number) {
    workspace w = workspace_of(n, scratch);
    numbering keys = number_of(&w, n, range);
    for (int64_t i = 0; i < n; i++) number[i] = find(&keys, (uint64_t)key[i]);
    return keys.n;
}

/* exact/above.py: the lags that cost least. scaled: (n_columns, n) bytes. costs: bytes, best: uint32, since: int32, a place for each lag;
   likely, began: of each row. Lags stand from the farthest to the nearest, so that the rows they lead to stand in their order. */
void lp_above(const uint8_t *scaled, int64_t n_columns, int64_t n, int64_t nearest, int64_t farthest, int64_t far, int64_t jump,
              uint8_t *restrict costs, uint32_t *restrict best, int32_t *restrict since, int32_t *likely, int32_t *began) {
    int64_t n_lags = farthest - nearest + 1;
    uint32_t least = (uint32_t)jump;
    for (int64_t row = 0; row < n; row++) {
        /* lags that lead before the first row */
        int64_t none = row < farthest ? farthest - row : 0;
        if (none > n_lags) none = n_lags;
        for (int64_t k = 0; k < none; k++) costs[k] = (uint8_t)(n_columns * far);
        for (int64_t k = none; k < n_lags; k++) costs[k] = 0;
        for (int64_t c = 0; c < n_columns; c++) {
            const uint8_t *restrict above = scaled + c * n + row - farthest;
            uint8_t own = scaled[c * n + row], most = (uint8_t)far;
            for (int64_t k = none; k < n_lags; k++) {
                uint8_t off = (uint8_t)(above[k] - own), back = (uint8_t)(own - above[k]);
                off = off < back ? off : back;
                costs[k] += off < most ? off : most;
            }
        }
        uint32_t lowest = UINT32_MAX;
        for (int64_t k = 0; k < n_lags; k++) {
            int jumps = best[k] > least;
            since[k] = jumps ? (int32_t)row : since[k];
            best[k] = (jumps ? least : best[k]) + costs[k];
            lowest = best[k] < lowest ? best[k] : lowest;
        }
        int64_t last = n_lags - 1; /* the nearest of equals */
        while (best[last] != lowest) last--;
        likely[row] = (int32_t)(farthest - last);
        began[row] = since[last];
        least = lowest + (uint32_t)jump;
    }
}
