"""What the ledger tells: differences that add up, compositions and latencies that were planted, growth without self-deceit."""

import json
import re
import shutil
import tempfile
import warnings
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.ledger import CaseVersion, Ledger
from evalflow.adapters.tables import GOLDEN_GROWTH, JUDGE_GRADES, TRACE_SIGNALS, TRIAGE_QUEUE, Table
from evalflow.core.composition import CaseFacts, age_of, composition
from evalflow.core.growth import estimated_total, per_thousand, rank_association
from evalflow.core.latency import kaplan_meier, quantiles, share_within, waiting_times
from evalflow.core.records import GoldenCase, Provenance, Review
from evalflow.core.suite_diff import SuiteDiff, suite_diff
from evalflow.defs import ledger_reports
from evalflow.defs.growth import GROWTH, by_id, counts_of, growth_of
from evalflow.defs.ledger_reports import STAGES, failure_latency, failure_times
from evalflow_tests.test_cli import evalflow

JUNE_1 = datetime(2026, 6, 1, tzinfo=UTC)
MONDAY, END = date(2026, 6, 1), date(2026, 6, 14)


def frame(table: Table, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in table.schema} for row in rows], schema=table.schema)


# -- difference -----------------------------------------------------------------------------------------------


def applied(diff: SuiteDiff, before: dict[str, Any]) -> dict[str, Any]:
    gone = {case["case_id"] for case in diff.removed}
    return (
        {case_id: case for case_id, case in before.items() if case_id not in gone}
        | {case["case_id"]: case for case in diff.added}
        | {change.case_id: change.after for change in diff.changed}
    )


steps = st.lists(
    st.tuples(
        st.integers(0, 4),  # days since the step before
        st.sampled_from(["import", "revise", "retire", "merge"]),
        st.sampled_from("abc"),
        st.sampled_from(["x", "y"]),
    ),
    max_size=10,
)


@given(steps, st.integers(-2, 20), st.integers(0, 20))
@hypothesis_settings(max_examples=25, deadline=None)
def test_the_difference_of_two_days_leads_from_one_suite_to_the_other(
    history: list[tuple[int, str, str, str]], first: int, more: int
) -> None:
    now = JUNE_1
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        for days, what, case_id, text in history:
            now += timedelta(days=days)
            newest = ledger.newest().get(case_id)
            if what == "import" or newest is None:
                ledger.import_cases([GoldenCase(case_id=case_id, input=text)], "s", now)
            elif what == "retire":
                ledger.retire([case_id], "why", "s", now)
            elif newest.retired_on is None and what == "revise":
                ledger.revise(case_id, {"expected_output": text}, "why", "s", now)
            elif newest.retired_on is None:
                merged = msgspec.structs.replace(
                    newest,
                    version=newest.version + 1,
                    effective_on=now.date().isoformat(),
                    merged_trace_ids=[*newest.merged_trace_ids, f"t{newest.version}"],
                    is_regression=True,
                )
                ledger.record("promotion", [merged], "reviews", now)
        days_of = [MONDAY + timedelta(days=first), MONDAY + timedelta(days=first + more)]
        before, after = (by_id(ledger.as_of(day)) for day in days_of)
    diff = suite_diff(before, after)
    assert applied(diff, before) == after
    assert suite_diff(after, after) == SuiteDiff([], [], [])
    counts = counts_of(diff)
    assert len(after) == len(before) + counts["n_added"] - counts["n_retired"]
    merged_of = [sum(len(case["merged_trace_ids"]) for case in suite.values()) for suite in (before, after)]
    lost = sum(len(case["merged_trace_ids"]) for case in diff.removed)
    assert counts["n_merged_traces"] == merged_of[1] - merged_of[0] + lost


# -- composition ----------------------------------------------------------------------------------------------


def test_ages_fall_into_their_buckets_at_the_edges() -> None:
    ages = (None, -3, 0, 30, 31, 90, 91, 180, 181)
    assert [age_of(age) for age in ages] == [
        "unknown", "0-30", "0-30", "0-30", "31-90", "31-90", "91-180", "91-180", "over 180",
    ]  # fmt: skip


