"""Training: loop, optimiser, precision, checkpoints, and the saliency maps that methods train on.

Imports: methods, explain, data, storage, randomness, errors. Takes parts of a trial's settings, never the trial.
"""
