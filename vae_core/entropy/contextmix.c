/* Texts by context mixing; contextmix.py is the specification. */
#include <stdint.h>
#include <string.h>

enum { ORDERS = 7, INPUTS = 8, LANES = 256, SETS = 768 + 2048, MOST_WEIGHT = 1 << 23, MOST_TIMES = 1 << 19 };
enum { FULL = -1, BROKEN = -2, RATE = 12, SLOWNESS = 7, FINE_SLOWNESS = 6, SHARED = 8 };

typedef struct {
    int64_t n_bytes, n_rows, n_lanes, bits, between, most_stream, most_history;
    uint8_t *data;          /* n_bytes: texts one after another, given or found */
    uint8_t *stream;        /* writing: what lanes put out, in the order of time; reading: that of lane 0, of lane 1, ... */
    uint8_t *stream_lane;   /* writing: whose each byte is */
    int64_t *stream_at;     /* reading: n_lanes, where each begins, then where it goes on */
    const int64_t *stream_end; /* reading: n_lanes */
    uint8_t *history;       /* most_history bytes: that of lane l at time t at t * n_lanes + l */
    int64_t *row_at;        /* n_rows: where in the history each begins */
    uint16_t *cells;        /* ORDERS << bits rows of 16 */
    int32_t *matches;       /* 1 << bits */
    uint16_t *refined;      /* 65536 * 33 */
    int32_t *weights;       /* SETS * INPUTS */
    uint32_t *reliable;     /* ORDERS * 2048 */
    uint32_t *lengths;      /* 64 */
    const int16_t *stretch; /* 4096 */
    const uint16_t *squash; /* 4095: of -2047 .. 2047 */
    const uint16_t *rates;  /* 16 */
} lp_mix_t;

typedef struct {
    uint64_t past;
    uint32_t word, word_before, low, high, code;
    int64_t match, length, row, at;
    uint32_t context[ORDERS];
} lane_t;

static const uint64_t SPREAD = 0x9E3779B97F4A7C15u;

static int clipped(int64_t d) { return d > 2047 ? 2047 : d < -2047 ? -2047 : (int)d; }

static uint32_t next_byte(lp_mix_t *m, int lane) {
    return m->stream_at[lane] < m->stream_end[lane] ? m->stream[m->stream_at[lane]++] : 0;
}