def test_a_planted_composition_is_counted_by_origin_age_bin_and_voucher() -> None:
    plain = CaseFacts("hand-authored", 400, False, True, False, "nobody here", None, "b1")
    cases = [
        plain,
        plain._replace(age_days=200),
        plain._replace(origin="synthetic", age_days=None, has_expected_output=False, bin="b9"),
        CaseFacts("production", 5, True, True, True, "human", "reviewer", "b2"),
        CaseFacts("production", 5, True, True, True, "policy", "judge", "b2"),
        CaseFacts("production", 95, False, True, False, "nobody here", None, None),
    ]
    found = composition(cases, {"b1": 0.5, "b2": 0.3, "b3": 0.2, "b4": 0.0}, {"b1": "parcels"})
    assert found.by_origin == {"hand-authored": 2, "synthetic": 1, "production": 3}
    assert found.by_age["over 180"] == {"hand-authored": 2, "synthetic": 0, "production": 0}
    assert found.by_age["unknown"]["synthetic"] == 1
    assert found.by_age["91-180"]["production"] == 1
    assert sum(n for row in found.by_age.values() for n in row.values()) == len(cases)
    assert [(row.bin, row.n_cases) for row in found.bins] == [
        ("b1", 2), ("b2", 2), ("b3", 0), ("b4", 0), ("b9", 1), (None, 1),
    ]  # fmt: skip
    assert found.bins[0].label == "parcels"
    assert (found.n_bins, found.n_bins_without_production) == (3, 2), "b1 and b3; b4 has no traffic"
    assert found.traffic_without_production == pytest.approx(0.7)
    assert found.confirmed_by == {"human": 1, "script": 0, "policy": 1, "nobody here": 4}
    assert found.expected_from == {"judge": 1, "not stated": 3, "reviewer": 1}
    assert (found.n_regressions, found.n_without_expected_output, found.n_without_provenance) == (2, 1, 1)
    said = " ".join(found.warnings)
    for words in (
        "2 of 3 bins with traffic (70% of it) have no case from production",
        "1 case of 6 without an expected output",
        "1 case said to come from production without a trace",
        "1 case promoted by a policy",
        "1 case with an expected output that a judge wrote",
    ):
        assert words in said
    assert "older than" not in said, "2 of 6 are not more than half"


def test_a_suite_without_production_or_without_bins_says_so() -> None:
    assert composition([], None).warnings == ["The golden set is empty."]
    case = CaseFacts("synthetic", None, False, True, False, "nobody here")
    found = composition([case], None)
    assert (found.bins, found.traffic_without_production) == ([], None)
    assert "No case comes from production" in found.warnings[0]
    assert "1 of 1 cases have no created_at" in found.warnings[-1]


# -- latency --------------------------------------------------------------------------------------------------


def test_kaplan_meier_by_hand() -> None:
    """Times 1, 2, 2+, 3, 5+ (+ waits): S(1) = 4/5, S(2) = 4/5 · 3/4 = .6, S(3) = .6 · 1/2 = .3."""
    found = waiting_times([1, 2, 2, 3, 5], [True, True, False, True, False], 2.0)
    curve = kaplan_meier([1, 2, 2, 3, 5], [True, True, False, True, False])
    assert curve.waiting == pytest.approx([0.8, 0.6, 0.3])
    assert (found.p25, found.p75, found.p90) == (2.0, None, None), "30 % still wait: three quarters have not arrived"
    assert found.median is not None
    assert (found.median.value, found.median.high) == (3.0, None)
    assert found.within is not None
    assert found.within.value == pytest.approx(0.4)
    assert share_within(curve, 5.5) is None, "nothing was watched for so long"
    assert waiting_times([], [], 2.0) == (0, 0, None, None, None, None, None)
    with pytest.raises(ValueError, match="negative"):
        kaplan_meier([-1.0], [True])


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=25))
@hypothesis_settings(max_examples=25, deadline=None)
def test_the_curve_and_its_interval_are_scipys(times: list[tuple[int, bool]]) -> None:
    from scipy.stats import CensoredData, ecdf

    days, arrived = [time for time, _ in times], [there for _, there in times]
    curve = kaplan_meier(days, arrived)
    data = CensoredData(uncensored=[d for d, there in times if there], right=[d for d, there in times if not there])
    survival = ecdf(data).sf
    assert curve.waiting == pytest.approx(survival.evaluate(curve.days), abs=1e-12)
    if any(arrived) and len(curve.days) and curve.waiting[-1] > 0:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy says that the interval before the first step is undefined
            interval = survival.confidence_interval(method="log-log")
        assert curve.low == pytest.approx(interval.low.evaluate(curve.days), abs=1e-9)
        assert curve.high == pytest.approx(interval.high.evaluate(curve.days), abs=1e-9)


