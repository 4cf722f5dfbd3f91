"""Configuration of trials and search spaces: frozen dataclasses with a hash, built from dotted paths.

Imports: the `settings` modules of data, training and evaluation, `methods`, evaluation.scores, errors. Nothing here
reads data or trains.
"""
