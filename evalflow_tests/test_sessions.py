"""Sessions: planted transitions, kinds and dependence are recovered, and what cannot be known is not made up."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalflow.core.inference import effective_traces
from evalflow.core.session_types import session_types
from evalflow.core.sessions import compounding, in_order, sessions_of, transition_coverage
from evalflow.core.weighting import row_weights, traffic_masses

START = datetime(2026, 6, 1, 8, tzinfo=UTC)
SCHEMA = {
    "item_id": pl.String,
    "session_id": pl.String,
    "turn_index": pl.Int32,
    "timestamp": pl.Datetime("us", "UTC"),
    "bin": pl.String,
    "weight": pl.Float64,
    "pi_uniform": pl.Float64,
    "tools": pl.List(pl.String),
    "context_tokens": pl.Int64,
    "verdict": pl.String,
    "is_thumbs_down": pl.Boolean,
    "is_low_rated": pl.Boolean,
    "is_reported": pl.Boolean,
    "is_abandoned": pl.Boolean,
    "is_escalated": pl.Boolean,
}


def turn(session: str | None, index: int | None, bin: str = "a", **more: Any) -> dict[str, Any]:
    """One sampled turn, at the minute of its index."""
    at = START + timedelta(minutes=more.pop("minute", index or 0))
    row = {"session_id": session, "turn_index": index, "timestamp": at, "bin": bin, "weight": 1.0, "pi_uniform": 1.0}
    return {**row, "item_id": f"{session}/{index}/{at}", "verdict": "pass", **more}


def turns(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return in_order(pl.DataFrame([{**dict.fromkeys(SCHEMA), **row} for row in rows], schema=SCHEMA))


def session(name: str, bins: str, **more: Any) -> list[dict[str, Any]]:
    return [turn(name, i, bin, **more) for i, bin in enumerate(bins)]


def cases(**bins: str) -> pl.DataFrame:
    """Turns of golden conversations, the case's input last."""
    rows = [(case_id, bin) for case_id, own in bins.items() for bin in own]
    return pl.DataFrame(rows, schema={"case_id": pl.String, "bin": pl.String}, orient="row")


def shares(found: Any) -> dict[str, float]:
    return {row.from_bin + row.to_bin: row.production_share for row in found.transitions}


# -- transitions -----------------------------------------------------------------------------------------------


def test_the_same_questions_in_another_order_are_far_apart() -> None:
    """Bin by bin the suite is spread as the traffic is; it never asks b after a."""
    found = transition_coverage(turns(session("s", "ab")), cases(c="ba"))
    assert found.jsd_raw == pytest.approx(1.0)
    assert found.covered_share == 0.0


def test_the_figure_by_hand() -> None:
    """p = (1/2, 1/2) on ab and ba, q = (1, 0): ((1/2) log2(2/3) + (1/2) log2 2)/2 + log2(4/3)/2 = .3113."""
    found = transition_coverage(turns(session("s", "aba")), cases(c="ab"))
    assert found.jsd_raw == pytest.approx(0.5 * (0.5 * np.log2(2 / 3) + 0.5 + np.log2(4 / 3)))
    assert found.covered_share == pytest.approx(0.5)
    assert (found.n_transitions, found.n_golden, found.n_sessions, found.n_golden_cases) == (2, 1, 1, 1)


def test_a_suite_without_conversations_has_no_figure_and_its_holes_are_listed() -> None:
    found = transition_coverage(turns(session("s", "ab")), cases(alone="a"))
    assert (found.jsd_raw, found.floor_mean, found.covered_share) == (None, None, None)
    assert found.reason == "no golden case has a conversation before it"
    assert shares(found) == {"ab": 1.0}


@pytest.mark.parametrize("rows", [[], session("s", "a"), [turn(None, 0), turn(None, 1, "b")]])
def test_single_turns_make_no_transition(rows: list[dict[str, Any]]) -> None:
    """No sessions, one trace, or traces without a session id, which stand alone each."""
    found = transition_coverage(turns(rows), cases(c="ab"))
    assert (found.jsd_raw, found.n_transitions, found.m_eff) == (None, 0, 0.0)
    assert found.reason == "no sampled session has two turns in a row"
    assert [row.golden_transitions for row in found.transitions] == [1]


