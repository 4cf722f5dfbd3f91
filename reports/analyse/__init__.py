"""Analyse runs: selection, statistics over seeds and images, the leaderboard, the hyperparameter search.

Imports: read. Texts and layout are in `present`.
"""
