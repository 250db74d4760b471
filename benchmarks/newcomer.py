"""Evidence: three days of traces in the running week, no golden set, then 20 cases: a figure the same day.

Writes traces of the last three days from the demo's corpus, asks the command line before and after the suite is
imported, then starts the UI and reads the same figure from the asset's latest materialization.

    python benchmarks/newcomer.py [--port 3334]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ui_backfill import UserInterface

LATEST = """
query Latest {
  assetOrError(assetKey: {path: ["coverage_metrics"]}) {
    ... on Asset {
      assetMaterializations(limit: 1) {
        partition
        metadataEntries { label ... on FloatMetadataEntry { floatValue } ... on BoolMetadataEntry { boolValue } }
      }
    }
  }
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=3334)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="evalflow-newcomer-"))
    home = work / "home"
    _write_inputs(work)
    started = time.monotonic()
    print(_evalflow(home, "ingest", str(work / "traces.jsonl"))[1].strip())
    _evalflow(home, "run")
    code, text = _evalflow(home, "coverage", "--json")
    before = json.loads(text)
    print(
        f"without a suite: exit code {code}, jsd {before['jsd']}, {len(before['bins'])} bins, provisional {before['provisional']}"
    )
    print(_evalflow(home, "golden", "import", str(work / "suite.jsonl"))[1].strip())
    _evalflow(home, "run")
    code, text = _evalflow(home, "coverage", "--json")
    after = json.loads(text)
    print(
        f"with 20 cases:   exit code {code}, jsd {after['jsd']:.4f} ({after['band']}), {after['taxonomy']['n_bins']} bins, "
        f"provisional {after['provisional']}, window {after['window']['from']} to {after['window']['to']}, "
        f"{time.monotonic() - started:.0f} s in all"
    )
    with UserInterface(home, options.port) as ui:
        event = ui.ask(LATEST)["assetOrError"]["assetMaterializations"][0]
        shown = {entry["label"]: entry.get("floatValue", entry.get("boolValue")) for entry in event["metadataEntries"]}
        print(
            f"in the UI:       partition {event['partition']}, JSD {shown['JSD']}, provisional {shown['provisional']}"
        )
        backfill = ui.launch(["coverage_metrics"], [event["partition"]])
        print(f"materialized again from the UI: {ui.wait(backfill)['status']}")
        again = ui.ask(LATEST)["assetOrError"]["assetMaterializations"][0]
        shown_again = {entry["label"]: entry.get("floatValue") for entry in again["metadataEntries"]}
    ok = before["jsd"] is None and shown["JSD"] == round(after["jsd"], 4) == shown_again["JSD"] and after["provisional"]
    print("the same figure in both" if ok else "MISSED")
    sys.exit(0 if ok else 1)


def _write_inputs(work: Path) -> None:
    corpus = Path(__file__).parent.parent / "data" / "demo" / "intents_base.jsonl"
    intents = [json.loads(line) for line in corpus.read_text().splitlines()]
    now = datetime.now(UTC).replace(microsecond=0)
    texts = [text for intent in intents for text in intent["phrasings"][:15]]
    with (work / "traces.jsonl").open("w") as file:
        for number, text in enumerate(texts):
            at = now - timedelta(days=number % 3, seconds=number)
            file.write(
                json.dumps({"trace_id": f"t{number}", "timestamp": at.isoformat(), "input": text, "output": "..."})
                + "\n"
            )
    with (work / "suite.jsonl").open("w") as file:
        for number, intent in enumerate(intents[:20]):
            case = {
                "case_id": f"case-{number}",
                "input": intent["phrasings"][-1],
                "expected_output": intent["good_answers"][0],
            }
            file.write(json.dumps(case) + "\n")


def _evalflow(home: Path, *arguments: str) -> tuple[int, str]:
    command = [str(Path(sys.executable).with_name("evalflow")), *arguments, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"evalflow {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode, done.stdout


if __name__ == "__main__":
    main()