def test_a_missing_turn_joins_nothing() -> None:
    """Of turns 0, 1, 3 only the first two follow each other; what is left out is counted."""
    found = transition_coverage(turns([turn("s", 0, "a"), turn("s", 1, "b"), turn("s", 3, "c")]), cases())
    assert shares(found) == {"ab": 1.0}
    assert found.n_gaps == 1


def test_turns_without_an_index_go_by_time() -> None:
    rows = [turn("s", None, "b", minute=5), turn("s", None, "a", minute=1), turn("s", None, "c", minute=9)]
    assert shares(transition_coverage(turns(rows), cases())) == {"ab": 0.5, "bc": 0.5}


def test_weights_of_zero_are_no_traffic() -> None:
    found = transition_coverage(turns(session("s", "ab", weight=0.0)), cases(c="ab"))
    assert (found.jsd_raw, found.covered_share) == (None, None)


@pytest.mark.parametrize(("pi_first", "pi_second"), [(0.5, 0.25), (0.25, 0.5)])
def test_conversations_over_midnight_keep_their_share(pi_first: float, pi_second: float) -> None:
    """4,000 sessions a-b on the first day, 4,000 c-d on the second, 2,000 x-y over the midnight between: .4, .4, .2.

    A session's number is drawn once; over midnight both turns are there below the lower of two rates. Of 500 such
    sessions the share .2 has a standard error of .2 * sqrt(.75 / 500) = .008.
    """
    number = np.random.default_rng(5).random(10_000)
    first, second = date(2026, 6, 1), date(2026, 6, 2)
    kinds = [("ab", first, first)] * 4000 + [("cd", second, second)] * 4000 + [("xy", first, second)] * 2000
    pi = {first: pi_first, second: pi_second}
    rows = [
        {**turn(f"s{n}", i, kind[i], pi_uniform=pi[day]), "day": day}
        for n, (kind, *days) in enumerate(kinds)
        for i, day in enumerate(days)
        if number[n] < pi[day]
    ]
    drawn = pl.DataFrame([{**dict.fromkeys(SCHEMA), **row} for row in rows], schema={**SCHEMA, "day": pl.Date})
    weight = row_weights(drawn["day"], drawn["pi_uniform"], traffic_masses({first: 10_000, second: 10_000}), 10).weight
    found = shares(transition_coverage(in_order(drawn.with_columns(weight=weight)), cases()))
    assert found == pytest.approx({"ab": 0.4, "cd": 0.4, "xy": 0.2}, abs=0.03)
    whole = sessions_of(in_order(drawn.with_columns(weight=weight)), {f"s{n}": 2 for n in range(10_000)})
    of_midnight = whole.filter(pl.col("session_id").str.slice(1).cast(pl.Int64) >= 8000)
    assert float(of_midnight["weight"].sum()) == pytest.approx(0.2, abs=0.03)


def test_a_random_suite_lies_within_its_floor() -> None:
    """Conversations drawn as the traffic is are, over 40 suites, above the floor's 95th centile in few (5 % expected)."""
    chance = np.random.default_rng(3)
    table = chance.dirichlet(np.ones(8), 8)

    def spoken(length: int) -> str:
        bins = [int(chance.integers(8))]
        while len(bins) < length:
            bins.append(int(chance.choice(8, p=table[bins[-1]])))
        return "".join("abcdefgh"[bin] for bin in bins)

    rows = turns([row for n in range(400) for row in session(f"s{n}", spoken(4))])
    above = 0
    for _ in range(40):
        found = transition_coverage(rows, cases(**{f"c{n}": spoken(2) for n in range(60)}))
        assert found.jsd_raw is not None
        assert found.floor_p95 is not None
        above += found.jsd_raw > found.floor_p95
    assert above <= 7  # Binomial(40, .05): more than 7 in .1 % of runs


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=8),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=5),
)
def test_parts_add_up(said: list[str], golden: list[str]) -> None:
    """Shares sum to one, JSD terms to raw JSD, and the sample's worth is that of effective_traces over pairs."""
    rows = turns([row for n, bins in enumerate(said) for row in session(f"s{n}", bins, weight=1.0 + n)])
    found = transition_coverage(rows, cases(**{f"c{n}": bins for n, bins in enumerate(golden)}))
    if not found.n_transitions:
        return
    assert sum(shares(found).values()) == pytest.approx(1.0)
    if found.jsd_raw is not None:
        assert sum(row.jsd_term or 0 for row in found.transitions) == pytest.approx(found.jsd_raw, abs=1e-12)
    pairs = [(n, bins[i : i + 2]) for n, bins in enumerate(said) for i in range(len(bins) - 1)]
    total = sum(1.0 + n for n, _ in pairs)
    frame = pl.DataFrame(
        {
            "item_id": [str(i) for i in range(len(pairs))],
            "session_id": [str(n) for n, _ in pairs],
            "bin": [pair for _, pair in pairs],
            "weight": [(1.0 + n) / total for n, _ in pairs],
        }
    )
    assert found.m_eff == pytest.approx(effective_traces(frame, frame["bin"].unique().sort()).overall)


