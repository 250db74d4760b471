"""datasets loads the folder by its card; runs in the tools' environment, prints rows and the card's front matter."""

import json
import sys

from datasets import load_dataset
from huggingface_hub import DatasetCard

folder, cache = sys.argv[1:]
loaded = load_dataset(folder, cache_dir=cache)
card = DatasetCard.load(f"{folder}/README.md").data.to_dict()
print(json.dumps({"splits": list(loaded), "rows": loaded["test"].to_list(), "card": card}))
