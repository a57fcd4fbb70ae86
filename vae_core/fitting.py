"""Fitting a model to a sample: column plans, the exact layer's contexts, then the base layers. The only room that trains."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.coders import conventional, fields, lattices, texts
from vae_core.columns import ColumnPlan, TableProfile, decode_column, encode_column, one_array, plan_columns, without_levels
from vae_core.exact.above import above_of_runs
from vae_core.exact.arrange import WORTH_SCREENING, Arrangement, arranged_before
from vae_core.exact.drafts import drafted, is_ample, rows_for, whole_search
from vae_core.exact.groups import one_hot_groups
from vae_core.exact.ordering import SampleColumn, orders
from vae_core.exact.plans import ColumnCode
from vae_core.exact.price import BALANCE, OF_MANY_ROWS, USUAL, price_of
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.exact.tensors import TensorCode
from vae_core.layers import PreviewRefresh, Progress, Report, fit_distortion, fit_preview, still_fits, thinned
from vae_core.layout import uses_codes
from vae_core.model import MOST_WEIGHTS, FitConfig, FitResult, Model, Sample
from vae_core.picking import ABOVE_RUN, amounts_of, has_above, packed_bits, picked_columns, plain_bits
from vae_core.tables import rmse_of
from vae_core.tensor_fitting import fit_tensors, levels_by_plane, n_weights
from vae_core.tolerance import Tolerance

Ints = NDArray[np.int64]
EXACT_ROWS = 60_000
EXACT_CELLS = 6_000_000  # for the last search, which holds six levels or so of each
EXACT_SHARE, EXACT_LEAST = 0.6, 0.2
TENSOR_SHARE = 0.3  # after which no tensor column is begun
REFRESH_SHARE = 0.15  # of the budget, for contexts of new rows: the dearest columns first
# of the time for the exact layer: after it no column is priced, no other order, no other place is searched
SHARE_OF_PRICES, SHARE_OF_ORDERS, SHARE_OF_MOVES = 0.25, 0.4, 0.65
TUNING_SHARE = 0.05  # of the budget, after the time for the exact layer
WORTH_SEARCHING = 0.002  # of all bits, that quick codes of a table have to save for others to be searched
DRAFT_SHARE = 0.15  # of the budget, beyond the time for the exact layer: for quick codes of columns that have none
WORTH_MORE_ROWS, LEAST_AGAIN = 0.15, 0.25  # of the columns that there has to be time for to search more rows; of the rows, to search again
MORE_ORDERS = 2  # that there has to be time for before any is improved
CLOSE, WORTH_MORE_ORDERS = 1.03, 8e6  # orders whose bits are so near the best are improved, too, for a dataset of so many bits
JUDGED_ROWS = 1 << 15
PLAN_BYTES, IDLE_BYTES, IDLE_SHARE = 64, 4_096, 0.0025  # of a code in the plan; of codes that do not pay: at least, and of the dataset
MIN_JUDGED_DICTIONARY = 4_096
TRIFLE = 0.001  # of all bits: a column that takes less is not searched again
RUN = 4_096  # rows in a row of a sample
RECURS, WORTH_FIELDS = 8, 0.9  # times a value of a dictionary is there; bytes of fields, of those of codes and dictionary
UNIFORM_BOUNDS = (0.45 * float(np.sqrt(12.0)), 1.25, 1.0)  # times the rmse target; 0.9 of the half-width that has it on the average


def fit(
    sample: Sample,
    profile: TableProfile,
    schema: pa.Schema,
    tolerances: Mapping[str, Tolerance],
    config: FitConfig,
    progress: Progress | None = None,
    now: Callable[[], float] = time.monotonic,
) -> FitResult:
    """Fit a model to a sample. `tolerances` are resolved (columns.tolerance.resolve). Deterministic for a seed and budget
    that does not run out; a budget that does leaves out contexts and networks, never correctness. now: the clock, in seconds."""
    report = Report(progress, now)
    plans = levels_by_plane(plan_columns(schema, profile, sample.table, tolerances), sample.table)
    n_total = max(profile_rows(profile), sample.table.num_rows)
    uniform = _uniform(plans, schema, profile, sample, tolerances)
    distortion, compared = fit_distortion(plans, uniform, sample, config, n_total, report)
    layered = set() if distortion is None else set(distortion.columns)
    plans = tuple(p if p.index in layered or not p.tolerance.is_distortion else uniform[p.index] for p in plans)
    plans = _without_costly_dictionaries(plans, sample, n_total)
    taken = set() if distortion is None else set(distortion.columns)
    tensors, tensor_rate = _fit_tensors(plans, sample, taken, config, n_total, report)
    codes, rate = _fit_exact(plans, sample, taken, config, n_total, report)
    rate += tensor_rate
    draft = Model(schema, plans, codes, None, distortion, rate, tensors=tensors)
    preview, previews = fit_preview(draft, sample, config, n_total, report)
    fallback = {j: uniform[j] for j in sorted(taken)}
    model = Model(schema, plans, codes, preview, distortion, rate, fallback, n_total, tensors, config.favour).unranged()
    summary = {
        "rate_bits_per_row": rate, "n_learned": len(model.learned), "n_columns": len(plans),
        "seconds": report.curve[-1]["seconds"] if report.curve else 0.0,
        "distortion_compared": compared, "preview_compared": previews,
    }  # fmt: skip
    return FitResult(model, report.curve, summary)


def refresh(
    model: Model,
    sample: Sample,
    profile: TableProfile,
    config: FitConfig,
    progress: Progress | None = None,
    *,
    targets: Mapping[str, float] | None = None,
) -> FitResult:
    """A new version of a model for new rows of the same schema and tolerances, starting from the old one's plans.

    targets : column -> the root mean square error the first model resolved, of all such columns, where their layer no longer
              fits: it is fitted anew to the same errors. Without any the distortion layer stays as it is.
    The plans of learned columns and tolerances stay as they are unless a dictionary no longer holds the new values; contexts are
    searched anew on the new sample (seconds). The preview stays where it tells as much of the new rows as it did of the old;
    else another is fitted, from the window and kind that were best. Where that tells less than the old one, the old one stays after all.
    """
    report = Report(progress)
    config = dataclasses.replace(config, favour=model.favour if config.favour == USUAL else config.favour)
    n_total = max(profile_rows(profile), sample.table.num_rows)
    tolerances = {plan.name: plan.tolerance for plan in model.columns if not plan.tolerance.is_lossless}
    tolerances |= {name: Tolerance("rmse", value) for name, value in (targets or {}).items()}
    fresh = levels_by_plane(plan_columns(model.schema, profile, sample.table, tolerances), sample.table)
    distortion, fallback, compared = model.distortion, model.uniform, list[dict[str, Any]]()
    anew = {plan.index for plan in fresh if targets and plan.tolerance.is_distortion}
    if anew:
        uniform = _uniform(fresh, model.schema, profile, sample, tolerances)
        distortion, compared = fit_distortion(fresh, uniform, sample, config, n_total, report, model.distortion)
        fallback = {} if distortion is None else {j: uniform[j] for j in sorted(distortion.columns)}
        fresh = tuple(uniform[p.index] if p.index in anew - set(fallback) else p for p in fresh)
    taken = set() if distortion is None else set(distortion.columns)
    sketch = PreviewRefresh(model, sample, config, anew)
    kept, learned = (taken - anew) | sketch.columns, set(model.learned)
    plans = tuple(
        new if before.index in anew or not (before.index in kept or (before.index in learned and still_fits(before, sample))) else before
        for before, new in zip(model.columns, fresh, strict=True)
    )
    tensors, tensor_rate = _fit_tensors(plans, sample, taken, config, n_total, report, REFRESH_SHARE)
    codes, rate = _fit_exact(plans, sample, taken, config, n_total, report, [code for code in model.codes if code.column not in taken])
    found = taken.union(code.column for code in tensors)
    # those there was no time for, or that new rows do not pay for: a shard takes what is smaller
    older = list[TensorCode]()
    for code in model.tensors:
        fits = n_weights([*older, code, *tensors]) <= MOST_WEIGHTS
        if fits and code.column not in found and plans[code.column] is model.columns[code.column]:
            older.append(code)
    tensors, rate = (*older, *tensors), rate + tensor_rate
    preview, previews = sketch.settled(Model(model.schema, plans, codes, None, distortion, rate, tensors=tensors), n_total, report)
    refreshed = Model(model.schema, plans, codes, preview, distortion, rate, fallback, n_total, tensors, config.favour).unranged()
    summary = {
        "rate_bits_per_row": rate, "refreshed": True, "n_learned": len(refreshed.learned),
        "distortion_compared": compared, "preview_compared": previews,
    }  # fmt: skip
    return FitResult(refreshed, report.curve, summary)


def profile_rows(profile: TableProfile) -> int:
    """Rows a profile has seen."""
    return max((int(c.n_rows) for c in profile.columns.values()), default=0)


def _fit_tensors(
    plans: Sequence[ColumnPlan], sample: Sample, taken: set[int], config: FitConfig, n_total: int, report: Report,
    share: float = TENSOR_SHARE,
) -> tuple[tuple[TensorCode, ...], float]:
    """Codes of tensor columns, and their bits a row; share: of the budget, after which none is begun."""
    if not any(plan.kind == "tensor" and plan.index not in taken for plan in plans):
        return (), 0.0
    deadline = report.began + share * config.time_budget_s
    with ThreadPoolExecutor(max(1, config.threads)) as pool:
        each = pool.map if config.threads > 1 else map
        found, rate = fit_tensors(plans, sample, taken, n_total, each, lambda: report.now() < deadline, config.time_budget_s)
    report("tensors", len(found), rate, rate)
    return found, rate


def _fit_exact(
    plans: Sequence[ColumnPlan], sample: Sample, taken: set[int], config: FitConfig, n_total: int, report: Report,
    known: Sequence[ColumnCode] = (),
) -> tuple[tuple[ColumnCode, ...], float]:
    """Codes of every learnable column in coding order, and their estimated bits a row; `known`: those an earlier fit has found, whose
    order is not searched for again."""
    forms = {code.column: code.form for code in known}
    table, runs = thinned(sample, EXACT_ROWS)
    picked = picked_columns(plans, table, taken, forms)
    if not picked or not len(picked[0].values):
        return (), 0.0
    above, run = None, RUN
    price = price_of(config.favour, n_total)
    told = any(code.reads_above for code in known)
    if told or (not known and not price.is_high and has_above(plans, sample, amounts_of(picked), forms)):
        run = ABOVE_RUN
        if table.num_rows < sample.table.num_rows:
            table, runs = thinned(sample, EXACT_ROWS, run)
            picked = picked_columns(plans, table, taken, forms)
        above = above_of_runs([c.values for c in amounts_of(picked)], runs)
        price = price_of(config.favour, n_total, has_above=True)
    n = len(picked[0].values)
    now, budget = report.now, config.time_budget_s
    began = now()
    # looking at columns and a distortion layer take of the same budget, but not all of it
    deadline = max(report.began + EXACT_SHARE * budget, began + EXACT_LEAST * budget)
    if known:
        deadline = began + REFRESH_SHARE * budget

    def tick() -> bool:
        return now() < deadline

    def whole_bits(found: Arrangement) -> float:
        return found.bits + sum(bits for j, bits in alone.items() if j not in found.found)

    def tell(stage: str, found: Arrangement) -> None:
        report(stage, len(found.order), bits := whole_bits(found) / n, bits)

    rng = np.random.default_rng(config.seed)
    alone = {c.column: plain_bits(c) for c in picked}
    report("exact", 0, plain := sum(alone.values()) / n, plain)
    best: Arrangement | None = None
    tried, unmoved = list[Arrangement](), list[float]()
    with ThreadPoolExecutor(max(1, config.threads)) as pool:
        each = pool.map if config.threads > 1 else map
        patience = began + SHARE_OF_PRICES * (deadline - began)
        candidates, gains = orders(picked, rng, each, lambda: now() < patience)
        amounts = frozenset(c.column for c in picked if not c.categorical)
        groups = one_hot_groups(picked)
        sampled = Sampled(n, n_total, decoded_sample(picked, above), gains=gains, numeric=amounts, groups=groups, each=each, price=price)
        if known:
            best = arranged_before(known, dataclasses.replace(sampled, remembers=True), picked, tick, now)
            remembering = {code.column for code in known if code.value.matches}  # to try memories of all columns takes longer than all else
            if price is OF_MANY_ROWS[BALANCE]:
                sampled = dataclasses.replace(sampled, price=best.price)
            dear = [j for j, (_, bits) in best.found.items() if bits > TRIFLE * best.bits]
            best = best.searched_again(sampled, picked, dear, remembering)
            best.relieve(alone)
            best.forget_prices()
            report("exact", len(best.order), best.bits / n, best.bits / n)
            return _with_rate(best, picked, n, alone)
        patience = began + SHARE_OF_ORDERS * (deadline - began)
        draft: Arrangement | None = None
        quick_s = 0.0
        if not is_ample(len(picked), n, patience - now()):
            until = deadline + DRAFT_SHARE * budget
            draft, quick_s = drafted(sampled, [picked[k] for k in candidates[0]], alone, tick, now, until, partial(tell, "draft"))
            if len(draft.order) == len(picked):
                least = sum(min(alone[c.column], packed_bits(c)) for c in picked)
                deadline = now() if whole_bits(draft) > (1 - WORTH_SEARCHING) * least else deadline  # nothing tells anything
            if len(draft.order) < len(picked) or len(picked) * whole_search(quick_s, n) > patience - now():
                best, candidates = draft, []  # what matters most then, and no other order
                best.better(partial(tell, "exact", best))
                tried, unmoved = [best], [whole_bits(best)]
        moving = began + SHARE_OF_MOVES * (deadline - began)

        def improve(found: Arrangement, screened: bool) -> None:
            found.improve(partial(_tell_order, report, found, n), moving, screened)

        for k, positions in enumerate(candidates):
            if best is None or now() < patience:
                found, before = Arrangement(sampled, picked, tick, now), now()
                for position in positions:
                    if not tick() and (draft is not None or best is not None):
                        break
                    found.add(picked[position].column)
                    tell("exact" if k == 0 else f"exact, order {k + 1}", found)
                if best is None and draft is not None:
                    found.take(draft)
                if len(found.order) == len(picked):
                    unmoved.append(whole_bits(found))
                    tried.append(found)
                    best = best or found
                if k == 0 and now() + MORE_ORDERS * (now() - before) > patience:
                    improve(found, screened=True)  # seldom a hundredth above the best order: moves are worth more of what time there is
        assert best is not None
        least = min(unmoved, default=0.0)
        close = CLOSE * least if least * n_total / n > WORTH_MORE_ORDERS else least
        for screened in (True, False) if n >= WORTH_SCREENING else (False,):
            for bits, found in sorted(zip(unmoved, tried, strict=True), key=lambda pair: pair[0]):
                if bits <= close or found is tried[0]:  # the first whatever the clock said of the others
                    improve(found, screened)
        best = min([best, *tried], key=whole_bits)
        # what takes many rows to be seen: more of them are to come
        best.put_first({c.column for c in picked if c.periods})
        if price is OF_MANY_ROWS[BALANCE]:
            price = best.price
            best = best.priced(picked, price)
        n_more = rows_for((deadline - now()) / (WORTH_MORE_ROWS * len(picked)), quick_s)
        if tick() and n_more >= LEAST_AGAIN * n:
            more, runs = thinned(sample, max(n, min(n_more, EXACT_CELLS // len(picked))), run)
            # contexts that 60,000 rows are too few to learn, and memories; the order takes many searches, these are one a column
            forms |= {c.column: c.form for c in picked}
            picked = picked_columns(plans, more, taken, forms) if more.num_rows > n else picked
            if len(picked[0].values) > n:
                above = None if above is None else above_of_runs([c.values for c in amounts_of(picked)], runs)
            n = len(picked[0].values)
            whole = Sampled(
                n, n_total, decoded_sample(picked, above), gains=gains, numeric=amounts, groups=groups, each=each, price=price,
                remembers=True,
            )  # fmt: skip
            best = best.searched_again(whole, picked)
            report("exact contexts", len(best.order), best.bits / n, best.bits / n)
        best.forget_prices()
        best.tune(config.threads, now() + TUNING_SHARE * budget)
        report("exact weights", len(best.order), best.bits / n, best.bits / n)
    _drop_idle(best, picked, n_total / n)
    return _with_rate(best, picked, n)


def _drop_idle(found: Arrangement, picked: Sequence[SampleColumn], scale: float) -> None:
    """Leave out codes that take more than pcodec does and tell of no other column, where the plan of a wide table is mostly of these.

    Few are kept: a column of a small first dataset may well pay once more rows have come.
    scale : rows of the dataset, of one of the sample
    """
    columns = {c.column: c for c in picked}
    if len(found.order) * PLAN_BYTES <= IDLE_BYTES:
        return
    plain = {j: packed_bits(c) for j, c in columns.items() if j in found.found}
    idle, told = list[int](), Counter(other for code, _ in found.found.values() for other in code.columns)
    for j in reversed(found.order):
        if not told[j] and found.found[j][1] + 8 * PLAN_BYTES / scale >= plain[j]:
            idle.append(j)
            told.subtract(found.found[j][0].columns)
    if len(idle) * PLAN_BYTES > IDLE_BYTES + IDLE_SHARE * scale * sum(plain.values()) / 8:
        for j in idle:
            found.order.remove(j)
            del found.found[j]


def _tell_order(report: Report, arranged: Arrangement, n: int) -> None:
    """One more step of a search for a better order."""
    bits = arranged.bits / n
    report("order", len(arranged.order), bits, bits)


def _with_rate(
    found: Arrangement, picked: Sequence[SampleColumn], n: int, alone: Mapping[int, float] | None = None
) -> tuple[tuple[ColumnCode, ...], float]:
    """The codes in coding order, and their bits a row; alone: bits of each column without any context, which an old code of rows
    it was not made for may exceed, and no shard takes then."""
    # a shard takes hidden steps where those are less: what the preview may cost is a share of that
    stepped = {c.column: lattices.bits(c.values, c.state) for c in picked if c.column in found.found}
    bits = {j: estimate for j, (_, estimate) in found.found.items()}
    if alone is not None:
        bits = {j: min(bits[j], alone[j]) for j in bits}
    return found.codes, sum(min(bits[j], stepped[j]) for j in bits) / n


def _uniform(
    plans: tuple[ColumnPlan, ...],
    schema: pa.Schema,
    profile: TableProfile,
    sample: Sample,
    tolerances: Mapping[str, Tolerance],
) -> tuple[ColumnPlan, ...]:
    """Plans where every distortion column is quantised uniformly instead, by the widest of a few bounds that keeps the target on
    the sample: bins of sqrt(12) rmse do on the average, but not where values sit on their edges; a bound of the target always does.
    """
    undecided = {name: t for name, t in tolerances.items() if t.is_distortion}
    found, bounded = plans, dict(tolerances)
    for factor in UNIFORM_BOUNDS if undecided else ():
        bounded |= {name: Tolerance("absolute", factor * t.value) for name, t in undecided.items()}
        found = plan_columns(schema, profile, sample.table, bounded)
        undecided = {p.name: undecided[p.name] for p in found if p.name in undecided and not _meets(p, sample, undecided[p.name])}
    return found


def _meets(plan: ColumnPlan, sample: Sample, target: Tolerance) -> bool:
    """Whether a plan keeps an rmse target on the sample, with a margin for the rows it does not hold."""
    if plan.kind == "verbatim":
        return True
    array = one_array(sample.table.column(plan.index))
    return rmse_of(array, decode_column(plan, encode_column(plan, array))) <= 0.97 * target.value


def _without_costly_dictionaries(plans: Sequence[ColumnPlan], sample: Sample, n_total: int) -> tuple[ColumnPlan, ...]:
    """The plans, but a column whose dictionary costs more than it saves goes without.

    Judged on the sample with conventional codings under either plan.
    """
    found = []
    for plan in plans:
        n_bytes = sum(len(blob) for blob in plan.blobs().values()) if plan.kind in ("categorical", "numeric") else 0
        if n_bytes > MIN_JUDGED_DICTIONARY and plan.is_lossless and sample.table.num_rows:
            array = one_array(sample.table.column(plan.index).slice(0, JUDGED_ROWS))
            other = without_levels(plan, sample.table.column(plan.index))
            scale = n_total / len(array)
            coded = [n for name, n in conventional.rank(plan, array, encode_column(plan, array)) if uses_codes(name)]
            codes = None if other.kind == "verbatim" else encode_column(other, array)
            plain: float = min(n for _, n in conventional.rank(other, array, codes))
            if lattices.worth_trying(other, codes):
                plain = min(plain, conventional.measure(other, array, codes, ["lattices"])[1])
            if texts.holds(array.type) and (plan.n_levels or 0) * RECURS > n_total:
                # what recurs more tells of other columns; and codes may be learned for less than they take here
                plain = min(plain, fields.styled(array)[1] / WORTH_FIELDS)
            if plain * scale < min(coded, default=0) * scale + n_bytes:
                plan = other
        found.append(plan)
    return tuple(found)
