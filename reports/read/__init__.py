"""Read MLflow: runs as a DataFrame, their artifacts, and the record of one run.

Imports: harness (storage, errors); `record` also what loads a trained net.
"""
