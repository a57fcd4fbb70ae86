/* One pass over a column by compiled code: contexts to frequencies, frequencies to symbols, symbols to counts, chunk after chunk.
   rans.py and exact/counts.py are the specification: every function here gives their bits. Sizes, context numbers and symbols to
   be written were checked by the caller; what a hostile stream controls is `position` alone, and that is checked here: whatever
   the states hold, a symbol found is one of its alphabet, so every context number made from it lies inside its table. */

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#define SLOT_BITS 24
#define SLOT_MASK (((uint64_t)1 << SLOT_BITS) - 1)
#define LOWER ((uint64_t)1 << 32)
#define MAX_DEPTH 8
#define MAX_DIGITS 2
#define AHEAD 12 /* rows whose contexts are on their way to the cache */
#define SOON 3   /* contexts whose counts are */
/* A product with an inverse this much too large is never below the true quotient, and with quotients up to 2^24 and divisors up
   to 2^27 (rows of a block: 2^22, in sixteenths, and a weight) never reaches the next integer: truncated, it is the floor of the quotient. */
#define UP (1.0 + 0x1p-50)

typedef struct {
    int32_t place; /* of its counts, 0: none yet */
    int32_t row;   /* 1 + its row in this chunk, 0: none yet */
} context;

typedef uint16_t symbol; /* alphabets have 512 at most */

/* Of counts. */
typedef struct {
    int32_t total;  /* symbols counted */
    int32_t number; /* the context they are of */
} counted;

/* A context that a chunk meets for the first time. */
typedef struct {
    int32_t place, above; /* its counts, the row of chances of the level above */
    int32_t at;           /* a row of the chunk that has it */
} fresh;

typedef struct {
    int64_t n_symbols, depth;        /* levels 0..depth; level 0 has one context */
    int64_t width;                   /* from one row of a table of counts or chances to the next: what is behind its symbols is 0 */
    const int64_t *weights;          /* of each level */
    const int64_t *strides;          /* of each level: what the digit before counts in the context number */
    context *const *seen;            /* of each level, (contexts,) */
    int32_t *const *counts;          /* of each level, of each place, (width,): those of contexts that were met, one after another, for
                                        there may be many more; the first are nobody's and 0 */
    counted *const *counted;         /* of each level, of each place */
    int64_t *n_places;               /* of each level, without the first */
    int32_t *const *contexts;        /* of each level, of each row of the pass, without the digit before; NULL: all 0. Of rows one
                                        after another what other columns tell: the rest is found step by step */
    fresh *const *fresh;             /* of each level, room for a chunk's and one more */
    double *chance;                  /* rows of all levels but the deepest, those of a chunk, times the weight of the level below; row
                                        0 has no context and no counts */
    uint32_t *cumulative;            /* rows of the deepest level, n_symbols + 1, in width + 1 */
    double *scale;                   /* of each of them: 2^24 / total */
    int32_t *rows;                   /* of each row of a chunk: which of them is its */
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

/* The slots of a symbol from its cumulative frequencies, which are below 2^31. */
static inline void slots_of(const uint32_t *edge, double scale, uint32_t *low, uint32_t *width) {
#if defined(__x86_64__) && defined(__GNUC__)
    __m128d both = _mm_mul_pd(_mm_cvtepi32_pd(_mm_loadl_epi64((const __m128i *)edge)), _mm_set1_pd(scale));
    uint64_t ends = (uint64_t)_mm_cvtsi128_si64(_mm_cvttpd_epi32(both));
    *low = (uint32_t)ends;
    *width = (uint32_t)(ends >> 32) - *low;
#else
    *low = (uint32_t)(int64_t)(edge[0] * scale);
    *width = (uint32_t)(int64_t)(edge[1] * scale) - *low;
#endif
}

/* How many of the sums behind a row's symbols are not above a target: the symbol it falls to. */
static inline int64_t fallen_plain(const uint32_t *cumulative, uint32_t target, int64_t n) {
    int64_t first = 0;
    while (n > 1) {
        int64_t half = n >> 1;
        first = cumulative[first + half] <= target ? first + half : first;
        n -= half;
    }
    return first;
}

/* Read a symbol of each of n lanes that all may take a word. Returns how many did. */
#define READ_TILE(FALLEN)                                                                                                          \
    int64_t n_symbols = d->n_symbols, width = d->width + 1, used = 0;                                                              \
    for (int64_t lane = 0; lane < n; lane++) {                                                                                     \
        const uint32_t *sums = d->cumulative + rows[lane] * width;                                                                 \
        uint64_t x = state[lane], slot = x & SLOT_MASK;                                                                            \
        int64_t first = FALLEN(sums, (uint32_t)(((slot + 1) * sums[n_symbols] - 1) >> SLOT_BITS), n_symbols);                      \
        uint32_t low, size;                                                                                                        \
        slots_of(sums + first, d->scale[rows[lane]], &low, &size);                                                                 \
        x = (uint64_t)size * (x >> SLOT_BITS) + slot - low;                                                                        \
        uint64_t filled = (x << 32) | words[used], hungry = x < LOWER; /* by arithmetic: which lanes are is not to be predicted */ \
        state[lane] = x ^ ((x ^ filled) & -hungry);                                                                                \
        symbols[lane] = (symbol)first;                                                                                             \
        used += (int64_t)hungry;                                                                                                   \
    }                                                                                                                              \
    return used;

static int64_t read_tile_plain(const digit *restrict d, const int32_t *restrict rows, int64_t n, uint64_t *restrict state,
                               const uint32_t *restrict words, symbol *restrict symbols) {
    READ_TILE(fallen_plain)
}

/* (2^24 count + weight above) / total in sixteenths and weight, rounded down, `above` times weight as the level above left it. All but
   the quotient are whole numbers below 2^47: a product and a sum in one rounding are the same number. */
#define CHANCE(s) ((int32_t)(((double)count[s] * 16777216.0 + above[s]) * inverse))

/* Chances times the weight of the level below. */
static void smooth_plain(const int32_t *restrict count, const double *restrict above, double inverse, int64_t n, double weight,
                         double *restrict below) {
    for (int64_t s = 0; s < n; s++) below[s] = weight * (double)CHANCE(s);
}

/* The sums of chances, one more of each symbol: `out` has n + 1 of them. */
static void finish_plain(const int32_t *restrict count, const double *restrict above, double inverse, int64_t n,
                         uint32_t *restrict out) {
    uint32_t sum = out[0] = 0;
    for (int64_t s = 0; s < n; s++) out[s + 1] = sum += (uint32_t)CHANCE(s) + 1;
}

#if defined(__x86_64__) && defined(__GNUC__)

#define AVX2 __attribute__((target("avx2,fma,popcnt")))
#if defined(__clang__) && !defined(__apple_build_version__) && __clang_major__ >= 18 && __clang_major__ < 22
#define WIDE ",evex512" /* these releases ask for it where their baseline was named, others do not know it */
#else
#define WIDE ""
#endif
#define AVX512 __attribute__((target("avx2,fma,popcnt,avx512f,avx512vl" WIDE)))

/* Of four symbols, not rounded yet. */
AVX2 static inline __m256d quotients_avx2(const int32_t *count, const double *above, __m256d inverse) {
    __m256d counted = _mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)count));
    return _mm256_mul_pd(_mm256_fmadd_pd(counted, _mm256_set1_pd(16777216.0), _mm256_loadu_pd(above)), inverse);
}

/* Of eight. */
AVX512 static inline __m512d quotients_avx512(const int32_t *count, const double *above, __m512d inverse) {
    __m512d counted = _mm512_cvtepi32_pd(_mm256_loadu_si256((const __m256i *)count));
    return _mm512_mul_pd(_mm512_fmadd_pd(counted, _mm512_set1_pd(16777216.0), _mm512_loadu_pd(above)), inverse);
}

