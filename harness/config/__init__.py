"""Configuration of trials and search spaces: frozen dataclasses with a hash, built from dotted paths.

Imports: the `settings` modules of data, training and evaluation, `methods`, evaluation's suites and metrics,
setting_types, errors, and of Optuna the distributions. Nothing here reads data or trains.
"""
