"""Evidence: clustering of real user queries against their labelled intents, with no hint of their number.

The folder holds Banking77's train.csv and test.csv (PolyAI-LDN/task-specific-datasets, CC BY 4.0: 13,083 queries of
77 intents). Every query is assigned by the frozen rule after a fit on all of them, noise included.

    python benchmarks/banking77_clusters.py FOLDER [--seeds 1 2 3 4 5] [--cache DIR]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from evalflow.adapters.embedder import Embedder
from evalflow.core.clustering import FitPlan, assign, fit_taxonomy
from evalflow.core.text import text_hash
from evalflow.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--cache", default=tempfile.mkdtemp(prefix="evalflow-cache-"))
    options = parser.parse_args()
    rows = pl.concat(pl.read_csv(Path(options.folder) / name) for name in ("train.csv", "test.csv"))
    settings = Settings()
    found = Embedder(settings.embedding, Path(options.cache)).embed(rows["text"].to_list())
    first = (
        rows.with_columns(pl.Series("hash", [text_hash(text) for text in rows["text"]]))
        .unique("hash", keep="first")
        .sort("hash")
    )
    vectors = np.stack([found[key] for key in first["hash"]])
    chosen = settings.clustering
    ari, nmi, counts = [], [], []
    print(f"{len(rows)} queries, {len(first)} distinct\nseed  clusters  noise at fit  share used  ARI    NMI")
    for seed in options.seeds:
        plan = FitPlan(
            **{name: getattr(chosen, name) for name in FitPlan.__dataclass_fields__ if name != "seed"}, seed=seed
        )
        fit = fit_taxonomy(vectors, plan)
        placed = assign(vectors, vectors, fit.labels, np.inf, chosen.vote_neighbors).cluster
        ari.append(adjusted_rand_score(first["category"], placed))
        nmi.append(normalized_mutual_info_score(first["category"], placed))
        counts.append(fit.n_clusters)
        noise = float((fit.labels < 0).mean())
        print(
            f"{seed:>4}  {fit.n_clusters:>8}  {noise:>12.3f}  {fit.min_cluster_share:>10.4f}  {ari[-1]:.3f}  {nmi[-1]:.3f}",
            flush=True,
        )
    print(
        f"median ARI {np.median(ari):.3f} (target .50), median NMI {np.median(nmi):.3f} (target .80), clusters {min(counts)} to {max(counts)}"
    )
    sys.exit(0 if np.median(ari) >= 0.5 and np.median(nmi) >= 0.8 and min(counts) >= 20 and max(counts) <= 80 else 1)


if __name__ == "__main__":
    main()
