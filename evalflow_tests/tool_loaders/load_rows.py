"""The rows for Langfuse, LangSmith and Braintrust go through the SDKs' own models and checks; nothing is sent."""

import inspect
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from braintrust.logger import Dataset
from langfuse import Langfuse
from langfuse.api.dataset_items.types.create_dataset_item_request import CreateDatasetItemRequest
from langsmith.schemas import ExampleCreate


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").split("\n") if line]


warnings.simplefilter("ignore", DeprecationWarning)  # LangSmith's newest name for `outputs` is unknown to older ones
langfuse, langsmith, braintrust = map(rows_of, sys.argv[1:])
read: dict[str, list[Any]] = {"langfuse": [], "langsmith": [], "braintrust": []}
for row in langfuse:
    inspect.signature(Langfuse.create_dataset_item).bind(None, dataset_name="golden", **row)
    read["langfuse"].append(json.loads(CreateDatasetItemRequest(dataset_name="golden", **row).json()))
for row in langsmith:
    read["langsmith"].append(json.loads(ExampleCreate(**row).model_dump_json(by_alias=True)))
for row in braintrust:
    bound = inspect.signature(Dataset.insert).bind(None, **row)
    Dataset._validate_event(None, expected=row["expected"], tags=row["tags"])
    read["braintrust"].append({name: value for name, value in bound.arguments.items() if name != "self"})
print(json.dumps(read))
