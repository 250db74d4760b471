"""Error analysis over real files and a real Dagster instance: batch, themes, rubrics, abandonment, through the commands."""

import json
import re
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import polars as pl
import pytest
import tomlkit
from typer.testing import CliRunner

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.rubrics import asked_rubrics, example_trace_ids, rubric_files
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    CLUSTERS,
    ERROR_BATCH,
    ERROR_DRAW,
    ERROR_THEMES,
    JUDGE_GRADES,
    RAW_TRACES,
    STRATIFIED_SAMPLES,
    TAXONOMY_TEXTS,
    TRACE_SIGNALS,
    TRIAGE_QUEUE,
    Table,
)
from evalflow.adapters.themes import Theme, Themes, read_themes, themes_toml
from evalflow.cli import app
from evalflow.core.labels import THEME_NAMING
from evalflow.core.records import Review
from evalflow.core.signals import trace_signals
from evalflow.core.text import text_hash
from evalflow.core.themes import code_key
from evalflow.defs.abandonment import abandonment_rows
from evalflow.defs.errors import pool_table, write_batch
from evalflow.defs.grades import GRADES, draw_for_judge, quality_of_week
from evalflow.defs.queue import queued_items
from evalflow.defs.rubrics import make_rubrics
from evalflow.defs.themes import THEMES, apply_themes, record_proposal, theme_rows, themes_of
from evalflow.errors import BadInputError, CannotTellError, EvalflowError, UsageError
from evalflow.runner import instance_of, walk
from evalflow_tests.judge_server import KEY, MODEL, JudgeServer

FIRST, LAST, WEEK = date(2026, 6, 1), date(2026, 6, 14), date(2026, 6, 8)
DAYS = [FIRST + timedelta(days=n) for n in range(14)]
PER_DAY = 40
CODES = {
    "order": ("ignores the order number", "did not use the order number given", "order number ignored"),
    "language": ("answers in the wrong language", "wrong language", "replied in English to a German question"),
    "price": ("wrong price quoted", "price is out of date", "the price quoted is out of date"),
    "loop": ("repeats itself", "same answer three times in a row", "repeats the same answer"),
}
KINDS = tuple(CODES)
LATE_CODES = ("the order number was ignored", "[b]zebras[/b] on the moon")
LAST_WORDS = "Please hold the line."
OTHER_WORDS = (
    "I am sorry, I cannot help with that.",
    "Sorry, I can not help you with that.",
    "The moon is made of rock.",
)


def filled(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the table's columns that nobody gave, empty."""
    return rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in table.schema.items()
    )


def traffic(day: date) -> pl.DataFrame:
    """Sessions of one, two and five turns; every tenth trace is regenerated, the last of a session of five abandoned."""
    rows: list[dict[str, Any]] = []
    lengths = (1, 2, 5, 2, 5, 5, 5, 5, 5, 5)
    assert sum(lengths) == PER_DAY
    for session, length in enumerate(lengths):
        for turn in range(length):
            n = len(rows)
            is_last = turn == length - 1
            rows.append(
                {
                    "trace_id": f"t-{day:%d}-{n:02d}",
                    "session_id": f"s-{day:%d}-{session}" if length > 1 else None,
                    "turn_index": turn,
                    "timestamp": datetime(day.year, day.month, day.day, 9, n, tzinfo=UTC),
                    "input": f"question {n} about my order, mail me at anna.{n}@example.com",
                    "output": (LAST_WORDS if length == 5 and is_last else f"answer {n}"),
                    "model": "m1",
                    "latency_ms": 100.0 + (n * 37 + day.day * 11) % 101,
                    "regenerated": n % 10 == 3 or (session == 8 and turn < 2),
                    "guardrail": "toxicity" if n == 7 and day.day % 7 == 0 else "none",
                    "abandoned": length == 5 and is_last and session % 3 == 0,
                }
            )
    return filled(RAW_TRACES, pl.DataFrame(rows, infer_schema_length=None))