def test_a_planted_median_is_recovered_where_the_arrived_alone_would_flatter() -> None:
    """Exponential with median 4, watched for 0 to 6 days, 100 worlds: of intervals at 95 % fewer than 89 hold it with p < .01."""
    chance = np.random.default_rng(5)
    n_held, found, naive = 0, [], []
    for _ in range(100):
        truth, watched = chance.exponential(4 / np.log(2), 150), chance.uniform(0, 6, 150)
        there = truth <= watched
        seen = waiting_times(np.minimum(truth, watched).tolist(), there.tolist(), 2.0)
        if seen.median is not None:
            n_held += (seen.median.low or 0) <= 4 <= (seen.median.high or np.inf)
            found.append(seen.within.value if seen.within else np.nan)
        else:
            n_held += 1
        naive.append(quantiles(truth[there].tolist()).median or np.nan)
    assert n_held >= 89
    assert np.mean(found) == pytest.approx(1 - 0.5**0.5, abs=0.02), "the share within two days"
    assert np.mean(naive) < 2.5


# -- growth ---------------------------------------------------------------------------------------------------


def test_an_estimated_total_counts_each_trace_for_those_that_it_stands_for() -> None:
    """π = 1/2, 1/4, 1: 2 + 4 + 1. Sessions a, a, b: (√.5/.5 + √.75/.25)² = (1.4142 + 3.4641)² for a, 0 for b."""
    found = estimated_total(pl.Series([0.5, 0.25, 1.0]), pl.Series(["a", "a", "b"]))
    assert found.value == 7.0
    assert found.se == pytest.approx(2**0.5 + 12**0.5)
    assert estimated_total(pl.Series([], dtype=pl.Float64), pl.Series([], dtype=pl.String)) == (0.0, 0.0)
    assert per_thousand(3, 600) == 5.0
    assert per_thousand(3, 0) is None
    assert per_thousand(3, None) is None


def series(chance: np.random.Generator, n: int, memory: float) -> np.ndarray:
    values = np.zeros(n + 30)
    for at, shock in enumerate(chance.normal(size=n + 29), start=1):
        values[at] = memory * values[at - 1] + shock
    return values[30:]


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_two_series_that_have_nothing_to_do_with_each_other_are_rarely_called_associated(memory: float) -> None:
    """26 weeks with memory .8: an interval that takes weeks as independent errs in about 18 % of worlds."""
    chance = np.random.default_rng(3)
    wrong, n_worlds = 0, 250
    for _ in range(n_worlds):
        found = rank_association(series(chance, 26, memory).tolist(), series(chance, 26, memory).tolist())
        wrong += found is not None and not found.low <= 0 <= found.high
    assert wrong / n_worlds <= 0.05 + 3 * (0.05 * 0.95 / n_worlds) ** 0.5


def test_a_growth_that_follows_failures_is_seen_and_too_few_or_constant_weeks_say_nothing() -> None:
    chance = np.random.default_rng(4)
    failures = chance.poisson(40, 30)
    found = rank_association((failures + chance.poisson(3, 30)).tolist(), failures.tolist())
    assert found is not None
    assert found.low > 0.5
    assert found.n_effective <= found.n == 30
    assert rank_association(list(range(11)), list(range(11))) is None
    assert rank_association([1] * 20, list(range(20))) is None


# -- in a home ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two weeks: traffic and grades, three queued failures promoted, two that wait, one open, one dismissed."""
    path = tmp_path_factory.mktemp("reports") / "home"
    write_setting(path, "traffic_start", MONDAY)
    write_setting(path, "traffic_end", END)
    home = open_home(path).prepare()
    home.ledger.import_cases(
        [GoldenCase(case_id="old", input="[bold]old|case[/bold]", created_at=datetime(2026, 5, 1, tzinfo=UTC))],
        "suite.jsonl",
        JUNE_1,
    )
    _traffic(home)
    _failures(home)
    home.publish()
    return home