# -- sessions --------------------------------------------------------------------------------------------------


def test_a_session_is_put_together_from_its_turns() -> None:
    rows = [
        turn("s", 0, tools=["find"], context_tokens=100, verdict="fail", is_escalated=False),
        turn("s", 1, tools=None, context_tokens=None, is_escalated=True),
        turn("s", 2, tools=["find", "book"], context_tokens=400),
    ]
    (own,) = sessions_of(turns(rows), {"s": 3}).to_dicts()
    assert (own["n_turns"], own["tools"], own["n_passed"], own["all_passed"]) == (3, ["find", "find", "book"], 2, False)
    assert (own["context_first"], own["context_last"], own["context_mean"]) == (100, 400, 250)
    assert (own["ended_well"], own["is_escalated"], own["is_abandoned"]) == (True, True, None)


def test_a_session_that_was_drawn_in_part_is_left_out() -> None:
    found = sessions_of(turns([*session("whole", "ab"), *session("cut", "ab")]), {"whole": 2, "cut": 3})
    assert found["session_id"].to_list() == ["whole"]
    assert found["weight"].to_list() == [1.0]


def test_a_trace_without_a_session_is_one() -> None:
    found = sessions_of(turns([turn(None, None, minute=1), turn(None, None, minute=2)]), {})
    assert found["n_turns"].to_list() == [1, 1]


@pytest.mark.parametrize(
    ("last", "well"),
    [
        ({"verdict": "pass"}, True),
        ({"verdict": "fail"}, False),
        ({"verdict": "unscored"}, None),
        ({"verdict": "fail", "is_thumbs_down": False}, True),
        ({"verdict": "pass", "is_low_rated": True}, False),
        ({"verdict": "fail", "is_thumbs_down": False, "is_reported": True}, False),
        ({"verdict": "unscored", "is_low_rated": False}, None),
    ],
)
def test_how_a_session_ended(last: dict[str, Any], well: bool | None) -> None:
    """What the user said of the last turn, complaints first, else the verdict on it; a rating of 3 is no praise."""
    rows = [turn("s", 0, verdict="fail", is_thumbs_down=True), turn("s", 1, **last)]
    assert sessions_of(turns(rows), {})["ended_well"].to_list() == [well]


def test_tools_that_were_not_logged_are_unknown() -> None:
    found = sessions_of(turns([turn("none", 0, tools=[]), turn("unknown", 0, tools=None)]), {})
    assert dict(found.select("session_id", "tools").iter_rows()) == {"none": [], "unknown": None}


# -- compounding -----------------------------------------------------------------------------------------------


def verdicts(name: str, passes: Sequence[bool], **more: Any) -> list[dict[str, Any]]:
    return [turn(name, i, verdict="pass" if passed else "fail", **more) for i, passed in enumerate(passes)]


def test_compounding_by_hand() -> None:
    """One step that passes and two of which the second fails, equal weights: s = 2/3, expected (2/3 + 4/9) / 2."""
    found = compounding(sessions_of(turns([*verdicts("x", [True]), *verdicts("y", [True, False])]), {}))
    assert found.step_success == pytest.approx(2 / 3)
    everything, one, two = found.groups
    assert everything.expected_share == pytest.approx(5 / 9)
    assert everything.all_passed_share == pytest.approx(1 / 2)
    assert (one.n_steps_from, one.n_steps_to, one.all_passed_share) == (1, 1, 1.0)
    assert (two.expected_share, two.all_passed_share) == (pytest.approx(4 / 9), 0.0)


