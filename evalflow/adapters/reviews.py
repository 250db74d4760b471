"""What people answered about queued traces: append-only, every answer kept, the same answer twice is one.

Belongs here: storing answers and reading them back. Keep out: what follows from them (``core/reviewing.py``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from evalflow.adapters.journal import Journal
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import REVIEWS
from evalflow.core.records import Review

_State = tuple[int, int]
"""Size and time of change of a file."""


@dataclass(frozen=True)
class ReviewsAdded:
    """What an import of answers did."""

    added: list[Review]
    unchanged: int


class Reviews:
    """The folder ``reviews/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, "reviews")
        self._read: dict[str, tuple[_State, list[Review]]] = {}

    def add(self, reviews: Iterable[Review], source: str, recorded_at: datetime) -> ReviewsAdded:
        """Append the answers that say something new; one without a time of its own gets that of recording."""
        with self.journal.exclusive():
            held = self.all()
            known = {review.answer for review in held}
            last = {(r.trace_id, r.reviewer): r for r in sorted(held, key=_time)}
            added: list[Review] = []
            unchanged = 0
            for review in reviews:
                before = last.get((review.trace_id, review.reviewer))
                if review.answer in known and not _changes_back(review, before):
                    unchanged += 1
                    continue
                known.add(review.answer)
                # Numbered, because a closed home's clock stands still and a correction must come after what it corrects.
                number, at = len(held) + len(added) + 1, review.reviewed_at or recorded_at
                added.append(msgspec.structs.replace(review, number=number, reviewed_at=at))
                if before is None or at >= _time(before):
                    last[review.trace_id, review.reviewer] = added[-1]
            self.journal.append("reviews", [msgspec.json.encode(review) for review in added], source, recorded_at)
            return ReviewsAdded(added, unchanged)

    def all(self) -> list[Review]:
        """Every answer in the order in which they were recorded; files that stayed as they were are not read again.

        Raises:
            BadInputError: a file was changed after it was written.
        """
        state = self.stamp()
        changed = [name for name, at in state.items() if self._read.get(name, (None,))[0] != at]
        decoder = msgspec.json.Decoder(Review)
        fresh = {
            file.name: (state[file.name], [decoder.decode(line) for line in file.lines])
            for file in (self.journal.files(set(changed)) if changed else [])
        }
        held = {**self._read, **fresh}
        self._read = {name: held[name] for name in state if name in held}
        reviews = [review for name in self._read for review in self._read[name][1]]
        return sorted(reviews, key=lambda review: review.number)

    def stamp(self) -> dict[str, _State]:
        """The files by name with size and time of change: another one whenever answers come in, or a file is touched."""
        found = {path.stem: path.stat() for path in sorted(self.journal.root.glob("*.jsonl"))}
        return {name: (at.st_size, at.st_mtime_ns) for name, at in found.items()}

    def publish(self, lake: Lake) -> None:
        """Bring the lake's table ``reviews`` up to date."""
        self.journal.publish(lake, REVIEWS, _row)


def _time(review: Review) -> datetime:
    return review.reviewed_at or datetime.min.replace(tzinfo=UTC)


def _changes_back(review: Review, before: Review | None) -> bool:
    """Whether a known answer is said again, at a later time of its own, after the same person had said another."""
    return bool(before and review.reviewed_at and review.reviewed_at > _time(before) and review.answer != before.answer)


def _row(line: bytes, recorded_at: str) -> dict[str, Any]:
    review = msgspec.json.decode(line, type=Review)
    row = {name: getattr(review, name, None) for name in REVIEWS.schema}
    return row | {"recorded_at": datetime.fromisoformat(recorded_at)}
