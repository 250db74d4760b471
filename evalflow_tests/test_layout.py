"""Layout: imports point one way, the core is pure, and the code location loads without heavy libraries."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import evalflow

ROOT = Path(evalflow.__file__).parent
MODULES = {
    ".".join(("evalflow", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
LAYERS = (
    {"evalflow.core", "evalflow.errors"},
    {"evalflow.settings"},
    {"evalflow.adapters"},
    {"evalflow.defs"},
    {"evalflow.definitions"},
    {"evalflow.runner"},
    {"evalflow.demo", "evalflow.web"},
    {"evalflow.cli", "evalflow.pytest_plugin"},
)
"""From the inside out: a module imports from its own layer and from those before it."""
HEAVY = (
    "torch",
    "umap",
    "hdbscan",
    "numba",
    "sentence_transformers",
    "transformers",
    "dagster_dbt",
    "sklearn",
    "presidio_analyzer",
    "matplotlib",
)
NOT_IN_CORE = {
    "dagster",
    "dagster_duckdb",
    "dagster_dbt",
    "duckdb",
    "fsspec",
    "requests",
    "httpx",
    "openai",
    "socket",
    "subprocess",
}
CLOCKS_AND_ENVIRONMENT = {
    "datetime.now",
    "datetime.utcnow",
    "date.today",
    "os.environ",
    "os.getenv",
    "os.cpu_count",
}


def imports_of(path: Path, module: str) -> set[str]:
    """Every module named by an import anywhere in the file, in function bodies too."""
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES}
    return found


def layer_of(module: str) -> int | None:
    for number, prefixes in enumerate(LAYERS):
        if any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes):
            return number
    return None


def core_modules() -> list[str]:
    return [module for module in MODULES if module == "evalflow.core" or module.startswith("evalflow.core.")]


def test_every_module_belongs_to_a_layer() -> None:
    assert [module for module in MODULES if module != "evalflow" and layer_of(module) is None] == []
    assert len(core_modules()) > 5, "the modules were found at all"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module: str) -> None:
    own = layer_of(module)
    ours = {name for name in imports_of(MODULES[module], module) if name.startswith("evalflow.")}
    if own is None:
        assert ours == set(), "the package itself imports nothing"
        return
    assert {name for name in ours if (layer_of(name) or 0) > own} == set()


@pytest.mark.parametrize("module", core_modules())
def test_the_core_knows_no_dagster_no_database_and_no_files(module: str) -> None:
    imported = {name.split(".")[0] for name in imports_of(MODULES[module], module)}
    assert imported & NOT_IN_CORE == set()
    assert {
        name for name in imports_of(MODULES[module], module) if name.startswith("evalflow.") and ".core" not in name
    } == set()


@pytest.mark.parametrize("module", core_modules())
def test_the_core_reads_neither_clock_nor_environment(module: str) -> None:
    read, called = set(), set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Attribute):
            read.add(".".join(ast.unparse(node).split(".")[-2:]))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
    assert read & CLOCKS_AND_ENVIRONMENT == set()
    assert called & {"open", "input", "print"} == set()
    assert "time" not in imports_of(MODULES[module], module)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "evalflow"])
def test_each_module_opens_with_its_charter(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


def loaded_by(statement: str, home: Path) -> set[str]:
    """The heavy libraries that a fresh process has loaded after the statement."""
    report = f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    script = f"{statement}\nimport json, sys\n{report}"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=home, capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["evalflow.definitions", "evalflow.cli"])
def test_importing_it_loads_no_heavy_library(module: str, tmp_path: Path) -> None:
    assert loaded_by(f"import {module}", tmp_path) == set()


def test_importing_the_definitions_touches_no_files(tmp_path: Path) -> None:
    loaded_by("import evalflow.definitions", tmp_path)
    assert list(tmp_path.iterdir()) == []
