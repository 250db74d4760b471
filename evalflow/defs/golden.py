"""Station golden: the ledger as an external asset; it is written by imports, and read as of a day."""

from collections.abc import Iterable

import dagster as dg

from evalflow.adapters.ledger import CaseVersion
from evalflow.defs.partitions import Partitions
from evalflow.defs.station import OWNERS

LEDGER_ASSET = "golden_ledger"


def golden_specs(partitions: Partitions) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            LEDGER_ASSET,
            group_name="golden",
            owners=OWNERS,
            kinds={"json"},
            partitions_def=partitions.effective_on,
            description="A version of a golden case, by the day from which coverage counts it. Append-only; written by imports, "
            "which report here.",
        )
    ]


def report_recorded(instance: dg.DagsterInstance, partitions: Partitions, added: Iterable[CaseVersion]) -> None:
    """Tell Dagster which days of the ledger gained versions."""
    by_day: dict[str, int] = {}
    for version in added:
        by_day[version.effective_on] = by_day.get(version.effective_on, 0) + 1
    name = partitions.effective_on.name
    if not by_day or name is None:
        return
    instance.add_dynamic_partitions(name, sorted(by_day))
    for day, count in sorted(by_day.items()):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(LEDGER_ASSET, partition=day, metadata={"versions added": count})
        )
