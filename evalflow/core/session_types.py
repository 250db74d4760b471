"""What kinds of sessions there are, how much of the traffic each is, and which of them the suite knows.

Sessions are clustered by what happened in them, turns, tools and their order, length of the context, and by how they
ended. Source: docs/methods.md, "Sessions" (Rousseeuw 1987 for the silhouette).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from evalflow.core.divergence import jsd_terms
from evalflow.core.grading import weighted_mean, weighted_quantile
from evalflow.core.sessions import weighted_share

FEWEST_TYPES, MOST_TYPES = 2, 8
"""The range that k-means is tried over: more kinds than eight nobody reads."""
LEAST_SILHOUETTE = 0.25
"""Below it there is no substantial structure (Kaufman and Rousseeuw 1990): then all sessions are one type."""
FEWEST_SESSIONS = 30
"""Fewer sessions are one type."""
MOST_FITTED = 2000
"""Sessions that the types are found on, a seeded random subset where there are more; all of them are then assigned."""
SILHOUETTE_SESSIONS = 1000
NGRAMS_OF_EACH = 12
"""The most frequent names and pairs of names that are features: a bound on what hostile names can do."""
LEAST_SHARE = 0.02
"""A tool or pair of tools that fewer sessions hold is no feature, and a kind that fewer sessions are of is an outlier."""
RESTARTS = 4
NAME_CHARS = 40
LEAST_SPREAD = 0.5
"""In log2 units: a block with a smaller standard deviation is not stretched to the size of the others. A length that
varies by less than a factor of 1.4 either way is no kind of session."""
LEAST_DISTANCE = 0.5
"""Centres of two types lie at least so far apart; by length alone that is 2^(.5 * .5), a difference of 19 %."""
OUTCOME_SCALE = 0.5
"""How much a block of outcomes counts beside one of turns, context or tools. Bad ends are rare, and a block that is scaled
like the others sets them so far off that those of different kinds merge; at a half they lie at most one unit off."""
LEAST_CASES, LEAST_LIKE = 0.5, 0.5
"""A type is uncovered with less than half a case, unless half of its sessions are like one: a case that says little is like
two types at once, and the rarer one has only a small part of it."""
TURNS, CONTEXT, OUTCOME, TOOLS = slice(0, 1), slice(1, 3), slice(3, 6), slice(6, None)
"""The columns of a session's features, counts of tools last."""
N_FIXED = 6
TYPICAL = 0.5
"""A tool or a pair of tools is named in a type's description when more than this part of its sessions used it."""


@dataclass(frozen=True)
class SessionType:
    """One kind of session. Shares are of the sessions, weighted to traffic; a case may count in part in several types.

    ``turns``: weighted mean. ``context_tokens``: weighted median of the sessions' means; ``context_growth``: geometric
    mean of last over first, in the sessions of more than one turn. Null where not logged. ``like_share``: the part of the
    type's sessions that are like a case in all that the case says.
    """

    type_id: str
    description: str
    production_share: float
    production_share_low: float
    production_share_high: float
    n_sessions: int
    golden_cases: float
    golden_share: float
    density_ratio: float | None
    jsd_term: float | None
    like_share: float
    is_uncovered: bool
    turns: float
    tool_calls: float | None
    context_tokens: float | None
    context_growth: float | None
    ended_badly_share: float | None
    abandoned_share: float | None
    escalated_share: float | None


@dataclass(frozen=True)
class SessionTypes:
    """The types of one window, the largest first. They are this window's own: types of two weeks are not the same by name.

    ``silhouette``: mean over the fitted sessions in [-1, 1], None where there is one type. ``case_features``: by what the
    cases were assigned, from what at least one of them has. ``reason``: why there is only one type, or none.
    """

    n_sessions: int
    n_golden: int
    silhouette: float | None
    jsd_raw: float | None
    case_features: tuple[str, ...]
    reason: str | None
    types: tuple[SessionType, ...]


