"""Station marts: the dbt models of ``dbt_models/`` as assets, their dbt tests as asset checks.

What dbt needs to be loaded (its manifest) and what it leaves behind lies in the home's cache, so that homes do not
share anything and an installed package is never written to. Keep out: SQL, which is in ``dbt_models``.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
PROJECT = "dbt_models"
PROJECT_FILE = "dbt_project.yml"
SOURCES = ("*.yml", "models/**/*.*", "macros/**/*.*", "tests/**/*.*")
"""What dbt parses; `target` and `logs`, which appear when somebody runs dbt by hand, are left out."""
MANIFEST, PARSED = "manifest.json", "partial_parse.msgpack"
FAILED = ("error", "fail", "runtime error")

MARTS_JOB = dg.define_asset_job(
    "marts", dg.AssetSelection.groups(GROUP), description="Build the marts from the lake with dbt, and test them."
)


def marts_assets(home: Home) -> list[dg.AssetsDefinition]:
    """One asset per mart. The first load in a home lets dbt parse its project, which takes some seconds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="sqlglotrs is deprecated", category=DeprecationWarning)
        from dagster_dbt import dbt_assets  # requires sqlglot with that parser

    @dbt_assets(manifest=manifest_of(home), name="dbt_marts", dagster_dbt_translator=_translator())
    def dbt_marts(context: dg.AssetExecutionContext, home: HomeResource) -> Iterator[Any]:
        workspace = home.open()
        workspace.marts.mkdir(exist_ok=True)
        manifest = manifest_of(workspace)
        target = Path(tempfile.mkdtemp(prefix="run-", dir=_dbt_cache(workspace)))
        with _dbt_environment(workspace, manifest.parent):
            invocation = _dbt().cli(["build"], context=context, target_path=target, raise_on_error=False)
        for event in invocation.stream():
            if isinstance(event, dg.Output):
                context.add_output_metadata(_mart_metadata(workspace, event.output_name), output_name=event.output_name)
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
        f"The dbt project is neither at {places[0]} nor at {places[1]}; install evalflow from its wheel, or editable from a "
        "complete checkout."
    )


def manifest_of(home: Home) -> Path:
    """dbt's manifest of the project as it is now; parsed once per version of project and dbt, and kept in the cache."""
    project = project_folder()
    manifest = _dbt_cache(home) / _version_of(project) / MANIFEST
    if not manifest.exists():
        _parse(home, project, manifest.parent)
    return manifest


def _version_of(project: Path) -> str:
    digest = hashlib.sha256(f"{metadata.version('dbt-core')} {metadata.version('dbt-duckdb')} {project}".encode())
    for path in sorted(path for pattern in SOURCES for path in project.glob(pattern)):
        digest.update(str(path.relative_to(project)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _parse(home: Home, project: Path, folder: Path) -> None:
    """Parse beside ``folder`` and move the result there file by file, since several processes may do so at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="parse-", dir=_dbt_cache(home)) as fresh, _dbt_environment(home, Path(fresh)):
        command = [_dbt_executable(), "--quiet", "parse", "--project-dir", str(project), "--profiles-dir", str(project)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise UsageError(f"dbt cannot parse {project}: {done.stdout.strip()}")
        for name in (PARSED, MANIFEST):
            Path(fresh, name).replace(folder / name)


def _dbt_cache(home: Home) -> Path:
    folder = home.cache / "dbt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _dbt_environment(home: Home, target: Path) -> Iterator[None]:
    """What the project reads from the environment; dagster-dbt hands on this process's own and takes no other."""
    variables = {
        "DBT_EVALFLOW_LAKE": home.lake.url,
        "DBT_EVALFLOW_MARTS": str(home.marts),
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
        """Without `dbt --version`, which asks the package index, and without a second adapter in this process."""

        @cached_property
        def _cli_version(self) -> Version:
            return Version(metadata.version("dbt-core"))

        def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> Any:
            return None

    project = str(project_folder())
    return QuietDbt(project_dir=project, profiles_dir=project, dbt_executable=_dbt_executable())


def _translator() -> "DagsterDbtTranslator":
    from dagster_dbt import DagsterDbtTranslator

    class Translator(DagsterDbtTranslator):
        """Names and owners as everywhere in the asset graph; a dbt source is the asset that writes the table."""

        def get_asset_key(self, dbt_resource_props: Any) -> dg.AssetKey:
            return dg.AssetKey(dbt_resource_props["name"])

        def get_group_name(self, dbt_resource_props: Any) -> str:
            return GROUP

        def get_owners(self, dbt_resource_props: Any) -> list[str]:
            return OWNERS

        def get_description(self, dbt_resource_props: Any) -> str:
            return str(dbt_resource_props["description"])  # the default adds the whole SQL

    return Translator()


def _mart_metadata(home: Home, mart: str) -> dict[str, Any]:
    rows = pl.scan_parquet(home.marts / f"{mart}.parquet", glob=False)
    return {"dagster/row_count": rows.select(pl.len()).collect().item()}


def _what_failed(invocation: "DbtCliInvocation") -> str:
    """Which models and tests failed and what dbt says of each, in one sentence."""
    try:
        results = invocation.get_artifact("run_results.json")["results"]
    except FileNotFoundError:
        return f"dbt stopped before it built anything: {invocation.get_error()}"
    failed = [f"{result['unique_id'].split('.')[2]} ({result['message']})" for result in results if result["status"] in FAILED]
    return f"dbt built the marts, but not well: {'; '.join(failed)}. Its log is {invocation.target_path / 'dbt.log'}."
