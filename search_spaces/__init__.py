"""Search spaces, one per module; `python -m harness.tune --list` lists them."""