def session_types(sessions: pl.DataFrame, cases: pl.DataFrame, seed: int) -> SessionTypes:
    """Cluster the sessions, and count the cases in the types that the sessions most like them are of.

    Features: log2 of the turns; log2 of the mean context and of its growth; whether it ended badly, was abandoned, was
    escalated; counts of tool names and of pairs of consecutive ones, log2(1 + n). Each block varies by at most one in
    total (outcomes by half), or else the block with the most columns, or the largest numbers, would decide alone; a block
    with little spread varies by less. What is not known of a session stands at the mean.

    Args:
        sessions: as ``sessions.sessions_of`` gives them.
        cases: a row per case: ``n_turns`` (its conversation's user turns and its input), ``tools`` (null where its
            conversation does not hold calls), ``ended_well`` (null where nobody knows). A case has no context length,
            and was neither abandoned nor escalated as far as anybody knows.
        seed: of k-means and of the random subsets.

    Returns:
        The types; with no session of any weight there are none.
    """
    weight = sessions["weight"].to_numpy()
    if not weight.sum() > 0:
        return SessionTypes(0, len(cases), None, None, (), "no whole session was sampled", ())
    space = _Space.fitted_to(sessions)
    points = space.place(sessions)
    found = _cluster(np.nan_to_num(points), seed)
    label = found.label
    mass = np.bincount(label, weights=weight, minlength=len(found.centres))
    counted = _counted(space.place(_as_sessions(cases)), np.nan_to_num(points), label, weight, len(mass))
    count = counted.cases
    is_measurable = len(cases) > 0
    terms = jsd_terms(mass, count) if is_measurable else None
    order = np.lexsort((np.arange(len(mass)), -mass))
    return SessionTypes(
        n_sessions=len(sessions),
        n_golden=len(cases),
        silhouette=found.silhouette,
        jsd_raw=None if terms is None else float(min(terms.sum(), 1.0)),
        case_features=_features_of(cases, space),
        reason=found.reason,
        types=tuple(
            _described(
                f"s{rank + 1}",
                sessions,
                label == number,
                float(count[number]),
                float(counted.like_share[number]),
                len(cases),
                None if terms is None else float(terms[number]),
            )
            for rank, number in enumerate(order)
        ),
    )


# -- features --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Space:
    """The features of one window's sessions: which n-grams count, and how each column is centred and scaled."""

    ngrams: tuple[tuple[str, ...], ...]
    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def fitted_to(cls, sessions: pl.DataFrame) -> "_Space":
        held = Counter(ngram for names in sessions["tools"] for ngram in set(_ngrams(names)))
        common = {ngram: n for ngram, n in held.items() if n >= LEAST_SHARE * len(sessions) and n > 1}
        ngrams = tuple(
            ngram
            for size in (1, 2)
            for ngram in sorted((own for own in common if len(own) == size), key=lambda own: (-common[own], own))[
                :NGRAMS_OF_EACH
            ]
        )
        raw = _columns(sessions, ngrams)
        is_known = ~np.isnan(raw)
        n_known = np.maximum(is_known.sum(axis=0), 1)
        centre = np.where(is_known, raw, 0.0).sum(axis=0) / n_known
        variance = (np.where(is_known, raw - centre, 0.0) ** 2).sum(axis=0) / n_known
        scale = np.empty(len(centre))
        # Flags of one kind, and counts of tools, share one variance: a tool seen once is no louder than the number of turns.
        for block, size in ((OUTCOME, OUTCOME_SCALE), (TOOLS, 1.0)):
            scale[block] = max(np.sqrt(variance[block].sum()), LEAST_SPREAD) / size
        for block in (TURNS, CONTEXT):
            n_varying = max(int((variance[block] > 0).sum()), 1)
            scale[block] = np.maximum(np.sqrt(variance[block]), LEAST_SPREAD) * np.sqrt(n_varying)
        return cls(ngrams, centre, scale)

    def place(self, sessions: pl.DataFrame) -> np.ndarray:
        """Shape (n, features); NaN where a session does not say."""
        return (_columns(sessions, self.ngrams) - self.centre) / self.scale


def _columns(sessions: pl.DataFrame, ngrams: Sequence[tuple[str, ...]]) -> np.ndarray:
    column = {ngram: N_FIXED + i for i, ngram in enumerate(ngrams)}
    found = np.full((len(sessions), N_FIXED + len(ngrams)), np.nan)
    found[:, TURNS.start] = np.log2(sessions["n_turns"].to_numpy())
    with np.errstate(divide="ignore", invalid="ignore"):
        found[:, CONTEXT] = np.log2(
            sessions.select("context_mean", growth=pl.col("context_last") / pl.col("context_first")).to_numpy()
        )
    found[~np.isfinite(found)] = np.nan  # a context of no tokens has no ratio
    flags = sessions.select(~pl.col("ended_well"), "is_abandoned", "is_escalated")
    found[:, OUTCOME] = flags.cast(pl.Float64).fill_null(np.nan).to_numpy()
    for i, names in enumerate(sessions["tools"]):
        if names is not None:
            found[i, TOOLS] = 0.0
            for ngram, times in Counter(_ngrams(names)).items():
                if ngram in column:
                    found[i, column[ngram]] = np.log2(1 + times)
    return found


