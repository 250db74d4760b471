"""The statistics of error analysis: pools, the draw with its known chances, and what the answers say of the traffic."""

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.error_analysis import (
    LEAST_DRAWN,
    POOLS,
    Label,
    allocate,
    batch_shares,
    draw_batch,
    finding_of,
    pools_of,
    struggling_sessions,
)
from evalflow.core.intervals import wilson
from evalflow.core.records import Review
from evalflow.core.sampling import random_numbers

DAY = date(2026, 6, 1)


def sampled(rows: list[dict[str, object]]) -> pl.DataFrame:
    base = {
        "session_id": None,
        "is_guardrail_hit": None,
        "is_negative": False,
        "model": "m",
        "latency_ms": 1.0,
        "weight": 1.0,
    }
    return pl.DataFrame([base | row for row in rows], infer_schema_length=None).cast(
        {"session_id": pl.String, "is_guardrail_hit": pl.Boolean, "latency_ms": pl.Float64}
    )


# -- pools -----------------------------------------------------------------------------------------------------


def test_a_trace_lies_in_the_first_pool_that_fits() -> None:
    """Guardrail before struggling before slow before negative; what nothing hints at is the baseline."""
    slow = {"latency_ms": 9.0}
    rows = [{"latency_ms": 1.0} for _ in range(30)]
    rows += [
        {"is_guardrail_hit": True, "is_negative": True, "session_id": "s", **slow},
        {"is_negative": True, "session_id": "s", **slow},
        {"is_negative": True, **slow},
        {"is_negative": True},
        {"is_negative": True, "latency_ms": None},
    ]
    assert pools_of(sampled(rows), ["s"], 0.9).to_list() == [
        *["baseline"] * 30,
        *("guardrail", "struggling", "slow", "negative", "negative"),
    ]


def test_slow_is_slow_for_its_own_model() -> None:
    """100 answers of a fast and of a slow model: above each one's own 95th percentile, not above that of both together.

    With 20 to 119 ms the least value that 95 of 100 reach is the 95th, so that 5 lie above it. Models of fewer than
    20 answers are read together: 19 of one and one of another are 20, of which one lies above.
    """
    fast = [{"model": "fast", "latency_ms": 20.0 + i} for i in range(100)]
    slow = [{"model": "slow", "latency_ms": 1000.0 + i} for i in range(100)]
    rare = [{"model": "rare", "latency_ms": 5.0 + i} for i in range(19)] + [{"model": "rarer", "latency_ms": 900.0}]
    pools = pools_of(sampled(fast + slow + rare), [], 0.95)
    assert [i for i, pool in enumerate(pools) if pool == "slow"] == [*range(95, 100), *range(195, 200), 219]


def test_a_session_struggles_by_all_of_its_turns() -> None:
    """Five turns with two negative signals do; four turns, or five with one, do not; without an id there is no session."""
    turns = [("a", 5, 2), ("b", 4, 2), ("c", 5, 1), (None, 9, 9)]
    rows = [(name, i < bad) for name, n, bad in turns for i in range(n)]
    signals = pl.DataFrame(rows, schema={"session_id": pl.String, "is_negative": pl.Boolean}, orient="row")
    assert struggling_sessions(signals, 5, 2) == ["a"]


# -- the draw --------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from(POOLS), st.integers(1, 200)),
    st.integers(10, 120),
    st.floats(0.01, 0.99),
)
def test_an_allocation_keeps_its_promises(pools: dict[str, int], size: int, share: float) -> None:
    """Never more than there is, two of each pool or all it has, and the whole batch where there are traces enough."""
    taken = allocate(pools, size, share)
    assert set(taken) == set(pools)
    assert all(min(LEAST_DRAWN, pools[pool]) <= n <= pools[pool] for pool, n in taken.items())
    assert sum(taken.values()) == min(size, sum(pools.values()))


def test_equal_parts_and_what_a_pool_lacks_goes_to_the_others() -> None:
    """80 traces, 24 of them baseline: 56 for four pools are 14 each; with 3 guardrail hits the others share 53."""
    large = dict.fromkeys(POOLS, 500)
    assert allocate(large, 80, 0.3) == {"guardrail": 14, "struggling": 14, "slow": 14, "negative": 14, "baseline": 24}
    assert allocate(large | {"guardrail": 3}, 80, 0.3) == {
        **{"guardrail": 3, "struggling": 18, "slow": 18, "negative": 17},
        "baseline": 24,
    }
    assert allocate({"baseline": 500}, 80, 0.3) == {"baseline": 80}
    assert allocate({"negative": 10, "baseline": 20}, 80, 0.3) == {"negative": 10, "baseline": 20}


def world(n: int, seed: int = 0, session_of: int = 3) -> pl.DataFrame:
    """A sample of n traces in sessions of three, a pool for each, of unequal weight."""
    rng = np.random.default_rng(seed)
    pool = rng.choice(POOLS, n, p=(0.01, 0.03, 0.05, 0.11, 0.8))
    ids = pl.Series([f"t{seed}-{i}" for i in range(n)])
    weight = rng.choice([1.0, 2.0], n)
    return pl.DataFrame(
        {
            "trace_id": ids,
            "session_id": [f"s{i // session_of}" for i in range(n)],
            "pool": pool.tolist(),
            "number": random_numbers("salt", ids),
            "weight": weight / weight.sum(),
        }
    )


