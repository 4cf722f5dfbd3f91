"""MLflow tracking: events go to a log on disk first, then to the store, once and in order.

Imports: sweep, trials, config, evaluation, training, storage, errors.
"""
