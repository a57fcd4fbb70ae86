/* The inner loops of the coder. rans.py and counts.py are the specification: every function here gives their bits.
   All sizes and indices were checked by the caller, but for `position`, which a hostile stream controls. */

#include <stdint.h>

#define SLOT_BITS 24
#define LOWER ((uint64_t)1 << 32)

/* Decode n symbols, symbol i under row table[i] of cumulative (rows of n_symbols + 1). Returns the new position, -1 when
   the words ran out. */
int64_t lp_decode(const int64_t *cumulative, int64_t n_symbols, const int64_t *table, int64_t n, uint64_t *state,
                  int64_t lanes, const uint32_t *words, int64_t n_words, int64_t position, int64_t *out) {
    for (int64_t start = 0; start < n; start += lanes) {
        int64_t stop = start + lanes < n ? start + lanes : n;
        for (int64_t i = start; i < stop; i++) {
            const int64_t *row = cumulative + table[i] * (n_symbols + 1);
            uint64_t x = state[i - start];
            int64_t slot = (int64_t)(x & (((uint64_t)1 << SLOT_BITS) - 1));
            int64_t total = row[n_symbols];
            int64_t target = ((slot + 1) * total - 1) >> SLOT_BITS;
            int64_t first = 0, count = n_symbols;
            while (count > 1) {
                int64_t half = count >> 1;
                first = row[first + half] <= target ? first + half : first;
                count -= half;
            }
            int64_t low = (row[first] << SLOT_BITS) / total;
            int64_t high = (row[first + 1] << SLOT_BITS) / total;
            x = (uint64_t)(high - low) * (x >> SLOT_BITS) + (uint64_t)(slot - low);
            if (x < LOWER) {
                if (position >= n_words) return -1;
                x = (x << 32) | words[position++];
            }
            state[i - start] = x;
            out[i] = first;
        }
    }
    return position;
}

/* Decode n integers below 2^n_bits[i]. */
int64_t lp_decode_raw(const int64_t *n_bits, int64_t n, uint64_t *state, int64_t lanes, const uint32_t *words,
                      int64_t n_words, int64_t position, int64_t *out) {
    for (int64_t start = 0; start < n; start += lanes) {
        int64_t stop = start + lanes < n ? start + lanes : n;
        for (int64_t i = start; i < stop; i++) {
            int64_t shift = SLOT_BITS - n_bits[i];
            uint64_t x = state[i - start];
            uint64_t slot = x & (((uint64_t)1 << SLOT_BITS) - 1);
            uint64_t symbol = slot >> shift;
            out[i] = (int64_t)symbol;
            x = ((x >> SLOT_BITS) << shift) + (slot - (symbol << shift));
            if (x < LOWER) {
                if (position >= n_words) return -1;
                x = (x << 32) | words[position++];
            }
            state[i - start] = x;
        }
    }
    return position;
}

/* Encode one step of n slots backwards; words are written downwards from words[position - 1]. Returns the new position. */
int64_t lp_encode(const uint32_t *low, const uint32_t *width, int64_t n, uint64_t *state, int64_t lanes, uint32_t *words,
                  int64_t position) {
    if (n == 0) return position;
    for (int64_t start = (n - 1) / lanes * lanes; start >= 0; start -= lanes) {
        int64_t stop = start + lanes < n ? start + lanes : n;
        for (int64_t i = stop - 1; i >= start; i--) {
            uint64_t x = state[i - start], w = width[i];
            if ((x >> 40) >= w) {
                words[--position] = (uint32_t)x;
                x >>= 32;
            }
            state[i - start] = ((x / w) << SLOT_BITS) + x % w + low[i];
        }
    }
    return position;
}

/* The slots of n symbols: low and width of each. */
void lp_slots(const int64_t *cumulative, int64_t n_symbols, const int64_t *table, const int64_t *symbols, int64_t n,
              uint32_t *low, uint32_t *width) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t *row = cumulative + table[i] * (n_symbols + 1);
        int64_t total = row[n_symbols];
        int64_t first = (row[symbols[i]] << SLOT_BITS) / total;
        low[i] = (uint32_t)first;
        width[i] = (uint32_t)((row[symbols[i] + 1] << SLOT_BITS) / total - first);
    }
}

/* counts[context[i], symbols[i]] += 1 */
void lp_count(int32_t *counts, int64_t n_symbols, const int64_t *context, const int64_t *symbols, int64_t n) {
    for (int64_t i = 0; i < n; i++) counts[context[i] * n_symbols + symbols[i]]++;
}

/* The cumulative frequencies of every distinct deepest context among n rows, in order of appearance, and the row of each.
   counts[k], contexts[k], weights[k] for levels 0..depth; row_of (n_contexts of the deepest level) holds -1 everywhere, and
   does so again on return; chance is scratch of 2 * n_symbols. Returns the number of distinct contexts. */
int64_t lp_chain(int64_t depth, int32_t *const *counts, const int64_t *const *contexts, const int64_t *weights,
                 int64_t n_symbols, int64_t n, int64_t *row_of, int64_t *chance, int64_t *cumulative, int64_t *table) {
    const int64_t *deepest = contexts[depth];
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = row_of[deepest[i]];
        if (row < 0) {
            row = row_of[deepest[i]] = found++;
            int64_t *above = chance, *below = chance + n_symbols;
            for (int64_t s = 0; s < n_symbols; s++) above[s] = ((int64_t)1 << 20) / n_symbols;
            for (int64_t k = 0; k <= depth; k++) {
                const int32_t *count = counts[k] + contexts[k][i] * n_symbols;
                int64_t total = 0, weight = weights[k];
                for (int64_t s = 0; s < n_symbols; s++) total += count[s];
                double denominator = (double)((total << 4) + weight);
                for (int64_t s = 0; s < n_symbols; s++)
                    below[s] = (int64_t)((double)(((int64_t)count[s] << 24) + weight * above[s]) / denominator);
                int64_t *swap = above;
                above = below;
                below = swap;
            }
            int64_t *out = cumulative + row * (n_symbols + 1), sum = 0;
            for (int64_t s = 0; s < n_symbols; s++) {
                out[s] = sum;
                sum += above[s] + 1;
            }
            out[n_symbols] = sum;
        }
        table[i] = row;
    }
    for (int64_t i = 0; i < n; i++) row_of[deepest[i]] = -1;
    return found;
}
