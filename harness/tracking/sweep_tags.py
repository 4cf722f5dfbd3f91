"""Tags and notes of the runs of a sweep and of its studies, which MLflow and the reports know them by."""

import json

from harness.config.search_domains import domain_as_json
from harness.config.space import Cell
from harness.sweep.plan import Plan
from harness.tracking.run_content import environment_tags


def sweep_tags(planned: Plan) -> dict[str, str]:
    """Tags of every run of a sweep."""
    return {
        "harness.sweep": planned.sweep,
        "harness.space": planned.named.name,
        "harness.data": planned.data,
        "harness.settings": planned.settings,
        **({"harness.plugins": ", ".join(planned.plugins)} if planned.plugins else {}),
        **environment_tags(),
    }


def sweep_note(planned: Plan) -> str:
    """Markdown note of the sweep for its MLflow page."""
    names = dict.fromkeys((*planned.space_cells, *(cell.name for cell in planned.studies.values())))
    cells = ", ".join(f"`{name}`" for name in names)
    return (
        f"{planned.named.question}\n\n`--space {planned.named.name}` on `{planned.data}`, goal"
        f" {', '.join(planned.space.goals)}. One nested run per cell: {cells}; in each its trials (`search`) and the"
        " seed repetitions of its winner (`seed`). Beside them those of the teachers and maps that trials share. The"
        " leaderboard is under Artifacts, `report`."
    )


def study_tags(planned: Plan, cell: Cell) -> dict[str, str]:
    """Tags of a study's run: its place, domains, goals and floor, and the note of its page."""
    domains = {f"harness.space.{path}": json.dumps(domain_as_json(domain)) for path, domain in cell.search.items()}
    return {
        **domains,
        "harness.settings": planned.settings,  # here also of sweeps that an earlier version began
        "harness.order": str(planned.order(cell)),
        "harness.made": str(cell.name not in planned.space_cells).lower(),  # by --cell and --set, not by the space
        "harness.goal": ",".join(planned.space.goals),
        "harness.floor": ", ".join(f"{name} {least:g}" for name, least in planned.space.floor.items()),
        "harness.control": str(cell.control).lower(),
        "mlflow.note.content": f"**{cell.name}** of {planned.experiment}. {planned.named.question}",
    }
