"""The suite in the formats of other tools, one small module each.

A module turns the described cases (``case.py``) into the texts of its files and says what that loses (``loss.py``).
``EXPORTERS`` is the registry. Keep out: writing files, the lock (``adapters/lock.py``), and any tool's own package:
what is written is checked against the tools in tests.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from evalflow.adapters.exporters import (
    braintrust,
    deepeval,
    huggingface,
    inspect_ai,
    langfuse,
    langsmith,
    mlflow,
    native,
    openai_evals,
    promptfoo,
)
from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, described
from evalflow.adapters.exporters.loss import LossReport

__all__ = ["EXPORTERS", "ExportedCase", "ExportedSuite", "Exporter", "Format", "described"]

Format = Literal[
    "native",
    "promptfoo",
    "inspect",
    "deepeval",
    "openai-evals",
    "huggingface",
    "mlflow",
    "langfuse",
    "langsmith",
    "braintrust",
]


class Exporter(NamedTuple):
    """``files`` gives text or bytes by name, for a folder the paths in it; of one file the first is the suite itself."""

    is_folder: bool
    files: Callable[[ExportedSuite], Mapping[str, str | bytes]]
    loss: Callable[[ExportedSuite], LossReport]


EXPORTERS: dict[Format, Exporter] = {
    "native": Exporter(False, native.files, native.loss),
    "promptfoo": Exporter(True, promptfoo.files, promptfoo.loss),
    "inspect": Exporter(True, inspect_ai.files, inspect_ai.loss),
    "deepeval": Exporter(True, deepeval.files, deepeval.loss),
    "openai-evals": Exporter(True, openai_evals.files, openai_evals.loss),
    "huggingface": Exporter(True, huggingface.files, huggingface.loss),
    "mlflow": Exporter(False, mlflow.files, mlflow.loss),
    "langfuse": Exporter(False, langfuse.files, langfuse.loss),
    "langsmith": Exporter(False, langsmith.files, langsmith.loss),
    "braintrust": Exporter(False, braintrust.files, braintrust.loss),
}