def _traffic(home: Home) -> None:
    """10 traces a day, one complaint each in the first week; every second one sampled; two a day fail, of one session."""
    for offset in range(14):
        day = MONDAY + timedelta(days=offset)
        signals = [
            {"trace_id": f"{day}-{n}", "is_reported": n == 0 and offset < 7, "is_negative": False} for n in range(10)
        ]
        grades = [
            {
                "trace_id": f"{day}-{n}",
                "session_id": f"{day}",
                "grader": "signals",
                "verdict": "fail" if n < 2 else "pass",
            }
            | {"inclusion_probability": 0.5}
            for n in range(5)
        ]
        home.lake.write(TRACE_SIGNALS, day, frame(TRACE_SIGNALS, signals))
        if offset != 13:
            home.lake.write(JUDGE_GRADES, day, frame(JUDGE_GRADES, grades))


def _failures(home: Home) -> None:
    """Planted: happened at noon of June 1 plus n days, queued the day after, answered and promoted as said below."""
    happened = [JUNE_1 + timedelta(days=n, hours=12) for n in range(7)]
    rows = [
        {
            "trace_id": f"f{n}",
            "session_id": f"s{n}",
            "timestamp": at,
            "text": f"question {n}",
            "context": "{}",
            "priority": 0.8,
            "source": "failed_grade",
            "queued_on": at.date() + timedelta(days=1),
        }
        for n, at in enumerate(happened)
    ]
    home.lake.write(TRIAGE_QUEUE, MONDAY, frame(TRIAGE_QUEUE, rows))
    said = ["real_failure"] * 5 + ["not_a_failure"]  # f6 is open
    home.reviews.add(
        [
            Review(
                trace_id=f"f{n}",
                verdict=verdict,  # type: ignore[arg-type]  # of the closed set
                reviewer="ann",
                expected_output=None if n == 4 else "better",
                reviewed_at=happened[n] + timedelta(days=1),
            )
            for n, verdict in enumerate(said)
        ],
        "answers.jsonl",
        JUNE_1,
    )
    for n, days in ((0, 1.5), (1, 2), (2, 5)):
        case = CaseVersion(
            case_id=f"prod-f{n}",
            version=1,
            input=f"question {n}",
            expected_output="better",
            origin="production",
            created_at=happened[n].isoformat(),
            effective_on=(happened[n] + timedelta(days=days)).date().isoformat(),
            is_regression=True,
            provenance=Provenance(trace_id=f"f{n}", reviewers=["ann"], reviewer_kind="human", reason="it failed"),
            merged_trace_ids=["m1", "m2"] if n == 2 else [],
        )
        home.ledger.record("promotion", [case], "reviews", happened[n] + timedelta(days=days))


def test_planted_latencies_are_recovered_stage_by_stage_with_those_that_wait(home: Home) -> None:
    """Three arrived after 1.5, 2 and 5 days; f3 and f4 wait since June 4 and 5, now being June 15."""
    found = failure_latency(home, None, None)
    assert (found.arrived.n, found.arrived.median) == (3, 2.0)
    assert [(failure.trace_id, failure.state) for failure in found.waiting] == [
        ("f3", "confirmed"),
        ("f4", "incomplete"),
    ]
    # Queued at midnight after noon: half a day; answered a day after it happened: another half; then 0.5, 1 and 4 days.
    assert [found.stages[name].median for name in STAGES] == [0.5, 0.5, 1.0, 0.0]
    assert (found.confirmed.n, found.confirmed.n_arrived) == (5, 3)
    assert found.confirmed.median is not None
    assert found.confirmed.median.value == 5.0, "S(1.5) = .8, S(2) = .6, S(5) = .4"
    assert found.confirmed.within is not None
    assert found.confirmed.within.value == pytest.approx(0.4)
    assert (found.suspected.n, found.suspected.n_arrived) == (6, 3), "f6 is not answered; f5 was none"
    assert found.n_before == 0
    some = failure_latency(home, date(2026, 6, 2), date(2026, 6, 4))
    assert (some.confirmed.n, some.arrived.n) == (3, 2)


