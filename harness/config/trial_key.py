"""Trial key: the hash of every setting that can change a trial's numbers, as `Trial.identity` gives them."""

import hashlib
import json
from collections.abc import Mapping

from methods import Setting

# In every key: raise it when the same settings train other nets. It covers no measuring: `evaluation.versions` does.
TRAINING_VERSION = 2


def trial_key(settings: Mapping[str, Setting]) -> str:
    """Twelve hex digits: SHA-256 of the version of training and a trial's settings by dotted path."""
    text = json.dumps({"protocol": TRAINING_VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
