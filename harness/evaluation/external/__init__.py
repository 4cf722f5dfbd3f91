"""Nets of other projects: found by name, given their weights, wrapped to give logits, and tried before measuring."""
