"""Replaces personal data by placeholders before text leaves the raw zone.

Microsoft Presidio's pattern recognisers, called without a language model: cards (with Luhn check), IBANs (with
checksum), e-mail addresses, phone numbers.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from evalflow.settings import Privacy

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer, RecognizerResult

# Without an @ or six digits none of the patterns can match; most texts end here.
_MAY_MATCH = re.compile(r"@|(?:\d\D{0,3}){6}|[A-Z]{2}\d{2}", re.DOTALL | re.IGNORECASE)
LEAST_SCORE = 0.4
"""Presidio's own score of a phone match without context. A bare ten-digit number may match: rather once too often."""


@dataclass(frozen=True)
class Scrubbed:
    """The text with placeholders such as ``<EMAIL_ADDRESS>``, and how many were put in."""

    text: str
    n_replaced: int


class Scrubber:
    """Recognisers are built once, by the first text that may hold something: to import them takes seconds. Texts are
    remembered, since traffic repeats itself."""

    def __init__(self, settings: Privacy) -> None:
        self.phone_regions = tuple(settings.phone_regions)
        self.entities = list(settings.entities)
        self._scrub = lru_cache(maxsize=100_000)(self._scrub_uncached)

    def scrub(self, text: str | None) -> Scrubbed:
        if not text or not _MAY_MATCH.search(text):
            return Scrubbed(text or "", 0)
        return self._scrub(text)

    def _scrub_uncached(self, text: str) -> Scrubbed:
        found: list[RecognizerResult] = []
        for recogniser in _recognisers(tuple(self.entities), self.phone_regions):
            found += recogniser.analyze(text, self.entities, None) or []  # type: ignore[arg-type]  # patterns need no NLP artifacts
        chosen = _without_overlap([item for item in found if item.score >= LEAST_SCORE])
        for item in reversed(chosen):
            text = f"{text[: item.start]}<{item.entity_type}>{text[item.end :]}"
        return Scrubbed(text, len(chosen))


def _without_overlap(found: Sequence["RecognizerResult"]) -> list["RecognizerResult"]:
    """The surest match wins where two overlap, then the longer; in the order of the text."""
    chosen: list[RecognizerResult] = []
    for item in sorted(found, key=lambda r: (-r.score, r.start - r.end, r.start)):
        if all(item.end <= other.start or item.start >= other.end for other in chosen):
            chosen.append(item)
    return sorted(chosen, key=lambda r: r.start)


@lru_cache(maxsize=4)
def _recognisers(entities: tuple[str, ...], phone_regions: tuple[str, ...]) -> list["EntityRecognizer"]:
    import tldextract
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        PhoneRecognizer,
    )

    # The list of top-level domains that the package carries; its default would ask the network for a newer one.
    domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).top_domain_under_public_suffix)

    makers: dict[str, Callable[[], EntityRecognizer]] = {
        "CREDIT_CARD": CreditCardRecognizer,
        "IBAN_CODE": IbanRecognizer,
        "EMAIL_ADDRESS": OfflineEmailRecognizer,
        "PHONE_NUMBER": lambda: PhoneRecognizer(supported_regions=phone_regions),
    }
    return [makers[entity]() for entity in entities]
