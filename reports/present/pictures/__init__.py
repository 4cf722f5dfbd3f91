"""Image galleries of a report, from the arrays that `harness.evaluation.gallery` stores with a run."""
