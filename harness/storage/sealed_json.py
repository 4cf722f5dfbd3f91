"""JSON files with an embedded checksum."""

import hashlib
import json
from pathlib import Path

from harness.storage.files import quarantine, write

CHECKSUM_KEY = "checksum"  # key of the checksum over all other keys


def write_json(path: Path, value: dict) -> None:
    """Write `value` as JSON atomically, with a checksum of its content."""
    checked = {**value, CHECKSUM_KEY: _checksum(value)}
    write(path, lambda temporary: temporary.write_text(json.dumps(checked, indent=1), encoding="utf-8"))


def read_json(path: Path) -> dict | None:
    """Read a file of `write_json`. None for a missing file, or a damaged one, which is quarantined."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.pop(CHECKSUM_KEY, None) not in (None, _checksum(value)):
            raise ValueError
        return value
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        quarantine(path)
        return None


def _checksum(value: dict) -> str:
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)  # round trip: number keys become strings
    return hashlib.sha256(text.encode()).hexdigest()[:16]
