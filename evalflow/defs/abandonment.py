"""What was the last thing the assistant said before users gave up? Groups of such answers in a week's window.

Keep out: what a session is (``core/sessions.py``) and how texts are grouped (``core/themes.py``).
"""

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.tables import ABANDONMENT_CLUSTERS, BIN_ASSIGNMENTS, STRATIFIED_SAMPLES, TRACE_SIGNALS
from evalflow.core.calendar import sunday_of
from evalflow.core.labels import cluster_label, cluster_terms, unique_label
from evalflow.core.sessions import WeightedShare, in_order, sessions_of, weighted_share
from evalflow.core.text import text_hash
from evalflow.core.themes import central, like_groups
from evalflow.defs.sessions import uniform_turns
from evalflow.defs.station import Station, parents

LIKE_ANSWERS = 0.4
"""Mean cosine distance up to which two groups of last answers say the same."""
SINGLE, SINGLE_LABEL = "single", "(each said once)"
EXAMPLES = 3
MOST_EXAMPLE_CHARS = 600


def _inputs(home: Home, week: date) -> Iterable[Any]:
    window = home.calendar.window(week)
    yield home.settings.embedding.model_dump(mode="json")
    yield home.settings.sampling.uncertain_below
    yield home.settings.sampling.max_weight_ratio
    yield home.settings.coverage.max_day_mass_sigmas
    yield from parents(home, BIN_ASSIGNMENTS, [week])
    yield from parents(home, STRATIFIED_SAMPLES, window)
    yield from parents(home, TRACE_SIGNALS, window)


ABANDONED = Station("abandonment_clusters", ABANDONMENT_CLUSTERS, "week", "1", _inputs, is_on_demand=True)


def abandonment_rows(home: Home, week: date) -> pl.DataFrame:
    """Rows of ``abandonment_clusters``: the largest group first, answers that are like no other last, as one row.

    Without any group there is one row that says why.
    """
    window = home.calendar.window(week)
    production = home.lake.read(BIN_ASSIGNMENTS, [week]).filter(pl.col("side") == "production")
    if production.is_empty():
        return _without("there are no traces in the window", {"as_of": [sunday_of(week)]})
    signals = home.lake.read(TRACE_SIGNALS, window, with_key=True)
    turns = in_order(uniform_turns(home, window, production, signals))
    logged = signals["session_id"].drop_nulls().value_counts().filter(pl.col("session_id").is_in(turns["session_id"]))
    sessions = sessions_of(turns, dict(logged.iter_rows()))
    share = weighted_share(sessions["is_abandoned"], sessions["weight"])
    abandoned = sessions.filter(pl.col("is_abandoned").fill_null(False)).select("session", "weight")
    ended = _last_answers(home, window, turns, abandoned)
    head = {
        "week_n_sessions": len(sessions) - sessions["is_abandoned"].null_count(),
        "week_n_abandoned": len(abandoned),
        **_columns("abandoned_share", share),
        "n_without_answer": len(abandoned) - len(ended),
        "as_of": sunday_of(week),
        "weighting": production["weighting"][0],
    }
    if reason := _why_not(len(sessions), share, len(abandoned), len(ended)):
        return _without(reason, {name: [value] for name, value in head.items()})
    return pl.DataFrame([{**row, **head} for row in _groups(home, ended)], schema=ABANDONMENT_CLUSTERS.schema)


def _why_not(n_sessions: int, share: WeightedShare | None, n_abandoned: int, n_answered: int) -> str | None:
    if not n_sessions:
        return "the sample holds no whole session"
    if share is None:
        return "whether a session was abandoned is not logged: no trace of the sample's sessions has the signal"
    if not n_abandoned:
        return "none of the sampled sessions was abandoned"
    return None if n_answered else "the assistant said nothing in any of the abandoned sessions"


def _without(reason: str, head: dict[str, list[Any]]) -> pl.DataFrame:
    row = pl.DataFrame({**head, "reason": [reason]}, strict=False)
    missing = {name: dtype for name, dtype in ABANDONMENT_CLUSTERS.schema.items() if name not in row.columns}
    return row.with_columns(pl.lit(None).cast(dtype).alias(name) for name, dtype in missing.items()).cast(
        dict(ABANDONMENT_CLUSTERS.schema)  # type: ignore[arg-type]  # classes and instances of types, as everywhere
    )


def _last_answers(home: Home, window: list[date], turns: pl.DataFrame, abandoned: pl.DataFrame) -> pl.DataFrame:
    """The last thing that was said to the user in each session: ``session``, ``weight``, ``text``; those with none are left out."""
    outputs = home.lake.read(STRATIFIED_SAMPLES, window, ["trace_id", "output"], with_key=True)
    said = turns.select("session", "day", trace_id="item_id").join(
        outputs, on=["day", "trace_id"], how="left", maintain_order="left"
    )
    last = said.filter(pl.col("output").str.strip_chars() != "").group_by("session", maintain_order=True).last()
    return abandoned.join(last.select("session", text="output"), on="session", how="inner", maintain_order="left")


def _groups(home: Home, ended: pl.DataFrame) -> list[dict[str, Any]]:
    text_of = {text_hash(text): text for text in reversed(ended["text"].to_list())}
    hashes = [text_hash(text) for text in ended["text"]]
    times = Counter(hashes)
    order = sorted(text_of, key=lambda key: (-times[key], key))
    found = Embedder(home.settings.embedding, home.cache).embed([text_of[key] for key in order])
    vectors = np.stack([found[key] for key in order])
    groups = like_groups(vectors, LIKE_ANSWERS)
    sizes = Counter({int(group): 0 for group in groups})
    for key, group in zip(order, groups, strict=True):
        sizes[int(group)] += times[key]
    names = {group: f"a{place:02d}" for place, (group, n) in enumerate(sizes.most_common(), start=1) if n > 1}
    group_of = {key: names.get(int(group), SINGLE) for key, group in zip(order, groups, strict=True)}
    own = [group_of[key] for key in hashes]
    rows: list[dict[str, Any]] = []
    kinds = [name for name in (*names.values(), SINGLE) if name in set(own)]
    number = {name: place for place, name in enumerate(kinds)}
    terms = cluster_terms([text_of[key] for key in order], np.array([number[group_of[key]] for key in order]))
    for kind in kinds:
        members = [i for i, key in enumerate(order) if group_of[key] == kind]
        examples = [text_of[order[members[i]]] for i in central(vectors[members])[:EXAMPLES]]
        label = SINGLE_LABEL if kind == SINGLE else cluster_label(terms[number[kind]], examples[0])
        share = weighted_share(pl.Series([name == kind for name in own]), ended["weight"])
        rows.append(
            {
                "cluster_id": kind,
                "label": unique_label(label, [row["label"] for row in rows]),
                "n_sessions": own.count(kind),
                **_columns("share", share),
                "examples": [text[:MOST_EXAMPLE_CHARS] for text in examples],
            }
        )
    return rows


def _columns(name: str, share: WeightedShare | None) -> dict[str, float | None]:
    if share is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: share.share, f"{name}_low": share.interval.low, f"{name}_high": share.interval.high}
