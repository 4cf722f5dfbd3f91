"""What every space promises."""

from harness.config import named_spaces
from harness.contracts.promise import Promise, require


def its_docstring_asks_a_question(name: str) -> None:
    summary = named_spaces.summary(name)
    require(bool(summary) and not summary.startswith("("), f"{name}: begin the module with a docstring, its question")


def its_cells_are_trials_with_domains(name: str) -> None:
    for cell in named_spaces.space(name).cells({}):
        require(cell.proposed(cell.published()) == cell.trial, f"{name}: cell {cell.name} is not its published setting")


CONTRACT: tuple[Promise, ...] = (its_docstring_asks_a_question, its_cells_are_trials_with_domains)
