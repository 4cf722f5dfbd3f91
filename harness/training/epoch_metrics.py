"""Metrics of one epoch: `epoch`, `seconds`, mean losses `train/...` and validation scores `curve/...`."""

EpochMetrics = dict[str, float]