def test_the_mart_of_latencies_says_the_same(home: Home) -> None:
    """Its own SQL over the same files, without dbt: what it calls ``days_to_gate`` of the failures that arrived."""
    import duckdb

    models = Path(__file__).parents[1] / "dbt_models/models"
    sql = (models / "marts/fct_triage_latency.sql").read_text()
    sql = re.sub(r"{{ ref\('(\w+)'\) }}", lambda m: f"({(models / f'staging/{m[1]}.sql').read_text()})", sql)
    sql = re.sub(r"{{ source\('lake', '(\w+)'\) }}", r"\1", sql)
    days_between = r"((epoch_us(\2) - epoch_us(\1)) / 86400e6)"
    sql = re.sub(r"{{ days_between\('(.+?)', '(.+?)'\) }}", days_between, sql)
    with duckdb.connect(":memory:") as connection, home.attach(connection):
        rows = dict(connection.sql(f"select trace_id, days_to_gate from ({sql})").fetchall())
    assert rows == {"f0": 1.5, "f1": 2.0, "f2": 5.0, "f3": None, "f4": None, "f5": None, "f6": None}


def test_a_week_of_growth_adds_up_beside_its_traffic_and_failures(home: Home) -> None:
    """7 days of 10 traces and a complaint; 2 failing ones a day with π = 1/2 stand for 4, so 28."""
    first, second = (growth_of(home, week) for week in (MONDAY, MONDAY + timedelta(weeks=1)))
    assert (first["n_cases"], first["n_added"], first["n_added_production"], first["n_retired"]) == (3, 2, 2, 0)
    assert (first["n_traces"], first["n_complaints"], first["failures"]) == (70, 7, 28.0)
    assert first["failures_se"] == pytest.approx((7 * (2 * 2**0.5) ** 2) ** 0.5)
    assert first["added_per_1000_traces"] == pytest.approx(2000 / 70)
    assert (second["n_cases"], second["n_added_regressions"], second["n_merged_traces"]) == (4, 1, 2)
    assert (second["failures"], second["n_complaints"]) == (None, 0), "its last day is not graded"


def test_a_day_of_which_nothing_was_sampled_is_graded_all_the_same(home: Home, tmp_path: Path) -> None:
    """Its partition of grades is there and has no rows: the week's failures are known."""
    copied = open_home(shutil.copytree(home.path, tmp_path / "home"))
    copied.lake.write(JUDGE_GRADES, MONDAY, frame(JUDGE_GRADES, []))
    assert growth_of(copied, MONDAY)["failures"] == 24.0


def test_an_answer_after_the_promotion_by_a_policy_leaves_the_failure_in_the_figures(
    home: Home, tmp_path: Path
) -> None:
    """f0 was in the gate after 1.5 days; a first answer a day later is no part of its way."""
    copied = open_home(shutil.copytree(home.path, tmp_path / "home"))
    times = failure_times(copied)
    late = [
        f._replace(answered_at=f.recorded_at + timedelta(days=1)) if f.trace_id == "f0" and f.recorded_at else f
        for f in times
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_reports, "failure_times", lambda home: late)
        found = failure_latency(copied, None, None)
    assert (found.n_before, found.arrived.n, found.arrived.median) == (0, 3, 2.0)
    # f0 from queue to promotion: one day, none of it until an answer; f1 and f2 half a day until theirs.
    assert found.stages["until answered"].p25 == 0.25


