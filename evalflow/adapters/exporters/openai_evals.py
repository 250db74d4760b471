"""OpenAI's open-source evals: a registry folder with samples and the eval that reads them.

``oaieval MODEL evalflow-golden --registry_path FOLDER`` runs it. Source: docs/formats.md, "Exports for other tools".
"""

from typing import Any

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates, flattened, losses, unanswered, unreadable

NAME = "evalflow-golden"
SAMPLES_FILE, UNGRADED_FILE = f"data/{NAME}/samples.jsonl", f"data/{NAME}/ungraded.jsonl"
CRITERION = "The submission agrees with this expected answer, or does what it asks for: "
REGISTRY = f"""\
# Written by `evalflow golden export --format openai-evals`.
# Run: oaieval MODEL {NAME} --registry_path THIS_FOLDER
{NAME}:
  id: {NAME}.test.v0
  description: The golden set.
  metrics: [score]
{NAME}.test.v0:
  class: evals.elsuite.modelgraded.classify:ModelBasedClassify
  args:
    samples_jsonl: {NAME}/samples.jsonl
    eval_type: cot_classify
    modelgraded_spec: closedqa
"""


def files(suite: ExportedSuite) -> dict[str, str]:
    return {
        f"evals/{NAME}.yaml": REGISTRY,
        SAMPLES_FILE: as_lines([_sample(case) for case in suite.graded]),
        UNGRADED_FILE: as_lines([_sample(case) for case in suite.ungraded]),
    }


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {"input": "input", "conversation": "input", "expected_output": "ideal, criteria"}
    return LossReport(
        fates(mapped, "metadata", {}),
        losses(
            (
                unanswered(suite, f"the eval has nothing to grade against; kept in {UNGRADED_FILE}"),
                (
                    sum(case.version.weight != 1 for case in suite.graded),
                    "the score counts every sample as one; the weight is in the metadata only",
                ),
                flattened(suite),
                unreadable(suite),
            )
        ),
    )


def _sample(case: ExportedCase) -> dict[str, Any]:
    """No further keys at the top: the eval hands each of them to its templates by name."""
    return {
        "input": case.plain_messages,
        "ideal": case.expected_output,
        "criteria": f"{CRITERION}{case.expected_output}" if case.expected_output else None,
        "metadata": case.kept_beside_plain_messages,
    }