def _ngrams(names: Sequence[str] | None) -> list[tuple[str, ...]]:
    own = list(names) if names is not None else []
    return [*((name,) for name in own), *pairwise(own)]


def _as_sessions(cases: pl.DataFrame) -> pl.DataFrame:
    unknown, unsaid = pl.lit(None, pl.Float64), pl.lit(None, pl.Boolean)
    return cases.with_columns(
        context_first=unknown, context_last=unknown, context_mean=unknown, is_abandoned=unsaid, is_escalated=unsaid
    )


def _features_of(cases: pl.DataFrame, space: _Space) -> tuple[str, ...]:
    if cases.is_empty():
        return ()
    says_tools = bool(space.ngrams) and cases["tools"].null_count() < len(cases)
    says_outcome = cases["ended_well"].null_count() < len(cases)
    return ("turns", *(["tools"] if says_tools else []), *(["outcome"] if says_outcome else []))


# -- clusters --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clusters:
    label: np.ndarray
    centres: np.ndarray
    silhouette: float | None
    reason: str | None


def _cluster(points: np.ndarray, seed: int) -> _Clusters:
    """k-means with the number of types that has the largest silhouette; one type where none is worth telling apart."""
    chance = np.random.default_rng(seed)
    fitted = points[np.sort(chance.permutation(len(points))[:MOST_FITTED])]
    n_distinct = len(np.unique(fitted.round(9), axis=0))
    if len(points) < FEWEST_SESSIONS:
        return _one_type(points, f"fewer than {FEWEST_SESSIONS} sessions are one type")
    if n_distinct < FEWEST_TYPES:
        return _one_type(points, "all sessions are alike in what is known of them")
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    looked_at = np.sort(chance.permutation(len(fitted))[:SILHOUETTE_SESSIONS])
    best: tuple[float, np.ndarray] | None = None
    with threadpool_limits(limits=1):  # threads add up in any order, and the last bits with them
        for k in range(FEWEST_TYPES, min(MOST_TYPES, n_distinct, len(fitted) - 1) + 1):
            model = KMeans(k, n_init=RESTARTS, random_state=seed).fit(fitted)
            of_looked_at = model.labels_[looked_at]
            is_outlier = np.bincount(model.labels_, minlength=k).min() < LEAST_SHARE * len(fitted)
            if (
                is_outlier
                or _least_distance(model.cluster_centers_) < LEAST_DISTANCE
                or len(np.unique(of_looked_at)) < 2
            ):
                continue
            silhouette = float(silhouette_score(fitted[looked_at], of_looked_at))
            if best is None or silhouette > best[0] + 1e-9:
                best = (silhouette, model.cluster_centers_)
    if best is None or best[0] < LEAST_SILHOUETTE:
        return _one_type(points, "no number of types from 2 to 8 sets the sessions apart")
    label = _nearest(points, best[1])
    kept, label = np.unique(label, return_inverse=True)
    return _Clusters(label, best[1][kept], best[0], None)


def _one_type(points: np.ndarray, reason: str) -> _Clusters:
    return _Clusters(np.zeros(len(points), dtype=int), points.mean(axis=0, keepdims=True), None, reason)


