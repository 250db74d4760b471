"""Agreement between reviewers: figures against worked examples, and only verdicts that nobody was talked into."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.agreement import Vote, agreement, blind_votes, cohen_kappa, krippendorff_alpha
from evalflow.core.intervals import wilson
from evalflow.core.records import Review

VALUES = st.sampled_from("abc")
UNITS = st.lists(st.lists(VALUES, max_size=4), max_size=12)


def review(number: int, reviewer: str, verdict: str, trace_id: str = "t1", kind: str = "human") -> Review:
    return Review(trace_id=trace_id, reviewer=reviewer, verdict=verdict, number=number, reviewer_kind=kind)  # type: ignore[arg-type]


def test_kappa_of_the_textbook_table() -> None:
    """20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o = 35/50, p_e = .5 * .6 + .5 * .4 = .5, kappa = .2/.5."""
    table = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(table) == pytest.approx(0.4)


def test_kappa_is_undefined_where_chance_explains_everything() -> None:
    assert cohen_kappa([]) is None
    assert cohen_kappa([("y", "y")] * 3) is None
    assert cohen_kappa([("y", "n")] * 3) == 0, "each used one verdict, not the same: p_o = p_e = 0"
    assert cohen_kappa([("y", "n"), ("n", "y")]) == -1


def test_alpha_of_krippendorffs_own_example() -> None:
    """Krippendorff 2011, section C: four observers, twelve units, values missing; nominal alpha = .743."""
    rows = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[row[i] for row in rows if row[i] != "."] for i in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=0.0005)


def test_alpha_is_undefined_without_pairs_or_with_one_value_only() -> None:
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None


def alpha_by_pairs(units: list[list[str]]) -> float | None:
    """The definition word for word: disagreement of pairs within units against that of all pairs of values."""
    pairable = [unit for unit in units if len(unit) > 1]
    values = [value for unit in pairable for value in unit]
    n = len(values)
    expected = sum(a != b for i, a in enumerate(values) for j, b in enumerate(values) if i != j)
    if not expected:
        return None
    observed = 0.0
    for unit in pairable:
        differ = sum(a != b for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j)
        observed += differ / (len(unit) - 1)
    return 1 - (observed / n) / (expected / (n * (n - 1)))


@given(UNITS)
def test_alpha_is_its_definition_over_pairs(units: list[list[str]]) -> None:
    expected = alpha_by_pairs(units)
    found = krippendorff_alpha(units)
    assert found is None if expected is None else found == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(VALUES, VALUES), max_size=20))
def test_kappa_does_not_ask_who_is_first(verdicts: list[tuple[str, str]]) -> None:
    found = cohen_kappa(verdicts)
    swapped = cohen_kappa([(b, a) for a, b in verdicts])
    assert found is swapped is None or (found == pytest.approx(swapped) and -1 <= found <= 1)  # type: ignore[operator]


def test_agreement_counts_items_pairs_and_those_who_were_unsure() -> None:
    """t1: all three agree; t2: ann and bob differ; t3: bob is unsure, so that one vote is left; t4: ann alone."""
    votes = [
        *(Vote("t1", who, "real_failure") for who in ("ann", "bob", "cy")),
        *(Vote("t2", "ann", "real_failure"), Vote("t2", "bob", "not_a_failure")),
        *(Vote("t3", "ann", "duplicate"), Vote("t3", "bob", "unsure")),
        Vote("t4", "ann", "duplicate"),
    ]
    found = agreement(votes)
    assert (found.n_items, found.n_agreed, found.share, found.n_unsure) == (2, 1, 0.5, 1)
    assert found.interval == wilson(1, 2)
    assert found.disagreed == ["t2"]
    pairs = {(pair.first, pair.second): (pair.n_items, pair.n_agreed) for pair in found.pairs}
    assert pairs == {("ann", "bob"): (2, 1), ("ann", "cy"): (1, 1), ("bob", "cy"): (1, 1)}
    # n = 5 values, 4 of them real_failure: D_o = (0 + 2)/5; D_e = (25 - 16 - 1)/20; alpha = 1 - .4/.4
    assert found.alpha == pytest.approx(0.0)


def test_nothing_to_compare_is_no_figure() -> None:
    found = agreement([Vote("t1", "ann", "real_failure")])
    assert (found.n_items, found.share, found.alpha, found.pairs) == (0, None, None, [])
    assert found.interval == (0, 1)


def test_a_correction_counts_while_it_is_blind_and_not_after() -> None:
    """Two per item: ann corrects herself before bob answers (blind), and once more after she has seen his answer."""
    reviews = [
        review(1, "ann", "unsure"),
        review(2, "ann", "real_failure"),
        review(3, "bob", "not_a_failure"),
        review(4, "ann", "not_a_failure"),
        review(5, "cy", "duplicate"),
        review(6, "cy", "not_a_failure"),
    ]
    blind = {vote.reviewer: vote.verdict for vote in blind_votes(reversed(reviews), 2)}
    assert blind == {"ann": "real_failure", "bob": "not_a_failure", "cy": "duplicate"}


def test_with_one_reviewer_per_item_the_first_answer_is_the_blind_one() -> None:
    reviews = [review(1, "ann", "unsure"), review(2, "ann", "real_failure")]
    assert blind_votes(reviews, 1) == [Vote("t1", "ann", "unsure")]


def test_an_item_that_lacks_answers_tells_nothing_of_those_it_has() -> None:
    """Three per item: ann must not read in a figure whether bob agrees with her while cy has not answered."""
    reviews = [review(1, "ann", "unsure"), review(2, "bob", "real_failure")]
    assert blind_votes(reviews, 3) == []
    assert len(blind_votes([*reviews, review(3, "cy", "real_failure")], 3)) == 3


def test_what_a_script_said_is_seen_too() -> None:
    """Two per item: the script's answer was the second, so ann's correction after it is not blind."""
    reviews = [
        review(1, "ann", "unsure"),
        review(2, "bot", "real_failure", kind="script"),
        review(3, "ann", "real_failure"),
    ]
    assert blind_votes(reviews, 2) == [Vote("t1", "ann", "unsure")]


def test_a_script_is_no_reviewer() -> None:
    assert blind_votes([review(1, "bot", "real_failure", kind="script")], 2) == []
