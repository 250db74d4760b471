"""MLflow merges the records into a dataset in a database of its own; runs in the tools' environment."""

import json
import sys
from pathlib import Path

import mlflow
from mlflow.genai.datasets import create_dataset

file, scratch = sys.argv[1:]
mlflow.set_tracking_uri(f"sqlite:///{scratch}/mlflow.db")
records = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").split("\n") if line]
dataset = create_dataset(name="golden").merge_records(records)
names = ("inputs", "expectations", "tags", "source_type", "source_id")
held = [record.to_dict() for record in dataset._mlflow_dataset.records]
print(json.dumps([{name: record.get(name) for name in names} for record in held]))
