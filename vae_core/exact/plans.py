"""How a column is coded, as data: what a model stores of it, checked as it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vae_core.errors import CorruptArchive
from vae_core.exact import digits as digits_module
from vae_core.exact import features as features_module
from vae_core.exact import linear as linear_module
from vae_core.exact import matches as matches_module
from vae_core.exact.counts import MAX_CELLS, n_contexts
from vae_core.exact.digits import Digits, Direct
from vae_core.exact.features import ABOVE_KINDS, AROUND_KINDS, MIXED_KINDS, N_STATES, Feature
from vae_core.exact.forms import FORMS
from vae_core.exact.linear import Linear
from vae_core.exact.matches import Match
from vae_core.exact.recall import MAX_KEYS
from vae_core.exact.schedule import STRETCH, USUAL_CHUNKS, Chunks
from vae_core.exact.units import Unit, unit_from_json

MAX_FEATURES = 4
MAX_SORT_KEYS = 2
FLAGS = Direct.over(0, 1)


@dataclass(frozen=True, slots=True)
class DigitPlan:
    """How one digit is conditioned: features (a later digit has the digit before it first, as kind "digit"), weights a_k."""

    features: tuple[Feature, ...]
    weights: tuple[int, ...]

    def to_json(self) -> list[Any]:
        return [[f.to_json() for f in self.features], list(self.weights)]


@dataclass(frozen=True, slots=True)
class CellPlan:
    """How the integers of one column are coded.

    forward : None, or rows are coded one after another (`forward`), sorted by these earlier columns
    gathered : symbols are gathered by context, and no counts are learned of them: digits have no weights then
    matches : of those, what is remembered of rows before      leader : None, or the number of the match that is the prediction
    """

    scheme: Digits
    linear: Linear | None
    digits: tuple[DigitPlan, ...]
    chunks: Chunks = USUAL_CHUNKS
    forward: tuple[int, ...] | None = None
    matches: tuple[Match, ...] = ()
    leader: int | None = None
    gathered: bool = False

    @property
    def by_level(self) -> bool:
        """Whether rows are coded coarse to fine, with neighbours as context."""
        if self.forward is not None:
            return False
        return (self.linear is not None and self.linear.by_level) or any(f.by_level for d in self.digits for f in d.features)

    @property
    def in_order(self) -> bool:
        """Whether it looks at the column's own rows before or around."""
        return self.by_level or self.forward is not None

    @property
    def reads_above(self) -> bool:
        """Whether it looks at rows above: lanes have to be long for that."""
        return self.forward is not None and (
            (self.linear is not None and self.linear.reads_above) or any(f.kind in ABOVE_KINDS for d in self.digits for f in d.features)
        )

    @property
    def columns(self) -> set[int]:
        """Earlier columns this one is conditioned on."""
        found = {j for d in self.digits for f in d.features for j in f.columns} | set(self.forward or ())
        found |= {j for match in self.matches for j in match.others}
        return found | (self.linear.columns if self.linear else set())

    def as_gathered(self) -> CellPlan:
        """The same of symbols gathered by context. Not of a forward plan."""
        return replace(self, digits=tuple(replace(digit, weights=()) for digit in self.digits), chunks=USUAL_CHUNKS, gathered=True)

    def stretched(self, places: int) -> CellPlan:
        """The same in lanes of so many places at least. Of a forward plan."""
        return replace(self, chunks=replace(self.chunks, stretch=places))

    def to_json(self) -> list[Any]:
        linear = None if self.linear is None else self.linear.to_json()
        found = [self.scheme.to_json(), linear, [d.to_json() for d in self.digits], None if self.gathered else self.chunks.to_json()]
        if self.forward is None:
            return found
        matches = [[match.to_json() for match in self.matches]] if self.matches else []
        return [*found, list(self.forward), *matches, *([] if self.leader is None else [self.leader])]