def test_the_week_is_computed_again_when_the_suite_of_its_sunday_changes(home: Home) -> None:
    from evalflow.runner import instance_of, walk

    with instance_of(home) as instance:
        assert walk(home, instance, date.min, date.max, (GROWTH,)).computed == {"golden_growth": 2}
        assert walk(home, instance, date.min, date.max, (GROWTH,)).computed == {"golden_growth": 0}
        event = instance.get_latest_materialization_event(dg.AssetKey("golden_growth"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["golden cases"].value == 4
    assert "| 2026-06-01 | 3 | 2 | 2 | 0 | 0 | 70 | 7 | 28 ± 7 |" in str(metadata["weeks"].value)
    assert home.lake.read(GOLDEN_GROWTH, [MONDAY])["n_added"].to_list() == [2]
    made_from = [GROWTH.made_from(home, MONDAY + timedelta(weeks=n)) for n in range(2)]
    with_more = open_home(home.path)
    late = CaseVersion(
        case_id="late",
        version=1,
        input="x",
        expected_output=None,
        origin="synthetic",
        created_at=None,
        effective_on="2026-06-12",
    )
    with_more.ledger.as_of = lambda day: [*home.ledger.as_of(day), *([late] if day >= date(2026, 6, 12) else [])]  # type: ignore[method-assign]
    assert [GROWTH.made_from(with_more, MONDAY + timedelta(weeks=n)) == made_from[n] for n in range(2)] == [True, False]


def test_each_report_speaks_in_the_terminal_and_as_json(home: Home) -> None:
    text = evalflow("golden", "diff", "2026-05-31", "2026-06-09", home=home.path)
    assert text.code == 0
    assert text.out.startswith("1 case on 2026-05-31, 4 on 2026-06-09: 3 added, 0 retired, 0 changed")
    document = evalflow("golden", "diff", "2026-05-31", "2026-06-09", "--json", home=home.path).document
    assert [case["case_id"] for case in document["added"]] == ["prod-f0", "prod-f1", "prod-f2"]
    wrong = evalflow("golden", "diff", "2026-06-09", "2026-05-31", home=home.path)
    assert (wrong.code, "give the earlier day first" in wrong.message) == (2, True)
    markdown = evalflow("golden", "diff", "2026-04-01", "2026-06-09", "--markdown", home=home.path).out
    assert "&#91;bold&#93;old&#124;case" in markdown

    text = evalflow("golden", "audit", home=home.path)
    assert text.out.startswith("4 cases as of 2026-06-15: 3 frozen (75%); confirmed: 3 by human, 1 by nobody here")
    assert "without bins: " in text.err
    assert evalflow("golden", "audit", "--json", home=home.path).document["by_origin"]["production"] == 3

    text = evalflow("golden", "growth", home=home.path)
    assert text.out.startswith("4 cases as of 2026-06-14; in 2 weeks 3 added, 0 retired")
    assert "cannot be told from 2 weeks" in text.out
    assert evalflow("golden", "growth", "--json", home=home.path).document["association"] is None
    more_than_there_are = evalflow("golden", "growth", "--weeks", "999999999", "--json", home=home.path)
    assert len(more_than_there_are.document["weeks"]) == 2

    text = evalflow("golden", "latency", home=home.path)
    assert text.out.startswith("3 of 5 confirmed failures in the gate, 1 not answered yet; within 2 days: 40% (")
    assert "waiting: f3 for 10.5 days, confirmed" in text.out
    document = evalflow("golden", "latency", "--json", home=home.path).document
    assert [row["trace_id"] for row in document["waiting"]] == ["f3", "f4"]
    none = evalflow("golden", "latency", "--to", "2026-01-01", home=home.path)
    assert (none.code, "No failure was queued" in none.message) == (3, True)

    text = evalflow("golden", "history", "prod-f2", home=home.path)
    assert "1 version, in the suite" in text.out
    (row,) = evalflow("golden", "history", "prod-f2", "--json", home=home.path).document["versions"]
    assert (row["kind"], row["who"], row["because"]) == ("promotion", "ann", "it failed")
    assert evalflow("golden", "history", "nope", home=home.path).code == 2

    seen = evalflow("golden", "verify", "--json", home=home.path).document
    assert (seen["is_whole"], seen["files"], seen["cases"]) == (True, 4, 4)
    assert ["'m1'" in finding["text"] for finding in seen["findings"]] == [True, False], (
        "merged by no queue of this home"
    )


def test_reports_of_an_empty_home_say_what_to_do(tmp_path: Path) -> None:
    write_setting(tmp_path, "traffic_end", END)
    open_home(tmp_path).prepare()
    for arguments in (["diff", "2026-06-01"], ["audit"], ["growth"], ["latency"]):
        said = evalflow("golden", *arguments, home=tmp_path)
        assert (said.code, "evalflow " in said.message) == (3, True)
    assert evalflow("golden", "verify", home=tmp_path).out == "The ledger is whole: 0 files, 0 versions of 0 cases.\n"
    assert json.loads(evalflow("golden", "verify", "--json", home=tmp_path).out)["findings"] == []
