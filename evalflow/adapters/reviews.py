"""What people answered about queued traces: append-only, every answer kept, the same answer twice is one.

Belongs here: storing answers and reading them back. Keep out: what follows from them (``core/reviewing.py``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from evalflow.adapters.journal import Journal
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import REVIEWS
from evalflow.core.records import Review


@dataclass(frozen=True)
class ReviewsAdded:
    """What an import of answers did."""

    added: list[Review]
    unchanged: int


class Reviews:
    """The folder ``reviews/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, "reviews")

    def add(self, reviews: Iterable[Review], source: str, recorded_at: datetime) -> ReviewsAdded:
        """Append the answers that say something new; one without a time of its own gets that of recording."""
        with self.journal.exclusive():
            known = {review.answer for review in self.all()}
            added: list[Review] = []
            unchanged = 0
            for review in reviews:
                if review.answer in known:
                    unchanged += 1
                    continue
                known.add(review.answer)
                if review.reviewed_at is None:
                    review = msgspec.structs.replace(review, reviewed_at=recorded_at)
                added.append(review)
            self.journal.append("reviews", [msgspec.json.encode(review) for review in added], source, recorded_at)
            return ReviewsAdded(added, unchanged)

    def all(self) -> list[Review]:
        """Every answer in the order in which they were recorded."""
        decoder = msgspec.json.Decoder(Review)
        files = sorted(self.journal.files(), key=lambda file: (file.recorded_at, file.name))
        return [decoder.decode(line) for file in files for line in file.lines]

    def publish(self, lake: Lake) -> None:
        """Bring the lake's table ``reviews`` up to date."""
        self.journal.publish(lake, REVIEWS, _row)


def _row(line: bytes, recorded_at: str) -> dict[str, Any]:
    review = msgspec.json.decode(line, type=Review)
    row = {name: getattr(review, name, None) for name in REVIEWS.schema}
    return row | {"recorded_at": datetime.fromisoformat(recorded_at)}
