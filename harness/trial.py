"""Run a single trial: train, validate, test. Needs neither Ray nor MLflow.

    python -m harness.trial --space sat --set method.alpha10=0.8 --test

A trial's folder is named by its key. Finished steps are not repeated; interrupted ones are resumed.
"""

import dataclasses
import sys

from harness import cli
from harness.config.chosen_cells import choose
from harness.errors import exit_status
from harness.evaluation.checks.evidence import format_checks
from harness.evaluation.evaluator import format_score
from harness.training.epoch_metrics import EpochMetrics
from harness.trials.nets import no_report
from harness.trials.run import run_alone


def main() -> int:
    arguments = cli.parser("harness.trial", __doc__, single=True).parse_args()
    cli.use_kept_plugins(arguments)
    space = cli.space(arguments.space)
    workspace = cli.workspace(arguments)
    chosen = choose(space, [arguments.cell] if arguments.cell not in (None, "all") else [], cli.overrides(arguments))
    cells = chosen.cells if arguments.cell == "all" else [cli.choose_cell(chosen.cells, None)]
    if chosen.note and not arguments.quiet:
        print(chosen.note, flush=True)
    for cell in cells:
        trial = dataclasses.replace(cell.trial, seed=arguments.seed)
        if not arguments.quiet:
            print(f"{cell.name}: trial {trial.key} on {workspace.device}, {trial.epochs} epochs", flush=True)
        result = run_alone(trial, workspace, report=no_report if arguments.quiet else print_row, test=arguments.test)
        for score in result.scores:
            print(f"  {format_score(score)}")
        for line in format_checks(result.checks):
            print(f"  {line}")
    return 0


def print_row(row: EpochMetrics) -> None:
    """Print an epoch's metrics on a line."""
    values = [f"{name} {value:.4f}" for name, value in row.items() if "/" in name]
    print(f"  epoch {row['epoch']:>3}  {row['seconds']:6.2f} s  " + "  ".join(values), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