def _least_distance(centres: np.ndarray) -> float:
    """Between any two of the centres, of which there are at least two."""
    apart = np.sqrt(((centres[:, None] - centres[None]) ** 2).sum(axis=-1))
    return float(apart[np.triu_indices(len(centres), 1)].min())


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each point; the lower number where two are equally near."""
    distance = (centres**2).sum(axis=1) - 2 * points @ centres.T
    return np.asarray(distance.round(9).argmin(axis=1), dtype=int)


class _Counted(NamedTuple):
    """By type, shape (types,): how many cases it has, and what part of its weight lies in sessions that are like a case."""

    cases: np.ndarray
    like_share: np.ndarray


def _counted(cases: np.ndarray, sessions: np.ndarray, label: np.ndarray, weight: np.ndarray, n_types: int) -> _Counted:
    """The cases in the types of the sessions that they are like.

    A case is like the sessions that are nearest by the features that it has. Where these are of several types, because a
    case that does not say which tools it needs is like sessions with them and without, it counts in each by its share.
    """
    count = np.zeros(n_types)
    is_like_any = np.zeros(len(sessions), dtype=bool)
    alike = Counter(tuple(None if np.isnan(value) else float(value) for value in case) for case in cases)
    for case, times in sorted(alike.items(), key=str):
        known = [i for i, value in enumerate(case) if value is not None]
        distance = ((sessions[:, known] - np.array([case[i] for i in known])) ** 2).sum(axis=1)
        like = distance <= distance.min() + 1e-9
        is_like_any |= like
        own = np.bincount(label[like], weights=weight[like], minlength=n_types)
        count += times * (
            own / own.sum() if own.sum() > 0 else np.bincount(label[like], minlength=n_types) / like.sum()
        )
    mass = np.bincount(label, weights=weight, minlength=n_types)
    of_like = np.bincount(label[is_like_any], weights=weight[is_like_any], minlength=n_types)
    return _Counted(count, np.minimum(of_like / np.where(mass > 0, mass, 1.0), 1.0))


# -- words -----------------------------------------------------------------------------------------------------


def _described(
    type_id: str,
    sessions: pl.DataFrame,
    is_own: np.ndarray,
    n_cases: float,
    like_share: float,
    n_golden: int,
    term: float | None,
) -> SessionType:
    share = weighted_share(pl.Series(is_own), sessions["weight"])
    if share is None:
        raise ValueError("sessions without any weight have no types")
    own = sessions.filter(pl.Series(is_own))
    weight = own["weight"].to_numpy()
    if not weight.sum() > 0:
        weight = np.ones(len(own))
    turns = own["n_turns"].to_numpy()
    n_calls = own["tools"].list.len()
    growth = _growth(own, weight)
    context = _quantile(own["context_mean"], weight, 0.5)
    ended_badly = _share(~own["ended_well"], weight)
    golden_share = n_cases / n_golden if n_golden else 0.0
    parts = [_turns_in_words(own["n_turns"], weight), _tools_in_words(own["tools"], weight)]
    if context is not None:
        ratio = f", x{growth:.1f} from first to last" if growth is not None else ""
        parts.append(f"context {context:,.0f} tokens{ratio}")
    if ended_badly is not None:
        parts.append(f"{ended_badly:.0%} end badly")
    return SessionType(
        type_id=type_id,
        description=", ".join(part for part in parts if part),
        production_share=share.share,
        production_share_low=share.interval.low,
        production_share_high=share.interval.high,
        n_sessions=len(own),
        golden_cases=n_cases,
        golden_share=golden_share,
        density_ratio=golden_share / share.share if n_golden and share.share > 0 else None,
        jsd_term=term,
        like_share=like_share,
        is_uncovered=share.share > 0 and n_cases < LEAST_CASES and like_share < LEAST_LIKE,
        turns=float((weight * turns).sum() / weight.sum()),
        tool_calls=weighted_mean(n_calls, pl.Series(weight)),
        context_tokens=context,
        context_growth=growth,
        ended_badly_share=ended_badly,
        abandoned_share=_share(own["is_abandoned"], weight),
        escalated_share=_share(own["is_escalated"], weight),
    )


def _turns_in_words(turns: pl.Series, weight: np.ndarray) -> str:
    low, high = (int(_quantile(turns, weight, q) or 0) for q in (0.1, 0.9))
    return ("1 turn" if high == 1 else f"{high} turns") if low == high else f"{low} to {high} turns"


def _tools_in_words(tools: pl.Series, weight: np.ndarray) -> str:
    """The pair of tools that most sessions of the type hold, else the tool, else how rare tools are."""
    known = tools.is_not_null().to_numpy()
    total = float(weight[known].sum())
    if total <= 0:
        return ""
    held: Counter[tuple[str, ...]] = Counter()
    any_tool = 0.0
    for own, names in zip(weight, tools, strict=True):
        for ngram in sorted(set(_ngrams(names))):
            held[ngram] += own
        any_tool += own if names is not None and len(names) else 0.0
    typical = [(len(ngram), mass, ngram) for ngram, mass in held.items() if mass > TYPICAL * total]
    if typical:
        _, _, ngram = min(typical, key=lambda item: (-item[0], -item[1], item[2]))
        return " > ".join(name[:NAME_CHARS] for name in ngram)
    return "no tools" if any_tool == 0 else f"tools in {any_tool / total:.0%}"


def _growth(own: pl.DataFrame, weight: np.ndarray) -> float | None:
    first, last = own["context_first"].to_numpy(), own["context_last"].to_numpy()
    counts = (own["n_turns"].to_numpy() > 1) & (first > 0) & (last > 0)
    total = float(weight[counts].sum())
    if total <= 0:
        return None
    return float(np.exp((weight[counts] * np.log(last[counts] / first[counts])).sum() / total))


def _quantile(values: pl.Series, weight: np.ndarray, share: float) -> float | None:
    return weighted_quantile(values, pl.Series(weight), share)


def _share(hits: pl.Series, weight: np.ndarray) -> float | None:
    found = weighted_share(hits, pl.Series(weight))
    return found.share if found else None