def test_independent_steps_compound() -> None:
    """2,000 sessions of 5 and 20 steps with s = .95: .95^20 = .36 is expected, and measured within its interval."""
    chance = np.random.default_rng(1)
    rows = [
        row for n in range(1000) for k in (5, 20) for row in verdicts(f"{k}-{n}", (chance.random(k) < 0.95).tolist())
    ]
    found = compounding(sessions_of(turns(rows), {}))
    assert found.step_success == pytest.approx(0.95, abs=0.005)  # 25,000 steps: standard error .0014
    longest = found.groups[-1]
    assert (longest.n_steps_from, longest.n_steps_to) == (11, 20)
    assert longest.expected_share == pytest.approx(0.36, abs=0.02)
    assert not any(group.is_gap for group in found.groups)


def test_independent_steps_are_rarely_a_gap() -> None:
    """150 worlds of eight lengths with independent steps: any gap by length, and one over all, in at most 5 % of them."""
    chance = np.random.default_rng(11)
    steps = np.repeat(np.arange(1, 9), 60)
    any_length = over_all = 0
    for _ in range(150):
        passed = chance.binomial(steps, 0.9)
        rows = pl.DataFrame({"n_turns": steps, "n_passed": passed, "all_passed": passed == steps})
        rows = rows.with_columns(weight=pl.lit(1 / len(steps)), ended_well=pl.lit(None, pl.Boolean))
        everything, *by_length = compounding(rows).groups
        any_length += any(group.is_gap for group in by_length)
        over_all += everything.is_gap
    assert any_length <= 7
    assert over_all <= 7


def test_a_single_success_of_a_rare_kind_is_no_gap() -> None:
    """Of 3 sessions that pass with 2 % each, one passes: a chance of 6 % that a normal approximation takes for none."""
    rows = pl.DataFrame({"n_turns": [40] * 3, "n_passed": [40, 35, 34], "all_passed": [True, False, False]})
    rows = rows.with_columns(weight=pl.lit(1 / 3), ended_well=pl.lit(None, pl.Boolean))
    _, long = compounding(rows).groups
    expected = (109 / 120) ** 40
    assert long.expected_share == pytest.approx(expected)
    assert long.all_passed_low > expected
    assert long.gap_p == pytest.approx(2 * (1 - (1 - expected) ** 3))
    assert not long.is_gap


def test_failures_that_cluster_are_a_gap() -> None:
    """Half of the sessions never fail, half fail at .3 a step: pooled s = .85, .85^5 = .44, but .5 + .5 * .7^5 = .58 pass."""
    chance = np.random.default_rng(2)
    rows = [
        row for n in range(1000) for row in verdicts(f"s{n}", (chance.random(5) < (1.0 if n % 2 else 0.7)).tolist())
    ]
    (everything, _) = compounding(sessions_of(turns(rows), {})).groups
    assert everything.all_passed_share == pytest.approx(0.584, abs=0.05)
    assert everything.expected_share == pytest.approx(0.444, abs=0.04)
    assert everything.is_gap


def test_a_session_with_an_unscored_step_is_counted_apart() -> None:
    rows = [*verdicts("x", [True]), turn("y", 0), turn("y", 1, verdict="unscored")]
    found = compounding(sessions_of(turns(rows), {}))
    assert (found.n_sessions, found.n_unscored, found.step_success) == (1, 1, 1.0)


@pytest.mark.parametrize("rows", [[], session("s", "ab", weight=0.0), session("s", "ab", verdict="unscored")])
def test_nothing_to_compound(rows: list[dict[str, Any]]) -> None:
    found = compounding(sessions_of(turns(rows), {}))
    assert (found.step_success, found.groups) == (None, ())


# -- types -----------------------------------------------------------------------------------------------------


def kinds(**more: Any) -> pl.DataFrame:
    """90 sessions: one turn without tools (30), three turns of lookup (30), eight turns of lookup then transfer (30)."""
    rows = []
    for n in range(30):
        rows += [turn(f"one-{n}", 0, tools=[], context_tokens=100, **more)]
        rows += [turn(f"three-{n}", i, tools=["lookup"], context_tokens=100 + 50 * i, **more) for i in range(3)]
        rows += [
            turn(f"eight-{n}", i, tools=["lookup", "transfer"], context_tokens=100 + 100 * i, **more) for i in range(8)
        ]
    return sessions_of(turns(rows), {})