def test_a_larger_batch_holds_a_smaller_one_and_chances_are_what_they_say() -> None:
    small, large = draw_batch(world(1500), 40, 0.3), draw_batch(world(1500), 90, 0.3)
    assert set(small.filter("is_drawn")["trace_id"]) < set(large.filter("is_drawn")["trace_id"])
    for frame in (small, large):
        for (_, n_there), rows in frame.group_by("pool", "pool_traces"):
            assert len(rows) == n_there
            assert rows["label_probability"].unique().to_list() == [rows["is_drawn"].sum() / n_there]
    assert small.filter("is_drawn")["place"].is_between(0, 1, closed="none").all()
    assert small.filter(~pl.col("is_drawn"))["place"].null_count() == 1500 - 40


def test_the_beginning_of_a_batch_is_a_part_of_every_pool() -> None:
    """Whoever stops at half has answered about half of each pool, so that no pool is left unknown."""
    drawn = draw_batch(world(1500), 80, 0.3).filter("is_drawn").sort("place", "trace_id")
    first = dict(drawn.head(40)["pool"].value_counts().iter_rows())
    of_all = dict(drawn["pool"].value_counts().iter_rows())
    assert {pool: abs(first[pool] - n / 2) <= 1 for pool, n in of_all.items()} == dict.fromkeys(of_all, True)


# -- findings --------------------------------------------------------------------------------------------------


def said(reviewer: str, verdict: str, *codes: str, minute: int = 0) -> Review:
    at = datetime(2026, 6, 1, 12, minute, tzinfo=UTC)
    return Review(trace_id="t", reviewer=reviewer, verdict=verdict, open_codes=list(codes), reviewed_at=at)  # type: ignore[arg-type]


def test_what_the_answers_come_to() -> None:
    """The newest of each reviewer counts; disagreement, doubt and a bare duplicate say nothing; codes of no failure are none."""
    assert finding_of([]) is None
    assert finding_of([said("a", "unsure", "x")]) is None
    assert finding_of([said("a", "real_failure", "x"), said("b", "not_a_failure")]) is None
    assert finding_of([said("a", "duplicate")]) is None
    assert finding_of([said("a", "duplicate", "x")]) == (True, ("x",))
    assert finding_of([said("a", "not_a_failure", "x")]) == (False, ())
    assert finding_of([said("a", "real_failure", "x", " "), said("b", "real_failure", "y", "x")]) == (True, ("x", "y"))
    corrected = [said("a", "real_failure", "x"), said("a", "not_a_failure", minute=1)]
    assert finding_of(corrected) == (False, ())


# -- shares ----------------------------------------------------------------------------------------------------


def test_a_share_by_hand() -> None:
    """Two pools of .2 and .8 of the traffic; 2 of 4 answered show the theme in one, 0 of 4 in the other: .2 * .5 = .1.

    Unweighted it would be 2 of 8. All weights are equal and every trace is a session, so that each pool's interval is Wilson's at
    n = 4; the masses' part is that of 100 sessions: 100 / 99 * 100 * (.01 * ...)^2.
    """
    frame = pl.DataFrame(
        {
            "trace_id": [f"t{i}" for i in range(100)],
            "session_id": pl.Series([None] * 100, dtype=pl.String),
            "pool": ["negative"] * 20 + ["baseline"] * 80,
            "weight": [0.01] * 100,
            "is_drawn": [i < 4 or 20 <= i < 24 for i in range(100)],
        }
    )
    labels = {f"t{i}": Label(i < 2, frozenset(["x"] if i < 2 else [])) for i in (*range(4), *range(20, 24))}
    found = batch_shares(frame, labels, ["x", "never"])
    theme, never = found.themes
    assert (found.n_drawn, found.n_answered, found.n_failing) == (8, 8, 2)
    of_masses = 1.959964**2 * (100 / 99) * (20 * (0.01 * (0.5 - 0.1)) ** 2 + 80 * (0.01 * (0.0 - 0.1)) ** 2)
    negative, baseline = wilson(2, 4), wilson(0, 4)
    low = 0.1 - ((0.2 * (0.5 - negative.low)) ** 2 + of_masses) ** 0.5
    high = 0.1 + ((0.2 * (negative.high - 0.5)) ** 2 + (0.8 * baseline.high) ** 2 + of_masses) ** 0.5
    assert (theme.traffic.value, theme.traffic.low, theme.traffic.high) == pytest.approx((0.1, max(low, 0), high))
    assert theme.failing is not None
    assert (theme.failing.value, theme.failing.low) == pytest.approx((1.0, wilson(2, 2).low))
    # Nobody saw it in 4 + 4 traces, which still leaves room for a lot of it.
    assert never.traffic.value == 0.0 == never.traffic.low
    assert never.traffic.high == pytest.approx(((0.2 * baseline.high) ** 2 + (0.8 * baseline.high) ** 2) ** 0.5)


