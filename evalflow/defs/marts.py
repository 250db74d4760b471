"""Station marts: the dbt models of ``dbt_models/`` as assets, their dbt tests as asset checks.

What dbt needs to be loaded (its manifest) and what it leaves behind lies in the home's cache, so that homes
share nothing and an installed package is never written to. Keep out: SQL, which is in ``dbt_models``.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

import evalflow
from evalflow.adapters.home import Home
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS
from evalflow.errors import UsageError

if TYPE_CHECKING:
    from dagster_dbt import DagsterDbtTranslator, DbtCliInvocation, DbtCliResource

GROUP = "marts"
LAKE_VARIABLE, MARTS_VARIABLE = "DBT_EVALFLOW_LAKE", "DBT_EVALFLOW_MARTS"
PROJECT = "dbt_models"
PROJECT_FILE = "dbt_project.yml"
TARGET = "lake"
SOURCES = ("*.yml", "models/**/*.*", "macros/**/*.*", "tests/**/*.*")
"""What dbt parses; `target` and `logs`, which appear when somebody runs dbt by hand, are left out."""
MANIFEST, PARSED = "manifest.json", "partial_parse.msgpack"
FAILED = ("error", "fail", "runtime error")
STALE_RUN_S = 7 * 24 * 3600


def marts_assets(home: Home) -> list[dg.AssetsDefinition]:
    """One asset per mart. The first load in a home lets dbt parse its project, which takes some seconds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="sqlglotrs is deprecated", category=DeprecationWarning)
        from dagster_dbt import dbt_assets  # it is dagster-dbt that asks for sqlglotrs

    @dbt_assets(manifest=manifest_of(home), name="dbt_marts", dagster_dbt_translator=_translator())
    def dbt_marts(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        workspace = home.open()
        workspace.publish()
        workspace.marts.mkdir(exist_ok=True)
        manifest = manifest_of(workspace)
        _sweep_failed_runs(workspace)
        target = Path(tempfile.mkdtemp(prefix="run-", dir=_dbt_cache(workspace)))
        with _dbt_environment(workspace, manifest.parent):
            invocation = _dbt().cli(
                ["build"], context=context.op_execution_context, target_path=target, raise_on_error=False
            )
        for event in invocation.stream():
            if isinstance(event, dg.Output):
                name = event.output_name
                context.add_output_metadata({"dagster/row_count": _rows_of(workspace, name)}, output_name=name)
            yield event
        if not invocation.is_successful():
            raise dg.Failure(_what_failed(invocation))
        shutil.rmtree(target)

    return [dbt_marts]


def project_folder() -> Path:
    """The dbt project: inside an installed package, beside it in a checkout.

    Raises:
        UsageError: it is in neither place.
    """
    package = Path(evalflow.__file__).parent
    places = (package / PROJECT, package.parent / PROJECT)
    for place in places:
        if (place / PROJECT_FILE).exists():
            return place
    raise UsageError(
        f"The dbt project is neither at {places[0]} nor at {places[1]}; install evalflow from its wheel, or "
        "editable from a complete checkout."
    )


def manifest_of(home: Home) -> Path:
    """dbt's manifest of the project as it is now; parsed once per version of project and dbt, then cached."""
    project = project_folder()
    manifest = _dbt_cache(home) / _version_of(project) / MANIFEST
    if not manifest.exists():
        _parse(home, project, manifest.parent)
    return manifest


def _version_of(project: Path) -> str:
    versions = [metadata.version(package) for package in ("dbt-core", "dbt-duckdb")]
    digest = hashlib.sha256(" ".join([*versions, str(project)]).encode())
    for path in sorted(path for pattern in SOURCES for path in project.glob(pattern)):
        digest.update(str(path.relative_to(project)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _parse(home: Home, project: Path, folder: Path) -> None:
    """Parse beside ``folder`` and move the files there whole: several processes may do so at once."""
    folder.mkdir(parents=True, exist_ok=True)
    where = ["--project-dir", str(project), "--profiles-dir", str(project), "--target", TARGET]
    with tempfile.TemporaryDirectory(prefix="parse-", dir=_dbt_cache(home)) as fresh:
        with _dbt_environment(home, Path(fresh)):
            done = subprocess.run(
                [_dbt_executable(), "--quiet", "parse", *where], capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise UsageError(f"dbt cannot parse {project}: {(done.stdout + done.stderr).strip()}")
        for name in (PARSED, MANIFEST):
            Path(fresh, name).replace(folder / name)


def _sweep_failed_runs(home: Home) -> None:
    """A run that failed leaves its log; nobody reads it after a week."""
    for folder in [*_dbt_cache(home).glob("run-*"), *_dbt_cache(home).glob("parse-*")]:
        with suppress(FileNotFoundError):  # another process sweeps too
            if time.time() - folder.stat().st_mtime > STALE_RUN_S:
                shutil.rmtree(folder)


def _dbt_cache(home: Home) -> Path:
    folder = home.cache / "dbt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _dbt_environment(home: Home, target: Path) -> Iterator[None]:
    """What the project reads from the environment: dagster-dbt hands on this process's own, and no other."""
    variables = {
        LAKE_VARIABLE: glob.escape(home.lake.url),
        MARTS_VARIABLE: str(home.marts),
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(target),
        "DO_NOT_TRACK": "1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _dbt_executable() -> str:
    """The dbt of this very environment, which need not be on the PATH."""
    return str(Path(sys.executable).with_name("dbt"))


def _dbt() -> "DbtCliResource":
    from dagster_dbt import DbtCliResource
    from packaging.version import Version

    class QuietDbt(DbtCliResource):
        """Without `dbt --version`, which asks the package index, and without an adapter in this process."""

        @cached_property
        def _cli_version(self) -> Version:
            return Version(metadata.version("dbt-core"))

        def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> Any:
            return None

    project = str(project_folder())
    return QuietDbt(project_dir=project, profiles_dir=project, target=TARGET, dbt_executable=_dbt_executable())


def _translator() -> "DagsterDbtTranslator":
    from dagster_dbt import DagsterDbtTranslator

    class Translator(DagsterDbtTranslator):
        """Names and owners as everywhere in the graph; a dbt source is the asset that writes the table."""

        def get_asset_key(self, dbt_resource_props: Any) -> dg.AssetKey:
            return dg.AssetKey(dbt_resource_props["name"])

        def get_group_name(self, dbt_resource_props: Any) -> str:
            return GROUP

        def get_owners(self, dbt_resource_props: Any) -> list[str]:
            return OWNERS

        def get_description(self, dbt_resource_props: Any) -> str:
            return str(dbt_resource_props["description"])  # the default adds the whole SQL

    return Translator()


def _rows_of(home: Home, mart: str) -> int:
    rows = pl.scan_parquet(home.marts / f"{mart}.parquet", glob=False)
    return int(rows.select(pl.len()).collect().item())


def _what_failed(invocation: "DbtCliInvocation") -> str:
    """Which models and tests failed and what dbt says of each, in one sentence."""
    try:
        results = invocation.get_artifact("run_results.json")["results"]
    except FileNotFoundError:
        return f"dbt stopped before it built anything: {invocation.get_error()}"
    failed = [row for row in results if row["status"] in FAILED]
    named = "; ".join(f"{row['unique_id'].split('.')[2]} ({' '.join(row['message'].split())})" for row in failed)
    log = invocation.target_path / "dbt.log"
    return f"The marts are not to be trusted: dbt failed at {named}; its log is {log}."
