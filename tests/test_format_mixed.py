"""A reader of mixed texts written from storage/FORMAT.md, "Context mixing", alone: plain Python, one lane after another."""

from __future__ import annotations

import numpy as np
import pytest
from test_coders_texts import prose

from vae_core.coders import mixed

A, B, C, S = 0x9E3779B1, 0x2545F491, 0x85EBCA6B, 0x9E3779B97F4A7C15
R = (2048, 1365, 910, 682, 546, 455, 390, 341, 303, 273, 248, 227, 210, 195, 182, 170)


def u32(n: int) -> int:
    return n % (1 << 32)


def clip(x: int, a: int, b: int) -> int:
    return max(a, min(b, x))


E = [1 << 40]
while len(E) < 2048:
    E.append(E[-1] - E[-1] // 256)


def squash(d: int) -> int:
    return min(4095, 2**52 // (2**40 + E[d])) if d >= 0 else 4096 - squash(-d)


STRETCH = [next((d for d in range(-2047, 2048) if squash(d) >= p), 2047) for p in range(4096)]


def towards(v: int, one: bool, s: int, top: int) -> int:
    return v + ((top - v) >> s) if one else v - (v >> s)


class Lane:
    """What the document says a lane knows."""

    def __init__(self, stream: bytes) -> None:
        self.stream, self.at, self.low, self.high, self.code = stream, 0, 0, 2**32 - 1, 0
        self.text: int | None = None
        for _ in range(4):
            self.code = self.code << 8 | self.next_byte()

    def next_byte(self) -> int:
        self.at += 1
        return self.stream[self.at - 1] if self.at <= len(self.stream) else 0

    def given(self, text: int) -> None:
        self.text, self.past, self.word, self.before, self.match, self.length = text, 0, 0, 0, None, 0

    def bit(self, p: int) -> int:
        middle = self.low + ((self.high - self.low) * p >> 12)
        bit = int(self.code <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.low, self.high = u32(self.low << 8), u32(self.high << 8) | 255
            self.code = u32(self.code << 8) | self.next_byte()
        return bit


def read(payload: bytes, between: int, n_rows: int, n_bytes: int) -> bytes:
    numbers, at = [], 0
    while len(numbers) < 1 or len(numbers) < 1 + numbers[0]:
        found = shift = 0
        while True:
            found |= (payload[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if payload[at - 1] < 128:
                break
        numbers.append(found >> 1)
        assert not found & 1
    lanes = []
    for n in numbers[1:]:
        lanes.append(Lane(payload[at : at + n]))
        at += n
    assert at == len(payload)
    n_lanes, b = len(lanes), clip(n_bytes.bit_length() - 2, 10, 19)
    history: dict[int, int] = {}
    cells: dict[tuple[int, int], list] = {}
    trust: dict[tuple[int, int, int], int] = {}
    length_of = [(4095 << 20) - 2**32 // (2 * k + 3) for k in range(64)]
    weights: dict[int, list[int]] = {}
    fine: dict[tuple[int, int], int] = {}
    matches: dict[int, int] = {}
    texts: list[bytes] = [b""] * n_rows
    given = t = 0
    while True:
        for lane in lanes:
            if lane.text is None and given < n_rows:
                lane.given(given)
                given += 1
        live = [lane for lane in lanes if lane.text is not None]
        if not live:
            break
        for lane in live:
            lane.c = 1
            lane.h = [u32(((lane.past % 2 ** (8 * i + 8)) * S % 2**64 >> 32) + i + 1) for i in range(5)]
            lane.h += [u32(lane.word * B + lane.past % 256 * A + 6), u32(u32(lane.word * B + lane.before * C) * A + 7)]
        for j in range(8):
            if j in (0, 4):
                for lane in live:
                    lane.rows, lane.checks = [], []
                    for i in range(7):
                        k = u32(u32(lane.h[i] + (lane.c * 0x3D4D51CB if j else 0)) * A)
                        k = u32((k ^ k >> 15) * 0x85EBCA77)
                        lane.rows.append((i, k >> 32 - b))
                        lane.checks.append(k % 2**16 | 1)
                        cells.setdefault(lane.rows[i], [0, *[(2048, 0)] * 15])
                stale = [(lane, i) for lane in live for i in range(7) if cells[lane.rows[i]][0] != lane.checks[i]]
                for lane, i in stale:
                    cells[lane.rows[i]][:] = [lane.checks[i], *[(2048, 0)] * 15]
            for lane in live:
                lane.node = 2 ** (j % 4) + lane.c % 2 ** (j % 4)
                lane.cells = [cells[row][lane.node] for row in lane.rows]
                lane.trusts = [(i, n, p >> 5) for i, (p, n) in enumerate(lane.cells)]
                for key in lane.trusts:
                    trust.setdefault(key, 32 * key[2] + 16 << 20)
                lane.x = [STRETCH[trust[key] >> 20] if key[1] else 0 for key in lane.trusts]
                lane.level = None
                if lane.match is not None and (history.get(lane.match, 0) + 256) >> (8 - j) == lane.c:
                    lane.e = history.get(lane.match, 0) >> (7 - j) & 1
                    lane.level = lane.length if lane.length < 32 else min(63, 32 + (lane.length - 32) // 8)
                    strength = STRETCH[length_of[lane.level] >> 20]
                    lane.x.append(strength if lane.e else -strength)
                else:
                    lane.match, lane.length = None, 0
                    lane.x.append(0)
                kind = 0 if lane.level is None else 1 if lane.length < 16 else 2
                lane.sets = [lane.c + 256 * kind, 768 + 8 * (lane.past % 256) + j]
                for which in lane.sets:
                    weights.setdefault(which, [19660] * 8)
                sums = [sum(w * x for w, x in zip(weights[which], lane.x, strict=True)) for which in lane.sets]
                lane.y = [clip(total >> 16, -2047, 2047) for total in sums]
                d = sum(lane.y) >> 1
                place = 32 * (d + 2048)
                r, f, x = place % 4096, place >> 12, 256 * (lane.past % 256) + lane.c
                for k in (f, f + 1):
                    fine.setdefault((x, k), 16 * squash(clip(128 * k - 2048, -2047, 2047)))
                p = clip(squash(d) + (fine[x, f] * (4096 - r) + fine[x, f + 1] * r >> 16) + 1 >> 1, 1, 4095)
                lane.fine = (x, f + (r >= 2048))
                lane.coded = lane.bit(p)
            change: dict[int, list] = {}
            for lane in live:
                for which, y in zip(lane.sets, lane.y, strict=True):
                    error = 12 * (4096 * lane.coded - squash(y))
                    total = change.setdefault(which, [0, [0] * 8])
                    total[0] += 1
                    total[1] = [a + (x * error + 2**13 >> 14) for a, x in zip(total[1], lane.x, strict=True)]
            for which, (k, total) in change.items():
                by = [8 * a // k if k > 8 else a for a in total]
                weights[which] = [clip(w + a, -(2**23), 2**23) for w, a in zip(weights[which], by, strict=True)]
            new = []
            for lane in live:
                bit = lane.coded
                learned = [(trust, key, towards(trust[key], bit == 1, 7, 2**32 - 1)) for key in lane.trusts]
                learned.append((fine, lane.fine, towards(fine[lane.fine], bit == 1, 6, 2**16 - 1)))
                if lane.level is not None:
                    learned.append((length_of, lane.level, towards(length_of[lane.level], lane.e == bit, 7, 2**32 - 1)))
                for row, (p, n) in zip(lane.rows, lane.cells, strict=True):
                    p = clip(p + ((4095 * bit - p) * R[n] + 2048 >> 12), 1, 4094)
                    learned.append((cells[row], lane.node, (p, min(n + 1, 15))))
                new += learned
                lane.c = 2 * lane.c + bit
            for where, key, value in new:
                where[key] = value
        for lane in live:
            v = lane.c % 256
            history[t * n_lanes + lanes.index(lane)] = v
            texts[lane.text] += bytes([v])
            if v == between:
                lane.text = None
                continue
            lane.past = (256 * lane.past + v) % 2**64
            if (chr(v).isascii() and chr(v).isalnum()) or v > 127:
                lane.word = u32((lane.word + (v + 32 if 65 <= v <= 90 else v) + 1) * 0x2F0B4C47)
            elif lane.word:
                lane.before, lane.word = lane.word, 0
            if lane.match is not None:
                lane.match, lane.length = lane.match + n_lanes, lane.length + 1
            else:
                lane.match = matches.get((lane.past % 2**48) * S % 2**64 >> (64 - b))
                lane.length = int(lane.match is not None)
        for lane in live:
            if lane.text is not None:
                matches[(lane.past % 2**48) * S % 2**64 >> (64 - b)] = (t + 1) * n_lanes + lanes.index(lane)
        t += 1
    found = b"".join(texts)
    assert len(found) == n_bytes
    return found


@pytest.mark.parametrize(("n_rows", "steps"), [(1, 4096), (60, 100), (130, 60), (40, 4096)])
def test_mixed_texts_decode_by_the_format_document(n_rows, steps):
    data = "".join(f"{row}\n" for row in [*prose(n_rows - 1, seed=steps), ""]).encode()
    payload = mixed.pack(data, 10, mixed.Mixing(1 << 20, steps, 40))
    assert payload is not None
    assert read(payload, 10, n_rows, len(data)) == data == mixed.unpack(payload, 10, n_rows, len(data))


def test_bytes_of_any_kind_decode_by_the_format_document():
    rng = np.random.default_rng(4)
    texts = [bytes(rng.integers(1, 256, int(n), np.uint8).tobytes() * 2) for n in rng.integers(0, 60, 30)]
    data = b"".join(text + b"\0" for text in texts)
    payload = mixed.pack(data, 0, mixed.Mixing(1 << 20, 128, 16))
    assert payload is not None and read(payload, 0, len(texts), len(data)) == data