AVX2 static void smooth_avx2(const int32_t *restrict count, const double *restrict above, double inverse, int64_t n, double weight,
                             double *restrict below) {
    const __m256d i = _mm256_set1_pd(inverse), w = _mm256_set1_pd(weight);
    int64_t s = 0;
    for (; s + 4 <= n; s += 4) _mm256_storeu_pd(below + s, _mm256_mul_pd(_mm256_floor_pd(quotients_avx2(count + s, above + s, i)), w));
    for (; s < n; s++) below[s] = weight * (double)CHANCE(s);
}

AVX512 static void smooth_avx512(const int32_t *restrict count, const double *restrict above, double inverse, int64_t n, double weight,
                                 double *restrict below) {
    const __m512d i = _mm512_set1_pd(inverse), w = _mm512_set1_pd(weight);
    int64_t s = 0;
    for (; s + 8 <= n; s += 8) {
        __m512d chance = _mm512_roundscale_pd(quotients_avx512(count + s, above + s, i), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        _mm512_storeu_pd(below + s, _mm512_mul_pd(chance, w));
    }
    for (; s < n; s++) below[s] = weight * (double)CHANCE(s);
}

/* Adds the sums of eight symbols to those before them, of which the last is in all of `before`. */
AVX2 static inline __m256i sums_of(__m256i chance, __m256i *before) {
    __m256i sum = _mm256_sub_epi32(chance, _mm256_set1_epi32(-1));
    sum = _mm256_add_epi32(sum, _mm256_slli_si256(sum, 4));
    sum = _mm256_add_epi32(sum, _mm256_slli_si256(sum, 8)); /* of each half by itself */
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(_mm256_permute2x128_si256(sum, sum, 0x08), 0xFF));
    __m256i all = _mm256_permutevar8x32_epi32(sum, _mm256_set1_epi32(7));
    sum = _mm256_add_epi32(sum, *before);
    *before = _mm256_add_epi32(*before, all);
    return sum;
}

AVX2 static inline __m256i chances_avx2(const int32_t *count, const double *above, __m256d inverse) {
    __m128i first = _mm256_cvttpd_epi32(quotients_avx2(count, above, inverse));
    __m128i second = _mm256_cvttpd_epi32(quotients_avx2(count + 4, above + 4, inverse));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
}

AVX512 static inline __m256i chances_avx512(const int32_t *count, const double *above, __m512d inverse) {
    return _mm512_cvttpd_epi32(quotients_avx512(count, above, inverse));
}

#define FINISH(CHANCES, INVERSE)                                                                                                   \
    __m256i before = _mm256_setzero_si256();                                                                                       \
    int64_t s = 0;                                                                                                                 \
    out[0] = 0;                                                                                                                    \
    for (; s + 8 <= n; s += 8)                                                                                                     \
        _mm256_storeu_si256((__m256i *)(out + 1 + s), sums_of(CHANCES(count + s, above + s, INVERSE), &before));                   \
    uint32_t sum = (uint32_t)_mm256_extract_epi32(before, 0);                                                                      \
    for (; s < n; s++) out[s + 1] = sum += (uint32_t)CHANCE(s) + 1;

AVX2 static void finish_avx2(const int32_t *restrict count, const double *restrict above, double inverse, int64_t n,
                             uint32_t *restrict out) {
    FINISH(chances_avx2, _mm256_set1_pd(inverse))
}

AVX512 static void finish_avx512(const int32_t *restrict count, const double *restrict above, double inverse, int64_t n,
                                 uint32_t *restrict out) {
    FINISH(chances_avx512, _mm512_set1_pd(inverse))
}

/* Eight sums at a time; those behind a row's symbols are above every target. */
AVX2 static inline int64_t fallen_avx2(const uint32_t *cumulative, uint32_t target, int64_t n) {
    int64_t first = 0;
    while (n > 64) {
        int64_t half = n >> 4 << 3; /* eights stay eights of the row */
        first = cumulative[first + half] <= target ? first + half : first;
        n -= half;
    }
    const __m256i above = _mm256_set1_epi32((int32_t)target);
    int64_t missed = 0, s = 0;
    for (; s < n; s += 8) {
        __m256i sums = _mm256_loadu_si256((const __m256i *)(cumulative + first + 1 + s));
        missed += __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(sums, above))));
    }
    return first + s - missed;
}

AVX2 static int64_t read_tile_avx2(const digit *restrict d, const int32_t *restrict rows, int64_t n, uint64_t *restrict state,
                                   const uint32_t *restrict words, symbol *restrict symbols) {
    if (d->n_symbols < 8) return read_tile_plain(d, rows, n, state, words, symbols);
    READ_TILE(fallen_avx2)
}

/* What the processor has and the system keeps the registers of. Asked here: what __builtin_cpu_supports looks at is filled in by the
   compiler's runtime, and zig's leaves it empty. */
static int64_t means_of_processor(void) {
    const unsigned basic = bit_OSXSAVE | bit_AVX | bit_FMA | bit_POPCNT, wide = bit_AVX512F | bit_AVX512VL;
    unsigned a, b, c, d, kept, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & basic) != basic) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return 0;
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(more) : "c"(0));
    if ((kept & 0x06) != 0x06) return 0;
    return (b & wide) == wide && (kept & 0xE6) == 0xE6 ? 2 : 1;
}

static int64_t had; /* asked once, when loaded: a virtual machine takes long to answer */
__attribute__((constructor)) static void ask_processor(void) { had = means_of_processor(); }

#define HAS_AVX2 (had >= 1)
#define HAS_AVX512 (HAS_AVX2 && had >= 2)
#else
#define smooth_avx2 smooth_plain
#define finish_avx2 finish_plain
#define read_tile_avx2 read_tile_plain
#define smooth_avx512 smooth_plain
#define finish_avx512 finish_plain
#define HAS_AVX2 0
#define HAS_AVX512 0
#endif

typedef struct {
    void (*smooth)(const int32_t *restrict, const double *restrict, double, int64_t, double, double *restrict);
    void (*finish)(const int32_t *restrict, const double *restrict, double, int64_t, uint32_t *restrict);
    int64_t (*read_tile)(const digit *restrict, const int32_t *restrict, int64_t, uint64_t *restrict, const uint32_t *restrict,
                         symbol *restrict);
} means;

/* Which of the means this processor has. */
int64_t lp_means(void) { return HAS_AVX512 ? 2 : HAS_AVX2 ? 1 : 0; }

static means best_means(void) {
    static const means all[] = {
        {smooth_plain, finish_plain, read_tile_plain},
        {smooth_avx2, finish_avx2, read_tile_avx2},
        {smooth_avx512, finish_avx512, read_tile_avx2},
    };
    return all[lp_means()];
}

#ifdef __GNUC__
#define PREFETCH(place) __builtin_prefetch(place)
#else
#define PREFETCH(place) ((void)0)
#endif

/* Context numbers of the rows of a chunk or a step, without the digit before: of each level, NULL where all are 0. */
typedef const int32_t *const *numbers;

static int64_t number(const digit *d, numbers contexts, int64_t k, int64_t i, int64_t before) {
    return d->strides[k] * before + (contexts[k] ? contexts[k][i] : 0);
}

/* The chances of a context of a level, into row `row`. */
static inline void smooth_row(const digit *d, const means *by, int64_t k, const fresh *one, int64_t row) {
    double inverse = UP / (16.0 * d->counted[k][one->place].total + (double)d->weights[k]);
    by->smooth(d->counts[k] + one->place * d->width, d->chance + one->above * d->width, inverse, d->width, (double)d->weights[k + 1],
               d->chance + row * d->width);
}