def suite(*rows: tuple[int, list[str] | None], ended_well: bool | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        [(f"c{i}", n, tools, ended_well) for i, (n, tools) in enumerate(rows)],
        schema={"case_id": pl.String, "n_turns": pl.Int64, "tools": pl.List(pl.String), "ended_well": pl.Boolean},
        orient="row",
    )


def test_planted_kinds_are_found_and_described() -> None:
    found = session_types(kinds(), suite((1, None), (1, []), (8, ["lookup", "transfer"] * 8)), seed=7)
    assert [row.production_share for row in found.types] == pytest.approx([1 / 3] * 3)
    words = {row.description: row for row in found.types}
    assert set(words) == {
        "1 turn, no tools, context 100 tokens, 0% end badly",
        "3 turns, lookup > lookup, context 150 tokens, x2.0 from first to last, 0% end badly",
        "8 turns, lookup > transfer, context 450 tokens, x8.0 from first to last, 0% end badly",
    }
    assert [words[name].golden_cases for name in sorted(words)] == [2, 0, 1]
    uncovered = words[sorted(words)[1]]
    assert (uncovered.is_uncovered, uncovered.density_ratio) == (True, 0.0)
    assert found.case_features == ("turns", "tools")
    assert found.jsd_raw == pytest.approx(sum(row.jsd_term or 0 for row in found.types))
    assert session_types(kinds(), suite((1, None)), seed=7) == session_types(kinds(), suite((1, None)), seed=7)


def test_what_a_case_does_not_say_decides_nothing() -> None:
    """One-turn sessions are 30 with a tool and 10 without; cases that name no tools count three quarters and one."""
    rows = [turn(f"s{n}", 0, tools=["lookup"] if n % 4 else []) for n in range(40)]
    rows += [row for n in range(40) for row in session(f"long{n}", "abcdef", tools=[])]
    found = session_types(sessions_of(turns(rows), {}), suite(*[(1, None)] * 8), seed=7)
    cases = {row.description: row.golden_cases for row in found.types}
    assert cases["1 turn, lookup, 0% end badly"] == pytest.approx(6.0)
    assert cases["1 turn, no tools, 0% end badly"] == pytest.approx(2.0)
    assert [row.is_uncovered for row in found.types if row.turns > 1] == [True]


def ending(n: int, bad_every: int, name: str = "s", k: int = 1, **more: Any) -> list[dict[str, Any]]:
    """``n`` sessions of ``k`` turns, of which every ``bad_every``-th ends badly."""
    return [
        {**row, "verdict": "fail" if i % bad_every == 0 and row["turn_index"] == k - 1 else "pass"}
        for i in range(n)
        for row in session(f"{name}{i}", "a" * k, **more)
    ]


def test_sessions_that_differ_in_their_end_alone_are_two_types() -> None:
    """Cases that do not know how they would end count in both by their share, a confirmed failure in the bad one."""
    rows = sessions_of(turns(ending(80, 4, tools=[])), {})
    well, badly = session_types(rows, suite(*[(1, None)] * 8), seed=7).types
    assert (well.ended_badly_share, badly.ended_badly_share) == (0.0, 1.0)
    assert (well.production_share, badly.production_share) == (pytest.approx(0.75), pytest.approx(0.25))
    assert (well.golden_cases, badly.golden_cases) == (pytest.approx(6.0), pytest.approx(2.0))
    failures = session_types(rows, suite((1, None), (1, None), ended_well=False), seed=7)
    assert failures.case_features == ("turns", "outcome")
    assert [row.golden_cases for row in failures.types] == [0, 2]
    assert [row.is_uncovered for row in failures.types] == [True, False]


