"""Run a single trial: data, maps, training, validation, test. No Ray, Optuna or MLflow.

Imports: config, training, evaluation, methods, data, models, storage, randomness, errors.
"""
