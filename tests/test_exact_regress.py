"""Linear predictions found on a sample: of few terms where few tell, of many where many do, of none that do not pay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vae_core.exact.ordering import SampleColumn
from vae_core.exact.regress import MAX_TERMS, WIDE_TERMS, Fitted, Regression, Variable
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.exact.search import search_column


def variables(values: np.ndarray) -> list[Variable]:
    return [Variable("at", j, column.astype(np.float64)) for j, column in enumerate(values)]


def narrow(target: np.ndarray, known: list[Variable]) -> Fitted:
    return Regression(target).fit(known)


def test_what_many_columns_tell_together_is_found_of_all_of_them():
    rng = np.random.default_rng(1)
    known = np.rint(1000 * rng.normal(size=(24, 6000)))
    target = np.rint(known.sum(axis=0) / 3 + 5 * rng.normal(size=6000))
    few = narrow(target, variables(known))
    wide = Regression(target).fit_wide(variables(known), 10**6, few)
    assert len(few.terms) <= MAX_TERMS and len(wide.terms) == 24
    assert wide.score < few.score - 5 and abs(wide.score - np.log2(1 + np.abs(5 * rng.normal(size=6000))).mean()) < 0.3
    assert all(abs(term.weight / 2**16 - 1 / 3) < 0.01 for term in wide.terms)


def test_what_few_columns_tell_stays_as_it_is():
    rng = np.random.default_rng(2)
    known = np.rint(1000 * rng.normal(size=(30, 6000)))
    target = known[3] - known[7] + np.rint(3 * rng.normal(size=6000))
    few = narrow(target, variables(known))
    assert Regression(target).fit_wide(variables(known), 10**6, few) is few and {term.column for term in few.terms} == {3, 7}
    assert Regression(target).fit_wide(variables(known[:2]), 10**6, few) is few


def test_terms_pay_for_their_place_and_are_bounded():
    rng = np.random.default_rng(3)
    known = np.rint(1000 * rng.normal(size=(90, 8000)))
    weights = np.where(np.arange(90) < 80, 1.0, 0.001)
    target = np.rint(weights @ known)
    few = narrow(target, variables(known))
    assert len(Regression(target).fit_wide(variables(known), 10**7, few).terms) <= WIDE_TERMS
    short = np.rint(weights[:20] @ known[:20] + 20_000 * rng.normal(size=8000))
    few = narrow(short, variables(known[:20]))
    assert len(Regression(short).fit_wide(variables(known[:20]), 300, few).terms) <= len(few.terms), "300 rows do not pay for noise"


def test_far_off_rows_do_not_bend_it():
    rng = np.random.default_rng(4)
    known = np.rint(1000 * rng.normal(size=(12, 6000)))
    target = known.sum(axis=0)
    target[::50] += 10**9
    few = narrow(target, variables(known))
    wide = Regression(target).fit_wide(variables(known), 10**6, few)
    assert wide is few or np.median(np.abs(target - sum(t.weight * known[t.column] for t in wide.terms) / 2**16 - wide.bias / 2**16)) < 1


def test_a_search_is_not_remembered_for_other_columns_than_it_looked_at():
    rng = np.random.default_rng(5)
    n = 4000
    known = np.rint(1000 * rng.normal(size=(50, n))).astype(np.int64)
    target = known.sum(axis=0) // 4 + rng.integers(-3, 4, n)
    columns = [SampleColumn(j, v, None, 0, int(v.min()), int(v.max()), False) for j, v in enumerate([*known, target])]
    sampled = Sampled(n, n, decoded_sample(columns), numeric=frozenset(range(51)))
    for placed in (columns[:50], columns[:45]):
        code, _ = search_column(replace(sampled, placed=placed), columns[50], lambda: True)
        assert code.columns <= {c.column for c in placed} and len(code.columns) > 30
