"""Kill two writers of one ledger at random moments, again and again: is it whole after each?

    python benchmarks/ledger_kill.py --times 100

Prints how many files were written, how many kills fell between a file and the ``HEAD`` that names it, and how many left
a file that is not what was written, or that is named and gone: a ledger that every command would refuse.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evalflow.adapters.journal import HEAD
from evalflow.adapters.ledger import Ledger
from evalflow.core.records import GoldenCase

START = datetime(2026, 6, 1, tzinfo=UTC)
LONGEST_S = 0.05


def main() -> None:
    options = _options()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ledger"
        n_behind = n_broken = n_files = 0
        for attempt in range(options.times):
            _write_and_kill(root, attempt, chance.uniform(0.002, LONGEST_S))
            seen = Ledger(root).journal.inspect()
            followed = {name for file in seen.files for name in file.follows or ()}
            ends = {file.name for file in seen.files} - followed
            n_broken += bool(seen.changed or seen.gone)
            n_behind += bool(ends) and ends != set((root / HEAD).read_text().split() if (root / HEAD).exists() else ())
            n_files = len(seen.files)
    print(f"{options.times} kills: {n_files} files, HEAD one behind after {n_behind}, broken after {n_broken}")


def _write_and_kill(root: Path, attempt: int, after_s: float) -> None:
    writers = [os.fork() or _write(root, who, attempt) for who in ("ann", "bob")]
    time.sleep(after_s)
    for writer in writers:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def _write(root: Path, who: str, attempt: int) -> int:
    """Import one new case after another until the end comes."""
    number = 0
    while True:
        case = GoldenCase(case_id=f"{who}-{attempt}-{number}", input="where is my card")
        Ledger(root).import_cases([case], who, START + timedelta(hours=attempt, seconds=number))
        number += 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
