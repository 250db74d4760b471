"""Families: cases of one session and near duplicates hang together, through any chain, and weigh less for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.adapters.home import open_home
from evalflow.adapters.ledger import CaseVersion
from evalflow.core.families import Families, Kin, design_effect, families_of
from evalflow.core.records import Provenance
from evalflow.core.score import Unqualified
from evalflow.defs.suite import families_in

TEXTS = ("where is my parcel number nine", "Where is my parcel number nine?", "how do I cancel the order", "volcano")


def kin(*texts: str, sessions: tuple[str | None, ...] = ()) -> list[Kin]:
    held = sessions or (None,) * len(texts)
    return [Kin(f"c{n}", session, text) for n, (text, session) in enumerate(zip(texts, held, strict=True))]


def test_the_same_session_and_nearly_the_same_text_link_cases() -> None:
    found = families_of(kin(*TEXTS, sessions=(None, None, "s", "s")), 0.85, 0.05, None, "no model")
    assert found.of == {"c0": "c0", "c1": "c0", "c2": "c2", "c3": "c2"}
    assert found.text_only_because == "no model"
    assert found.sizes(["c0", "c1", "c2", "stranger"]) == [2, 1, 1]


def test_close_vectors_link_cases_and_chains_hang_together() -> None:
    """c0 - c2 by vector and c2 - c3 by session: one family of three."""
    angle = np.array([0.0, 1.0, 0.2, 2.0])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # 1 - cos(.2) = .020
    texts = ("alpha one", "beta two", "gamma three", "delta four")
    found = families_of(kin(*texts, sessions=(None, None, "s", "s")), 0.85, 0.05, vectors)
    assert found.of == {"c0": "c0", "c1": "c1", "c2": "c0", "c3": "c0"}
    assert found.text_only_because is None


def test_the_same_words_after_another_turn_are_another_question() -> None:
    text, first, second = "and how long does that take, please", "I asked for a refund", "my parcel is at customs"
    cases = [Kin(f"c{n}", None, text, before) for n, before in enumerate((first, second, f"{first}.", ""))]
    assert families_of(cases, 0.85, 0.05, np.ones((4, 1))).of == {"c0": "c0", "c1": "c1", "c2": "c0", "c3": "c3"}


def test_long_inputs_are_compared_by_their_words_alone() -> None:
    """A sentence model has not read their ends."""
    cases = [Kin("a", None, "alpha " * 200), Kin("b", None, "omega " * 200), Kin("c", None, "short")]
    assert len(families_of(cases, 0.85, 0.05, np.ones((3, 1))).sizes(["a", "b", "c"])) == 3


@pytest.mark.parametrize(("sizes", "effect"), [([], 1.0), ([1] * 7, 1.0), ([4] * 5, 4.0), ([3, 1], 2.5)])
def test_the_design_effect_is_the_mean_size_of_a_cases_family(sizes: list[int], effect: float) -> None:
    """3 and 1: three cases sit in a family of 3 and one in a family of 1, (9 + 1) / 4."""
    assert design_effect(sizes) == effect


@given(st.lists(st.sampled_from([None, "s", "t", "u"]), max_size=12))
def test_families_part_the_cases(sessions: list[str | None]) -> None:
    cases = [Kin(f"c{n}", session, f"{n * 7919:x} {n * 104729:x}") for n, session in enumerate(sessions)]
    found = families_of(cases, 0.85, 0.05, None)
    assert sorted(found.of) == sorted(case.case_id for case in cases)
    assert sum(found.sizes(found.of)) == len(cases)
    assert len(found.sizes(found.of)) == sessions.count(None) + len({s for s in sessions if s})


def test_a_case_that_nobody_knows_is_its_own_family() -> None:
    assert Families({}).sizes(["a", "b"]) == [1, 1]


def a_case(case_id: str, text: str, **more: Any) -> CaseVersion:
    return CaseVersion(
        case_id=case_id,
        version=1,
        input=text,
        expected_output=None,
        origin="production",
        created_at=None,
        effective_on="2026-06-01",
        **more,
    )


def test_a_case_says_its_session_in_provenance_tags_or_metadata(tmp_path: Path) -> None:
    """Without traffic to place the suite in, texts alone are compared, and the reason is kept."""
    cases = [
        a_case("a", "how tall is the tower", provenance=Provenance(trace_id="t", session_id="s1")),
        a_case("b", "who painted this", tags={"session_id": "s1"}, metadata={"session_id": "s2"}),
        a_case("c", "when does it open", metadata={"session_id": "s1"}),
        a_case("d", "where do I buy tickets", tags=["session_id"], metadata={"session_id": 7}),
        a_case("e", "Where do I buy tickets?"),
        a_case("f", "is there a lift", metadata={"conversation": "a text of somebody else's"}),
    ]
    found = families_in(open_home(tmp_path), cases, Unqualified("no week"))
    assert found.of == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d", "f": "f"}
    assert found.text_only_because == "no week"
