"""The paired test: exact against two independent implementations, honest about what it cannot see and what is left out.

Simulations: a share of r runs that is truly x strays by sqrt(x (1 - x) / r). `benchmarks/gate_power.py` makes more of them.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from math import nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from evalflow.core import pairing
from evalflow.core.attempts import Attempts, attempts_of
from evalflow.core.families import Families
from evalflow.core.pairing import PairedTest, compare, detectable_drop, drop_of, families_needed, sign_flips
from evalflow_tests.paired_runs import as_attempts, family_sums, run_of, world_of

ALONE = Families({})
PASS, FAIL, OPEN = Attempts((True,)), Attempts((False,)), Attempts((None,))


def runs_of(regressions: int, fixes: int, both: int = 0) -> tuple[dict[str, Attempts], dict[str, Attempts]]:
    """Baseline and candidate of single cases: so many got worse, so many better, so many passed twice."""
    before = {f"r{n}": True for n in range(regressions)} | {f"f{n}": False for n in range(fixes)}
    after = {case_id: not passed for case_id, passed in before.items()}
    same = {f"s{n}": True for n in range(both)}
    return attempts_of(before | same), attempts_of(after | same)


def compared(
    before: Mapping[str, Attempts], after: Mapping[str, Attempts], families: Families = ALONE, limit: float = 0.1
) -> PairedTest:
    return compare(sorted({*before, *after}), after, before, families, limit)


# -- the p-value -------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60))
def test_single_cases_give_mcnemars_exact_test(regressions: int, fixes: int) -> None:
    found = compared(*runs_of(regressions, fixes, both=3))
    n = regressions + fixes
    expected = binomtest(regressions, n, 0.5, alternative="greater").pvalue if n else 1.0
    assert found.test == "exact McNemar"
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert (found.n_pairs, found.n_families, found.n_regressions, found.n_fixes) == (n + 3, n + 3, regressions, fixes)


SUMS = st.lists(st.fractions(-4, 4, max_denominator=6), max_size=7)


def by_hand(sums: list[Fraction]) -> float:
    """All 2^n choices of signs, one by one."""
    all_sums = [
        sum(sign * value for sign, value in zip(signs, sums, strict=True))
        for signs in product((1, -1), repeat=len(sums))
    ]
    return sum(one >= sum(sums) for one in all_sums) / len(all_sums)


@given(SUMS)
def test_sign_flips_are_those_of_all_choices_of_signs(sums: list[Fraction]) -> None:
    assert sign_flips(sums).p_value == pytest.approx(by_hand(sums), abs=1e-12)


@given(SUMS, st.data())
def test_more_of_a_drop_in_any_family_never_raises_the_p_value(sums: list[Fraction], data: st.DataObject) -> None:
    more = [value + data.draw(st.fractions(0, 2, max_denominator=6)) for value in sums]
    assert sign_flips(more).p_value <= sign_flips(sums).p_value + 1e-12


def test_sums_too_many_to_enumerate_are_drawn_with_a_fixed_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    sums = [Fraction(int(value), 7) for value in rng.integers(-12, 16, 40)]
    exact = sign_flips(sums)
    assert exact.test == "exact sign flips"
    monkeypatch.setattr(pairing, "MAX_STATES", 10)
    drawn = sign_flips(sums)
    assert drawn.test == "sampled sign flips"
    assert drawn == sign_flips(sums)
    error = sqrt(exact.p_value * (1 - exact.p_value) / pairing.SAMPLED_FLIPS)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * error)


@pytest.mark.parametrize("sums", [[], [Fraction(0)] * 5, [Fraction(-1), Fraction(-3)]])
def test_without_any_drop_the_p_value_is_one(sums: list[Fraction]) -> None:
    assert sign_flips(sums).p_value == 1.0


def test_a_family_counts_once_however_many_cases_it_has() -> None:
    """Six cases of one session that got worse together are one flip of a coin: 1 of 2, not 1 of 64."""
    before, after = runs_of(6, 0)
    together = compared(before, after, Families(dict.fromkeys(before, "session")))
    assert (together.test, together.p_value, together.n_families) == ("exact sign flips", 0.5, 1)
    assert compared(before, after).p_value == 1 / 64


def test_repeats_count_by_their_share_and_the_longer_run_by_its_first() -> None:
    """2 of 3 against 1 of 3 is a third; of (fail, pass, pass) against one pass only the first counts: -1."""
    assert drop_of(Attempts((True, True, False)), Attempts((False, False, True))) == Fraction(1, 3)
    assert drop_of(Attempts((False, True, True)), PASS) == -1
    assert drop_of(Attempts((None, True, True)), PASS) == 0
    found = compared({"a": Attempts((True, True, False))}, {"a": FAIL})
    assert (found.drop, found.n_uneven, found.regressed) == (1.0, 1, ("a",))


# -- what it could have seen -----------------------------------------------------------------------------------


def test_the_detectable_drop_solves_its_equation() -> None:
    """psi = .1, n = 140: (1.645 x .3162 + .842 x sqrt(.1 - d^2)) / 11.83 + .0071 = d has the root .0730."""
    d = detectable_drop(140, 0.1)
    assert d is not None
    assert (1.6449 * sqrt(0.1) + 0.8416 * sqrt(0.1 - d**2)) / sqrt(140) + 1 / 140 == pytest.approx(d, abs=1e-4)
    assert d == pytest.approx(0.0730, abs=1e-4)


def test_no_discordant_pair_is_not_taken_for_no_noise() -> None:
    """Of 200 pairs without a difference a drop of d shows when 5 or more get worse: 80 % of the time from d = .034."""
    d = detectable_drop(200, 0.0)
    assert d is not None
    least = next(share for share in np.arange(0.01, 0.1, 0.0005) if binom.sf(4, 200, share) >= 0.8)
    assert least == pytest.approx(0.0335, abs=0.001)
    assert least <= d <= 0.042


@pytest.mark.parametrize(("n", "psi"), [(0, 0.0), (1, 1.0), (4, 0.0)])
def test_few_families_can_show_no_drop_at_all(n: int, psi: float) -> None:
    """2^-4 is above .05: four families that all get worse are no proof."""
    assert detectable_drop(n, psi) is None


@given(st.integers(8, 500), st.floats(0, 1), st.floats(0.01, 1), st.floats(1, 5))
def test_the_families_that_are_asked_for_are_just_enough(n: int, psi: float, limit: float, clumping: float) -> None:
    needed = families_needed(limit, psi, clumping)
    enough, fewer = detectable_drop(needed, psi, clumping), detectable_drop(needed - 1, psi, clumping)
    assert enough is not None
    assert enough <= limit + 1e-6
    assert fewer is None or fewer > limit - 1e-6
    more, same = detectable_drop(n + 1, psi, clumping), detectable_drop(n, psi, clumping)
    assert same is None or (more is not None and more <= same + 1e-12)


def test_a_drop_of_the_detectable_size_is_found_four_times_of_five() -> None:
    """800 runs of 150 single cases, noise .06 and a drop that is detectable beside the noise it makes: .80, error .014."""
    rng, n, noise, drop = np.random.default_rng(3), 150, 0.06, 0.0
    for _ in range(50):
        drop = detectable_drop(n, noise + drop) or 1.0
    moves = rng.multinomial(n, [noise / 2 + drop, noise / 2, 1 - noise - drop], size=800)
    found = np.mean([sign_flips([Fraction(1)] * r + [Fraction(-1)] * f).p_value <= 0.05 for r, f, _ in moves])
    assert 0.76 <= found <= 0.88


# -- simulations of the whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "together"), [([4] * 50, 1.0), ([10] * 20, 0.5), ([40] + [1] * 160, 0.5)])
def test_an_equal_candidate_is_called_worse_at_most_once_in_twenty(sizes: list[int], together: float) -> None:
    """Though the cases of a family move together, where pooled McNemar is wrong in 10 to 25 %. 300 runs, error .013."""
    rng = np.random.default_rng(7)
    ours, pooled, runs = 0, 0, 300
    for _ in range(runs):
        world = world_of(rng, sizes, together)
        before, after = run_of(rng, world), run_of(rng, world)
        ours += sign_flips(family_sums(world, before, after)).p_value <= 0.05
        regressions, fixes = int((before & ~after).sum()), int((after & ~before).sum())
        pooled += binom.sf(regressions - 1, regressions + fixes, 0.5) <= 0.05
    found = compare(world.ids, as_attempts(world, after), as_attempts(world, before), world.families, 0.1)
    assert found.p_value == sign_flips(family_sums(world, before, after)).p_value
    assert ours / runs <= 0.05 + 2 * 0.013
    assert pooled / runs >= 0.08


def test_pairs_see_what_two_samples_do_not() -> None:
    """12 regressions and 3 fixes expected in 200: found in 65 % and more, by two proportions in a fifth. 2,000 runs."""
    rng, n, runs = np.random.default_rng(9), 200, 2_000
    counts = rng.multinomial(n, [12 / n, 3 / n, 0.8 - 12 / n, 0.2 - 3 / n], size=runs)
    p_of: dict[tuple[int, int], float] = {}
    paired, unpaired = 0, 0
    for regressions, fixes, both, _ in counts:
        pair = (int(regressions), int(fixes))
        if pair not in p_of:
            p_of[pair] = compared(*runs_of(*pair)).p_value or 0.0
        paired += p_of[pair] <= 0.05
        before, after = regressions + both, fixes + both
        pooled = (before + after) / (2 * n)
        unpaired += norm.sf((before - after) / n / sqrt(2 * pooled * (1 - pooled) / n)) <= 0.05
    assert paired / runs >= 0.65
    assert unpaired / runs <= 0.25


def test_a_candidate_that_is_worse_by_the_limit_rarely_passes() -> None:
    """The error that the detectable drop is about: at most 20 %, for suites that are just sharp enough. 1,500 runs."""
    rng, limit, runs = np.random.default_rng(11), 0.1, 1_500
    for n, noise in ((90, 0.04), (140, 0.1), (200, 0.2)):
        moves = rng.multinomial(n, [noise / 2 + limit, noise / 2, 1 - noise - limit], size=runs)
        passed = 0
        for regressions, fixes, _ in moves:
            sharp = (detectable_drop(n, (regressions + fixes) / n) or 1.0) <= limit
            passed += bool(sharp and binom.sf(regressions - 1, regressions + fixes, 0.5) > 0.05)
        assert passed / runs <= 0.2


# -- what is left out --------------------------------------------------------------------------------------------


def test_only_what_both_scored_is_paired_and_the_rest_is_named() -> None:
    before = {"a": PASS, "b": PASS, "c": OPEN, "d": FAIL}
    after = {"a": FAIL, "b": OPEN, "c": PASS, "e": PASS}
    found = compared(before, after)
    assert (found.n_pairs, found.lost, found.n_without_baseline) == (1, ("b", "d"), 2)
    assert found.p_value == 0.5
    assert found.worst_p_value == 0.25  # a and b got worse, d failed before


def test_nothing_to_pair_has_no_figures() -> None:
    for before, after in (({}, {"a": PASS}), ({"a": PASS}, {}), ({"a": OPEN}, {"a": OPEN}), ({}, {})):
        found = compared(before, after)
        assert (found.test, found.n_pairs, found.p_value, found.drop) == ("none", 0, None, None)
        assert (found.detectable_drop, found.families_needed, found.discordant_share) == (None, None, None)
        assert not found.is_worse
        assert not found.is_sharp_enough


OUTCOMES = st.lists(st.sampled_from([True, True, True, False, None]), max_size=3).map(
    lambda held: Attempts(tuple(held))
)


@given(st.lists(st.tuples(OUTCOMES, OUTCOMES, st.integers(0, 5)), max_size=12), st.data())
def test_leaving_out_results_never_makes_it_look_better(
    cases: list[tuple[Attempts, Attempts, int]], data: st.DataObject
) -> None:
    """Whether cases are dropped or attempts called unscored: what holds at worst holds for all that was hidden."""
    families = Families({f"c{n}": f"f{family}" for n, (_, _, family) in enumerate(cases)})
    before = {f"c{n}": held for n, (held, _, _) in enumerate(cases)}
    full = {f"c{n}": held for n, (_, held, _) in enumerate(cases)}
    fewer = {}
    for case_id, held in full.items():
        fate = data.draw(st.sampled_from(["kept", "dropped", "unscored"]))
        hidden = st.lists(st.booleans(), min_size=held.n_attempts, max_size=held.n_attempts)
        if fate == "kept":
            fewer[case_id] = held
        elif fate == "unscored":
            mask = data.draw(hidden)
            fewer[case_id] = Attempts(
                tuple(None if hide else one for one, hide in zip(held.outcomes, mask, strict=True))
            )
    whole, part = (compare(sorted(before), run, before, families, 0.5) for run in (full, fewer))
    if part.n_pairs:
        assert part.worst_p_value is not None
        assert whole.p_value is not None
        assert part.worst_p_value <= whole.p_value + 1e-12
        assert (part.detectable_drop or 2) >= (whole.detectable_drop or 2) - 1e-9 or whole.detectable_drop is None


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.5, nan])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        compared({}, {}, limit=limit)
