"""`evalflow golden calibrate-dedup`: the limits of dedup for a team's own texts and model."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evalflow.adapters.home import open_home
from evalflow.adapters.native import find_files, read_lines
from evalflow.cli.terminal import AsJson, HomeOption, counted, out, print_bad_lines, print_json
from evalflow.core.dedup_calibration import LOOSE_PRECISION, TIGHT_PRECISION
from evalflow.errors import ExitCode

if TYPE_CHECKING:
    from evalflow.defs.duplicates import DedupCalibration

app = typer.Typer()
SHOWN_POINTS = 16


@app.command("calibrate-dedup", epilog="Example: evalflow golden calibrate-dedup pairs.jsonl")
def calibrate_dedup(
    path: Annotated[
        str, typer.Argument(help='Labelled pairs of inputs: {"a": "...", "b": "...", "is_duplicate": true or false}.')
    ],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Choose how near two inputs must be to be the same one, from pairs that people have labelled.

    Prints precision and recall by limit with intervals, and the lines for evalflow.toml. Writes nothing.
    """
    from evalflow.defs.duplicates import calibrate, parse_pairs

    workspace = open_home(home)
    pairs, unusable = parse_pairs(line for file in find_files(path).files for line in read_lines(file))
    found = calibrate(workspace, pairs)
    if as_json:
        print_json(_document(found, len(unusable)))
    else:
        _print(found)
        lines = [f"{path}:{number}: {reason}" for number, reason in unusable]
        print_bad_lines(lines, len(lines), "correct them and calibrate again")
    if unusable:
        raise typer.Exit(ExitCode.BAD_INPUT)
    if found.loose is None:
        raise typer.Exit(ExitCode.CANNOT_TELL)


def _document(found: "DedupCalibration", n_unusable: int) -> dict[str, object]:
    """What `evalflow golden calibrate-dedup --json` prints. Keys are only ever added."""
    return {
        "model_id": found.model_id,
        "pairs": found.n_pairs,
        "duplicates": found.n_duplicates,
        "unusable": n_unusable,
        "same_by_words": found.n_by_words,
        "same_by_words_wrongly": found.n_by_words_wrong,
        "limits": [
            {
                "limit": point.limit,
                "merged": point.n_merged,
                "precision": point.precision,
                "precision_low": point.precision_interval.low,
                "precision_high": point.precision_interval.high,
                "recall": point.recall,
                "recall_low": point.recall_interval.low,
                "recall_high": point.recall_interval.high,
            }
            for point in found.points
        ],
        "wanted_precision": [TIGHT_PRECISION, LOOSE_PRECISION],
        "duplicate_distance": found.tight,
        "duplicate_distance_large": found.loose,
    }


def _print(found: "DedupCalibration") -> None:
    out.print(
        f"{counted(found.n_pairs, 'pair')}, {found.n_duplicates} of them the same question; {found.n_by_words} are the same "
        f"by their words alone, {found.n_by_words_wrong} of these wrongly. The others, by cosine distance:",
        soft_wrap=True,
    )
    table = Table("limit", "merged", "precision", "95 %", "recall", "95 %")
    merging = [point for point in found.points if point.n_merged]
    step = -(-len(merging) // SHOWN_POINTS) or 1
    chosen = (found.tight, found.loose)
    for place, point in enumerate(merging):
        if place % step and point.limit not in chosen:
            continue
        (low, high), (recall_low, recall_high) = point.precision_interval, point.recall_interval
        table.add_row(
            f"{point.limit:.2f}",
            str(point.n_merged),
            f"{point.precision:.3f}",
            f"{low:.3f}-{high:.3f}",
            "-" if point.recall is None else f"{point.recall:.3f}",
            f"{recall_low:.3f}-{recall_high:.3f}",
        )
    out.print(table)
    if found.loose is None:
        out.print(
            f"No limit surely reaches a precision of {LOOSE_PRECISION:g}: label more pairs near each other, or merge by words "
            "alone with duplicate_distance = 0 and duplicate_distance_large = 0."
        )
        return
    if found.tight is None:
        out.print(f"No limit surely reaches {TIGHT_PRECISION:g}: a small suite merges by words alone.")
    out.print(
        f"The largest limits whose precision surely reaches {TIGHT_PRECISION:g} and {LOOSE_PRECISION:g} "
        "(lower end of the interval); for evalflow.toml:"
    )
    tight = min(found.tight or 0.0, found.loose)
    out.print(
        f"\n\\[promotion]\nduplicate_distance = {tight:g}\nduplicate_distance_large = {found.loose:g}\n"
        f'calibrated_for = "{found.model_id}"',
        highlight=False,
        soft_wrap=True,
    )