def cell_plan_from_json(parts: Any, n_columns: int) -> CellPlan:
    """The inverse of CellPlan.to_json. Raises CorruptArchive when the plan could not be decoded safely."""
    try:
        scheme_parts, linear_parts, digit_parts, chunks, *forward_parts = parts
        scheme = digits_module.from_json(scheme_parts)
        linear = None if linear_parts is None else linear_module.from_json(linear_parts, n_columns)
        found = []
        for k, (feature_parts, weights) in enumerate(digit_parts):
            features = [] if k == 0 else [Feature("digit", -1, 0, scheme.sizes[k - 1])]
            features += [features_module.from_json(p, n_columns) for p in feature_parts[len(features) :]]
            found.append(DigitPlan(tuple(features), tuple(int(w) for w in weights)))
        forward = tuple(int(j) for j in forward_parts[0]) if forward_parts else None
        matches = matches_module.from_json(forward_parts[1], n_columns) if forward_parts[1:] else ()
        leader = int(forward_parts[2]) if forward_parts[2:] else None
        gathered = chunks is None
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise CorruptArchive(f"model holds a malformed column code: {str(parts)[:60]}") from error
    if len(found) != len(scheme.sizes) or (scheme.to_json()[0] == "residual" and linear is None):
        raise CorruptArchive("model holds a column code whose digits do not fit its scheme")
    for size, digit in zip(scheme.sizes, found, strict=True):
        sizes = [f.size for f in digit.features]
        if len(sizes) > MAX_FEATURES or n_contexts(sizes) * size > MAX_CELLS or len(digit.weights) != (0 if gathered else len(sizes) + 1):
            raise CorruptArchive(f"model asks for a table of {n_contexts(sizes)} contexts by {size} symbols")
        if any(not 1 <= w < 1 << 16 for w in digit.weights):
            raise CorruptArchive(f"model holds smoothing weights outside 1..65535: {digit.weights}")
    if len(forward_parts) > 3 or (forward is None and linear is not None and linear.is_forward):
        raise CorruptArchive("model holds a column code that predicts from rows before, of rows in no order")
    if gathered and forward is not None:
        raise CorruptArchive("model gathers symbols of rows coded one after another")
    if forward is not None:
        around = any(f.kind in AROUND_KINDS for d in found for f in d.features)
        if linear is None or linear.by_level or around or len(forward) > MAX_SORT_KEYS or not all(0 <= j < n_columns for j in forward):
            raise CorruptArchive("model holds a column code of rows one after another that looks behind them, or sorts by no column")
    beside = any(f.kind in ABOVE_KINDS for d in found for f in d.features) or (linear is not None and linear.reads_above)
    if beside and (forward != () or (linear is not None and linear.mixed is not None)):
        raise CorruptArchive("model holds a column code told by rows above, of rows in another order, or with a mix of predictions")
    if (linear is None or linear.mixed is None) and any(f.kind in MIXED_KINDS for d in found for f in d.features):
        raise CorruptArchive("model holds a column code conditioned on a mix of predictions that it does not describe")
    if any(f.kind == "match" and f.lo >= len(matches) for d in found for f in d.features):
        raise CorruptArchive("model holds a column code conditioned on a match that it does not describe")
    if leader is not None and not 0 <= leader < len(matches):
        raise CorruptArchive(f"model predicts a column by match {leader} of {len(matches)}")
    learned = USUAL_CHUNKS if gathered else Chunks.from_json(chunks)
    if learned.stretch != STRETCH and (forward is None or beside):
        raise CorruptArchive("model cuts rows into lanes of another length that are in none, or look at rows above")
    return CellPlan(scheme, linear, tuple(found), learned, forward, matches, leader, gathered)


@dataclass(frozen=True, slots=True)
class Recall:
    """Which rows are what their key last was: `keys`, earlier columns, and how the flags of rows with a seen key are coded; unit: what
    they are multiples of, where that is what their key tells."""

    keys: tuple[int, ...]
    same: CellPlan
    unit: Unit | None = None

    @property
    def columns(self) -> set[int]:
        """Earlier columns it reads."""
        return set(self.keys) | self.same.columns | (set() if self.unit is None else {self.unit.column})

    def to_json(self) -> list[Any]:
        return [list(self.keys), self.same.to_json(), *([] if self.unit is None else [self.unit.to_json()])]


