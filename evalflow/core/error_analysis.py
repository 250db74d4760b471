"""Error analysis: which sampled traces people read to learn what goes wrong, and what their notes say of the traffic.

A batch is a second draw from the window's sample, stratified by pools that lie where failures are, so that each drawn
trace has a known chance beside its own of being sampled. Source: docs/methods.md, "Error analysis".
Keep out: how notes are grouped into themes (``themes.py``).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from evalflow.core.grading import weighted_quantile
from evalflow.core.inference import Z
from evalflow.core.intervals import Interval, wilson
from evalflow.core.records import Review

Pool = Literal["guardrail", "struggling", "slow", "negative", "baseline"]
POOLS: tuple[Pool, ...] = get_args(Pool)
"""In the order in which a trace is put into the first that fits: the rarer before the broader, the rest last."""
POOL_REASONS: dict[Pool, str] = {
    "guardrail": "a guardrail spoke",
    "struggling": "part of a long session that struggles",
    "slow": "slower than nearly all answers of its model",
    "negative": "a negative signal",
    "baseline": "random baseline: nothing hints at a failure",
}
LEAST_LATENCIES = 20
"""With fewer known latencies a model has no 95th percentile of its own and is read together with its like."""
LEAST_DRAWN = 2
"""Of each pool, where it has so many: a pool without an answer leaves its traffic unknown."""
_EARLIEST = datetime.min.replace(tzinfo=UTC)


# -- pools and draw --------------------------------------------------------------------------------------------


def pools_of(sample: pl.DataFrame, struggling: Iterable[str], slow_quantile: float) -> pl.Series:
    """The pool of each sampled trace, in the order of ``sample``; no trace is in two.

    Args:
        sample: ``session_id``, ``is_guardrail_hit`` (may be null), ``is_negative``, ``model``, ``latency_ms``, ``weight``.
        struggling: ids of the sessions that struggle, as ``struggling_sessions`` gives them.
        slow_quantile: a latency above this weighted quantile of its model is slow. A latency that is unknown is not.
    """
    limit = _slow_limits(sample, slow_quantile)
    is_slow = pl.col("latency_ms") > pl.Series(limit, dtype=pl.Float64)
    return sample.select(
        pl.when(pl.col("is_guardrail_hit").fill_null(False))
        .then(pl.lit("guardrail"))
        .when(pl.col("session_id").is_in(list(struggling)).fill_null(False))
        .then(pl.lit("struggling"))
        .when(is_slow.fill_null(False))
        .then(pl.lit("slow"))
        .when(pl.col("is_negative").fill_null(False))
        .then(pl.lit("negative"))
        .otherwise(pl.lit("baseline"))
        .alias("pool")
    )["pool"]


def struggling_sessions(signals: pl.DataFrame, long_turns: int, struggling_turns: int) -> list[str]:
    """The sessions of at least ``long_turns`` turns of which at least ``struggling_turns`` have a negative signal, sorted.

    Args:
        signals: ``session_id`` and ``is_negative`` of all traffic, so that a turn that was not sampled counts too.
    """
    sessions = signals.drop_nulls("session_id").group_by("session_id").agg(pl.len(), pl.col("is_negative").sum())
    hard = sessions.filter((pl.col("len") >= long_turns) & (pl.col("is_negative") >= struggling_turns))
    return sorted(hard["session_id"])


def _slow_limits(sample: pl.DataFrame, quantile: float) -> list[float | None]:
    known = sample.filter(pl.col("latency_ms").is_not_null())
    counts = dict(known["model"].fill_null("").value_counts().iter_rows())
    own = {model for model, n in counts.items() if n >= LEAST_LATENCIES}
    group = [model if model in own else None for model in sample["model"].fill_null("")]
    rows = sample.select("latency_ms", "weight", group=pl.Series(group, dtype=pl.String))
    limits = {
        name: weighted_quantile(same["latency_ms"], same["weight"], quantile)
        for name in {*group}
        for same in [rows.filter(pl.col("group").eq_missing(name))]
    }
    return [limits[name] for name in group]


def allocate(pool_traces: Mapping[str, int], size: int, baseline_share: float) -> dict[str, int]:
    """How many traces of each pool a batch of ``size`` takes.

    The baseline gets its share, rounded, the others equal parts of the rest; what a pool is too small for goes to the
    others, first among those that failures are looked for in. No pool that has traces gets fewer than two, or all it has.
    """
    taken = {pool: min(LEAST_DRAWN, pool_traces.get(pool, 0)) for pool in POOLS}
    targeted = POOLS[:-1]
    wanted = min(size, sum(pool_traces.values()))
    others = sum(taken[pool] for pool in targeted)
    baseline = min(pool_traces.get("baseline", 0), round(baseline_share * size), size - others)
    taken["baseline"] = max(taken["baseline"], baseline)
    for pools in (targeted, ("baseline",)):
        while sum(taken.values()) < wanted:
            open_pools = [pool for pool in pools if taken[pool] < pool_traces.get(pool, 0)]
            if not open_pools:
                break
            least = min(open_pools, key=lambda pool: (taken[pool], POOLS.index(pool)))
            taken[least] += 1
    return {pool: n for pool, n in taken.items() if pool_traces.get(pool, 0)}


def draw_batch(sample: pl.DataFrame, size: int, baseline_share: float) -> pl.DataFrame:
    """The traces of the batch: of each pool those with the lowest permanent random numbers.

    A simple random sample without replacement of each pool, so that a trace of pool h is drawn with n_h / N_h. The same
    numbers draw the same traces again, and a larger batch holds a smaller one.

    Args:
        sample: ``trace_id``, ``pool``, ``number`` in [0, 1).

    Returns:
        ``sample`` with ``pool_traces`` (N_h), ``is_drawn``, ``label_probability`` (n_h / N_h) and ``place``: where in the batch
        the trace stands, in (0, 1), null where it is not drawn. In the order of the places every pool is spread evenly,
        so that the beginning of a batch is a random part of each.
    """
    counts = dict(sample["pool"].value_counts().iter_rows())
    taken = allocate(counts, size, baseline_share)
    rank = sample.select("pool", "number", "trace_id").with_row_index("row").sort("pool", "number", "trace_id")
    rank = rank.with_columns(rank=pl.int_range(pl.len()).over("pool")).sort("row")
    n_taken = pl.Series([taken[pool] for pool in sample["pool"]], dtype=pl.Int64)
    n_there = pl.Series([counts[pool] for pool in sample["pool"]], dtype=pl.Int64)
    is_drawn = rank["rank"] < n_taken
    return sample.with_columns(
        pool_traces=n_there,
        is_drawn=is_drawn,
        label_probability=n_taken / n_there,
        place=pl.when(is_drawn).then((rank["rank"] + 0.5) / n_taken),
    )


# -- what people found -----------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """What the answers about a trace come to: whether it failed, and the open codes of those who say so."""

    is_failing: bool
    codes: tuple[str, ...]


def finding_of(reviews: Sequence[Review]) -> Finding | None:
    """What the reviewers of one trace agree on; None while nobody has answered, all are unsure, or they disagree.

    Of each reviewer the newest answer counts. A duplicate has failed where somebody says what went wrong; else it says
    nothing. The codes of a trace that is no failure count for nothing.
    """
    newest: dict[str, Review] = {}
    for review in sorted(reviews, key=answered_at):
        newest[review.reviewer] = review
    votes = [review for review in newest.values() if review.verdict != "unsure"]
    verdicts = {review.verdict for review in votes}
    if len(verdicts) != 1:
        return None
    codes = tuple(dict.fromkeys(code for review in votes for code in review.open_codes if code.strip()))
    if verdicts == {"not_a_failure"}:
        return Finding(False, ())
    return None if verdicts == {"duplicate"} and not codes else Finding(True, codes)


def answered_at(review: Review) -> datetime:
    """The order of one person's answers; one without a time of its own comes first."""
    return review.reviewed_at or _EARLIEST


