"""Which of two answers people preferred: append-only, every choice kept, the same choice twice is one.

Keep out: what follows from them (``core/preferences.py``).
"""

from datetime import datetime
from pathlib import Path

import msgspec

from evalflow.adapters.journal import Journal
from evalflow.core.preferences import Preference, newest


class Preferences:
    """The folder ``preferences/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, "preferences")

    def add(self, preference: Preference, source: str, recorded_at: datetime) -> bool:
        """Append a choice, numbered; False where it is what this reviewer last said of the pair."""
        with self.journal.exclusive():
            held = self.all()
            before = newest(held).get((preference.pair, preference.reviewer))
            if before is not None and before.choice == preference.choice:
                return False
            added = msgspec.structs.replace(preference, number=len(held) + 1, decided_at=recorded_at)
            self.journal.append("preferences", [msgspec.json.encode(added)], source, recorded_at)
        return True

    def all(self) -> list[Preference]:
        """Every choice in the order in which they were recorded."""
        decoder = msgspec.json.Decoder(Preference)
        found = [decoder.decode(line) for file in self.journal.files() for line in file.lines]
        return sorted(found, key=lambda preference: preference.number)
