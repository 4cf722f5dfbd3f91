"""Evaluation of a net: suites of metrics with one number per image, and sanity checks of the scores.

Imports: attacks, explain, data, models, storage, randomness, errors. Takes parts of a trial's settings, never
the trial.
"""