/* Counts that will be asked for. */
static inline void fetch(const digit *d, int64_t k, const fresh *one) {
    const int32_t *counts = d->counts[k] + one->place * d->width;
    for (int64_t s = 0; s < d->width; s += 16) PREFETCH(counts + s);
}

/* The rows of frequencies of a chunk: all digits before are known. First the contexts that it has, from long ones to short ones, without
   a branch on which are new; then their chances from short ones to long ones, counts on their way to the cache. */
static void find_rows(digit *d, const means *by, numbers contexts, int64_t start, int64_t stop, const symbol *before) {
    int64_t n = stop - start, n_fresh[MAX_DEPTH], base[MAX_DEPTH], depth = d->depth, stride = before ? d->strides[depth] : 0;
    const int32_t *own = contexts[depth];
    context *seen = d->seen[depth];
    int32_t *rows = d->rows;
    fresh *found = d->fresh[depth];
    if (own && stride)
        for (int64_t j = 0; j < n; j++) rows[j] = own[start + j] + (int32_t)(stride * before[start + j]);
    else if (own)
        for (int64_t j = 0; j < n; j++) rows[j] = own[start + j];
    else
        for (int64_t j = 0; j < n; j++) rows[j] = stride ? (int32_t)(stride * before[start + j]) : 0;
    int32_t n_found = 0;
    for (int64_t j = 0; j < n; j++) {
        if (j + AHEAD < n) PREFETCH(&seen[rows[j + AHEAD]]);
        context *here = &seen[rows[j]];
        int32_t row = here->row;
        found[n_found] = (fresh){here->place, 0, (int32_t)j};
        n_found += !row;
        here->row = row = row ? row : n_found;
        rows[j] = row - 1;
    }
    n_fresh[depth] = n_found;
    int32_t n_chance = 2; /* without counts, without a context */
    for (int64_t k = depth - 1; k > 0; k--) {
        fresh *below = found;
        found = d->fresh[k];
        seen = d->seen[k];
        n_found = 0;
        for (int64_t j = 0; j < n_fresh[k + 1]; j++) {
            int64_t i = start + below[j].at;
            context *here = &seen[number(d, contexts, k, i, before ? before[i] : 0)];
            int32_t row = here->row;
            found[n_found] = (fresh){here->place, 0, below[j].at};
            n_found += !row;
            here->row = row = row ? row : n_chance + n_found;
            below[j].above = row - 1;
        }
        n_fresh[k] = n_found;
        base[k] = n_chance;
        n_chance += n_found;
    }
    if (depth) {
        fresh none = {d->seen[0]->place, 0, 0};
        smooth_row(d, by, 0, &none, 1);
        for (int64_t j = 0; j < n_fresh[1]; j++) d->fresh[1][j].above = 1;
    }
    for (int64_t k = 1; k < depth; k++)
        for (int64_t j = 0; j < n_fresh[k]; j++) {
            if (j + SOON < n_fresh[k]) fetch(d, k, &d->fresh[k][j + SOON]);
            smooth_row(d, by, k, &d->fresh[k][j], base[k] + j);
        }
    for (int64_t j = 0; j < n_fresh[depth]; j++) {
        const fresh *one = &d->fresh[depth][j];
        if (j + SOON < n_fresh[depth]) fetch(d, depth, one + SOON);
        uint32_t *out = d->cumulative + j * (d->width + 1);
        double inverse = UP / (16.0 * d->counted[depth][one->place].total + (double)d->weights[depth]);
        by->finish(d->counts[depth] + one->place * d->width, d->chance + one->above * d->width, inverse, d->width, out);
    }
    for (int64_t j = 0; j < n_fresh[depth]; j++) d->scale[j] = 16777216.0 * (UP / d->cumulative[j * (d->width + 1) + d->n_symbols]);
}

/* A place for the counts of a context that is counted under for the first time. */
static int32_t new_place(digit *d, int64_t k, int64_t number) {
    int32_t place = (int32_t)++d->n_places[k];
    d->counted[k][place].number = (int32_t)number;
    return d->seen[k][number].place = place;
}

/* Count a chunk's symbols, and forget its rows. */
static void learn(digit *d, numbers contexts, int64_t start, int64_t stop, const symbol *before, const symbol *symbols) {
    int64_t width = d->width;
    if (start == stop) return;
    int32_t root = d->seen[0]->place ? d->seen[0]->place : new_place(d, 0, 0); /* level 0 has one context */
    d->counted[0][root].total += (int32_t)(stop - start);
    d->seen[0]->row = 0;
    for (int64_t i = start; i < stop; i++) d->counts[0][root * width + symbols[i]]++;
    for (int64_t k = 1; k <= d->depth; k++) {
        int32_t *counts = d->counts[k];
        context *seen = d->seen[k];
        counted *of = d->counted[k];
        int64_t stride = before ? d->strides[k] : 0;
        const int32_t *own = contexts[k];
        for (int64_t i = start; i < stop; i++) {
            int64_t c = (own ? own[i] : 0) + (stride ? stride * before[i] : 0);
            int32_t place = seen[c].place;
            if (!place) place = new_place(d, k, c);
            counts[place * width + symbols[i]]++;
            of[place].total++;
            seen[c].row = 0;
        }
    }
}