def test_a_pool_without_an_answer_leaves_the_shares_unknown() -> None:
    frame = draw_batch(world(600), 40, 0.3)
    labels = dict.fromkeys(frame.filter(pl.col("pool") == "negative")["trace_id"], Label(True, frozenset("x")))
    found = batch_shares(frame, labels, ["x"])
    assert found.failing is None
    assert found.themes == ()
    assert found.reason is not None
    assert "slow" in found.reason
    assert "of the traffic" in found.reason
    assert batch_shares(frame, {}, ["x"]).reason == "no trace of the batch is answered yet"
    assert batch_shares(frame.head(0), {}, ["x"]).reason == "no traces in the window"


def test_a_half_read_batch_is_not_tilted_by_what_triage_answered_first() -> None:
    """40 drawn of a pool, 10 of them failures that triage had queued and people answered; of the other 30, 6 fail.

    With 10 of the 30 read, 2 of them failing, the share is that of all: 10 + 30 * 2 / 10 = 16 of 40. Plain counts say 12 of 20.
    With none of them read there is a reason: what triage picked does not stand for the pool.
    """
    frame = pl.DataFrame(
        {
            "trace_id": [f"t{i}" for i in range(40)],
            "session_id": pl.Series([None] * 40, dtype=pl.String),
            "pool": ["negative"] * 40,
            "weight": [1 / 40] * 40,
            "is_drawn": [True] * 40,
        }
    )
    picked = {f"t{i}": Label(True, frozenset("x")) for i in range(10)}
    read = {f"t{i}": Label(i < 12, frozenset("x" if i < 12 else "")) for i in range(10, 20)}
    (own,) = batch_shares(frame, picked | read, ["x"], picked).themes
    assert own.traffic.value == pytest.approx(16 / 40)
    assert batch_shares(frame, picked | read, ["x"]).themes[0].traffic.value == pytest.approx(12 / 20)
    unread = batch_shares(frame, picked, ["x"], picked)
    assert (unread.failing, unread.n_answered) == (None, 10)
    assert unread.reason == "nothing of negative has been read for the batch yet, which is 100.0% of the traffic"
    only_read = batch_shares(frame, read, ["x"], picked).themes[0].traffic
    assert only_read.value == pytest.approx(2 / 10), "without answers of triage's the read ones stand for all"


def test_planted_shares_are_recovered_and_plain_counts_are_not() -> None:
    """Of 250 batches the mean lies on the truth, and the intervals hold it in 90 to 99 %.

    Themes: one mostly where signals are, one everywhere alike, one that only the baseline has. The batch looks mostly where
    failures are: the first theme's plain share of the batch is several times the truth. Nine in ten traces get answered.
    """
    rates = {  # chance of each theme by pool
        "signalled": (0.5, 0.4, 0.2, 0.4, 0.01),
        "even": (0.15, 0.15, 0.15, 0.15, 0.15),
        "quiet": (0.0, 0.0, 0.0, 0.0, 0.2),
    }
    large = world(20_000, seed=99)
    mass = {pool: float(rows["weight"].sum()) for (pool,), rows in large.group_by("pool")}
    truth = {
        theme: sum(mass[pool] * p for pool, p in zip(POOLS, chances, strict=True)) for theme, chances in rates.items()
    }
    by_pool = {theme: dict(zip(POOLS, chances, strict=True)) for theme, chances in rates.items()}
    values, plain = {theme: [] for theme in rates}, {theme: [] for theme in rates}  # type: ignore[var-annotated]
    held, held_of_failing = dict.fromkeys(rates, 0), dict.fromkeys(rates, 0)
    failing_truth = sum(m * (1 - np.prod([1 - by_pool[t][pool] for t in rates])) for pool, m in mass.items())
    n_worlds = 250
    for seed in range(n_worlds):
        frame = draw_batch(world(900, seed), 80, 0.3)
        rng = np.random.default_rng(1000 + seed)
        labels = {}
        for trace_id, pool in frame.filter("is_drawn").select("trace_id", "pool").iter_rows():
            shown = frozenset(theme for theme in rates if rng.random() < by_pool[theme][pool])
            if rng.random() < 0.9:
                labels[trace_id] = Label(bool(shown), shown)
        for own in batch_shares(frame, labels, list(rates)).themes:
            true = truth[own.theme_id]
            values[own.theme_id].append(own.traffic.value)
            plain[own.theme_id].append(own.traffic.n / len(labels))
            held[own.theme_id] += own.traffic.low <= true <= own.traffic.high
            if own.failing is not None:
                held_of_failing[own.theme_id] += own.failing.low <= true / failing_truth <= own.failing.high
    for theme, true in truth.items():
        spread = float(np.std(values[theme])) / n_worlds**0.5
        assert np.mean(values[theme]) == pytest.approx(true, abs=4 * spread)
        assert 0.90 <= held[theme] / n_worlds <= 0.99, (theme, held[theme])
        assert held_of_failing[theme] / n_worlds >= 0.90, (theme, held_of_failing[theme])
    assert np.mean(plain["signalled"]) > 3 * truth["signalled"]
    assert np.mean(plain["quiet"]) < 0.5 * truth["quiet"]
