"""DeepEval reads the goldens into its datasets; runs in the tools' environment, prints what it understood."""

import json
import sys

from deepeval.dataset import EvaluationDataset

single, conversational = EvaluationDataset(), EvaluationDataset()
single.add_goldens_from_json_file(f"{sys.argv[1]}/goldens.json")
conversational.add_goldens_from_json_file(f"{sys.argv[1]}/conversational_goldens.json")
names = ("name", "input", "scenario", "expected_output", "expected_outcome", "additional_metadata")
print(
    json.dumps(
        [
            {name: getattr(golden, name, None) for name in names}
            | {"turns": [[turn.role, turn.content] for turn in getattr(golden, "turns", None) or []]}
            for golden in [*single.goldens, *conversational.goldens]
        ]
    )
)
