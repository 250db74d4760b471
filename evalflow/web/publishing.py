"""Lets the rest of evalflow know of answers: SQL by the lake, the UI by Dagster, neither of which a reviewer waits for.

An answer is safe before this: it lies in the journal, which the sensor of promotions reads itself. Keep out: the journal.
"""

import logging
import threading

from evalflow.adapters.home import Home
from evalflow.adapters.tables import REVIEWS

EVERY_S = 5.0
"""Answers of so many seconds are published together: each time opens Dagster's storage."""
_LOG = logging.getLogger(__name__)


class Publisher:
    """A thread that publishes what is new in the journal, also what a killed server left. ``problem`` is its last failure."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.problem: str | None = None
        self._has_news, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)

    def start(self) -> None:
        self._has_news.set()
        self._thread.start()

    def tell(self) -> None:
        """There is a new answer."""
        self._has_news.set()

    def stop(self) -> None:
        """Publish what is left and end."""
        self._is_over.set()
        self._has_news.set()
        self._thread.join(timeout=2 * EVERY_S)

    def _work(self) -> None:
        while True:
            self._has_news.wait()
            self._is_over.wait(EVERY_S)
            self._has_news.clear()
            try:
                publish(self.home)
                self.problem = None
            except Exception as error:  # the page goes on; the next round, or the next start, tries again
                self.problem = str(error)
                _LOG.warning("Answers are saved but not published to the lake yet: %s", error)
            if self._is_over.is_set():
                return


def publish(home: Home) -> int:
    """Publish the answers that the lake does not hold yet and report them to Dagster; returns how many there were."""
    present = set(home.lake.keys(REVIEWS))
    new = [name for name in home.reviews.journal.names() if name not in present]
    if not new:
        return 0
    # Imported here, since they cost half a second that no page should wait for.
    from evalflow.defs.golden import report_reviews
    from evalflow.runner import instance_of

    n_answers = sum(len(file.lines) for file in home.reviews.journal.files(new))
    with instance_of(home) as instance:
        report_reviews(instance, n_answers)
    home.reviews.publish(home.lake)
    return n_answers
