"""Networks, ReLU replacement (softplus, guided), and context managers for modes and frozen parameters.

Imports: errors.
"""

from harness.models.nets import build  # exported model cards import it from here

__all__ = ["build"]
