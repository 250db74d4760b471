"""OpenAI's evals find the eval in the folder and run it against a model that answers with a constant.

Runs in the tools' environment; prints the samples, what the model was asked, what the grader was asked, the scores.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import evals.registry
from evals.api import CompletionFn, CompletionResult
from evals.record import DummyRecorder, RecorderBase
from evals.registry import Registry

folder, scratch = map(Path, sys.argv[1:])
asked: list[Any] = []


class Said(CompletionResult):
    def get_completions(self) -> list[str]:
        return ["Y"]


class Model(CompletionFn):
    def __call__(self, prompt: Any, **_: Any) -> Said:
        asked.append(prompt if isinstance(prompt, (str, list)) else prompt.to_formatted_prompt())
        return Said()


# The package's own criteria for grading, without the hundreds of evals that lie beside them.
(scratch / "modelgraded").symlink_to(Path(evals.registry.__file__).parent / "registry" / "modelgraded")
registry = Registry([folder, scratch])
spec = registry.get_eval("evalflow-golden")
run = registry.get_class(spec)(
    completion_fns=[Model()], eval_registry_path=spec.registry_path, name=spec.key, registry=registry
)
samples = run.get_samples()
recorder = DummyRecorder(None, log=False)
assert isinstance(recorder, RecorderBase)
choices = []
with recorder.as_default_recorder("x"):
    for sample in json.loads(json.dumps(samples)):
        choices.append(run.eval_sample(sample, random.Random(0)))
print(json.dumps({"samples": samples, "asked": asked, "choices": choices, "split": spec.key}))
