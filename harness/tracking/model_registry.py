"""Registration of the weights of winners as versions of a model in MLflow's registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import UserError, one_line, redacted
from harness.tracking.mlflow_client import open_writer

RUN = "harness.run"  # tag of a version: the run that it is of
BEST = "best"  # alias of the version that is first on the leaderboard


@dataclass(frozen=True)
class Winner:
    """Weights to register. cell: the row of the leaderboard. run: that has them, by id. tags: of the version."""

    cell: str
    run: str
    tags: Mapping[str, str]


def register(uri: str, name: str, winners: Sequence[Winner]) -> dict[str, str]:
    """Make a version of the model `name` of each winner that has none yet; the first one gets the alias `best`.

    The weights are at `models:/NAME/VERSION/weights.pt`. Returns cell -> version. Raises `UserError` if the store
    has no registry or refuses.
    """
    client = open_writer(uri)
    from mlflow.exceptions import MlflowException

    try:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description="Nets by saliency-harness; weights.pt is a state dict.")
        versions = {
            v.tags[RUN]: str(v.version) for v in client.search_model_versions(f"name = '{name}'") if RUN in v.tags
        }
        for of in winners:
            if of.run not in versions:
                source = client.get_run(of.run).info.artifact_uri
                tags = {RUN: of.run, "harness.cell": of.cell, **of.tags}
                made = client.create_model_version(name, source, of.run, tags=tags)
                versions[of.run] = str(made.version)
        if winners:
            client.set_registered_model_alias(name, BEST, versions[winners[0].run])
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow at {redacted(uri)!r} registers no model {name!r}: {one_line(error)}") from None
    return {of.cell: versions[of.run] for of in winners}
