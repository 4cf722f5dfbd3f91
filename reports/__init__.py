"""Leaderboard reports from MLflow runs: read -> analyse -> present -> write.

Only `verify`, `export`, `model_card` and `read.record` import torch; nothing imports ray.
"""