int64_t lp_mix(lp_mix_t *m, int64_t writes) {
    static const uint64_t masks[5] = {0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFFu, 0xFFFFFFFFFFu};
    lane_t lanes[LANES];
    int live[LANES], n_live = 0, c0[LANES], bit_of[LANES], one[LANES], two[LANES], p_one[LANES], p_two[LANES], level[LANES], said[LANES];
    int in[LANES][INPUTS], state[LANES][ORDERS], fine[LANES];
    uint16_t *row[LANES][ORDERS], check[LANES][ORDERS], cell[LANES][ORDERS], fined[LANES];
    uint32_t grown[LANES][ORDERS], longer[LANES];
    uint8_t stale[LANES][ORDERS];
    int64_t n_out = 0, next_row = 0, next_at = 0, done = 0, L = m->n_lanes;
    int16_t head[SETS]; /* of lanes with the same weights the last, while they learn */
    int64_t change[LANES * 2][INPUTS];
    int count[LANES * 2], set_at[LANES * 2];
    int shift = 32 - (int)m->bits;
    memset(head, -1, sizeof head);
    for (int l = 0; l < L; l++) {
        lane_t *a = &lanes[l];
        memset(a, 0, sizeof *a);
        a->high = 0xFFFFFFFFu;
        a->row = -1;
        a->match = -1;
        if (!writes)
            for (int k = 0; k < 4; k++) {
                a->code = a->code << 8 | next_byte(m, l);
            }
        live[n_live++] = l;
    }
    for (int64_t t = 0;; t++) {
        int n = 0;
        for (int j = 0; j < n_live; j++) {
            lane_t *a = &lanes[live[j]];
            if (a->row < 0) {
                if (next_row == m->n_rows) continue;
                a->row = next_row;
                m->row_at[next_row++] = t * L + live[j];
                a->past = 0, a->word = a->word_before = 0, a->match = -1, a->length = 0;
                if (writes) {
                    a->at = next_at;
                    while (next_at < m->n_bytes && m->data[next_at] != m->between) next_at++;
                    if (next_at++ >= m->n_bytes) return BROKEN;
                }
            }
            live[n++] = live[j];
        }
        n_live = n;
        if (!n_live) break;
        if ((t + 1) * L > m->most_history || t == MOST_TIMES) return FULL;
        if (!writes && (done += n_live) > m->n_bytes) return BROKEN;
        for (int j = 0; j < n_live; j++) {
            lane_t *a = &lanes[live[j]];
            for (int i = 0; i < 5; i++) a->context[i] = (uint32_t)((a->past & masks[i]) * SPREAD >> 32) + i + 1;
            a->context[5] = a->word * 0x2545F491u + (uint32_t)(a->past & 0xFF) * 0x9E3779B1u + 6;
            a->context[6] = (a->word * 0x2545F491u + a->word_before * 0x85EBCA6Bu) * 0x9E3779B1u + 7;
            c0[j] = 1;
        }
        for (int b = 0; b < 8; b++) {
            if (b == 0 || b == 4) {
                for (int j = 0; j < n_live; j++)
                    for (int i = 0; i < ORDERS; i++) {
                        uint32_t k = lanes[live[j]].context[i] + (b ? c0[j] * 0x3D4D51CBu : 0);
                        k *= 0x9E3779B1u;
                        k ^= k >> 15;
                        k *= 0x85EBCA77u;
                        row[j][i] = m->cells + (((uint64_t)i << m->bits) + (k >> shift)) * 16;
                        check[j][i] = (uint16_t)(k | 1);
                        __builtin_prefetch(row[j][i]);
                    }
                for (int j = 0; j < n_live; j++)
                    for (int i = 0; i < ORDERS; i++) stale[j][i] = row[j][i][0] != check[j][i];
                for (int j = 0; j < n_live; j++)
                    for (int i = 0; i < ORDERS; i++)
                        if (stale[j][i]) {
                            row[j][i][0] = check[j][i];
                            for (int k = 1; k < 16; k++) row[j][i][k] = 2048 << 4;
                        }
            }
            int node_bits = (1 << (b & 3)) - 1, n_sets = 0;
            for (int j = 0; j < n_live; j++) {
                lane_t *a = &lanes[live[j]];
                int node = (c0[j] & node_bits) | (node_bits + 1), *x = in[j], p, bit;
                for (int i = 0; i < ORDERS; i++) {
                    int e = cell[j][i] = row[j][i][node];
                    int s = state[j][i] = i << 11 | (e & 15) << 7 | e >> 9;
                    x[i] = e & 15 ? m->stretch[m->reliable[s] >> 20] : 0;
                }
                x[ORDERS] = 0;
                level[j] = -1;
                if (a->match >= 0) {
                    int byte = m->history[a->match] | 256;
                    if (byte >> (8 - b) == c0[j]) {
                        said[j] = byte >> (7 - b) & 1;
                        level[j] = a->length < 32 ? (int)a->length : a->length < 288 ? 32 + (int)((a->length - 32) >> 3) : 63;
                        int s = m->stretch[m->lengths[level[j]] >> 20];
                        x[ORDERS] = said[j] ? s : -s;
                    } else {
                        a->match = -1;
                        a->length = 0;
                    }
                }
                one[j] = c0[j] + 256 * (level[j] < 0 ? 0 : a->length < 16 ? 1 : 2);
                two[j] = 768 + (int)(a->past & 0xFF) * 8 + b;
                int64_t dot_one = 0, dot_two = 0;
                const int32_t *v = m->weights + one[j] * INPUTS, *w = m->weights + two[j] * INPUTS;
                for (int i = 0; i < INPUTS; i++) dot_one += (int64_t)v[i] * x[i], dot_two += (int64_t)w[i] * x[i];
                int d_one = clipped(dot_one >> 16), d_two = clipped(dot_two >> 16), d = (d_one + d_two) >> 1;
                p_one[j] = m->squash[d_one + 2047];
                p_two[j] = m->squash[d_two + 2047];
                int place = (d + 2048) * 32, part = place & 4095;
                fine[j] = (int)((a->past & 0xFF) << 8 | (uint64_t)c0[j]) * 33 + (place >> 12);
                p = (m->squash[d + 2047] + (int)(((int64_t)m->refined[fine[j]] * (4096 - part) + (int64_t)m->refined[fine[j] + 1] * part) >> 16) + 1) >> 1;
                fine[j] += part >= 2048;
                fined[j] = m->refined[fine[j]];
                if (p < 1) p = 1;
                if (p > 4095) p = 4095;
                uint32_t middle = a->low + (uint32_t)((uint64_t)(a->high - a->low) * (uint32_t)p >> 12);
                if (writes) bit = m->data[a->at] >> (7 - b) & 1;
                else bit = a->code <= middle;
                if (bit) a->high = middle;
                else a->low = middle + 1;
                while (!((a->low ^ a->high) >> 24)) {
                    if (writes) {
                        if (n_out == m->most_stream) return FULL;
                        m->stream_lane[n_out] = (uint8_t)live[j];
                        m->stream[n_out++] = (uint8_t)(a->high >> 24);
                    } else {
                        a->code = a->code << 8 | next_byte(m, live[j]);
                    }
                    a->low <<= 8;
                    a->high = a->high << 8 | 255;
                }
                bit_of[j] = bit;
            }
            /* learn */
            for (int j = 0; j < n_live; j++) {
                for (int h = 0; h < 2; h++) {
                    int set = h ? two[j] : one[j], error = ((bit_of[j] << 12) - (h ? p_two[j] : p_one[j])) * RATE, k = head[set];
                    if (k < 0) {
                        k = head[set] = (int16_t)n_sets++;
                        set_at[k] = set;
                        count[k] = 0;
                        memset(change[k], 0, sizeof change[k]);
                    }
                    count[k]++;
                    for (int i = 0; i < INPUTS; i++) change[k][i] += (in[j][i] * error + 0x2000) >> 14;
                }
                for (int i = 0; i < ORDERS; i++) {
                    uint32_t r = m->reliable[state[j][i]];
                    grown[j][i] = bit_of[j] ? r + (~r >> SLOWNESS) : r - (r >> SLOWNESS);
                    int e = cell[j][i], k = e & 15, q = e >> 4;
                    q += (((bit_of[j] ? 4095 : 0) - q) * m->rates[k] + 2048) >> 12;
                    q = q < 1 ? 1 : q > 4094 ? 4094 : q;
                    cell[j][i] = (uint16_t)(q << 4 | (k < 15 ? k + 1 : k));
                }
                if (level[j] >= 0) {
                    uint32_t r = m->lengths[level[j]];
                    longer[j] = said[j] == bit_of[j] ? r + (~r >> SLOWNESS) : r - (r >> SLOWNESS);
                }
                fined[j] = bit_of[j] ? fined[j] + ((65535 - fined[j]) >> FINE_SLOWNESS) : fined[j] - (fined[j] >> FINE_SLOWNESS);
            }
            for (int k = 0; k < n_sets; k++) {
                head[set_at[k]] = -1;
                for (int i = 0; i < INPUTS; i++) {
                    int64_t by = change[k][i], w;
                    if (count[k] > SHARED) {
                        by *= SHARED;
                        by = by >= 0 ? by / count[k] : -((-by + count[k] - 1) / count[k]);
                    }
                    w = m->weights[set_at[k] * INPUTS + i] + by;
                    m->weights[set_at[k] * INPUTS + i] = (int32_t)(w > MOST_WEIGHT ? MOST_WEIGHT : w < -MOST_WEIGHT ? -MOST_WEIGHT : w);
                }
            }
            for (int j = 0; j < n_live; j++) {
                int node = (c0[j] & node_bits) | (node_bits + 1);
                for (int i = 0; i < ORDERS; i++) {
                    m->reliable[state[j][i]] = grown[j][i];
                    row[j][i][node] = cell[j][i];
                }
                if (level[j] >= 0) m->lengths[level[j]] = longer[j];
                m->refined[fine[j]] = fined[j];
                c0[j] = c0[j] << 1 | bit_of[j];
            }
        }
        for (int j = 0; j < n_live; j++) {
            lane_t *a = &lanes[live[j]];
            int byte = c0[j] & 255;
            m->history[t * L + live[j]] = (uint8_t)byte;
            a->at++;
            if (byte == m->between) {
                a->row = -1;
                continue;
            }
            a->past = a->past << 8 | (uint64_t)byte;
            int upper = byte >= 'A' && byte <= 'Z';
            if (upper || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte >= 128)
                a->word = (a->word + (uint32_t)(upper ? byte + 32 : byte) + 1) * 0x2F0B4C47u;
            else if (a->word) {
                a->word_before = a->word;
                a->word = 0;
            }
            if (a->match >= 0) a->match += L, a->length++;
            else {
                int32_t found = m->matches[(a->past & 0xFFFFFFFFFFFFu) * SPREAD >> (64 - m->bits)];
                if (found >= 0) a->match = found, a->length = 1;
            }
        }
        for (int j = 0; j < n_live; j++) {
            lane_t *a = &lanes[live[j]];
            if (a->row >= 0) m->matches[(a->past & 0xFFFFFFFFFFFFu) * SPREAD >> (64 - m->bits)] = (int32_t)((t + 1) * L + live[j]);
        }
    }
    if (!writes) {
        int64_t n = 0;
        if (done != m->n_bytes) return BROKEN;
        for (int64_t r = 0; r < m->n_rows; r++)
            for (int64_t at = m->row_at[r], byte = -1; byte != m->between; at += L) m->data[n++] = (uint8_t)(byte = m->history[at]);
        return n;
    }
    for (int l = 0; l < L; l++) {
        uint64_t mask = 0xFFFFFFFFu, end = 0;
        int k = 0;
        while (end < lanes[l].low || end > lanes[l].high) {
            mask >>= 8;
            k++;
            end = (lanes[l].low + mask) & ~mask;
        }
        for (int i = 0; i < k; i++) {
            if (n_out == m->most_stream) return FULL;
            m->stream_lane[n_out] = (uint8_t)l;
            m->stream[n_out++] = (uint8_t)(end >> (24 - 8 * i));
        }
    }
    return n_out;
}