@dataclass(frozen=True, slots=True)
class ColumnCode:
    """How one dataset column is coded: first its states, where a block has any, then the values of rows that hold one.

    column : index into the model's columns        fill : what `values` holds where the state is not "value"
    form   : in which the values are coded (`forms`): as they are, clocks as minutes, or counts of hidden steps
    recall : None, or how rows are found that repeat their key's last value; `value` is then of the others
    """

    column: int
    fill: int
    form: int
    state: CellPlan
    value: CellPlan
    recall: Recall | None = None

    @property
    def columns(self) -> set[int]:
        """Earlier columns this one is conditioned on."""
        return self.state.columns | self.value.columns | (self.recall.columns if self.recall else set())

    @property
    def n_among(self) -> int:
        """Columns that its features of kind "among" count, each as often as it is."""
        plans = (self.state, self.value, *((self.recall.same,) if self.recall else ()))
        return sum(len(f.columns) for plan in plans for digit in plan.digits for f in digit.features if f.kind == "among")

    @property
    def reads_above(self) -> bool:
        """Whether it looks at rows above."""
        return self.value.reads_above

    @property
    def is_gathered(self) -> bool:
        """Whether no counts are learned of its values, nor of which of them repeat."""
        return self.value.gathered and (self.recall is None or self.recall.same.gathered)

    @property
    def in_order(self) -> bool:
        """Whether its values, or which of them repeat, are told by neighbouring rows."""
        return self.value.in_order or (self.recall is not None and self.recall.same.in_order)

    def to_json(self) -> list[Any]:
        found = [self.column, self.fill, self.form, self.state.to_json(), self.value.to_json()]
        return found if self.recall is None else [*found, self.recall.to_json()]


def column_code_from_json(parts: Any, n_columns: int, of_tensor: bool = False) -> ColumnCode:
    """The inverse of ColumnCode.to_json; predictions are mixed of tensors alone. Raises CorruptArchive on anything else."""
    match parts:
        case [int(column), int(fill), int(form), state, value, *more] if (
            form in FORMS and 0 <= column < n_columns and -(2**63) <= fill < 2**63 and len(more) <= 1
        ):
            recall = _recall_from_json(more[0], n_columns) if more else None
            plans = cell_plan_from_json(state, n_columns), cell_plan_from_json(value, n_columns)
            code = ColumnCode(column, fill, int(form), *plans, recall)
        case _:
            raise CorruptArchive(f"model holds a malformed column code: {str(parts)[:60]}")
    if code.value.linear is not None and code.value.linear.mixed is not None and not of_tensor:
        raise CorruptArchive(f"model mixes predictions of column {column}, which is no tensor")
    if of_tensor and code.value.chunks.stretch != STRETCH:
        raise CorruptArchive(f"model cuts the cells of column {column}, which is a tensor, into lanes of another length")
    if code.reads_above and (of_tensor or code.state.reads_above or (code.recall is not None and code.recall.same.reads_above)):
        raise CorruptArchive(f"model tells the states, flags or cells of column {column} by rows above")
    if code.state.linear is not None or code.state.scheme.sizes != (N_STATES + 1,):
        raise CorruptArchive(f"model codes the states of column {column} with an alphabet that is not theirs")
    return code


def _recall_from_json(parts: Any, n_columns: int) -> Recall:
    match parts:
        case [[*keys], plan, *unit] if (
            len(unit) <= 1 and 1 <= len(keys) <= MAX_KEYS and all(isinstance(j, int) and 0 <= j < n_columns for j in keys)
        ):
            same = cell_plan_from_json(plan, n_columns)
        case _:
            raise CorruptArchive(f"model holds a malformed recall: {str(parts)[:60]}")
    if same.linear is not None or same.scheme != FLAGS:
        raise CorruptArchive("model codes the flags of a recall with an alphabet that is not theirs")
    return Recall(tuple(keys), same, unit_from_json(unit[0], n_columns) if unit else None)
