"""One study a module; `python -m harness.tune --list` names them."""