def test_abandoned_and_escalated_sessions_are_types() -> None:
    rows = [
        turn(
            f"s{n}", 0, tools=[], verdict="fail" if n % 4 else "pass", is_abandoned=n % 4 == 1, is_escalated=n % 4 == 2
        )
        for n in range(80)
    ]
    found = session_types(sessions_of(turns(rows), {}), suite(), seed=7)
    ends = {(row.ended_badly_share, row.abandoned_share, row.escalated_share) for row in found.types}
    assert ends == {(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (1.0, 0.0, 0.0)}
    assert (found.types[0].density_ratio, found.jsd_raw) == (None, None)


def test_bad_ends_of_different_kinds_stay_apart() -> None:
    """One session in ten ends badly in each of six kinds, here abandoned, there escalated: the six kinds are found. With
    outcomes at the scale of the other features, bad ends of several kinds would be a type."""
    kinds = [(f"{k}-{len(tools)}-", k, tools) for k in (1, 2, 3) for tools in ([], ["lookup"])]
    rows = [row for name, k, tools in kinds for row in ending(60, 10, name, k, tools=tools)]
    for row in rows:
        row["is_abandoned"] = row["verdict"] == "fail" and row["session_id"].startswith("1-0-")
        row["is_escalated"] = row["verdict"] == "fail" and row["session_id"].startswith("3-1-")
    found = session_types(sessions_of(turns(rows), {}), suite(), seed=7)
    assert sorted(row.turns for row in found.types) == pytest.approx([1, 1, 2, 2, 3, 3])
    assert [row.n_sessions for row in found.types] == [60] * 6


def test_a_rare_twin_is_not_uncovered_by_its_share_alone() -> None:
    """Five cases that say nothing of tools count .3 in the 6 % of their like that have some: all of these are like them."""
    rows = [turn(f"s{n}", 0, tools=["lookup"] if n < 6 else []) for n in range(100)]
    rows += [row for n in range(20) for row in session(f"long{n}", "abcdefgh", tools=["lookup"])]
    found = session_types(sessions_of(turns(rows), {}), suite(*[(1, None)] * 5), seed=7)
    rare = next(row for row in found.types if row.n_sessions == 6)
    assert (rare.golden_cases, rare.like_share, rare.is_uncovered) == (pytest.approx(0.3), 1.0, False)
    assert [row.is_uncovered for row in found.types if row.turns > 1] == [True]


@pytest.mark.parametrize("with_kinds", [False, True])
def test_noise_makes_no_types(with_kinds: bool) -> None:
    """One-turn sessions of 1,000 to 1,006 tokens are one type, also beside a kind that is one."""
    rows = [turn(f"s{n}", 0, tools=[], context_tokens=1000 + n % 7) for n in range(210)]
    if with_kinds:
        rows += [row for n in range(70) for row in session(f"long{n}", "abcdef", tools=[], context_tokens=1000 + n % 7)]
    found = session_types(sessions_of(turns(rows), {}), suite(), seed=7)
    assert sorted(row.n_sessions for row in found.types) == ([70, 210] if with_kinds else [210])
    assert with_kinds or found.reason == "no number of types from 2 to 8 sets the sessions apart"


def test_shares_of_types_are_weighted() -> None:
    """Sessions drawn with half the chance count twice."""
    rows = kinds().with_columns(weight=pl.when(pl.col("session_id").str.starts_with("one")).then(2.0).otherwise(1.0))
    found = session_types(rows.with_columns(pl.col("weight") / rows["weight"].sum()), suite(), seed=7)
    assert found.types[0].production_share == pytest.approx(0.5)
    assert found.types[0].turns == 1.0


def test_too_few_sessions_are_one_type() -> None:
    found = session_types(kinds().head(29), suite((1, None)), seed=7)
    assert len(found.types) == 1
    assert found.reason == "fewer than 30 sessions are one type"
    assert found.types[0].golden_cases == 1


def test_unknown_tools_and_contexts_leave_the_turns() -> None:
    rows = [row for n in range(40) for row in session(f"s{n}", "a" if n % 2 else "abcdef")]
    found = session_types(sessions_of(turns(rows), {}), suite((1, ["lookup"])), seed=7)
    assert sorted(row.description for row in found.types) == ["1 turn, 0% end badly", "6 turns, 0% end badly"]
    assert found.case_features == ("turns",)
    assert all(row.context_tokens is None and row.tool_calls is None for row in found.types)


@pytest.mark.parametrize("rows", [[], session("s", "ab", weight=0.0)])
def test_no_session_with_weight_has_no_type(rows: list[dict[str, Any]]) -> None:
    found = session_types(sessions_of(turns(rows), {}), suite((1, None)), seed=7)
    assert (found.types, found.reason) == ((), "no whole session was sampled")


def test_a_thousand_tool_names_do_not_drown_the_rest() -> None:
    """Names that occur once each are no features; the two planted kinds are found all the same."""
    rows = [row for n in range(60) for row in session(f"s{n}", "a" if n % 2 else "abcdef", tools=[f"tool {n}"])]
    found = session_types(sessions_of(turns(rows), {}), suite(), seed=7)
    assert sorted(row.n_sessions for row in found.types) == [30, 30]
