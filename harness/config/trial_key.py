"""Trial key: the hash of every setting that can change a trial's numbers."""

import hashlib
import json
from collections.abc import Mapping

PROTOCOL = 2  # version in every key: raise it when the same settings give other numbers


def trial_key(settings: Mapping[str, object]) -> str:
    """Twelve hex digits: SHA-256 of the protocol's version and a trial's settings by dotted path."""
    text = json.dumps({"protocol": PROTOCOL, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
