"""Read MLflow: runs as a DataFrame, their artifacts, and the record of one run.

Imports: harness (storage, errors, tracking.mlflow_client); `record` also what loads a trained net.
"""
