"""The end of a sweep: its report, and the registration of its winners in MLflow."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame

from harness.errors import UserError, complain, redacted, shell_command
from harness.storage.driver_files import JOURNAL
from harness.storage.workspace import Workspace
from harness.sweep.plan import Plan
from harness.sweep.study import Study
from harness.tracking import model_registry
from harness.tracking.mlflow_writer import MlflowWriter
from harness.tracking.model_registry import Winner
from harness.tracking.tracker import Tracker
from reports.analyse import counted_runs
from reports.analyse.leaderboard import build_leaderboard, cell_figures
from reports.analyse.rows import Leaderboard
from reports.read import runs
from reports.write import terminal
from reports.write.report import write


@dataclass(frozen=True)
class SweepReport:
    """A report that was written. table: the runs it is of, one a row. files: those written. winners: best first.

    problems: artifacts that could not be read. unfinished: cells without a finished trial.
    """

    table: DataFrame
    leaderboard: Leaderboard
    files: tuple[Path, ...]
    winners: tuple[Winner, ...]
    problems: tuple[str, ...]
    unfinished: tuple[str, ...]
    journal: Path
    tracking_uri: str


def write_report(planned: Plan, workspace: Workspace, uri: str, tracker: Tracker, studies: list[Study]) -> SweepReport:
    """Write the report from what is on disk, so that no store is waited for."""

    def artifact(folder: str, name: str) -> Path:
        path = Path(folder, name)
        if not path.exists():
            workspace.fetched(path.parent)  # another node wrote it
        return path

    table = runs.read_log(tracker.log, workspace.out)
    files = counted_runs.local_files(table, artifact)
    leaderboard = build_leaderboard(table, files)
    name = runs.report_name(table, planned.experiment)
    written = write(table, workspace.out / "reports", name, files, leaderboard)
    for study, cell in planned.studies.items():
        tracker.log_winner(study, cell_figures(leaderboard, cell.name))
    tracker.attach(written)
    return SweepReport(
        table,
        leaderboard,
        tuple(written),
        tuple(_winners(table, leaderboard)),
        tuple(files.problems),
        tuple(study.cell.name for study in studies if not study.winners()),
        workspace.out / JOURNAL,
        uri,
    )


def print_report(report: SweepReport) -> None:
    """Print a report, and where it, the studies and the runs are."""
    uri = report.tracking_uri
    print(terminal.text(report.leaderboard))
    print()
    for problem in report.problems:
        complain(f"note: {problem}")
    for made in report.files:
        print(f"report: {made}")
    print(f"studies: {shell_command('optuna-dashboard', str(report.journal))}")
    server = uri.startswith(("http://", "https://"))
    print(f"runs: {redacted(uri) if server else shell_command('mlflow', 'ui', '--backend-store-uri', uri)}")
    if report.unfinished:
        complain(f"no finished trial in: {', '.join(report.unfinished)}")


def _winners(table: DataFrame, leaderboard: Leaderboard) -> list[Winner]:
    """The first seed run of every finished row of the leaderboard, best first."""
    tested = counted_runs.tested(table).sort_values("number", kind="stable")
    found = []
    for row in leaderboard.finished:
        run = tested[tested["row"] == row.name].iloc[0]
        tags = {"harness.key": run["key"], leaderboard.ranked_by: f"{run[leaderboard.ranked_by]:.4f}"}
        found.append(Winner(row.name, run["run_id"], tags))
    return found


def register(uri: str, name: str, winners: Sequence[Winner], writer: MlflowWriter) -> None:
    """Register the winners, which have the names of the log as runs, as versions of a model.

    Raises `UserError`, before anything is registered, if a run of them was deleted in MLflow.
    """
    writer.check_not_deleted({winner.run for winner in winners})
    if gone := next((winner.cell for winner in winners if winner.run not in writer.runs), None):
        raise UserError(f"the run with the weights of {gone!r} was removed from MLflow; no version of {name!r} is made")
    known = [dataclasses.replace(winner, run=writer.runs[winner.run]) for winner in winners]
    for cell, version in model_registry.register(uri, name, known).items():
        print(f"registered: models:/{name}/{version} ({cell})")
