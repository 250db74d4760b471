"""Duplicates: the same text, nearly the same text, the same question; never a different one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.dedup import LONG_INPUT, Duplicate, KnownInputs, allowed_distance, turn_before, with_context

EAST, NORTH = np.array([1.0, 0.0]), np.array([0.0, 1.0])
texts = st.text(max_size=40)
vectors = st.sampled_from([np.array(v) for v in ([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8], [0.8, -0.6])])


def known(*inputs: tuple[str, str, np.ndarray], near: float = 0.85, distance: float = 0.05) -> KnownInputs:
    found = KnownInputs(near, distance)
    for name, text, vector in inputs:
        found.add(name, text, vector)
    return found


def stage_of(one: str, other: str, near: float = 0.85) -> str | None:
    """By which stage one text repeats the other, their vectors being at right angles."""
    duplicate = known(("known", other, NORTH), near=near).duplicate_of(one, EAST)
    return duplicate.stage if duplicate else None


# -- the same text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "repeat",
    [
        "Where is my card?",
        "where is my card",
        "WHERE IS MY CARD?!",
        "  where   is\tmy\ncard… ",
        "Where, is my card.",
        "«where is my card»",
    ],
)
def test_case_punctuation_and_blanks_make_no_new_input(repeat: str) -> None:
    duplicate = known(("a", "Where is my card?", NORTH)).duplicate_of(repeat, EAST)
    assert duplicate == Duplicate("a", "exact", 1.0)


@pytest.mark.parametrize(("one", "other"), [("Straße", "STRASSE"), ("cafe\u0301", "CAFÉ"), ("ΣΑΣ", "σας")])
def test_case_and_accents_are_unicodes_own(one: str, other: str) -> None:
    assert stage_of(one, other) == "exact"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("दिन", "दान"),  # Hindi: day, gift. The vowel signs are marks, not letters
        ("कि", "की"),
        ("ไม่", "ไม้"),  # Thai: not, wood. They differ in the tone mark
    ],
)
def test_vowel_signs_and_tone_marks_are_part_of_a_word(one: str, other: str) -> None:
    assert stage_of(one, other) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what is 5 + 3", "what is 5 = 3"),
        ("is it < 40", "is it > 40"),
        ("great 👍", "great 👎"),
        ("send $5", "send €5"),
    ],
)
def test_symbols_are_not_punctuation(one: str, other: str) -> None:
    """They carry meaning (Unicode's categories S*), so the texts may be near, never exactly the same."""
    assert stage_of(one, other, near=1.0) != "exact"


@pytest.mark.parametrize(("one", "other"), [("👍", "👎"), ("???", "..."), ("😀😀", "😀😢"), ("", "?"), ("+", "-")])
def test_texts_of_signs_alone_are_themselves_and_no_other(one: str, other: str) -> None:
    assert stage_of(one, one) == "exact"
    assert stage_of(one, other) is None


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u2028"])
def test_a_blank_text_repeats_blank_ones_only(blank: str) -> None:
    assert stage_of(blank, "") == "exact"
    assert stage_of(blank, "a") is None
    assert stage_of("a", blank) is None


def test_the_first_known_of_two_alike_is_named() -> None:
    inputs = known(("first", "where is it", EAST), ("second", "Where is it?", EAST))
    assert inputs.duplicate_of("where is it", NORTH) == Duplicate("first", "exact", 1.0)


# -- nearly the same text -------------------------------------------------------------------------------------


def test_the_resemblance_is_the_jaccard_of_character_3_grams() -> None:
    """ "abcdef" has abc bcd cde def, "abcdeg" has abc bcd cde deg: 3 shared of 5 in all = .6."""
    duplicate = known(("a", "abcdef", NORTH), near=0.6).duplicate_of("abcdeg", EAST)
    assert duplicate == Duplicate("a", "near", 0.6)
    assert known(("a", "abcdef", NORTH), near=0.61).duplicate_of("abcdeg", EAST) is None


def test_a_text_that_is_all_inside_a_longer_one_reaches_the_ratio_of_their_sizes() -> None:
    """ "abcdefghijkl" has 10 shingles, of which "abcdefghijk" has 9: .9 exactly, found at .9."""
    assert stage_of("abcdefghijk", "abcdefghijkl", near=0.9) == "near"
    assert stage_of("abcdefghijk", "abcdefghijkl", near=0.91) is None


def test_the_nearest_known_text_is_named() -> None:
    """Against "abcdefghijkl" with 10 shingles: "abcdefghijkx" shares 9 of 11, "abcdefghijxx" 8 of 12."""
    inputs = known(("far", "abcdefghijxx", NORTH), ("near", "abcdefghijkx", NORTH), near=0.5)
    duplicate = inputs.duplicate_of("abcdefghijkl", EAST)
    assert duplicate is not None
    assert (duplicate.name, duplicate.stage) == ("near", "near")
    assert duplicate.value == pytest.approx(9 / 11)


def test_texts_shorter_than_a_shingle_are_compared_whole() -> None:
    assert stage_of("ok", "no", near=0.01) is None
    assert stage_of("ok", "OK!") == "exact"


def shingles(text: str) -> set[str]:
    return {text[i : i + 3] for i in range(max(1, len(text) - 2))}


@given(st.text("abc ", min_size=1, max_size=14), st.text("abc ", min_size=1, max_size=14), st.floats(0.05, 1))
def test_near_is_what_plain_sets_say(one: str, other: str, near: float) -> None:
    """Letters and blanks alone: the form is the text with blanks folded."""
    one, other = " ".join(one.split()), " ".join(other.split())
    a, b = shingles(one), shingles(other)
    jaccard = len(a & b) / len(a | b)
    expected = "exact" if one == other else "near" if jaccard >= near else None
    assert stage_of(one, other, near=near) == expected


# -- the same question ----------------------------------------------------------------------------------------


def test_the_embedding_decides_last_and_its_limit_is_included() -> None:
    """cos = .5 exactly, so the distance is .5: a duplicate at a limit of .5, none just below it."""
    other = np.array([0.5, np.sqrt(0.75)])
    assert known(("a", "lost card", EAST), distance=0.5).duplicate_of("my plastic is gone", other) == Duplicate(
        "a", "embedding", 0.5
    )
    tighter = float(np.nextafter(0.5, 0))
    assert known(("a", "lost card", EAST), distance=tighter).duplicate_of("my plastic is gone", other) is None


def test_the_stages_speak_in_order() -> None:
    """One query that three known inputs repeat, each by another stage: the surest kind is named."""
    by_embedding = ("vector", "something else altogether", EAST)
    nearly = ("near", "where is my new card now", NORTH)
    same = ("same", "Where is my new card nows?", NORTH)
    query = "where is my new card nows"
    assert known(by_embedding, nearly, same).duplicate_of(query, EAST) == Duplicate("same", "exact", 1.0)
    near = known(by_embedding, nearly).duplicate_of(query, EAST)
    assert near is not None
    assert (near.name, near.stage) == ("near", "near")
    assert known(by_embedding).duplicate_of(query, EAST) == Duplicate("vector", "embedding", 0.0)


def test_the_nearest_vector_is_named_and_measured() -> None:
    inputs = known(("east", "one", EAST), ("north", "two", NORTH), distance=0.3)
    query = np.array([0.6, 0.8])
    duplicate = inputs.duplicate_of("another matter", query)
    assert duplicate is not None
    assert (duplicate.name, duplicate.stage) == ("north", "embedding")
    assert duplicate.value == pytest.approx(0.2)
    assert inputs.distance(query) == pytest.approx(0.2)
    assert inputs.distance(np.array([-1.0, 0.0])) == pytest.approx(1.0)


def test_a_distance_is_never_negative() -> None:
    longer = np.array([1.0000001, 0.0], dtype=np.float32)
    assert known(("a", "one", longer)).distance(longer) == 0.0


def test_where_nothing_is_known_nothing_is_near() -> None:
    inputs = known()
    assert inputs.distance(EAST) == float("inf")
    assert inputs.duplicate_of("anything", EAST) is None
    assert inputs.names == []


def test_what_is_added_after_a_question_counts_in_the_next() -> None:
    inputs = known(("a", "one", EAST))
    assert inputs.distance(NORTH) == 1.0
    inputs.add("b", "two", NORTH)
    assert inputs.distance(NORTH) == 0.0
    assert inputs.names == ["a", "b"]


# -- what holds of every text ---------------------------------------------------------------------------------


@given(texts)
def test_a_text_always_repeats_itself_whatever_its_characters(text: str) -> None:
    assert stage_of(text, text) == "exact"


@given(texts, texts, st.floats(0.05, 1))
def test_being_a_duplicate_is_mutual(one: str, other: str, near: float) -> None:
    assert stage_of(one, other, near) == stage_of(other, one, near)


@given(st.lists(st.tuples(st.text("ab?", max_size=8), vectors), max_size=5), st.text("ab?", max_size=8), vectors)
def test_knowing_more_never_makes_a_duplicate_new(
    inputs: list[tuple[str, np.ndarray]], text: str, vector: np.ndarray
) -> None:
    suite = known(near=0.5, distance=0.3)
    was_duplicate, was_distance = False, float("inf")
    for number, (other, its_vector) in enumerate(inputs):
        suite.add(f"k{number}", other, its_vector)
        is_duplicate, distance = suite.duplicate_of(text, vector) is not None, suite.distance(vector)
        assert is_duplicate or not was_duplicate
        assert distance <= was_distance
        was_duplicate, was_distance = is_duplicate, distance
    suite.add("itself", text, vector)
    assert suite.duplicate_of(text, vector) is not None


def test_a_short_answer_is_compared_with_the_turn_that_it_answers() -> None:
    """A "yes" to one question is not a "yes" to another; a question that stands for itself is compared alone."""
    asked = [{"role": "assistant", "content": "Shall I close the account?"}]
    assert with_context("yes", asked) == "Shall I close the account? yes"
    assert with_context("yes", None) == "yes"
    question = "How do I change the address of my order?"
    assert with_context(question, asked) == question


# -- after the same turn --------------------------------------------------------------------------------------

CARD, TRANSFER = "I ordered a card. It is on its way.", "I sent money to Spain. It has left your account."


@pytest.mark.parametrize(
    "text", ["and how long does that take now", "And how long does that take now?!", "how long is it"]
)
def test_the_same_words_after_another_turn_are_not_the_same(text: str) -> None:
    """In every stage: exact, near and by meaning; the input is then named as what it would repeat."""
    inputs = known(distance=0.3)
    inputs.add("card", "and how long does that take now", EAST, CARD)
    assert inputs.duplicate_of(text, EAST, TRANSFER) is None
    assert inputs.duplicate_of(text, EAST) is None
    apart = inputs.apart_from(text, EAST, TRANSFER)
    assert apart is not None
    assert apart.name == "card"
    again = inputs.duplicate_of(text, EAST, "I ordered a card! It's on its way.")
    assert again is not None
    assert again.name == "card"
    assert inputs.apart_from(text, EAST, CARD) is None


def test_of_inputs_with_the_same_words_the_one_after_the_same_turn_is_named() -> None:
    inputs = known()
    inputs.add("card", "how long does it take", EAST, CARD)
    inputs.add("transfer", "how long does it take", EAST, TRANSFER)
    inputs.add("alone", "how long does it take", EAST)
    for name, before in (("card", CARD), ("transfer", TRANSFER), ("alone", "")):
        assert inputs.duplicate_of("How long does it take?", EAST, before) == Duplicate(name, "exact", 1.0)


def test_the_turn_before_is_the_last_of_the_user_with_what_was_answered() -> None:
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "a card"},
        {"role": "assistant", "content": "Looking."},
        {"role": "assistant", "content": "Ordered."},
    ]
    assert turn_before(turns) == "a card Looking. Ordered."
    assert turn_before(turns[:1]) == "hello"
    assert turn_before([{"role": "assistant", "content": "Welcome"}]) == "Welcome"
    assert turn_before([]) == turn_before(None) == ""


