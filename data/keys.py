"""Seeds by what they are for: every draw of the suite is keyed by names and numbers, never by the order of calls. Loads without torch."""

import hashlib
import json


def derive(*parts: object) -> int:
    """A seed in 0 .. 2**63 - 1 from JSON values (strings, whole numbers, lists of them): the first 63 bits of the SHA-256 of their canonical JSON.

    Stable for ever. Raises TypeError or ValueError for what JSON cannot hold.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") >> 1


def evaluation_seed(dataset: str, split: str) -> int:
    """The fixed noise seed of a data set's split: all systems, seeds and epochs are evaluated on the same pixels."""
    return derive("evaluation", dataset, split)
