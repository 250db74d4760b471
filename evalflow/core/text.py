"""What counts as the same text.

Two texts are the same when their normalised forms are; the hash of that form is a text's name in every table
and in the embedding cache.
"""

import hashlib
import re
import unicodedata

_SPACES = re.compile(r"\s+")


def normalise(text: str) -> str:
    """Unicode NFC with runs of white space folded to one blank; case and punctuation are kept."""
    return _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip()


def text_hash(text: str) -> str:
    """First 128 bits of the SHA-256 of the normalised text, in hex."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:32]
