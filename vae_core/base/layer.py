"""The base layer: integers in, sparse integer latents out, integer predictions back. numpy alone, exact where it
decodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.base.columns import Features
from vae_core.base.encoder import Encoder
from vae_core.errors import CorruptArchive
from vae_core.integer import SUM_BOUND, IntegerNetwork
from vae_core.weights import pack_tensors, unpack_tensors

GAIN_UNIT = 16
"""A gain of 16 is the step the layer was fitted with; 32 is twice as fine."""
MAX_GAIN = 1 << 14
MAX_LATENTS, MAX_COLUMNS, MAX_WINDOW, MAX_LINEAR = 1 << 11, 1 << 12, 256, 1 << 26
_LATENT_BOUND = 1 << 15
LATENT_LIMIT = (1 << 14) - 1
_CHUNK_ELEMENTS = 1 << 21
_ENCODE_ELEMENTS = 1 << 19
_VERSION = 1

Evaluator = Callable[[IntegerNetwork, NDArray[np.int64]], NDArray[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Integers that turn latents into codes. W rows of the window, D columns, F features a row, L latents a window.

    lo, hi (D,) int64 · up, shift (D,) uint8 · counts (D,) int16: 0 numeric, else kept levels · levels (sum of
    counts,) int64
    linear   : (W*F, L) int16            time-major; lin = linear @ z
    multiply : (F,) int32                bias : (F,) int64
    network  : z -> (W*F,) or None       reach : (L,) int32, net_multiply : (F,) int32
    scales   : (L,) int32 in 1/16, zeros : (L,) uint8 in 1/255: the prior of each latent at unit gain
    feature value in units of 2^-shift = lin * multiply * 16 // gain + net(z * reach // gain) * net_multiply + bias
    """

    window: int
    lo: NDArray[np.int64]
    hi: NDArray[np.int64]
    up: NDArray[np.uint8]
    shift: NDArray[np.uint8]
    counts: NDArray[np.int16]
    levels: NDArray[np.int64]
    linear: NDArray[np.int16]
    multiply: NDArray[np.int32]
    bias: NDArray[np.int64]
    scales: NDArray[np.int32]
    zeros: NDArray[np.uint8]
    network: IntegerNetwork | None = None
    reach: NDArray[np.int32] | None = None
    net_multiply: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        check_decoder(self)

    @property
    def n_columns(self) -> int:
        """D."""
        return len(self.lo)

    @property
    def n_features(self) -> int:
        """F."""
        return len(self.multiply)

    @property
    def n_latents(self) -> int:
        """L."""
        return int(self.linear.shape[1])

    def features(self) -> Features:
        """The features this decoder speaks, centred and scaled by its own biases and multipliers (free of bytes)."""
        counts = np.maximum(self.counts, 1).astype(np.int64)
        levels = np.full(int(counts.sum()), -1, np.int64)
        levels[np.repeat(self.counts > 0, counts)] = self.levels
        step = 2.0 ** -np.repeat(self.shift, counts).astype(np.float64)
        scale = 128.0 * self.multiply * step
        start = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
        return Features(
            self.lo,
            self.hi,
            self.up.astype(np.int64),
            counts,
            start,
            levels,
            self.bias * step,
            np.where(scale > 0, scale, 1.0),
        )

    def values(self, latents: NDArray[np.integer[Any]], gain: int, evaluate: Evaluator | None = None) -> NDArray[np.int64]:
        """Latents of windows (m, L) as feature values (m, W*F) int64 in units of 2^-shift."""
        z = np.clip(latents, -_LATENT_BOUND, _LATENT_BOUND).astype(np.int64)
        # |sum| <= 2^11 * 2^15 * 2^15 = 2^41: float64 holds every partial sum exactly, in any order
        lin = (z.astype(np.float64) @ self.linear.T.astype(np.float64)).astype(np.int64)
        out = lin * np.tile(self.multiply.astype(np.int64), self.window) * GAIN_UNIT // gain
        if self.network is not None and self.reach is not None and self.net_multiply is not None:
            inputs = np.clip(z * self.reach // gain, -self.network.input_bound, self.network.input_bound)
            net = self.network(inputs) if evaluate is None else evaluate(self.network, inputs)
            out += net.astype(np.int64) * np.tile(self.net_multiply.astype(np.int64), self.window)
        return np.asarray(out + np.tile(self.bias, self.window), np.int64)

    def codes(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Feature values (n, F) as codes (n, D): numeric rounded and clipped to lo..hi, categorical the likeliest
        level."""
        counts = np.maximum(self.counts, 1).astype(np.int64)
        start = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
        shift = self.shift.astype(np.int64)
        above = (values[:, start] + ((np.int64(1) << shift) >> 1)) >> shift
        top = (self.hi.view(np.uint64) - self.lo.view(np.uint64)) >> self.up.astype(np.uint64)
        # top < 2^24, so the product stays inside hi - lo; the sum wraps round to the right int64
        above = np.clip(above, 0, top.view(np.int64))
        wrapped: NDArray[np.uint64] = self.lo.view(np.uint64) + (above.view(np.uint64) << self.up.astype(np.uint64))
        out: NDArray[np.int64] = wrapped.view(np.int64)
        first = 0
        for d in np.flatnonzero(self.counts):
            n = int(self.counts[d])
            out[:, d] = self.levels[first : first + n][values[:, start[d] : start[d] + n].argmax(axis=1)]
            first += n
        return out


@dataclass(frozen=True, slots=True, eq=False)
class BaseLayer:
    """A fitted base layer. `encode` needs the encoder, everything else only the decoder.

    encode and decode work on whole blocks: latents of windows of consecutive rows are laid out over the block
    (latent after latent, each a run along time) so that every block has n_rows values in each of `n_columns_stored`
    columns.
    """

    kind: str
    decoder: Decoder
    encoder: Encoder | None = None

    @property
    def n_latents(self) -> int:
        """Latents a window."""
        return self.decoder.n_latents

    @property
    def window(self) -> int:
        """Rows a window."""
        return self.decoder.window

    @property
    def n_columns_stored(self) -> int:
        """Columns of z: ceil(L / W)."""
        return -(-self.n_latents // self.window)

    def encode(self, values: NDArray[np.int64], present: NDArray[np.bool_], gain: int = GAIN_UNIT) -> NDArray[np.int8] | NDArray[np.int16]:
        """Codes (n, D) and presence (n, D) of one block as latents (n, n_columns_stored), int8 when they fit, else
        int16."""
        if self.encoder is None:
            raise ValueError("this base layer was loaded without its encoder, which encoding needs")
        if not 1 <= gain <= MAX_GAIN:
            raise ValueError(f"gain {gain} is outside 1..{MAX_GAIN}")
        n, w = len(values), self.window
        n_windows = -(-n // w)
        features = self.decoder.features()
        latents = np.zeros((n_windows, self.n_latents), np.int16)
        step = max(1, _ENCODE_ELEMENTS // (w * features.n_features))
        for first in range(0, n_windows, step):
            rows = slice(first * w, (first + step) * w)
            x = features.transform(values[rows], present[rows])
            short = -len(x) % w
            if short:
                x = np.concatenate((x, np.repeat(x[-1:], short, axis=0)))
            latents[first : first + step] = self.encoder.latents(x.reshape(-1, w * features.n_features), gain / GAIN_UNIT, self.decoder)
        return lay_out(latents, n, w)

    def decode(self, z: NDArray[np.integer[Any]], gain: int = GAIN_UNIT, evaluate: Evaluator | None = None) -> NDArray[np.int64]:
        """Latents (n, n_columns_stored) of one block as codes (n, D) int64: exact integers, numpy only.

        gain is the one they were encoded with; evaluate replaces the network's evaluation (it must give the same bits).
        Raises CorruptArchive when z has another shape or gain is out of range.
        """
        if z.ndim != 2 or z.shape[1] != self.n_columns_stored:
            raise CorruptArchive(f"latents are {z.shape}, this layer decodes (n, {self.n_columns_stored})")
        if not 1 <= gain <= MAX_GAIN:
            raise CorruptArchive(f"latent gain {gain} is outside 1..{MAX_GAIN}")
        n, w, n_features = len(z), self.window, self.decoder.n_features
        latents = take_up(z, self.n_latents, w)
        out = np.empty((len(latents) * w, self.decoder.n_columns), np.int64)
        step = max(1, _CHUNK_ELEMENTS // (w * n_features))
        for first in range(0, len(latents), step):
            values = self.decoder.values(latents[first : first + step], gain, evaluate)
            out[first * w : (first + step) * w] = self.decoder.codes(values.reshape(-1, n_features))
        return out[:n]

    def sample(self, n_rows: int, rng: np.random.Generator) -> NDArray[np.int16]:
        """Latents (n_rows, n_columns_stored) drawn from the prior, to be decoded at unit gain."""
        n_windows = -(-n_rows // self.window)
        shape = (n_windows, self.n_latents)
        drawn = rng.standard_normal(shape) * (self.decoder.scales / 16.0)
        kept = rng.random(shape) * 255.0 >= self.decoder.zeros
        latents = np.where(kept, np.rint(drawn), 0.0).clip(-LATENT_LIMIT, LATENT_LIMIT).astype(np.int16)
        return lay_out(latents, n_rows, self.window).astype(np.int16)

    def sparsity(self, z: NDArray[np.integer[Any]]) -> float:
        """The fraction of latents of a block z that are zero."""
        latents = take_up(z, self.n_latents, self.window)
        return float((latents == 0).mean()) if latents.size else 1.0

    def without_encoder(self) -> BaseLayer:
        """What reading an archive has."""
        return replace(self, encoder=None)

    def to_parts(self) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]], dict[str, NDArray[np.uint8]]]:
        """(JSON, decoder tensors, encoder tensors); each tensor dict holds one packed array `base` of uint8."""
        d = self.decoder
        tensors: dict[str, NDArray[Any]] = {
            "form": np.array([_VERSION, d.window], np.int32), "lo": d.lo, "hi": d.hi, "up": d.up, "shift": d.shift,
            "counts": d.counts, "levels": d.levels, "linear": d.linear, "multiply": d.multiply, "bias": d.bias,
            "scales": d.scales, "zeros": d.zeros,
        }  # fmt: skip
        if d.network is not None and d.reach is not None and d.net_multiply is not None:
            tensors |= {"reach": d.reach, "net_multiply": d.net_multiply, **d.network.to_tensors("n_")}
        about = {"kind": self.kind, "window": d.window, "n_latents": d.n_latents}
        encoder = {} if self.encoder is None else {"base": _bytes(pack_tensors(self.encoder.to_tensors()))}
        return about, {"base": _bytes(pack_tensors(tensors))}, encoder

    @classmethod
    def from_parts(
        cls, about: Mapping[str, Any], decoder: Mapping[str, NDArray[Any]], encoder: Mapping[str, NDArray[Any]] | None
    ) -> BaseLayer:
        """Rebuild what `to_parts` gave; encoder None or empty gives a layer that only decodes. Raises
        CorruptArchive."""
        packed = decoder.get("base")
        if packed is None or packed.dtype != np.uint8 or packed.ndim != 1:
            raise CorruptArchive("base layer: the decoder's packed tensor 'base' is missing")
        tensors = unpack_tensors(packed.tobytes())
        form = _tensor(tensors, "form", np.int32, (2,))
        if form[0] != _VERSION:
            raise CorruptArchive(f"base layer has version {form[0]}, this release reads {_VERSION}")
        network = IntegerNetwork.from_tensors(tensors, "n_") if "n_form" in tensors else None
        built = Decoder(
            int(form[1]), _tensor(tensors, "lo", np.int64), _tensor(tensors, "hi", np.int64), _tensor(tensors, "up", np.uint8),
            _tensor(tensors, "shift", np.uint8), _tensor(tensors, "counts", np.int16), _tensor(tensors, "levels", np.int64),
            _tensor(tensors, "linear", np.int16, n_dims=2), _tensor(tensors, "multiply", np.int32), _tensor(tensors, "bias", np.int64),
            _tensor(tensors, "scales", np.int32), _tensor(tensors, "zeros", np.uint8), network,
            None if network is None else _tensor(tensors, "reach", np.int32),
            None if network is None else _tensor(tensors, "net_multiply", np.int32),
        )  # fmt: skip
        kind = about.get("kind")
        if not isinstance(kind, str):
            raise CorruptArchive("base layer: its JSON names no kind")
        packed = (encoder or {}).get("base")
        return cls(kind, built, None if packed is None else Encoder.from_tensors(unpack_tensors(packed.tobytes()), built))

    @property
    def n_bytes(self) -> int:
        """Bytes of decoder and encoder, packed."""
        _, decoder, encoder = self.to_parts()
        return sum(a.nbytes for part in (decoder, encoder) for a in part.values())


def lay_out(latents: NDArray[np.int16], n_rows: int, window: int) -> NDArray[np.int8] | NDArray[np.int16]:
    """Latents of windows (m, L) as (n_rows, ceil(L/W)): whole windows latent after latent, then what a short last one
    holds.

    Values are zig-zagged, 0 -1 1 -2 2 as 0 1 2 3 4: zeros stay zeros, and none is negative (|latent| <= 2^14 - 1). A
    last window of r < W rows keeps its first r * ceil(L/W) latents; the others read back as 0.
    """
    n_latents = latents.shape[1]
    n_columns = -(-n_latents // window)
    n_whole = n_rows // window
    out = np.zeros((n_columns, n_rows), np.int16)
    whole = np.zeros(n_columns * n_whole * window, np.int16)
    whole[: n_latents * n_whole] = latents[:n_whole].T.reshape(-1)
    out[:, : n_whole * window] = whole.reshape(n_columns, -1)
    left = n_rows - n_whole * window
    if left:
        tail = np.zeros(n_columns * left, np.int16)
        kept = min(n_latents, len(tail))
        tail[:kept] = latents[n_whole, :kept]
        out[:, n_whole * window :] = tail.reshape(left, n_columns).T
    # zig-zag: Parquet keeps integers as 4 bytes, and the sign bytes of negative ones cost about 20 %
    z = np.ascontiguousarray(((out << 1) ^ (out >> 15)).T)
    small = z.size == 0 or int(z.max()) <= 127
    return z.astype(np.int8) if small else z


def take_up(z: NDArray[np.integer[Any]], n_latents: int, window: int) -> NDArray[np.int64]:
    """The inverse of `lay_out`: (n_rows, ceil(L/W)) back to latents of windows (ceil(n_rows/W), L) int64."""
    n_rows, _n_columns = z.shape
    z = z.astype(np.int64)
    z = (z >> 1) ^ -(z & 1)
    n_whole = n_rows // window
    left = n_rows - n_whole * window
    out = np.zeros((n_whole + (left > 0), n_latents), np.int64)
    whole = np.ascontiguousarray(z[: n_whole * window].T).reshape(-1)
    out[:n_whole] = whole[: n_latents * n_whole].reshape(n_latents, n_whole).T
    if left:
        tail = np.ascontiguousarray(z[n_whole * window :]).reshape(-1)
        kept = min(n_latents, len(tail))
        out[n_whole, :kept] = tail[:kept]
    return out


def check_decoder(d: Decoder) -> None:
    """Raise CorruptArchive unless shapes agree, sizes are sane, and no int64 of the decoder's arithmetic can
    overflow."""
    n_columns, n_features = len(d.lo), len(d.multiply)
    if not 1 <= d.window <= MAX_WINDOW or not 1 <= n_columns <= MAX_COLUMNS or d.linear.ndim != 2:
        raise CorruptArchive(f"base layer: window {d.window} or {n_columns} columns are out of range")
    n_latents = d.linear.shape[1]
    if not 1 <= n_latents <= MAX_LATENTS or d.linear.size > MAX_LINEAR or d.linear.shape[0] != d.window * n_features:
        raise CorruptArchive(f"base layer: linear map is {d.linear.shape} for {d.window} rows of {n_features} features")
    if any(a.shape != (n_columns,) for a in (d.hi, d.up, d.shift, d.counts)):
        raise CorruptArchive(f"base layer: column tensors disagree with its {n_columns} columns")
    if d.bias.shape != (n_features,) or any(a.shape != (n_latents,) for a in (d.scales, d.zeros)):
        raise CorruptArchive("base layer: bias or prior have the wrong shape")
    if (d.counts < 0).any() or int(np.maximum(d.counts, 1).sum(dtype=np.int64)) != n_features:
        raise CorruptArchive(f"base layer: levels and numeric columns do not add up to {n_features} features")
    if d.levels.shape != (int(d.counts.sum(dtype=np.int64)),):
        raise CorruptArchive("base layer: levels do not match their counts")
    if (d.lo > d.hi).any() or (d.up > 63).any() or (d.shift > 40).any() or (d.scales < 0).any():
        raise CorruptArchive("base layer: an empty code range, or a shift out of range")
    if (((d.hi.view(np.uint64) - d.lo.view(np.uint64)) >> d.up.astype(np.uint64)) >= np.uint64(1 << 32)).any():
        raise CorruptArchive("base layer: a code range is wider than its unit allows")
    reach = np.abs(d.linear.astype(np.int64)).sum(axis=1).reshape(d.window, -1).max(axis=0)
    net = np.zeros(n_features, np.int64)
    if d.network is not None:
        if d.reach is None or d.net_multiply is None or d.reach.shape != (n_latents,) or d.net_multiply.shape != (n_features,):
            raise CorruptArchive("base layer: the network's scales are missing or have the wrong shape")
        if d.network.n_in != n_latents or d.network.n_out != d.window * n_features:
            raise CorruptArchive(
                f"base layer: network maps {d.network.n_in} to {d.network.n_out} values, not {n_latents} to {d.window * n_features}"
            )
        net = np.abs(d.net_multiply.astype(np.int64))
    for f in range(n_features):
        total = int(reach[f]) * _LATENT_BOUND * abs(int(d.multiply[f])) * GAIN_UNIT + int(net[f]) * SUM_BOUND + abs(int(d.bias[f]))
        if total >= 1 << 62:
            raise CorruptArchive(f"base layer: feature {f} can reach {total}, beyond the 62 bits its arithmetic has")


def _tensor(
    tensors: Mapping[str, NDArray[Any]],
    name: str,
    dtype: type[np.integer[Any]],
    shape: tuple[int, ...] | None = None,
    n_dims: int = 1,
) -> NDArray[Any]:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != dtype or (shape is not None and tensor.shape != shape) or tensor.ndim != n_dims:
        raise CorruptArchive(f"base layer: tensor {name!r} is missing or not {np.dtype(dtype)} of the right shape")
    return tensor


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).copy()