def whole_sample(raw: pl.DataFrame) -> pl.DataFrame:
    """Every trace sampled, each with the chance of a half."""
    texts = [text.replace(text.split()[-1], "<EMAIL_ADDRESS>") for text in raw["input"]]
    return filled(
        STRATIFIED_SAMPLES,
        raw.with_columns(
            text=pl.Series(texts),
            text_hash=pl.Series([text_hash(text) for text in texts]),
            inclusion_probability=pl.lit(0.5),
            pi_uniform=pl.lit(0.5),
            rules=pl.lit(["uniform"]),
            day_traces=pl.lit(2 * len(raw)),
        ),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two weeks of traffic, sampled and placed in a taxonomy of one cluster, as the stations before would leave it."""
    home = open_home(tmp_path_factory.mktemp("errors") / "home").prepare()
    for key, value in {"traffic_start": FIRST, "traffic_end": LAST, "errors.batch": 30}.items():
        write_setting(home.path, key, value)
    home = home.reloaded()
    lake, samples = home.lake, []
    for day in DAYS:
        raw = traffic(day)
        lake.write(RAW_TRACES, day, raw, made_from="x")
        lake.write(
            TRACE_SIGNALS,
            day,
            trace_signals(raw, pl.DataFrame(schema={"trace_id": pl.String, "name": pl.String, "value": pl.String})),
            made_from="x",
        )
        samples.append(whole_sample(raw).with_columns(day=pl.lit(day)))
        lake.write(STRATIFIED_SAMPLES, day, samples[-1].drop("day"), made_from="x")
    embedder = Embedder(home.settings.embedding, home.cache)
    embedder.embed(
        [*sum(CODES.values(), ()), *LATE_CODES, LAST_WORDS, *OTHER_WORDS]
    )  # once for all tests: they copy the cache
    model_id = embedder.model_id
    cluster = {"cluster_id": "c01", "label": "orders", "taxonomy_id": "x1", "model_id": model_id, "novel_above": 0.5}
    fit = {"fitted_on": "2026-06", "is_edge": False, "n_ids": 1, "n_clusters": 1, "is_provisional": False}
    lake.write(CLUSTERS, FIRST, filled(CLUSTERS, pl.DataFrame([cluster | fit])), made_from="x")
    vector = [1.0, *[0.0] * 383]
    text = pl.DataFrame([{"text_hash": "h", "cluster_id": "c01", "taxonomy_id": "x1", "vector": vector}])
    lake.write(TAXONOMY_TEXTS, FIRST, filled(TAXONOMY_TEXTS, text), made_from="x")
    sample = pl.concat(samples)
    place_all(home, sample)
    return home


def place_all(home: Home, sample: pl.DataFrame) -> None:
    each = 1 / len(sample)
    rows = sample.select(
        "session_id",
        "day",
        "text_hash",
        "inclusion_probability",
        item_id="trace_id",
        side=pl.lit("production"),
        bin=pl.lit("c01"),
        weight=pl.lit(each),
        weight_traffic=pl.lit(each),
        weighting=pl.lit("steady_state"),
        taxonomy_id=pl.lit("x1"),
    )
    home.lake.write(BIN_ASSIGNMENTS, WEEK, filled(BIN_ASSIGNMENTS, rows), made_from="x")


@pytest.fixture
def home(world: Home, tmp_path: Path) -> Home:
    return copied(world, tmp_path)


def copied(world: Home, folder: Path) -> Home:
    shutil.copytree(world.path, folder / "home")
    return open_home(folder / "home")


def number_of(trace_id: str) -> int:
    return int(trace_id[-2:])


def answer(home: Home, trace_ids: list[str]) -> None:
    """A reviewer who knows: two fifths of all traces fail, each kind by the trace's number, coded in changing words."""
    reviews = []
    for place, trace_id in enumerate(sorted(trace_ids)):
        n = number_of(trace_id)
        is_failure = n % 5 < 2
        reviews.append(
            Review(
                trace_id=trace_id,
                verdict="real_failure" if is_failure else "not_a_failure",
                expected_output="Say where the order is; write to anna@example.com" if is_failure else None,
                open_codes=[CODES[KINDS[n % 4]][place % 3]] if is_failure else [],
                reviewer="ann",
                reviewed_at=datetime(2026, 6, 15, 10, tzinfo=UTC),
            )
        )
    home.reviews.add(reviews, "test", home.now())


# -- the batch -------------------------------------------------------------------------------------------------


def test_a_batch_is_queued_once_with_both_chances(home: Home) -> None:
    """Repeating it changes nothing, a larger one only adds, and a smaller one takes nothing away."""
    first = write_batch(home, WEEK, None)
    assert (len(first.rows), first.n_added, first.n_gone) == (30, 30, 0)
    pools = {row["pool"]: row for row in pool_table(first.frame, first.rows["trace_id"])}
    assert sum(row["traffic_share"] for row in pools.values()) == pytest.approx(1)
    assert all(row["drawn"] for row in pools.values()), "each pool exists in this world"
    rows, frame = home.lake.read(ERROR_BATCH, [WEEK]), home.lake.read(ERROR_DRAW, [WEEK])
    content = home.lake.content(ERROR_BATCH, WEEK), home.lake.content(ERROR_DRAW, WEEK)
    assert rows["inclusion_probability"].unique().to_list() == [0.5]
    chance = {pool: row["drawn"] / row["sampled"] for pool, row in pools.items()}
    assert dict(frame.group_by("pool").agg(pl.col("label_probability").first()).iter_rows()) == pytest.approx(chance)
    joined = rows.join(frame, on="trace_id", suffix="_drawn")
    assert (joined["label_probability"] == joined["label_probability_drawn"]).all()
    assert rows["text"].str.contains("<EMAIL_ADDRESS>").all()
    assert "example.com" not in "".join(rows["context"])
    assert {item.row["source"] for item in queued_items(home)} == {"error_analysis"}
    assert write_batch(home, WEEK, None).n_added == 0
    assert (home.lake.content(ERROR_BATCH, WEEK), home.lake.content(ERROR_DRAW, WEEK)) == content
    assert write_batch(home, WEEK, 40).n_added == 10
    assert int(write_batch(home, WEEK, 20).frame["is_drawn"].sum()) == 40


def test_what_another_queue_holds_is_drawn_without_a_second_row(home: Home) -> None:
    """The frame stays the whole sample, so that queued failures do not vanish from what the batch says of the traffic."""
    rows = write_batch(home, WEEK, None).rows
    drawn = home.lake.read(ERROR_DRAW, [WEEK])
    shutil.rmtree(Path(home.lake.root) / "error_batch" / f"week={WEEK}")
    home.lake.write(TRIAGE_QUEUE, WEEK, rows.head(12).with_columns(source=pl.lit("failed_grade")))
    second = write_batch(home, WEEK, None)
    assert (int(second.frame["is_drawn"].sum()), second.n_added) == (30, 18)
    assert sum(row["queued_before"] for row in pool_table(second.frame, second.rows["trace_id"])) == 12
    assert home.lake.read(ERROR_DRAW, [WEEK]).equals(drawn)
    assert len(queued_items(home)) == 30


# -- themes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered_world(world: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """150 traces drawn, all of them answered."""
    home = copied(world, tmp_path_factory.mktemp("answered"))
    answer(home, write_batch(home, WEEK, 150).rows["trace_id"].to_list())
    return home


@pytest.fixture
def answered(answered_world: Home, tmp_path: Path) -> Home:
    return copied(answered_world, tmp_path)


def counted(home: Home) -> pl.DataFrame:
    """The week's themes, counted and written."""
    rows = theme_rows(home, WEEK)
    home.lake.write(ERROR_THEMES, WEEK, rows, made_from=THEMES.made_from(home, WEEK))
    return rows


KIND_OF = {code_key(code): kind for kind, codes in CODES.items() for code in codes}


def truth_of(kind: str) -> float:
    """Of every day's 40 traces those that fail in this way: n % 5 < 2 and n % 4 names the kind."""
    return sum(n % 5 < 2 and KINDS[n % 4] == kind for n in range(PER_DAY)) / PER_DAY


def test_codes_become_themes_with_shares_that_hold_the_truth(answered: Home) -> None:
    """Twelve codes of four kinds become five themes at least; a kind that is one theme has about its planted share."""
    assert record_proposal(answered).version.version == 1
    rows = counted(answered)
    head = rows.row(0, named=True)
    assert (head["n_answered"], head["n_drawn"]) == (150, 150)
    assert head["failing_traffic_share_low"] <= 0.4 <= head["failing_traffic_share_high"]  # 16 of 40 fail
    assert rows["share"].to_list() == sorted(rows["share"], reverse=True)
    kinds = [{KIND_OF[code_key(code)] for code in codes} for codes in rows["codes"]]
    assert all(len(own) == 1 for own in kinds)
    whole = [own for own in kinds if kinds.count(own) == 1]
    assert len(whole) >= 2
    for row, own in zip(rows.iter_rows(named=True), kinds, strict=True):
        if own in whole:
            (kind,) = own
            # 50 answered traces of the baseline, which is about .7 of the traffic: sd .7 * sqrt(.1 * .9 / 50) = .03.
            assert row["share"] == pytest.approx(truth_of(kind), abs=2.5 * 0.03)
            assert row["share_low"] < row["share"] < row["share_high"]
    assert theme_rows(answered, WEEK).equals(rows)
    assert record_proposal(answered).version.version == 1, "the same codes give the same themes"


def test_the_judges_model_proposes_names_and_none_is_needed(answered: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for names of what goes wrong; a name that is no name leaves the most central code in its place."""
    monkeypatch.setenv("EVALFLOW_JUDGE__API_KEY", KEY)

    def name(document: dict[str, Any]) -> str:
        return json.dumps({"name": "wrong language" if "language" in str(document["terms"]) else "<script>"})

    with JudgeServer(name) as server:
        for key, value in {"base_url": server.base_url, "model": MODEL, "max_retries": 0}.items():
            write_setting(answered.path, f"judge.{key}", value)
        recorded = record_proposal(answered.reloaded())
        assert server.asked[0].body["messages"][0]["content"] == THEME_NAMING
    names = [theme.name for theme in recorded.version.themes]
    assert any(name.startswith("wrong language") for name in names)
    assert not any("<" in name for name in names)
    assert "the answer holds no usable name" in recorded.notes[0]


def test_people_edit_themes_and_new_codes_are_placed_or_told(answered: Home, tmp_path: Path) -> None:
    """A merge and a renaming keep the ids; of two late codes one joins its nearest theme, the other is told."""
    file = tmp_path / "themes.toml"
    first = record_proposal(answered).version
    file.write_text(themes_toml(first, []))
    document = tomlkit.parse(file.read_text())
    one, two = document["theme"][0], document["theme"][1]  # type: ignore[index]
    one["name"], moved = "Renamed <b>by</b> people", two["codes"].unwrap()
    one["codes"].extend(moved)
    del document["theme"][1]  # type: ignore[union-attr]
    file.write_text(tomlkit.dumps(document))
    second = apply_themes(answered, file).version
    assert (second.version, second.origin, len(second.themes)) == (2, "edited", len(first.themes) - 1)
    assert second.themes[0].theme_id == first.themes[0].theme_id
    assert set(second.themes[0].codes) == {*first.themes[0].codes, *first.themes[1].codes}
    with pytest.raises(UsageError, match="made from version 1, but version 2 was recorded since"):
        apply_themes(answered, file)
    late = Review(
        trace_id=queued_items(answered)[0].row["trace_id"],
        verdict="real_failure",
        open_codes=list(LATE_CODES),
        reviewer="ann",
        reviewed_at=datetime(2026, 6, 16, tzinfo=UTC),
    )
    answered.reviews.add([late], "test", answered.now())
    placed = themes_of(answered)
    assert list(placed.placed) == [LATE_CODES[0]]
    assert placed.unassigned == (LATE_CODES[1],)
    rows = counted(answered)
    assert rows["theme_id"].to_list()[-1] == "unassigned"
    assert rows["n_coded"].to_list()[-1] == 1


def test_traces_of_unknown_chance_stand_beside(home: Home) -> None:
    """A complaint that somebody picked is seen, not counted."""
    drawn = write_batch(home, WEEK, None).rows
    others = home.lake.read(ERROR_DRAW, [WEEK]).filter(~pl.col("is_drawn"))["trace_id"].to_list()
    picked = [trace_id for trace_id in others if number_of(trace_id) == 5][:3]  # fails with the kind "language"
    by_hand = {"source": "feedback", "label_probability": None, "selected_by": "complaint"}
    extra = [drawn.row(0, named=True) | by_hand | {"trace_id": trace_id} for trace_id in picked]
    home.lake.write(TRIAGE_QUEUE, WEEK, pl.DataFrame(extra, schema=TRIAGE_QUEUE.schema))
    answer(home, [*drawn["trace_id"], *picked])
    record_proposal(home)
    rows = counted(home)
    also = dict.fromkeys(KINDS, 0)
    for codes, n in rows.select("codes", "also_seen").iter_rows():
        also[KIND_OF[code_key(codes[0])]] += n
    assert also == {"order": 0, "language": 3, "price": 0, "loop": 0}
    assert rows["n_coded"].sum() == rows["n_failing"][0]


def test_without_codes_or_answers_it_says_what_is_missing(home: Home) -> None:
    with pytest.raises(CannotTellError, match="No answer holds an open code yet"):
        record_proposal(home)
    assert theme_rows(home, WEEK)["reason"][0].endswith("no batch was drawn for the week: `evalflow errors batch`")
    bare = write_batch(home, WEEK, None).rows["trace_id"][0]
    home.reviews.add([Review(trace_id=bare, verdict="real_failure", reviewer="ann", open_codes=["x"])], "t", home.now())
    record_proposal(home)
    (row,) = theme_rows(home, WEEK).iter_rows(named=True)
    assert (row["share"], row["n_coded"]) == (None, 1)
    assert "read for the batch yet" in row["reason"]


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('"ignores the order number"', '"never said"', "holds the code 'never said', which no answer uses"),
        ("version = 1", "", "version = None is no number"),
        ('id = "t01"', 'id = "t99"', "which no theme in force has; leave id out"),
        ('id = "t01"', 'id = "t02"', "which another theme of the file has; leave id out"),
        ("[[theme]]", "[[thema]]", "'thema' is no key of a file of themes"),
        ("codes = [", "codes = 1 # [", "is not TOML"),
    ],
)
def test_a_file_of_themes_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    themes = Themes(tmp_path / "themes")
    named = [Theme(theme_id="", name=kind, codes=codes) for kind, codes in CODES.items()]
    held = themes.add(named, "proposed", "test", datetime(2026, 6, 15, tzinfo=UTC), 0)
    text = themes_toml(held, ["stray"])
    (tmp_path / "themes.toml").write_text(text.replace(before, after))
    with pytest.raises(BadInputError, match=sentence):
        read_themes(tmp_path / "themes.toml", [code for codes in CODES.values() for code in codes], held)
    (tmp_path / "themes.toml").write_text(text)
    read = read_themes(tmp_path / "themes.toml", [*CODES["order"], "stray", *sum(CODES.values(), ())], held)
    assert (read.themes, read.left_out) == (held.themes, ("stray",))


# -- rubrics ---------------------------------------------------------------------------------------------------


def test_the_top_themes_become_rubrics_that_are_never_overwritten(answered: Home) -> None:
    record_proposal(answered)
    counted(answered)
    made = make_rubrics(answered, WEEK, 2)
    assert [(each.rubric.version, each.outcome) for each in made] == [(1, "written")] * 2
    first = made[0]
    assert rubric_files(answered.path)[0].rubric in [each.rubric for each in made], "what is read is what was written"
    assert first.theme_name in first.rubric.criteria[0]
    failing = [example for example in first.rubric.examples if example.verdict == "fail"]
    assert (len(failing), len(first.rubric.examples)) == (3, 5)
    assert all(example.why and example.expected.endswith("<EMAIL_ADDRESS>") for example in failing)
    shown = {example.trace_id for each in made for example in each.rubric.examples}
    assert example_trace_ids(answered.path) == shown
    assert [each.outcome for each in make_rubrics(answered, WEEK, 2)] == ["unchanged"] * 2
    first.path.write_text(first.path.read_text().replace("clearly shows", "shows, by hand,"))
    late = Review(
        trace_id=failing[0].trace_id,
        verdict="real_failure",
        open_codes=[failing[0].why + " again"],
        expected_output="else",
        reviewer="ann",
        reviewed_at=datetime(2026, 6, 16, tzinfo=UTC),
    )
    answered.reviews.add([late], "test", answered.now())
    counted(answered)
    again = {each.theme_id: each for each in make_rubrics(answered, WEEK, 3)}[first.theme_id]
    assert (again.rubric.version, again.outcome, again.is_replacing_edits) == (2, "written", True)
    assert {example.trace_id for example in again.rubric.examples} == {e.trace_id for e in first.rubric.examples}
    assert "by hand" in first.path.read_text()
    by_hand = again.path.with_name(again.path.name.replace(".v2.", ".v3."))
    text = again.path.read_text().replace("version = 2", "version = 3").replace("clearly", "surely")
    by_hand.write_text(re.sub(r"\[made_from\]\n(?:\w+ = .*\n)+", "", text))
    later = datetime(2026, 6, 17, tzinfo=UTC)
    answered.reviews.add(
        [msgspec.structs.replace(late, open_codes=["else"], reviewed_at=later)], "test", answered.now()
    )
    counted(answered)
    third = {each.theme_id: each for each in make_rubrics(answered, WEEK, 3)}[first.theme_id]
    assert third.rubric.version == 4, "what people wrote themselves is passed over, not run into"
    for path in (by_hand, third.path):
        path.unlink()
    name = first.rubric.name
    assert [each.version for each in asked_rubrics(answered.path, [name]) if each] == [2]
    assert [each and each.version for each in asked_rubrics(answered.path, ["general", f"{name}@1"])] == [None, 1]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["kind"], "judge.rubrics holds 'kind', but .*rubrics has no rubric of that name; there are tone"),
        (["tone@3"], "there are only the versions 1, 2 in"),
        (["tone", "tone@1"], "holds the rubric 'tone' twice"),
        (["../tone"], "which names no rubric; write general, a NAME, or NAME@2"),
        (["general@2"], "has no rubric of that name"),
    ],
)
def test_a_rubric_that_is_not_there_is_named(tmp_path: Path, names: list[str], sentence: str) -> None:
    for version in (1, 2):
        write_hand_made(tmp_path, version)
    with pytest.raises(UsageError, match=sentence):
        asked_rubrics(tmp_path, names)


def write_hand_made(home: Path, version: int, before: str = "", after: str = "") -> None:
    text = f"""name = "tone"
version = {version}
criteria = ["It is polite, version {version}."]
[scale]
pass = "polite"
fail = "rude"
unscored = "cannot tell"
"""
    (home / "rubrics").mkdir(exist_ok=True)
    (home / "rubrics" / f"tone.v{version}.toml").write_text(text.replace(before, after) if before else text)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('name = "tone"', 'name = "other"', "says that it is 'other', version 1; let file and content agree"),
        ("version = 1", 'version = "1"', "is not of the form: Expected `int`, got `str`"),
        ("criteria", "criterias", "is not of the form: Object contains unknown field `criterias`"),
        ('fail = "rude"', 'fail = " "', "has a blank line in its scale"),
        ('["It is polite, version 1."]', "[]", "has no criteria"),
        ("[scale]", "[scale", "is not TOML"),
    ],
)
def test_a_rubric_file_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    write_hand_made(tmp_path, 1, before, after)
    with pytest.raises(BadInputError, match=re.escape(sentence)):
        rubric_files(tmp_path)


def test_the_judge_reads_the_rubrics_beside_the_general_question(
    answered: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rubric is a grader of its own under one cap; one that waits takes no rate from the general question, which is asked
    first; a rubric's own examples are unscored, and what was paid is not paid again."""
    record_proposal(answered)
    counted(answered)
    (made,) = make_rubrics(answered, WEEK, 1)
    grader = f"llm:{made.rubric.name}"
    monkeypatch.setenv("EVALFLOW_JUDGE__API_KEY", KEY)

    def verdict(document: dict[str, Any]) -> str:
        is_bad = "examples" in document and "answer 1" in document["answer"]
        return json.dumps({"reasoning": "by rubric", "verdict": "fail" if is_bad else "pass"})

    def graded(**changed: object) -> tuple[pl.DataFrame, dict[str, float | None]]:
        for key, value in changed.items():
            write_setting(answered.path, f"judge.{key}", value)
        home = answered.reloaded()
        with instance_of(home) as instance:
            walk(home, instance, FIRST, LAST, (GRADES,))
        rates = quality_of_week(home, WEEK).filter(pl.col("bin").is_null()).select("grader", "pass_rate")
        return home.lake.read(JUDGE_GRADES, DAYS), dict(rates.iter_rows())

    with JudgeServer(verdict) as server:
        endpoint = {"base_url": server.base_url, "model": MODEL, "max_retries": 0, "concurrency": 1}
        asked = {"rubrics": ["general", made.rubric.name], "target_per_day": 6, "usd_per_million_input_tokens": 1.0}
        for key, value in (endpoint | asked).items():
            write_setting(answered.path, f"judge.{key}", value)
        drawn = pl.concat([draw_for_judge(answered.reloaded(), day).rows for day in DAYS])
        n = drawn.select("text", "output").n_unique()
        # 100 tokens a verdict, at a millionth each: the general question takes n / 10,000; of what is left, .003, one
        # request by the rubric must not fit, which at a token per byte has more than 4,000 bytes.
        grades, rates = graded(max_usd_per_run=n * 1e-4 + 0.003)
        assert rates["llm"] == 1.0
        assert rates.get(grader) is None
        assert set(grades["grader"]) >= {"signals", "llm"}
        grades, rates = graded(max_usd_per_run=5.0)
        own, general = grades.filter(pl.col("grader") == grader), grades.filter(pl.col("grader") == "llm")
        assert own["trace_id"].to_list() == general["trace_id"].to_list(), "both are asked about the same draw"
        assert own["grader_version"].n_unique() == 1
        assert f"{made.rubric.name}.v1-" in own["grader_version"][0]
        shown = {example.trace_id for example in made.rubric.examples} & set(own["trace_id"])
        assert set(own.filter(pl.col("verdict") == "unscored")["trace_id"]) == shown
        assert rates["llm"] == 1.0
        assert (rates[grader] or 1.0) < 1.0
        n_asked = len(server.asked)
        _, rates = graded(rubrics=[made.rubric.name])
        assert set(rates) == {"signals", grader}
        assert len(server.asked) == n_asked, "what was paid lies in the cache"


# -- abandonment -----------------------------------------------------------------------------------------------


def test_the_last_answers_before_users_gave_up(home: Home) -> None:
    """Of ten sessions a day those with the numbers 6 and 9 were abandoned, each after the same words."""
    rows = abandonment_rows(home, WEEK)
    (only,) = rows.iter_rows(named=True)
    assert (only["week_n_sessions"], only["week_n_abandoned"]) == (14 * 10, 14 * 2)
    assert only["abandoned_share"] == pytest.approx(0.2)
    assert only["examples"] == [LAST_WORDS]
    assert (only["n_sessions"], only["share"]) == (28, 1.0)
    assert only["share_low"] < 1
    assert abandonment_rows(home, WEEK).equals(rows)


@pytest.mark.parametrize(
    ("said", "reason"),
    [(False, "none of the sampled sessions was abandoned"), (None, "whether a session was abandoned is not logged")],
)
def test_no_abandoned_session_has_a_reason(home: Home, said: bool | None, reason: str) -> None:
    for day in DAYS:
        rows = home.lake.read(TRACE_SIGNALS, [day]).with_columns(is_abandoned=pl.lit(said, pl.Boolean))
        home.lake.write(TRACE_SIGNALS, day, rows, made_from="y")
    (row,) = abandonment_rows(home, WEEK).iter_rows(named=True)
    assert row["reason"].startswith(reason)
    assert row["cluster_id"] is None


def test_answers_that_differ_are_groups_of_their_own(home: Home) -> None:
    """Two refusals in other words make one group, an answer that nothing is like stands under those said once."""
    said = OTHER_WORDS
    n = 0
    for day in DAYS:
        rows = home.lake.read(STRATIFIED_SAMPLES, [day])
        outputs = rows["output"].to_list()
        for place in [i for i, text in enumerate(outputs) if text == LAST_WORDS]:
            outputs[place] = said[0] if n % 2 else said[1]
            n += 1
        if day == LAST:
            last = home.lake.read(TRACE_SIGNALS, [day]).filter(pl.col("is_abandoned"))["trace_id"].to_list()
            outputs[rows["trace_id"].to_list().index(last[0])] = said[2]
        home.lake.write(STRATIFIED_SAMPLES, day, rows.with_columns(output=pl.Series(outputs)), made_from="y")
    clusters = abandonment_rows(home, WEEK)
    assert list(clusters.select("cluster_id", "n_sessions").iter_rows()) == [("a01", 27), ("single", 1)]
    assert clusters["examples"].to_list()[1] == [said[2]]
    assert clusters["share"].sum() == pytest.approx(1)


# -- the commands ----------------------------------------------------------------------------------------------


def test_the_commands_from_batch_to_rubric(home: Home, tmp_path: Path) -> None:
    """Each through a real Dagster run: batch, themes to a file and back, rubric, abandoned; errors in one sentence."""

    def run(*args: str) -> Any:
        result = CliRunner().invoke(app, ["errors", *args, "--home", str(home.path)])
        if isinstance(result.exception, EvalflowError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if "--json" in args else result.stdout

    document = run("batch", "--size", "60", "--json")
    assert (document["drawn"], document["added"], document["week"]) == (60, 60, str(WEEK))
    answer(home, home.lake.read(ERROR_BATCH, [WEEK])["trace_id"].to_list())
    document = run("themes", "--out", str(tmp_path / "themes.toml"), "--json")
    assert (document["version"], document["answered"]) == (1, 60)
    assert document["share_low"] < document["share"] < document["share_high"]
    text = (tmp_path / "themes.toml").read_text()
    name = document["themes"][0]["name"]
    (tmp_path / "themes.toml").write_text(text.replace(f'name = "{name}"', 'name = "[b]Renamed[/b]"'))
    printed = run("themes", "--apply", str(tmp_path / "themes.toml"))
    assert "[b]Renamed[/b]" in printed
    with instance_of(home) as instance:
        (record,) = instance.fetch_materializations(dg.AssetKey("error_themes"), limit=1).records
    metadata = record.asset_materialization.metadata  # type: ignore[union-attr]
    assert "&#91;b&#93;Renamed" in str(metadata["themes"].value), "nobody's text is markup in the UI"
    assert metadata["answered"].value == "60 of 60"
    assert "of the traffic fails, from 60 of 60 traces" in printed
    assert "2 rubrics written" in run("rubric", "--top", "2")
    assert [each["outcome"] for each in run("rubric", "--top", "2", "--json")] == ["unchanged"] * 2
    assert LAST_WORDS in run("abandoned")
    with pytest.raises(CannotTellError, match="There is no traffic in the week of 2026-07-06"):
        run("batch", "--as-of", "2026-07-08")
    with pytest.raises(UsageError, match="--propose and --apply exclude each other"):
        run("themes", "--propose", "--apply", "x.toml")
