"""Leaderboard reports from MLflow runs: read -> analyse -> present -> write.

Only `verify`, `export`, what these two are made of, and `read.record` import torch; nothing imports ray.
"""
