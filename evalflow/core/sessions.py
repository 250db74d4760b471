"""Sessions: put together from their turns, what follows what in them, and how steps add up to an outcome.

Only turns that the ``uniform`` rule drew belong here: it draws whole sessions, the other rules tear single turns out.
Source: docs/methods.md, "Sessions". Keep out: what kinds of sessions there are (``session_types.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from evalflow.core.blind_spots import holm
from evalflow.core.divergence import jsd_of, jsd_terms
from evalflow.core.grading import COMPLAINTS
from evalflow.core.intervals import Interval, wilson

SEED = 7
FLOOR_DRAWS = 200
"""Random suites behind the floor of a JSD over pairs: its mean is then known to a hundredth of itself."""
SINGLE_STEPS = 10
"""Up to so many steps each number has a row of its own in the table of compounding."""
GAP_P = 0.05
"""Of at least one gap by length where steps are independent."""
TINY = 1e-9
STEP_GROUPS = ((11, 20), (21, 50), (51, None))
"""Longer sessions are few of each length, and read together."""


@dataclass(frozen=True)
class Transition:
    """From a bin to the bin of the next turn: its share of all transitions on either side."""

    from_bin: str
    to_bin: str
    production_share: float
    n_sampled: int
    golden_transitions: int
    golden_share: float
    jsd_term: float | None


@dataclass(frozen=True)
class TransitionCoverage:
    """How far the transitions that the suite tests are from those that happen.

    ``jsd_raw`` is None without transitions on either side; ``reason`` then says which. ``floor_mean`` and ``floor_p95``:
    what random suites of as many transitions show. ``covered_share``: traffic of the transitions that a case has.
    ``m_eff``: how many independent transitions the sample is worth.
    """

    n_sessions: int
    n_transitions: int
    n_gaps: int
    n_golden_cases: int
    n_golden: int
    m_eff: float
    jsd_raw: float | None
    floor_mean: float | None
    floor_p95: float | None
    covered_share: float | None
    reason: str | None
    transitions: tuple[Transition, ...]


@dataclass(frozen=True)
class StepGroup:
    """Sessions of ``n_steps_from`` to ``n_steps_to`` steps (None: no upper end) held against independent steps.

    ``expected_share``: s^n, averaged over the sessions. ``all_passed_share``: every step passed. ``ended_well_share``:
    over the sessions whose end is known, null without any. Intervals are Wilson's at the effective number of sessions.
    ``gap_p``: chance of a measured share at least so far from the expected one, by length after Holm.
    ``is_gap``: the expected share lies outside the interval of the measured one; by length, where many are looked at
    together, ``gap_p`` is at most .05.
    """

    n_steps_from: int
    n_steps_to: int | None
    n_sessions: int
    session_share: float
    expected_share: float
    all_passed_share: float
    all_passed_low: float
    all_passed_high: float
    gap_p: float
    is_gap: bool
    n_ended: int
    ended_well_share: float | None
    ended_well_low: float | None
    ended_well_high: float | None


@dataclass(frozen=True)
class Compounding:
    """Per-step success s, and what it would make of sessions of n steps; the first group holds all of them.

    ``step_success`` is None, and there are no groups, where no session has a verdict on every step.
    """

    step_success: float | None
    n_steps: int
    n_sessions: int
    n_unscored: int
    groups: tuple[StepGroup, ...]


def in_order(turns: pl.DataFrame) -> pl.DataFrame:
    """The turns by session and, within it, in the order in which they happened.

    Args:
        turns: a row per turn: ``item_id``, ``session_id`` (null: the turn is a session of its own), ``turn_index`` (may
            be null), ``timestamp``, and any other columns.

    Returns:
        The same rows with ``session``. Turns go by their index, and by time where they have none.
    """
    alone = pl.concat_str(pl.lit("trace:"), "item_id")
    session = pl.concat_str(pl.lit("session:"), "session_id")
    return turns.with_columns(session=pl.coalesce(session, alone)).sort(
        "session", "turn_index", "timestamp", "item_id", nulls_last=False, maintain_order=True
    )


# -- sessions --------------------------------------------------------------------------------------------------


def sessions_of(turns: pl.DataFrame, n_logged: Mapping[str, int]) -> pl.DataFrame:
    """One row per whole session of the sample.

    A session is whole when every turn that was logged of it in the window was drawn. One that crosses midnight is
    drawn by one number at two days' rates, so all of it is there with the lower of them: its weight is raised to that.

    Args:
        turns: as ``in_order`` gives them, with ``day``, ``weight`` and ``pi_uniform`` of the uniform rule, ``tools`` (list of
            names, null where calls were not logged), ``context_tokens``, ``verdict``, and the signals.
        n_logged: turns of each session in all traffic of the window, by ``session_id``; sessions that are missing here
            are taken as whole.

    Returns:
        ``session``, ``session_id``, ``weight`` (that of the first turn; sums to one), ``n_turns``, ``tools`` (the names in
        order; null where no turn logged them), ``context_first``, ``context_last``, ``context_mean``, ``all_passed`` and ``n_passed``
        (null while a step is unscored), ``ended_well``, ``is_abandoned``, ``is_escalated`` (null where nobody can
        know), sorted by ``session``.
    """
    known_context = pl.col("context_tokens").drop_nulls()
    n_scored = (pl.col("verdict") != "unscored").sum()
    gathered = turns.group_by("session", maintain_order=True).agg(
        pl.col("session_id").first(),
        pl.len().cast(pl.Int64).alias("n_turns"),
        (pl.col("weight").first() * pl.col("pi_uniform").first() / pl.col("pi_uniform").min()).alias("weight"),
        pl.col("tools").is_not_null().any().alias("knows_tools"),
        pl.col("tools").drop_nulls().explode().drop_nulls().alias("tools"),
        known_context.first().cast(pl.Float64).alias("context_first"),
        known_context.last().cast(pl.Float64).alias("context_last"),
        known_context.mean().alias("context_mean"),
        pl.when(n_scored == pl.len()).then((pl.col("verdict") == "pass").sum()).cast(pl.Int64).alias("n_passed"),
        _ended_well().last().alias("ended_well"),
        pl.col("is_abandoned").max(),
        pl.col("is_escalated").max(),
    )
    logged = pl.Series([n_logged.get(name) for name in gathered["session_id"]], dtype=pl.Int64)
    whole = gathered.filter(logged.is_null() | (logged <= gathered["n_turns"]))
    total = float(whole["weight"].to_numpy().sum())
    return whole.with_columns(
        weight=pl.col("weight") / total if total > 0 else pl.col("weight"),
        tools=pl.when("knows_tools").then("tools"),
        all_passed=pl.col("n_passed") == pl.col("n_turns"),
    ).drop("knows_tools")


def _ended_well() -> pl.Expr:
    """What a session came to, read off its last turn: what the user said of it, else the verdict on it."""
    complained = pl.any_horizontal(pl.col(name).fill_null(False) for name in COMPLAINTS)
    praised = (~pl.col("is_thumbs_down")).fill_null(False)
    return (
        pl.when(complained)
        .then(pl.lit(False))
        .when(praised)
        .then(pl.lit(True))
        .when(pl.col("verdict") != "unscored")
        .then(pl.col("verdict") == "pass")
    )


# -- transitions -----------------------------------------------------------------------------------------------


def transition_coverage(turns: pl.DataFrame, golden: pl.DataFrame) -> TransitionCoverage:
    """The joint distribution of (bin of a turn, bin of the next turn), production against the suite.

    Two turns make a transition when both were drawn and nothing lies between them: their indices differ by one, or both
    have none. There are no states for start and end: a session of one turn has no transition, and how a case's
    conversation ends is where its author stopped.

    Args:
        turns: as ``in_order`` gives them, with ``bin``, ``weight`` and ``pi_uniform`` of the uniform rule.
        golden: turns of the cases' conversations in order: ``case_id``, ``bin``; the last of each is its input.
    """
    pairs = _pairs(turns)
    cases = golden.select(
        "case_id",
        from_bin=pl.col("bin").shift(1).over("case_id", mapping_strategy="group_to_rows"),
        to_bin=pl.col("bin"),
    ).drop_nulls("from_bin")
    table = _joint(pairs, cases)
    p, q = table["mass"].to_numpy(), table["golden_transitions"].to_numpy().astype(float)
    total = float(p.sum())
    share = p / (total or 1.0)
    is_measurable = total > 0 and len(cases) > 0
    terms = jsd_terms(share, q) if is_measurable else None
    m_eff = _worth(pairs) if total > 0 else 0.0
    floor = _floor(share, q, len(cases), m_eff) if is_measurable else None
    rows = tuple(
        Transition(
            from_bin=row["from_bin"],
            to_bin=row["to_bin"],
            production_share=float(share[i]),
            n_sampled=row["n_sampled"],
            golden_transitions=row["golden_transitions"],
            golden_share=float(q[i] / q.sum()) if q.sum() else 0.0,
            jsd_term=None if terms is None else float(terms[i]),
        )
        for i, row in enumerate(table.iter_rows(named=True))
    )
    return TransitionCoverage(
        n_sessions=pairs["session"].n_unique(),
        n_transitions=len(pairs),
        n_gaps=_n_followed(turns) - len(pairs),
        n_golden_cases=cases["case_id"].n_unique(),
        n_golden=len(cases),
        m_eff=m_eff,
        jsd_raw=None if terms is None else float(min(terms.sum(), 1.0)),
        floor_mean=floor[0] if floor else None,
        floor_p95=floor[1] if floor else None,
        covered_share=float(share[q > 0].sum()) if total > 0 and len(cases) else None,
        reason=_why_not(total, len(cases)),
        transitions=tuple(sorted(rows, key=lambda r: (-r.production_share, -r.golden_share, r.from_bin, r.to_bin))),
    )


def _why_not(total: float, n_golden: int) -> str | None:
    if total <= 0:
        return "no sampled session has two turns in a row"
    return None if n_golden else "no golden case has a conversation before it"


def _pairs(turns: pl.DataFrame) -> pl.DataFrame:
    """Neighbouring turns with the chance that both were drawn undone: ``session``, ``from_bin``, ``to_bin``, ``weight``."""
    earlier = turns.select(pl.col("session", "turn_index", "bin", "pi_uniform").shift(1).name.prefix("earlier_"))
    step = pl.col("turn_index") - pl.col("earlier_turn_index")
    has_no_index = pl.col("turn_index").is_null() & pl.col("earlier_turn_index").is_null()
    both = pl.min_horizontal("pi_uniform", "earlier_pi_uniform")
    return (
        turns.hstack(earlier)
        .filter((pl.col("session") == pl.col("earlier_session")) & ((step == 1) | has_no_index))
        .select(
            "session",
            from_bin=pl.col("earlier_bin"),
            to_bin=pl.col("bin"),
            weight=pl.col("weight") * pl.col("pi_uniform") / both,
        )
    )


def _n_followed(turns: pl.DataFrame) -> int:
    """Turns that follow another one of their session in the sample, whatever lies between."""
    return len(turns) - turns["session"].n_unique()


def _joint(pairs: pl.DataFrame, cases: pl.DataFrame) -> pl.DataFrame:
    """Both sides by pair of bins, sorted: ``from_bin``, ``to_bin``, ``mass``, ``n_sampled``, ``golden_transitions``."""
    key = ["from_bin", "to_bin"]
    counted = pl.concat(
        [
            pairs.select(*key, "weight", n=pl.lit(1), c=pl.lit(0)),
            cases.select(*key, weight=pl.lit(0.0), n=pl.lit(0), c=pl.lit(1)),
        ]
    ).sort(key, maintain_order=True)
    distinct = counted.select(key).unique(maintain_order=True)
    row = counted.select(pl.struct(key).rle_id()).to_series().to_numpy()

    def summed(column: str) -> np.ndarray:
        # By numpy in the order of the rows: a parallel sum may differ in its last bit from run to run.
        return np.bincount(row, weights=counted[column].to_numpy(), minlength=len(distinct))

    return distinct.with_columns(
        mass=pl.Series(summed("weight"), dtype=pl.Float64),
        n_sampled=pl.Series(summed("n").astype(int), dtype=pl.Int64),
        golden_transitions=pl.Series(summed("c").astype(int), dtype=pl.Int64),
    )


def _worth(pairs: pl.DataFrame) -> float:
    """How many independent transitions the sample is worth: sum p (1 - p) / sum var(p), sessions as the units.

    The same figure as for traces (``inference.effective_size``), over cells that are far too many for a matrix.
    """
    names = pairs["session"].to_numpy().astype(str)
    sessions, session = np.unique(names, return_inverse=True)
    cells, cell = np.unique(
        np.array([f"{a}\x1f{b}" for a, b in pairs.select("from_bin", "to_bin").iter_rows()]), return_inverse=True
    )
    weight = pairs["weight"].to_numpy() / pairs["weight"].to_numpy().sum()
    share = np.bincount(cell, weights=weight, minlength=len(cells))
    own = np.bincount(session, weights=weight, minlength=len(sessions))
    both, where = np.unique(session * len(cells) + cell, return_inverse=True)
    held = np.bincount(where, weights=weight)
    # sum over sessions and cells of (held - own * share)^2, with held = 0 in nearly all of them
    squares = (held**2).sum() - 2 * (held * own[both // len(cells)] * share[both % len(cells)]).sum()
    n = len(sessions)
    variance = (squares + (own**2).sum() * (share**2).sum()) * (n / (n - 1) if n > 1 else 1.0)
    spread = float((share * (1 - share)).sum())
    return spread / float(variance) if variance > 1e-24 and spread > 0 else float(n)


def _floor(share: np.ndarray, golden: np.ndarray, n: int, m_eff: float) -> tuple[float, float]:
    """Mean and 95th centile of raw JSD between ``m_eff`` and ``n`` transitions drawn from the pooled mass of both sides."""
    chance = np.random.default_rng(SEED)
    m = max(1, round(m_eff))
    pooled = (golden + m * share) / (n + m)
    pooled = pooled / pooled.sum() / max((pooled / pooled.sum()).sum(), 1.0)
    drawn = jsd_of(chance.multinomial(m, pooled, FLOOR_DRAWS) / m, chance.multinomial(n, pooled, FLOOR_DRAWS) / n)
    return float(drawn.mean()), float(np.quantile(drawn, 0.95))


# -- compounding -----------------------------------------------------------------------------------------------


def compounding(sessions: pl.DataFrame) -> Compounding:
    """Per-step success s over n steps against the sessions in which every step passed, and those that ended well.

    s is the weighted share of passed steps in the sessions that have a verdict on every step; the same sessions are
    measured, so that a gap is none between two groups of sessions. If steps were independent and alike, s^n of the
    sessions of n steps would pass throughout.

    Args:
        sessions: as ``sessions_of`` gives them.
    """
    scored = sessions.filter(pl.col("n_passed").is_not_null())
    n_unscored = len(sessions) - len(scored)
    weight, steps = scored["weight"].to_numpy(), scored["n_turns"].to_numpy()
    total = float((weight * steps).sum())
    if total <= 0:
        return Compounding(None, int(steps.sum()), len(scored), n_unscored, ())
    success = min(float((weight * scored["n_passed"].to_numpy()).sum()) / total, 1.0)
    longest = int(steps.max())
    bounds: list[tuple[int, int | None]] = [(1, None), *((n, n) for n in range(1, SINGLE_STEPS + 1)), *STEP_GROUPS]
    groups = [
        _group(scored.filter(_within(first, last)), first, last, success, float(weight.sum()))
        for first, last in bounds
        if first <= longest
    ]
    everything, *by_length = (group for group in groups if group is not None)
    p_values = holm(np.array([group.gap_p for group in by_length]))
    return Compounding(
        success,
        int(steps.sum()),
        len(scored),
        n_unscored,
        (
            everything,
            *(
                replace(own, gap_p=float(p), is_gap=bool(p <= GAP_P))
                for own, p in zip(by_length, p_values, strict=True)
            ),
        ),
    )


def _within(first: int, last: int | None) -> pl.Expr:
    return pl.col("n_turns").is_between(first, last if last is not None else 2**31)


def _group(sessions: pl.DataFrame, first: int, last: int | None, success: float, total: float) -> StepGroup | None:
    weight = sessions["weight"].to_numpy()
    passed = weighted_share(sessions["all_passed"], sessions["weight"])
    if passed is None:
        return None
    ended = sessions.filter(pl.col("ended_well").is_not_null())
    well = weighted_share(ended["ended_well"], ended["weight"])
    expected = float((weight * success ** sessions["n_turns"].to_numpy()).sum() / weight.sum())
    return StepGroup(
        n_steps_from=first,
        n_steps_to=last,
        n_sessions=len(sessions),
        session_share=float(weight.sum()) / total,
        expected_share=expected,
        all_passed_share=passed.share,
        all_passed_low=passed.interval.low,
        all_passed_high=passed.interval.high,
        gap_p=_chance_of(passed, expected),
        is_gap=not passed.interval.low <= expected <= passed.interval.high,
        n_ended=len(ended),
        ended_well_share=well.share if well else None,
        ended_well_low=well.interval.low if well else None,
        ended_well_high=well.interval.high if well else None,
    )


def _chance_of(measured: "WeightedShare", expected: float) -> float:
    """Chance of a share at least as far from ``expected``: twice the smaller binomial tail, at the effective number.

    Wilson's normal approximation is too sure of itself where few sessions are expected to pass.
    """
    from scipy.special import betainc

    n = measured.n_effective
    hits = measured.share * n
    rate = min(expected, 1.0)
    at_least = betainc(hits, n - hits + 1, rate) if hits > TINY else 1.0
    at_most = 1 - betainc(hits + 1, n - hits, rate) if n - hits > TINY else 1.0
    return min(1.0, 2 * float(min(at_least, at_most)))


@dataclass(frozen=True)
class WeightedShare:
    """A weighted share of sessions with Wilson's interval at Kish's effective number of them."""

    share: float
    n_effective: float
    interval: Interval


def weighted_share(hits: pl.Series, weights: pl.Series) -> WeightedShare | None:
    """The share of sessions that ``hits``, over those that are known; None where no weight is left."""
    known = hits.is_not_null().to_numpy()
    weight = weights.to_numpy()[known].astype(float)
    total = float(weight.sum())
    if total <= 0:
        return None
    hit = hits.drop_nulls().to_numpy().astype(bool)
    share = min(float(weight[hit].sum()) / total, 1.0)
    n_effective = total**2 / float((weight**2).sum())
    return WeightedShare(share, n_effective, wilson(share * n_effective, n_effective))