# -- long inputs ----------------------------------------------------------------------------------------------


def test_of_a_long_input_the_words_decide_since_the_model_reads_only_its_beginning() -> None:
    """Two documents with one beginning have one vector; they differ where the model did not look."""
    opening = " ".join(f"clause {n} binds both parties" for n in range(60))
    ends = (
        "all invoices are paid within a month of delivery",
        "goods may be returned unopened, at the cost of the buyer",
    )
    one, other = (f"{opening} and {end} as {end} says" for end in ends)
    assert len(one) > LONG_INPUT
    inputs = known(("one", one, EAST), near=0.9)
    assert inputs.duplicate_of(other, EAST) is None
    assert inputs.duplicate_of(one.upper(), EAST) == Duplicate("one", "exact", 1.0)
    near = inputs.duplicate_of(one.replace("clause 7", "clause seven"), NORTH)
    assert near is not None
    assert near.stage == "near"
    assert inputs.duplicate_of("what binds both parties", EAST) is None, (
        "nor does a short text repeat a long one by meaning"
    )


def test_a_long_template_that_is_filled_in_anew_is_not_the_same() -> None:
    """Of 12,000 characters a hundred differ: resemblance far above .9, and another question all the same."""
    template = " ".join(f"rule {n}: be brief and kind" for n in range(450))
    one = f"{template} Now answer: how do I reset the password of my account, which I have forgotten since last year?"
    other = (
        f"{template} Now answer: which of your shops in the north of town are open on the last Sunday of this month?"
    )
    assert known(("one", one, EAST), near=0.9).duplicate_of(other, NORTH) is None


# -- the limit and the suite's size ---------------------------------------------------------------------------


def test_the_limit_is_tight_up_to_a_small_suite_loose_from_a_large_one_and_log_linear_between() -> None:
    """Halfway between 100 and 10,000 in log n lies 1,000: (.04 + .10) / 2 = .07."""
    limits = [allowed_distance(n, 0.04, 0.10, 100, 10_000) for n in (0, 100, 1_000, 10_000, 10**6)]
    assert limits == pytest.approx([0.04, 0.04, 0.07, 0.10, 0.10])


@given(st.integers(0, 20_000), st.integers(0, 5_000))
def test_a_larger_suite_never_has_a_tighter_limit(n: int, more: int) -> None:
    assert 0.04 <= allowed_distance(n, 0.04, 0.1, 100, 1000) <= allowed_distance(n + more, 0.04, 0.1, 100, 1000) <= 0.1