/* Forget all that was counted. */
void lp_clear(digit *digits, int64_t n_digits) {
    for (digit *d = digits; d < digits + n_digits; d++)
        for (int64_t k = 0; k <= d->depth; k++) {
            int64_t n = 1 + d->n_places[k];
            for (int64_t place = 1; place < n; place++) d->seen[k][d->counted[k][place].number].place = 0;
            memset(d->counts[k], 0, (size_t)(n * d->width) * sizeof(int32_t));
            memset(d->counted[k], 0, (size_t)n * sizeof(counted));
            d->n_places[k] = 0;
        }
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

static int read_digit(digit *d, const means *by, numbers contexts, stream *in, int64_t start, int64_t stop, const symbol *before,
                      symbol *symbols) {
    if (start < stop && !begin(in)) return 0;
    find_rows(d, by, contexts, start, stop, before);
    const int32_t *rows = d->rows;
    for (int64_t i = start, tile; i < stop; i += tile, rows += tile) {
        tile = stop - i < in->lanes ? stop - i : in->lanes;
        if (in->n_words - in->position >= tile)
            in->position += by->read_tile(d, rows, tile, in->state, in->words + in->position, symbols + i);
        else
            for (int64_t lane = 0; lane < tile; lane++) { /* the last words: each lane for itself */
                uint64_t x = in->state[lane], slot = x & SLOT_MASK;
                const uint32_t *sums = d->cumulative + rows[lane] * (d->width + 1);
                int64_t first = fallen_plain(sums, (uint32_t)(((slot + 1) * sums[d->n_symbols] - 1) >> SLOT_BITS), d->n_symbols);
                uint32_t low, size;
                slots_of(sums + first, d->scale[rows[lane]], &low, &size);
                symbols[i + lane] = (symbol)first;
                if (!refill(in, lane, (uint64_t)size * (x >> SLOT_BITS) + slot - low)) return 0;
            }
    }
    return 1;
}

/* Raw bits behind the first digits of a chunk, 16 of each row at a time from the low end. */
static int read_raw(const uint8_t *n_raw, stream *in, int64_t start, int64_t stop, const symbol *symbols, int64_t *raw) {
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
                uint32_t *words, int64_t n_words, const int64_t *folds, int64_t n_folds, int64_t *at, symbol *const *symbols,
                int64_t *raw) {
    means by = best_means();
    stream in = {state, words, n_words, folds, n_folds, at[0], at[1], at[2], at[3], 0};
    for (int64_t chunk = 0, start = 0; chunk < n_chunks; start = ends[chunk++]) {
        for (int64_t k = 0; k < n_digits; k++) {
            const symbol *before = k ? symbols[k - 1] : 0;
            numbers contexts = (numbers)digits[k].contexts;
            if (!read_digit(&digits[k], &by, contexts, &in, start, ends[chunk], before, symbols[k])) return in.error;
            learn(&digits[k], contexts, start, ends[chunk], before, symbols[k]);
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

/* Of the room: values of lanes as long as a step's rows, then symbols and raw bits of a step. */
enum { VALUES, SYMBOLS = 4, RAW = SYMBOLS + MAX_DIGITS, TOTALS, ROOMS };

enum { LEFT, GUESS, FRACTION, NOISE, MATCH, BACK, ROUGH, APART, AROUND, ABOVE, OFF };

typedef struct {
    int64_t digit, kind, which, n_edges, n_table;
    const int64_t *edges;
    const uint16_t *table;  /* levels of the values from the first edge to the last, where these are not far apart */
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

/* Predictions mixed with the linear one: exact/mixing.py is the specification. Whatever a plan or values are, nothing here is read or
   written outside its room, and no sum of signed integers overflows: products and sums that may wrap are unsigned. */
typedef struct {
    int64_t n_references, n_others, n_around, n_kept, unit, power;
    const int64_t *reference, *ends; /* of each other prediction: what it refers to, where its terms end */
    const int64_t *lags, *quarters;  /* of all terms */
    const int32_t *told;             /* (n_references, rows) */
    const int64_t *around;           /* steps before, whose errors tell */
    const int32_t *inverses;         /* of sums of weights */
    int32_t *past;                   /* (n_kept, n_references + 1, n_lanes), of a step in row step % n_kept */
    uint16_t *errors;                /* (n_kept, n_others + 2, n_lanes) likewise: of the linear one, the others, all mixed */
    int32_t *room;                   /* (2 n_others + n_references + 5, n_lanes): of a step */
    uint8_t *apart, *around_level;   /* levels of each row */
} mix;

#define MOST_APART ((int32_t)1 << 17)
#define MOST_OFF 65535
#define SOFTENED 4
#define INVERSE_BITS 24

#define FACTOR ((uint64_t)0x9E3779B97F4A7C15)
#define FOLD 29
#define MAX_MATCHES 64 /* more are tried at once than a plan has */
#define NEAR 15
#define FAR 128

typedef struct {
    int64_t n_steps, n_lanes, n_past, n_terms, n_own, n_matches;
    int64_t leader; /* -1, or the match that is the prediction */
    int64_t first_chunk, last_chunk, part; /* rows of a chunk at least and at most, and what part it is of the rows before */
    int64_t n_dense, dense_shift;
    int64_t keeps; /* whether guess, fraction and level are of all rows, else of those of a step */
    const int64_t *edges;             /* where each step begins, n_steps + 1 of them */
    const int64_t *lags, *weights;    /* of the terms that read the column itself */
    const int64_t *fixed;             /* of each row: the sum of all other terms */
    const own_feature *own;
    const match *matches;
    const int16_t *dense;             /* (n_dense, n_dense) weights of vectors: exact/dense.py */
    const int64_t *bias;              /* n_dense of them */
    const int64_t *lanes;             /* of each row its lane; null: the rows of a step are those of the first lanes */
    int64_t *past;                    /* (n_past, n_lanes) values, those of a step in row step % n_past: as far back as anything looks */
    int64_t *noise, *sums;            /* of each lane */
    int64_t *guess;                   /* of each row */
    uint8_t *fraction, *level;        /* of each row: of the prediction, of the noise */
    int64_t *room;                    /* ROOMS times n_lanes */
    int32_t *levels;                  /* (1 + MAX_DIGITS MAX_DEPTH) times n_lanes */
    int64_t is_residual, lo, shift, escape, limit; /* the scheme; what it codes is below the limit */
    const mix *mixed;                 /* null: the linear prediction alone */
    int64_t n_above;
    const int32_t *above;             /* of each row: steps to the one above, not negative; null: none are told */
    const int64_t *beside, *beside_weights; /* n_above terms that read the column itself there */
    int64_t *offs;                    /* (n_steps, n_lanes): how far predictions were off */
    uint8_t *off;                     /* of each row: how far above it */
} walk;

static int64_t bits_of(int64_t x) { return x <= 0 ? 0 : 64 - __builtin_clzll((uint64_t)x); }

/* Levels of n values. */
static void bins(const own_feature *f, const int64_t *x, int64_t n, int32_t *found) {
    int32_t last = (int32_t)f->n_edges;
    if (f->n_table) {
        int64_t least = f->edges[0];
        for (int64_t j = 0; j < n; j++) {
            uint64_t above = (uint64_t)x[j] - (uint64_t)least;
            found[j] = x[j] < least ? 0 : above < (uint64_t)f->n_table ? f->table[above] : last;
        }
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        int64_t first = 0;
        for (int64_t count = f->n_edges; count > 0; count >>= 1) { /* the answer lies in first .. first + count */
            int64_t half = (count + 1) >> 1;
            first = f->edges[first + half - 1] <= x[j] ? first + half : first;
        }
        found[j] = (int32_t)first;
    }
}

/* Values of the lanes in a step that is known, and not forgotten. */
static int64_t *past_of(const walk *w, int64_t step) { return w->past + (step < w->n_past ? step : step % w->n_past) * w->n_lanes; }

/* The cell that holds a row's key, -1 for none. */
static int64_t recall(const walk *w, const match *m, int64_t step, int64_t lane, int64_t i) {
    if (step < m->reach) return -1;
    uint64_t key = m->fixed[i];
    for (int64_t k = 0; k < m->n_lags; k++) {
        key = (key ^ (uint64_t)past_of(w, step - m->lags[k])[lane]) * FACTOR;
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

static int64_t noise_level(int64_t noise) {
    int64_t size = bits_of(noise) > 2 ? bits_of(noise) : 2, level = 2 * (size - 4) + ((noise >> (size - 2)) & 1);
    return level < 0 ? 0 : level > NOISE_LEVELS - 2 ? NOISE_LEVELS - 2 : level;
}

static int64_t apart(int64_t a, int64_t b) {
    int64_t off = (int64_t)((uint64_t)a - (uint64_t)b);
    uint64_t size = off < 0 ? -(uint64_t)off : (uint64_t)off;
    return (int64_t)(size < (uint64_t)MOST_SURPRISE ? size : (uint64_t)MOST_SURPRISE);
}

/* What each of the n rows of a step, the first of which is `first`, was `lag` steps before. */
static const int64_t *back(const walk *w, int64_t step, int64_t first, int64_t n, int64_t lag, int64_t room) {
    const int64_t *past = past_of(w, step > lag ? step - lag : 0);
    if (!w->lanes) return past;
    int64_t *found = w->room + room * w->n_lanes;
    for (int64_t j = 0; j < n; j++) found[j] = past[w->lanes[first + j]];
    return found;
}

/* The step of the row that stands `beside` from the row above row i; of those that have none before them the step before. */
static int64_t step_above(const walk *w, int64_t step, int64_t i, int64_t beside) {
    int64_t found = w->above[i] - beside;
    return step - (found > 0 && found <= step ? found : 1);
}

static const int64_t *values_above(const walk *w, int64_t step, int64_t first, int64_t n, int64_t beside, int64_t room) {
    int64_t *found = w->room + room * w->n_lanes;
    for (int64_t j = 0; j < n; j++) found[j] = past_of(w, step_above(w, step, first + j, beside))[w->lanes ? w->lanes[first + j] : j];
    return found;
}

static void roughness(const walk *w, int64_t step, int64_t first, int64_t n, int64_t width, int32_t *found) {
    const int64_t *before = back(w, step, first, n, 1, VALUES), *above = back(w, step, first, n, width, VALUES + 1);
    const int64_t *beyond = back(w, step, first, n, width + 1, VALUES + 2);
    const int64_t *beside = back(w, step, first, n, width > 1 ? width - 1 : 1, VALUES + 3);
    for (int64_t j = 0; j < n; j++)
        found[j] = (int32_t)noise_level((apart(before[j], beyond[j]) + apart(above[j], beyond[j]) + apart(above[j], beside[j])) << 6);
}

/* What all elements before add to the predictions of a step of vectors. */
static void weigh(const walk *w, int64_t step) {
    int64_t n = w->lanes ? w->n_lanes : w->edges[step + 1] - w->edges[step];
    for (int64_t lane = 0; lane < n; lane++) w->sums[lane] = 0;
    for (int64_t k = 0; k < step; k++) {
        uint64_t weight = (uint64_t)(int64_t)w->dense[step * w->n_dense + k];
        const int64_t *past = past_of(w, k);
        if (weight)
            for (int64_t lane = 0; lane < n; lane++) w->sums[lane] = (int64_t)((uint64_t)w->sums[lane] + weight * (uint64_t)past[lane]);
    }
    for (int64_t lane = 0; lane < n; lane++)
        w->sums[lane] = (int64_t)(((uint64_t)w->sums[lane] << (SHIFT - w->dense_shift)) + (uint64_t)w->bias[step]);
}

static inline int32_t clipped(int32_t x, int32_t most) { return x < -most ? -most : x > most ? most : x; }

/* The exponent of an integer below 2^24 and the `n_bits` bits after the first, as of a float: 0 for 0. */
static inline int32_t size_of(int32_t x, int n_bits) {
    union {
        float number;
        int32_t bits;
    } found = {(float)x};
    return found.bits >> (23 - n_bits);
}

/* noise_level of x 2^more. */
static inline int32_t level_of(int32_t x, int32_t more) {
    int32_t level = size_of(x, 1) - 2 * 127 - 6 + 2 * more;
    return level < 0 ? 0 : level > NOISE_LEVELS - 2 ? NOISE_LEVELS - 2 : level;
}

/* Of a step and each lane: how far the predictions are from the linear one, and from these the mix. `whole` and `told` are those of the
   lanes; what is found is in `off`, the last of which is the mix, and in `apart` and `around`. */
static inline __attribute__((always_inline)) void blend_lanes(const mix *m, int64_t step, int64_t n_lanes, int64_t n, const int32_t *whole,
                                                              const int32_t *told, int32_t *off, int32_t *sums, int32_t *apart,
                                                              int32_t *around) {
    int64_t n_others = m->n_others, n_past = m->n_references + 1, n_all = n_others + 2;
    for (int64_t k = 0, t = 0; k < n_others; k++) {
        int32_t *restrict to = off + (1 + k) * n_lanes;
        const int32_t *refers = told + (m->reference[k] - 1) * n_lanes;
        if (m->reference[k])
            for (int64_t j = 0; j < n; j++) to[j] = (int32_t)(4 * ((uint32_t)refers[j] - (uint32_t)whole[j]));
        else
            for (int64_t j = 0; j < n; j++) to[j] = (int32_t)(4 * -(uint32_t)whole[j]);
        for (; t < m->ends[k]; t++) {
            int64_t lag = m->lags[t];
            const int32_t *past = m->past + ((step > lag ? step - lag : 0) % m->n_kept * n_past + m->reference[k]) * n_lanes;
            uint32_t quarters = (uint32_t)m->quarters[t];
            for (int64_t j = 0; j < n; j++) to[j] = (int32_t)((uint32_t)to[j] + quarters * (uint32_t)past[j]);
        }
        for (int64_t j = 0; j < n; j++) to[j] = clipped(to[j] >> 2, MOST_APART);
    }
    for (int64_t k = 0; k < n_all; k++) {
        int32_t *restrict to = sums + k * n_lanes, softened = k < n_all - 1 ? SOFTENED : 0;
        for (int64_t j = 0; j < n; j++) to[j] = softened;
        for (int64_t a = 0; a < m->n_around; a++) {
            int64_t lag = m->around[a];
            const uint16_t *restrict errors = m->errors + ((step > lag ? step - lag : 0) % m->n_kept * n_all + k) * n_lanes;
            for (int64_t j = 0; j < n; j++) to[j] += errors[j];
        }
    }
    int32_t *restrict least = around, *restrict low = apart, *restrict middle = off + (n_all - 1) * n_lanes;
    int32_t *restrict high = sums + n_all * n_lanes, *restrict all = high + n_lanes;
    for (int64_t j = 0; j < n; j++) least[j] = INT32_MAX;
    for (int64_t k = 0; k < n_all - 1; k++) {
        int32_t *restrict size = sums + k * n_lanes;
        for (int64_t j = 0; j < n; j++) {
            size[j] = size_of(size[j], 3);
            least[j] = size[j] < least[j] ? size[j] : least[j];
        }
    }
    for (int64_t j = 0; j < n; j++) low[j] = high[j] = all[j] = middle[j] = 0;
    for (int64_t k = 0; k < n_all - 1; k++) {
        const int32_t *restrict size = sums + k * n_lanes, *restrict at = off + k * n_lanes;
        int32_t power = (int32_t)m->power;
        for (int64_t j = 0; j < n; j++) {
            uint32_t place = (uint32_t)((size[j] - least[j]) * power);
            place = place < 127 ? place : 127;
            int32_t weight = (int32_t)((256 - 16 * (place & 7)) >> (place >> 3));
            all[j] += weight;
            middle[j] += weight * at[j];
            low[j] = at[j] < low[j] ? at[j] : low[j];
            high[j] = at[j] > high[j] ? at[j] : high[j];
        }
    }
    for (int64_t j = 0; j < n; j++)
        middle[j] = (int32_t)(((int64_t)middle[j] * m->inverses[all[j]] + ((int64_t)1 << (INVERSE_BITS - 1))) >> INVERSE_BITS);
    int32_t more = (int32_t)m->unit;
    const int32_t *restrict off_around = sums + (n_all - 1) * n_lanes;
    for (int64_t j = 0; j < n; j++) {
        apart[j] = level_of(high[j] - low[j], more - 8);
        around[j] = level_of(off_around[j], more - 10);
    }
}

/* How far off each prediction of a step was, by the values in units of the mix. */
static inline __attribute__((always_inline)) void blame_lanes(const mix *m, int64_t step, int64_t n_lanes, int64_t n, const int32_t *exact,
                                                              const int32_t *whole, const int32_t *told, const int32_t *off) {
    int64_t n_past = m->n_references + 1, n_all = m->n_others + 2;
    int32_t *past = m->past + step % m->n_kept * n_past * n_lanes;
    uint16_t *errors = m->errors + step % m->n_kept * n_all * n_lanes;
    for (int64_t j = 0; j < n; j++) past[j] = exact[j];
    for (int64_t k = 1; k < n_past; k++) {
        int32_t *restrict to = past + k * n_lanes;
        const int32_t *restrict refers = told + (k - 1) * n_lanes;
        for (int64_t j = 0; j < n; j++) to[j] = (int32_t)((uint32_t)exact[j] - (uint32_t)refers[j]);
    }
    for (int64_t k = 0; step && k < n_all; k++) {
        uint16_t *restrict to = errors + k * n_lanes;
        const int32_t *restrict at = off + k * n_lanes;
        for (int64_t j = 0; j < n; j++) {
            int32_t error = clipped((int32_t)((uint32_t)exact[j] - (uint32_t)whole[j]), 2 * MOST_APART) - at[j];
            error = error < 0 ? -error : error;
            to[j] = (uint16_t)(error < MOST_OFF ? error : MOST_OFF);
        }
    }
}

#define BLEND const mix *m, int64_t step, int64_t n_lanes, int64_t n, const int32_t *whole, const int32_t *told, int32_t *off, int32_t *sums, \
    int32_t *apart, int32_t *around
#define BLAME const mix *m, int64_t step, int64_t n_lanes, int64_t n, const int32_t *exact, const int32_t *whole, const int32_t *told, \
    const int32_t *off

static void blend_plain(BLEND) { blend_lanes(m, step, n_lanes, n, whole, told, off, sums, apart, around); }
static void blame_plain(BLAME) { blame_lanes(m, step, n_lanes, n, exact, whole, told, off); }
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void blend_avx2(BLEND) { blend_lanes(m, step, n_lanes, n, whole, told, off, sums, apart, around); }
__attribute__((target("avx2"))) static void blame_avx2(BLAME) { blame_lanes(m, step, n_lanes, n, exact, whole, told, off); }
#else
#define blend_avx2 blend_plain
#define blame_avx2 blame_plain
#endif

/* The sums of n predictions of a step, mixed with others. */
static void blend(const walk *w, int64_t step, int64_t out, int64_t *restrict totals) {
    const mix *m = w->mixed;
    int64_t first = w->edges[step], n = w->edges[step + 1] - first, n_rows = w->edges[w->n_steps], n_lanes = w->n_lanes;
    const int64_t *lanes = w->lanes ? w->lanes + first : 0;
    int32_t *whole = m->room, *told = whole + n_lanes, *apart = told + m->n_references * n_lanes, *around = apart + n_lanes;
    int32_t *off = around + n_lanes, *sums = off + (m->n_others + 2) * n_lanes;
    /* of unit at most 32 the low half of what is shifted is the same whatever the sign */
    if (lanes)
        for (int64_t j = 0; j < n; j++) whole[lanes[j]] = (int32_t)(((uint64_t)totals[j] - ((uint64_t)1 << (SHIFT - 1))) >> m->unit);
    else
        for (int64_t j = 0; j < n; j++) whole[j] = (int32_t)(((uint64_t)totals[j] - ((uint64_t)1 << (SHIFT - 1))) >> m->unit);
    for (int64_t k = 0; k < m->n_references; k++) {
        const int32_t *from = m->told + k * n_rows + first;
        int32_t *to = told + k * n_lanes;
        for (int64_t j = 0; j < n; j++) to[lanes ? lanes[j] : j] = from[j];
    }
    if (step) (HAS_AVX2 ? blend_avx2 : blend_plain)(m, step, n_lanes, lanes ? n_lanes : n, whole, told, off, sums, apart, around);
    const int32_t *middle = off + (m->n_others + 1) * n_lanes;
    for (int64_t j = 0; j < n; j++) {
        int64_t lane = lanes ? lanes[j] : j;
        if (step) totals[j] = (int64_t)((uint64_t)totals[j] + ((uint64_t)(int64_t)middle[lane] << m->unit));
        m->apart[out + j] = (uint8_t)(step ? apart[lane] : NOISE_LEVELS - 1);
        m->around_level[out + j] = (uint8_t)(step ? around[lane] : NOISE_LEVELS - 1);
    }
}

/* Values of a step, now known: what they say of its predictions. */
static void blame(const walk *w, int64_t step, const int64_t *values) {
    const mix *m = w->mixed;
    int64_t first = w->edges[step], n = w->edges[step + 1] - first, n_lanes = w->n_lanes, n_past = m->n_references + 1;
    const int64_t *lanes = w->lanes ? w->lanes + first : 0;
    int32_t *whole = m->room, *told = whole + n_lanes, *exact = told + m->n_references * n_lanes, *off = exact + 2 * n_lanes;
    if (!lanes) {
        for (int64_t j = 0; j < n; j++) exact[j] = (int32_t)(((uint64_t)values[j] << SHIFT) >> m->unit);
        (HAS_AVX2 ? blame_avx2 : blame_plain)(m, step, n_lanes, n, exact, whole, told, off);
        return;
    }
    int64_t n_all = m->n_others + 2;
    int32_t *past = m->past + step % m->n_kept * n_past * n_lanes;
    uint16_t *errors = m->errors + step % m->n_kept * n_all * n_lanes;
    if (step) { /* cells without a value stand for those before them */
        const int32_t *past_before = m->past + (step - 1) % m->n_kept * n_past * n_lanes;
        const uint16_t *errors_before = m->errors + (step - 1) % m->n_kept * n_all * n_lanes;
        for (int64_t i = 0; i < n_past * n_lanes; i++) past[i] = past_before[i];
        for (int64_t i = 0; i < n_all * n_lanes; i++) errors[i] = errors_before[i];
    }
    for (int64_t j = 0; j < n; j++) {
        int64_t lane = lanes[j];
        int32_t value = (int32_t)(((uint64_t)values[j] << SHIFT) >> m->unit);
        for (int64_t k = 0; k < n_past; k++)
            past[k * n_lanes + lane] = k ? (int32_t)((uint32_t)value - (uint32_t)told[(k - 1) * n_lanes + lane]) : value;
        int32_t truth = clipped((int32_t)((uint32_t)value - (uint32_t)whole[lane]), 2 * MOST_APART);
        for (int64_t k = 0; step && k < n_all; k++) {
            int32_t error = truth - off[k * n_lanes + lane];
            error = error < 0 ? -error : error;
            errors[k * n_lanes + lane] = (uint16_t)(error < MOST_OFF ? error : MOST_OFF);
        }
    }
}

/* Predictions of a step and the levels of their noise; whether they are kept or not, they begin at `out`. */
static void predict(const walk *w, int64_t step, int64_t out) {
    int64_t first = w->edges[step], n = w->edges[step + 1] - first;
    int64_t *restrict totals = w->room + TOTALS * w->n_lanes, *guess = w->guess + out;
    uint8_t *fraction = w->fraction + out, *level = w->level + out;
    for (int64_t j = 0; j < n; j++) totals[j] = w->fixed[first + j];
    if (w->n_dense) {
        weigh(w, step);
        for (int64_t j = 0; j < n; j++)
            totals[j] = (int64_t)((uint64_t)totals[j] + (uint64_t)w->sums[w->lanes ? w->lanes[first + j] : j]);
    }
    for (int64_t k = 0; step && k < w->n_terms; k++) {
        const int64_t *past = back(w, step, first, n, w->lags[k], VALUES);
        uint64_t weight = (uint64_t)w->weights[k];
        for (int64_t j = 0; j < n; j++) totals[j] = (int64_t)((uint64_t)totals[j] + weight * (uint64_t)past[j]);
    }
    for (int64_t k = 0; step && k < w->n_above; k++) {
        const int64_t *past = values_above(w, step, first, n, w->beside[k], VALUES);
        uint64_t weight = (uint64_t)w->beside_weights[k];
        for (int64_t j = 0; j < n; j++) totals[j] = (int64_t)((uint64_t)totals[j] + weight * (uint64_t)past[j]);
    }
    if (w->mixed) blend(w, step, out, totals);
    for (int64_t j = 0; j < n; j++) {
        guess[j] = totals[j] >> SHIFT;
        fraction[j] = (totals[j] >> (SHIFT - 3)) & 7;
    }
    for (int64_t j = 0; j < n; j++)
        level[j] = (uint8_t)(step < 2 ? NOISE_LEVELS - 1 : noise_level(w->noise[w->lanes ? w->lanes[first + j] : j]));
    for (int64_t j = 0; w->above && j < n; j++) {
        int64_t lane = w->lanes ? w->lanes[first + j] : j, off = w->noise[lane];
        for (int64_t k = -1; step > 1 && k <= 1; k++) off += w->offs[step_above(w, step, first + j, k) * w->n_lanes + lane];
        w->off[out + j] = (uint8_t)(step < 2 ? NOISE_LEVELS - 1 : noise_level(off >> 2));
    }
    for (int64_t j = 0; w->n_matches && j < n; j++) {
        int64_t cells[MAX_MATCHES] = {-1}, lane = w->lanes ? w->lanes[first + j] : j;
        for (int64_t k = 0; k < w->n_matches; k++) cells[k] = recall(w, &w->matches[k], step, lane, first + j);
        if (w->leader >= 0 && cells[w->leader] >= 0) {
            guess[j] = w->matches[w->leader].values[cells[w->leader]];
            fraction[j] = 0;
        }
        for (int64_t k = 0; k < w->n_matches; k++) w->matches[k].level[first + j] = match_level(&w->matches[k], cells[k], guess[j]);
    }
}

/* Whether a level of a digit has features of the column itself. */
static int owns(const walk *w, int64_t digit, int64_t at) {
    for (int64_t k = 0; k < w->n_own; k++)
        if (w->own[k].digit == digit && w->own[k].strides[at]) return 1;
    return 0;
}

/* What the rows of a step add to their context numbers, of each level of each digit from `into` on. */
static void complete(const walk *w, const digit *digits, int64_t step, int64_t out, int32_t *const (*into)[MAX_DEPTH]) {
    int64_t first = w->edges[step], n = w->edges[step + 1] - first;
    int32_t *restrict found = w->levels;
    for (int64_t k = 0; k < w->n_own; k++) {
        const own_feature *f = &w->own[k];
        const uint8_t *levels = f->kind == FRACTION ? w->fraction + out : w->level + out;
        if (f->kind == MATCH) levels = w->matches[f->which].level + first;
        if (f->kind == APART) levels = w->mixed->apart + out;
        if (f->kind == AROUND) levels = w->mixed->around_level + out;
        if (f->kind == OFF) levels = w->off + out;
        if (f->kind == GUESS) bins(f, w->guess + out, n, found);
        else if (f->kind == LEFT || f->kind == BACK || f->kind == ABOVE) {
            if (step && f->kind == ABOVE) bins(f, values_above(w, step, first, n, f->which, VALUES), n, found);
            else if (step) bins(f, back(w, step, first, n, f->kind == LEFT ? 1 : f->which, VALUES), n, found);
            else
                for (int64_t j = 0; j < n; j++) found[j] = (int32_t)f->n_edges + 1;
        } else if (f->kind == ROUGH && step) roughness(w, step, first, n, f->which, found);
        else
            for (int64_t j = 0; j < n; j++) found[j] = f->kind == ROUGH ? NOISE_LEVELS - 1 : levels[j];
        for (int64_t at = 0; at <= digits[f->digit].depth; at++) {
            int32_t *restrict to = into[f->digit][at], stride = (int32_t)f->strides[at];
            for (int64_t j = 0; stride && j < n; j++) to[j] += found[j] * stride;
        }
    }
}

/* The contexts of a step's rows: those of levels without features of the column itself are there. */
static void contexts_of(const walk *w, const digit *digits, int64_t n_digits, int64_t step, int32_t *(*contexts)[MAX_DEPTH]) {
    int64_t first = w->edges[step], n = w->edges[step + 1] - first;
    for (int64_t k = 0; k < n_digits; k++)
        for (int64_t at = 0; at <= digits[k].depth; at++) {
            int32_t *given = digits[k].contexts[at] ? digits[k].contexts[at] + first : 0;
            contexts[k][at] = given;
            if (!owns(w, k, at)) continue;
            int32_t *own = contexts[k][at] = w->levels + (1 + k * MAX_DEPTH + at) * w->n_lanes;
            for (int64_t j = 0; j < n; j++) own[j] = given ? given[j] : 0;
        }
    complete(w, digits, step, 0, (int32_t *const (*)[MAX_DEPTH])contexts);
}

/* Values of a step, now known. */
static void remember(const walk *w, int64_t step, int64_t out, const int64_t *values) {
    int64_t first = w->edges[step], n = w->edges[step + 1] - first;
    int64_t *past = past_of(w, step);
    const int64_t *guess = w->guess + out;
    if (step && w->lanes) /* cells without a value stand for those before them */
        for (int64_t lane = 0; lane < w->n_lanes; lane++) past[lane] = past_of(w, step - 1)[lane];
    for (int64_t j = 0; j < n; j++) {
        int64_t lane = w->lanes ? w->lanes[first + j] : j, surprise = apart(values[j], guess[j]) << 8;
        past[lane] = values[j];
        if (w->above) w->offs[step * w->n_lanes + lane] = surprise;
        w->noise[lane] = step == 1 ? surprise : w->noise[lane] + ((surprise - w->noise[lane]) >> 3);
    }
    if (w->mixed) blame(w, step, values);
    for (int64_t k = 0; k < w->n_matches; k++) {
        const match *m = &w->matches[k];
        for (int64_t j = 0; step >= m->reach && j < n; j++) {
            uint64_t key = m->now[w->lanes ? w->lanes[first + j] : j], cell = key >> (64 - m->bits);
            m->keys[cell] = key;
            m->values[cell] = values[j];
        }
    }
}

/* The values of a step's symbols. */
static void join(const walk *w, symbol *const *symbols, int64_t n_digits, const int64_t *raw, int64_t n, int64_t *values) {
    const symbol *second = n_digits > 1 ? symbols[1] : 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t token = symbols[0][j];
        uint64_t below = second ? (uint64_t)second[j] : 0, found;
        if (w->is_residual) {
            int64_t kind = (token + 1) >> 1, extra = kind < 4 ? 0 : ((kind - 4) >> 1) + 1, low = extra > 5 ? extra - 5 : 0;
            uint64_t rest = ((below << low) | (uint64_t)raw[j]) & (((uint64_t)1 << extra) - 1);
            uint64_t size = rest + (kind < 4 ? (uint64_t)kind : (uint64_t)(2 + (kind & 1)) << extra);
            found = (uint64_t)w->guess[j] + (token & 1 ? -size : size);
        } else found = (((uint64_t)token << w->shift) | below) + (uint64_t)w->lo;
        values[j] = token == w->escape ? raw[j] : (int64_t)found;
    }
}

/* The inverse of join. */
static void split(const walk *w, const int64_t *values, int64_t n, symbol *const *symbols, int64_t n_digits, int64_t *raw) {
    for (int64_t j = 0; j < n; j++) {
        int64_t token = w->escape, below = 0;
        raw[j] = values[j];
        if (w->is_residual) {
            int64_t off = (int64_t)((uint64_t)values[j] - (uint64_t)w->guess[j]);
            uint64_t size = off < 0 ? -(uint64_t)off : (uint64_t)off;
            if (size < (uint64_t)w->limit) {
                int64_t extra = bits_of((int64_t)size) > 2 ? bits_of((int64_t)size) - 2 : 0, low = extra > 5 ? extra - 5 : 0;
                int64_t kind = extra ? 2 * (extra + 1) + (int64_t)((size >> extra) & 1) : (int64_t)size;
                uint64_t rest = size & (((uint64_t)1 << extra) - 1);
                token = 2 * kind - (off < 0);
                below = (int64_t)(rest >> low);
                raw[j] = (int64_t)(rest & (((uint64_t)1 << low) - 1));
            }
        } else {
            uint64_t above = (uint64_t)values[j] - (uint64_t)w->lo;
            if (values[j] >= w->lo && above < (uint64_t)w->limit) {
                token = (int64_t)(above >> w->shift);
                below = (int64_t)(above & (((uint64_t)1 << w->shift) - 1));
            }
        }
        symbols[0][j] = (symbol)token;
        if (n_digits > 1) symbols[1][j] = (symbol)below;
    }
}

/* Where a chunk of a step ends that begins at `start`, counted in rows of the step. */
static int64_t chunk_end(const walk *w, int64_t step, int64_t start) {
    int64_t first = w->edges[step], n = w->edges[step + 1] - first, before = (first + start) / w->part;
    int64_t length = before < w->first_chunk ? w->first_chunk : before;
    int64_t stop = start + (length < w->last_chunk ? length : w->last_chunk);
    return stop < n ? stop : n;
}

/* Walk over known values: predictions of all rows, and their contexts where there are digits. */
void lp_walk(const walk *w, const digit *digits, int64_t n_digits, const int64_t *values) {
    for (int64_t step = 0; step < w->n_steps; step++) {
        int64_t first = w->edges[step];
        int32_t *into[MAX_DIGITS][MAX_DEPTH];
        predict(w, step, first);
        for (int64_t k = 0; digits && k < n_digits; k++)
            for (int64_t at = 0; at <= digits[k].depth; at++)
                into[k][at] = digits[k].contexts[at] ? digits[k].contexts[at] + first : 0;
        if (digits) complete(w, digits, step, first, (int32_t *const (*)[MAX_DEPTH])into);
        remember(w, step, first, values + first);
    }
}

/* As lp_read, for rows one after another; `values` takes what the symbols make. */
int64_t lp_read_forward(digit *digits, int64_t n_digits, const walk *w, const uint8_t *n_raw, uint64_t *state, uint32_t *words,
                        int64_t n_words, const int64_t *folds, int64_t n_folds, int64_t *at, int64_t *values) {
    means by = best_means();
    stream in = {state, words, n_words, folds, n_folds, at[0], at[1], at[2], at[3], 0};
    int64_t *raw = w->room + RAW * w->n_lanes;
    symbol *symbols[MAX_DIGITS];
    for (int64_t k = 0; k < MAX_DIGITS; k++) symbols[k] = (symbol *)(w->room + (SYMBOLS + k) * w->n_lanes);
    for (int64_t step = 0; step < w->n_steps; step++) {
        int64_t first = w->edges[step], n = w->edges[step + 1] - first;
        int32_t *contexts[MAX_DIGITS][MAX_DEPTH];
        predict(w, step, 0);
        contexts_of(w, digits, n_digits, step, contexts);
        for (int64_t start = 0, stop; start < n; start = stop) {
            stop = chunk_end(w, step, start);
            for (int64_t k = 0; k < n_digits; k++) {
                const symbol *before = k ? symbols[k - 1] : 0;
                numbers own = (numbers)contexts[k];
                if (!read_digit(&digits[k], &by, own, &in, start, stop, before, symbols[k])) return in.error;
                learn(&digits[k], own, start, stop, before, symbols[k]);
            }
            if (!read_raw(n_raw, &in, start, stop, symbols[0], raw)) return in.error;
        }
        join(w, symbols, n_digits, raw, n, values + first);
        remember(w, step, 0, values + first);
    }
    at[0] = in.position, at[1] = in.lanes, at[2] = in.step, at[3] = in.fold;
    return 0;
}

/* Slots as they are written, and the lengths of the steps they make. */
typedef struct {
    uint32_t *low, *width;
    int64_t *lengths;
    int64_t n, n_steps;
} slots;

static void write_digit(digit *d, const means *by, numbers contexts, slots *out, int64_t start, int64_t stop, const symbol *before,
                        const symbol *symbols) {
    find_rows(d, by, contexts, start, stop, before);
    uint32_t *low = out->low + out->n - start, *width = out->width + out->n - start;
    for (int64_t i = start; i < stop; i++) {
        int64_t row = d->rows[i - start];
        const uint32_t *edge = d->cumulative + row * (d->width + 1) + symbols[i];
        slots_of(edge, d->scale[row], &low[i], &width[i]);
    }
    out->n += out->lengths[out->n_steps++] = stop - start;
    learn(d, contexts, start, stop, before, symbols);
}

static void write_raw(const uint8_t *n_raw, slots *out, int64_t start, int64_t stop, const symbol *symbols, const int64_t *raw) {
    int more = 1;
    for (int64_t done = 0; done < 64 && more; done += 16) {
        int64_t at = out->n;
        more = 0;
        for (int64_t i = start; i < stop; i++) {
            int64_t left = n_raw[symbols[i]] - done;
            if (left <= 0) continue;
            more |= left > 16;
            int64_t n_bits = left < 16 ? left : 16, shift = SLOT_BITS - n_bits;
            out->low[at] = (uint32_t)((((uint64_t)raw[i] >> done) & (((uint64_t)1 << n_bits) - 1)) << shift);
            out->width[at++] = (uint32_t)1 << shift;
        }
        out->lengths[out->n_steps++] = at - out->n;
        out->n = at;
    }
}

/* The slots of the symbols of a pass as lp_read will ask for them; lengths of the steps they make. Returns the number of steps. */
int64_t lp_write(digit *digits, int64_t n_digits, const int64_t *ends, int64_t n_chunks, const uint8_t *n_raw,
                 const symbol *const *symbols, const int64_t *raw, uint32_t *low, uint32_t *width, int64_t *lengths) {
    means by = best_means();
    slots out = {low, width, lengths, 0, 0};
    for (int64_t chunk = 0, start = 0; chunk < n_chunks; start = ends[chunk++]) {
        for (int64_t k = 0; k < n_digits; k++)
            write_digit(&digits[k], &by, (numbers)digits[k].contexts, &out, start, ends[chunk], k ? symbols[k - 1] : 0, symbols[k]);
        write_raw(n_raw, &out, start, ends[chunk], symbols[0], raw);
    }
    return out.n_steps;
}

/* As lp_write, for rows one after another, as lp_read_forward will ask for them. */
int64_t lp_write_forward(digit *digits, int64_t n_digits, const walk *w, const uint8_t *n_raw, const int64_t *values, uint32_t *low,
                         uint32_t *width, int64_t *lengths) {
    means by = best_means();
    slots out = {low, width, lengths, 0, 0};
    int64_t *raw = w->room + RAW * w->n_lanes;
    symbol *symbols[MAX_DIGITS];
    for (int64_t k = 0; k < MAX_DIGITS; k++) symbols[k] = (symbol *)(w->room + (SYMBOLS + k) * w->n_lanes);
    for (int64_t step = 0; step < w->n_steps; step++) {
        int64_t first = w->edges[step], n = w->edges[step + 1] - first;
        int32_t *contexts[MAX_DIGITS][MAX_DEPTH];
        predict(w, step, 0);
        contexts_of(w, digits, n_digits, step, contexts);
        split(w, values + first, n, symbols, n_digits, raw);
        for (int64_t start = 0, stop; start < n; start = stop) {
            stop = chunk_end(w, step, start);
            for (int64_t k = 0; k < n_digits; k++)
                write_digit(&digits[k], &by, (numbers)contexts[k], &out, start, stop, k ? symbols[k - 1] : 0, symbols[k]);
            write_raw(n_raw, &out, start, stop, symbols[0], raw);
        }
        remember(w, step, 0, values + first);
    }
    return out.n_steps;
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
