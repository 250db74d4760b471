"""Inspect reads the samples by ``json_dataset``; runs in the tools' environment, prints what it understood."""

import json
import sys

from inspect_ai.dataset import json_dataset

print(
    json.dumps(
        [
            {
                "id": sample.id,
                "input": sample.input
                if isinstance(sample.input, str)
                else [[message.role, message.content] for message in sample.input],
                "target": sample.target,
                "metadata": sample.metadata,
            }
            for sample in json_dataset(f"{sys.argv[1]}/samples.jsonl")
        ]
    )
)
