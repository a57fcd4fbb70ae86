"""Dense networks in exact integers: the same bits on any thread count, batch size, BLAS, CPU or GPU.

Weights are int8, activations small integers, and every partial sum of every layer stays below 2^24 in magnitude. A
float32
matrix product of such numbers is exact in any order of summation, so the numpy evaluation here is the specification
and every
other back end (torch, float64, a C kernel) gives the same bits. The bound is proved when a network is built or loaded.
(Ballé et al. 2019, "Integer networks for data compression with latent-variable models".)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive

SUM_BOUND = 1 << 24
"""Every partial sum is strictly smaller than this: the integers float32 holds exactly."""
MAX_SHIFT = 24
MAX_LAYERS = 16
MAX_WIDTH = 1 << 16
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLayer:
    """One dense layer: out = clamp(floor((weight @ a + bias) / 2^shift), low, high).

    weight : (n_out, n_in) int8, in -127..127
    bias   : (n_out,) int32
    shift  : 0..24
    low, high : integers, |.| <= 2^24; an output layer that keeps its sums uses -2^24, 2^24
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    shift: int
    low: int
    high: int

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return int(self.weight.shape[1])

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return int(self.weight.shape[0])

    def sum_bound(self, input_bound: int) -> int:
        """The largest magnitude any partial sum can reach when every |input| <= input_bound."""
        if self.n_out == 0:
            return 0
        magnitude = np.abs(self.weight.astype(np.int64)).sum(axis=1)
        reach = [int(m) * input_bound + abs(int(b)) for m, b in zip(magnitude, self.bias, strict=True)]
        return max(reach)

    def rescale(self, sums: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Shift and clamp sums (n, n_out), exact integers held in floats; the activations, same dtype."""
        scaled = np.floor(sums * sums.dtype.type(2.0**-self.shift)) if self.shift else sums
        return np.clip(scaled, sums.dtype.type(self.low), sums.dtype.type(self.high))


@dataclass(frozen=True, slots=True, eq=False)
class IntegerNetwork:
    """A stack of integer layers whose inputs are integers with |input| <= input_bound.

    Raises CorruptArchive on construction when a shape, shift, clamp or the 2^24 bound does not hold.
    """

    layers: tuple[IntegerLayer, ...]
    input_bound: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise CorruptArchive(f"integer network has {len(self.layers)} layers, this release reads 1 to {MAX_LAYERS}")
        if not 0 <= self.input_bound < SUM_BOUND:
            raise CorruptArchive(f"integer network allows inputs up to {self.input_bound}, at most {SUM_BOUND - 1} is exact")
        bound = self.input_bound
        for index, layer in enumerate(self.layers):
            where = f"layer {index} of an integer network"
            if layer.weight.ndim != 2 or layer.weight.dtype != np.int8:
                raise CorruptArchive(f"{where}: weights are {layer.weight.dtype}{layer.weight.shape}, expected a matrix of int8")
            if layer.bias.shape != (layer.n_out,) or layer.bias.dtype != np.int32:
                raise CorruptArchive(f"{where}: bias is {layer.bias.dtype}{layer.bias.shape}, expected int32 ({layer.n_out},)")
            if max(layer.weight.shape) > MAX_WIDTH or min(layer.weight.shape) < 1:
                raise CorruptArchive(f"{where}: shape {layer.weight.shape} is outside 1..{MAX_WIDTH}")
            if index and layer.n_in != self.layers[index - 1].n_out:
                raise CorruptArchive(f"{where}: takes {layer.n_in} inputs, the layer before gives {self.layers[index - 1].n_out}")
            if int(layer.weight.min()) < -127:
                raise CorruptArchive(f"{where}: a weight is -128, outside -127..127")
            if not 0 <= layer.shift <= MAX_SHIFT:
                raise CorruptArchive(f"{where}: shift {layer.shift} is outside 0..{MAX_SHIFT}")
            if not -SUM_BOUND <= layer.low <= layer.high <= SUM_BOUND:
                raise CorruptArchive(f"{where}: clamp {layer.low}..{layer.high} is outside +-2^24")
            reach = layer.sum_bound(bound)
            if reach >= SUM_BOUND:
                raise CorruptArchive(f"{where}: sums can reach {reach}, which is not below 2^24")
            bound = max(abs(layer.low), abs(layer.high))
            if index + 1 < len(self.layers):
                bound = min(bound, (reach >> layer.shift) + 1) if layer.low <= 0 <= layer.high else bound

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return self.layers[-1].n_out

    def __call__(self, inputs: NDArray[np.integer[Any]], dtype: type[np.floating[Any]] = np.float32) -> NDArray[np.int32]:
        """Evaluate inputs (n, n_in), integers with |.| <= input_bound, to (n, n_out) int32.

        Inputs outside the bound are clamped to it, so no input can make the arithmetic inexact.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.n_in:
            raise ValueError(f"integer network takes (n, {self.n_in}) inputs, got {inputs.shape}")
        out = np.empty((len(inputs), self.n_out), np.int32)
        widest = max(self.n_in, *(layer.n_out for layer in self.layers))
        step = max(1, _CHUNK_ELEMENTS // widest)
        matrices = [(layer.weight.T.astype(dtype), layer.bias.astype(dtype)) for layer in self.layers]
        for start in range(0, len(inputs), step):
            a: NDArray[np.floating[Any]] = np.clip(inputs[start : start + step], -self.input_bound, self.input_bound).astype(dtype)
            for layer, (matrix, bias) in zip(self.layers, matrices, strict=True):
                a = layer.rescale(a @ matrix + bias)
            out[start : start + step] = a.astype(np.int32)
        return out

    def after_sums(self, sums: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
        """Evaluate from the first layer's sums (n, layers[0].n_out), exact integers in floats with |.| < 2^24.

        For decoders that grow the first layer's sums one decoded column at a time.
        """
        a = self.layers[0].rescale(sums)
        for layer in self.layers[1:]:
            a = layer.rescale(a @ layer.weight.T.astype(a.dtype) + layer.bias.astype(a.dtype))
        return a.astype(np.int32)

    def to_tensors(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Integer tensors under `prefix`: w0, b0, w1, ... and `form` (shift, low, high of each layer, then the input
        bound)."""
        tensors: dict[str, NDArray[Any]] = {}
        form: list[int] = []
        for index, layer in enumerate(self.layers):
            tensors[f"{prefix}w{index}"] = layer.weight
            tensors[f"{prefix}b{index}"] = layer.bias
            form += [layer.shift, layer.low, layer.high]
        tensors[f"{prefix}form"] = np.array([*form, self.input_bound], np.int32)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], prefix: str = "") -> IntegerNetwork:
        """Rebuild what `to_tensors` gave. Raises CorruptArchive when a tensor is missing or anything is out of
        bounds."""
        form = tensors.get(f"{prefix}form")
        if form is None or form.ndim != 1 or form.dtype != np.int32 or len(form) % 3 != 1 or len(form) > 3 * MAX_LAYERS + 1:
            raise CorruptArchive(f"integer network {prefix!r}: tensor 'form' is missing or malformed")
        layers = []
        for index in range(len(form) // 3):
            weight, bias = tensors.get(f"{prefix}w{index}"), tensors.get(f"{prefix}b{index}")
            if weight is None or bias is None:
                raise CorruptArchive(f"integer network {prefix!r}: layer {index} is missing")
            shift, low, high = (int(v) for v in form[3 * index : 3 * index + 3])
            layers.append(IntegerLayer(weight, bias, shift, low, high))
        return cls(tuple(layers), int(form[-1]))