@dataclass(frozen=True)
class Label:
    """An answered trace: whether it failed, and the themes of its codes."""

    is_failing: bool
    themes: frozenset[str]


@dataclass(frozen=True)
class Share:
    """A share of traffic with its 95 % interval, and the answered traces of the batch behind it."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ThemeShare:
    """A theme in all traffic, and in the traffic that fails; the latter None where no trace has failed."""

    theme_id: str
    traffic: Share
    failing: Share | None


@dataclass(frozen=True)
class BatchShares:
    """What a batch says of the traffic. ``failing`` and ``themes`` are missing where ``reason`` says why."""

    n_drawn: int
    n_answered: int
    n_failing: int
    failing: Share | None
    themes: tuple[ThemeShare, ...]
    reason: str | None


def batch_shares(
    frame: pl.DataFrame, labels: Mapping[str, Label], theme_ids: Sequence[str], elsewhere: Collection[str] = ()
) -> BatchShares:
    """Shares of traffic that fail, and that show each theme, from the answered traces of a batch.

    Within pool h the mean of the answered traces by weight (a Hajek mean: the chance of being drawn is the same for all
    of the pool), and over the pools by the mass that each has in the whole sample:

        share = sum_h W_h y_h,    y_h = sum_{i answered in h} w_i y_i / sum w_i,    W_h = sum of w in pool h

    which is the mean with 1 / (pi_1 pi_2) where the weights are scaled to the pools' known masses. Its interval puts
    Wilson's of the pools together (MOVER): a pool in which nobody saw the theme still says up to how much it may hold.

    Args:
        frame: every sampled trace: ``trace_id``, ``session_id``, ``pool``, ``weight`` (sums to one), ``is_drawn``.
        labels: of the traces that are answered; others of the batch are taken to be missing at random within their pool
            and group.
        theme_ids: the themes that are asked for; one that no label has gets a share of 0 with its interval.
        elsewhere: traces that stand in another queue or the suite. They were answered for seeming to fail, while the batch's
            own may be unread: in each pool the answered traces of either group stand for all drawn ones of it.

    Source: docs/methods.md, "Error analysis". Zou and Donner 2008, Stat. Med. 27; Yan and Su 2010, Stat. Biopharm. Res. 2.
    """
    drawn = frame.filter("is_drawn")
    answered = drawn.filter(pl.col("trace_id").is_in(list(labels)) & (pl.col("weight") > 0))
    own = [labels[trace_id] for trace_id in answered["trace_id"]]
    n_failing = sum(label.is_failing for label in own)
    reason = _why_not(frame, drawn, answered, elsewhere)
    if reason is not None:
        return BatchShares(len(drawn), len(answered), n_failing, None, (), reason)
    batch = _Batch(frame, answered.with_columns(weight=_standing_for(drawn, answered, elsewhere)))
    is_failing = np.array([label.is_failing for label in own])
    themes = []
    for theme_id in theme_ids:
        has = np.array([theme_id in label.themes for label in own])
        themes.append(ThemeShare(theme_id, batch.share(has), batch.share_within(has, is_failing)))
    return BatchShares(len(drawn), len(answered), n_failing, batch.share(is_failing), tuple(themes), None)


def _standing_for(drawn: pl.DataFrame, answered: pl.DataFrame, elsewhere: Collection[str]) -> pl.Series:
    """The answered traces' weights, raised to those of all drawn traces of their pool and group.

    A group without any answer is taken to be like the other of its pool.
    """
    known = set(elsewhere)

    def cells(rows: pl.DataFrame) -> list[tuple[tuple[str, bool], float]]:
        columns = rows.select("pool", "trace_id", "weight").iter_rows()
        return [((pool, trace_id in known), weight) for pool, trace_id, weight in columns]

    of_drawn: dict[tuple[str, bool], float] = defaultdict(float)
    of_answered: dict[tuple[str, bool], float] = defaultdict(float)
    for total, rows in ((of_drawn, drawn), (of_answered, answered)):
        for cell, weight in cells(rows):
            total[cell] += weight
    return pl.Series([weight * of_drawn[cell] / of_answered[cell] for cell, weight in cells(answered)])


def _why_not(
    frame: pl.DataFrame, drawn: pl.DataFrame, answered: pl.DataFrame, elsewhere: Collection[str]
) -> str | None:
    if frame.is_empty():
        return "no traces in the window"
    if answered.is_empty():
        return "no trace of the batch is answered yet"
    there = frame.filter(pl.col("weight") > 0)
    own = ~pl.col("trace_id").is_in(list(elsewhere))
    wanted = set(there["pool"]) - set(answered["pool"])  # and those of which only other queues' traces are answered
    wanted |= set(drawn.filter(own & (pl.col("weight") > 0))["pool"]) - set(answered.filter(own)["pool"])
    missing = [pool for pool in POOLS if pool in wanted]
    if not missing:
        return None
    mass = float(there.filter(pl.col("pool").is_in(missing))["weight"].to_numpy().sum())
    return f"nothing of {' and '.join(missing)} has been read for the batch yet, which is {mass:.1%} of the traffic"


class _Batch:
    """Answered traces of a batch beside the sample that they were drawn from."""

    def __init__(self, frame: pl.DataFrame, answered: pl.DataFrame) -> None:
        names = answered["pool"].unique().sort().to_list()
        number = {pool: i for i, pool in enumerate(names)}
        known = frame.filter(pl.col("pool").is_in(names) & (pl.col("weight") > 0))
        weight = known["weight"].to_numpy().astype(float)
        self.frame_weight = weight / weight.sum()
        self.frame_pool = np.array([number[pool] for pool in known["pool"]])
        self.frame_session = _sessions(known)
        self.pool = np.array([number[pool] for pool in answered["pool"]])
        self.mass = np.bincount(self.frame_pool, weights=self.frame_weight, minlength=len(names))
        own = answered["weight"].to_numpy().astype(float)
        self.weight = own / np.bincount(self.pool, weights=own)[self.pool]  # sums to one within each pool
        self.session = _sessions(answered)
        # Traces of a session resemble each other: together they count as one that weighs as much.
        self.n_effective = np.array([_kish(self.weight[own], self.session[own]) for own in self._pools()])

    def _pools(self) -> list[np.ndarray]:
        return [self.pool == number for number in range(len(self.mass))]

    def share(self, has: np.ndarray) -> Share:
        means = np.bincount(self.pool, weights=self.weight * has, minlength=len(self.mass))
        value = float((self.mass * means).sum())
        ends = [wilson(min(mean, 1.0) * n, n) for mean, n in zip(means, self.n_effective, strict=True)]
        low, high = (np.array([end[side] for end in ends]) for side in (0, 1))
        of_masses = Z**2 * self._variance_of_masses(means)
        below = sqrt(float((self.mass**2 * (means - low) ** 2).sum()) + of_masses)
        above = sqrt(float((self.mass**2 * (high - means) ** 2).sum()) + of_masses)
        return Share(int(has.sum()), min(value, 1.0), max(0.0, value - below), min(1.0, value + above))

    def _variance_of_masses(self, means: np.ndarray) -> float:
        """Of sum_h W_h y_h with the means fixed: the pools' masses come from a sample of sessions."""
        residual = means[self.frame_pool] - float((self.mass * means).sum())
        by_session = np.bincount(self.frame_session, weights=self.frame_weight * residual)
        n = len(by_session)
        return float((by_session**2).sum()) * (n / (n - 1) if n > 1 else 1.0)

    def share_within(self, has: np.ndarray, domain: np.ndarray) -> Share | None:
        """The share among the traces of ``domain``, with Wilson's interval at Kish's number of their sessions."""
        weight = (self.mass[self.pool] * self.weight)[domain]
        if not len(weight):
            return None
        n = _kish(weight, self.session[domain])
        value = min(float(weight[has[domain]].sum() / weight.sum()), 1.0)
        interval: Interval = wilson(value * n, n)
        return Share(int(has[domain].sum()), value, interval.low, interval.high)


def _sessions(rows: pl.DataFrame) -> np.ndarray:
    names = rows.select(
        pl.coalesce(pl.concat_str(pl.lit("session:"), "session_id"), pl.concat_str(pl.lit("trace:"), "trace_id"))
    )
    return np.unique(names.to_series().to_numpy().astype(str), return_inverse=True)[1]


def _kish(weight: np.ndarray, session: np.ndarray) -> float:
    """(sum m)^2 / sum m^2 over the sessions' masses m."""
    mass = np.bincount(np.unique(session, return_inverse=True)[1], weights=weight)
    return float(mass.sum() ** 2 / (mass**2).sum())
