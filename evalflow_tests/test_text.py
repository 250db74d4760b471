"""Text and labels: what counts as the same text, and which words name a cluster."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.labels import cluster_label, cluster_terms
from evalflow.core.text import normalise, text_hash

SPACES = [" ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000"]
words = st.lists(st.text(st.characters(categories=["L", "M", "N", "P"]), min_size=1), min_size=1, max_size=6)


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(), st.text())
def test_hashes_are_equal_exactly_when_the_normal_forms_are(one: str, other: str) -> None:
    assert (text_hash(one) == text_hash(other)) == (normalise(one) == normalise(other))


@given(words, st.data())
def test_white_space_and_unicode_composition_do_not_make_a_different_text(
    parts: list[str], data: st.DataObject
) -> None:
    spaces = st.lists(st.sampled_from(SPACES), min_size=1, max_size=3).map("".join)
    spaced = data.draw(spaces) + "".join(unicodedata.normalize("NFD", part) + data.draw(spaces) for part in parts)
    assert normalise(spaced) == normalise(" ".join(parts))
    assert text_hash(spaced) == text_hash(" ".join(parts))


@pytest.mark.parametrize(("one", "other"), [("Refund", "refund"), ("refund", "refund!"), ("a b", "ab")])
def test_case_punctuation_and_word_breaks_do_make_a_different_text(one: str, other: str) -> None:
    assert text_hash(one) != text_hash(other)


def test_a_hash_is_128_bits_of_sha256_in_hex() -> None:
    # printf 'abc' | sha256sum: ba7816bf 8f01cfea 414140de 5dae2223 b00361a3 96177a9c b410ff61 f20015ad
    assert text_hash("  abc\n") == "ba7816bf8f01cfea414140de5dae2223"


def planted_texts() -> tuple[list[str], np.ndarray]:
    """Three clusters that talk alike except for one word each; noise repeats the first cluster's word."""
    rng = np.random.default_rng(2)
    common = ["account", "money", "payment", "customer", "yesterday"]
    texts, labels = [], []
    for cluster, planted in enumerate(["passport", "refund", "exchange"]):
        for _ in range(30):
            texts.append(" ".join([*rng.choice(common, 4), planted]))
            labels.append(cluster)
    texts += ["lottery lottery"] * 50
    labels += [-1] * 50
    return texts, np.array(labels)


def test_the_word_that_sets_a_cluster_apart_comes_first() -> None:
    terms = cluster_terms(*planted_texts())
    assert [of_cluster[0] for of_cluster in terms] == ["passport", "refund", "exchange"]
    assert all("lottery" not in of_cluster for of_cluster in terms)


def test_terms_follow_the_published_weight() -> None:
    """c-TF-IDF = tf x ln(1 + A / f). Cluster 0: card card lost (3 words), cluster 1: card and four fees (5).

    A = 4 words a cluster. f(card) = 3, f(lost) = 1, f(fee) = 4.
    Cluster 0: card 2/3 ln(1 + 4/3) = .565, lost 1/3 ln 5 = .536.
    Cluster 1: fee 4/5 ln 2 = .555, card 1/5 ln(7/3) = .169.
    """
    assert cluster_terms(["card card lost", "card fee fee fee fee"], np.array([0, 1])) == [
        ["card", "lost"],
        ["fee", "card"],
    ]


def test_placeholders_stop_words_and_numbers_are_no_terms() -> None:
    assert cluster_terms(["the <EMAIL_ADDRESS> 12345 wallet <PHONE_NUMBER>"], np.array([0])) == [["wallet"]]


@pytest.mark.parametrize(
    ("texts", "labels", "expected"),
    [
        ([], [], []),
        (["12 34", "of the"], [0, 1], [[], []]),
        (["wallet", "12 34"], [0, 1], [["wallet"], []]),
        (["wallet"], [-1], []),
    ],
)
def test_clusters_without_words_have_no_terms(texts: list[str], labels: list[int], expected: list[list[str]]) -> None:
    assert cluster_terms(texts, np.array(labels, dtype=int)) == expected


def test_a_label_is_the_first_terms_or_an_example_or_says_that_there_is_none() -> None:
    assert cluster_label(["card", "lost", "stolen", "help"], "x") == "card / lost / stolen"
    assert cluster_label([], "12 34" * 20) == ("12 34" * 20)[:40]
    assert cluster_label([], "") == "(no words)"
