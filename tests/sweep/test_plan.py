"""The plan of a sweep: which cells it runs, and which sweep they belong to."""

import pytest

from harness import tune
from harness.sweep.plan import plan


def planned(*words):
    return plan(tune.arguments(["--space", "pgd", *words]))


@pytest.mark.parametrize("words", [["--cell", "pgd"], ["--cell", "pgd", "--set", "method=trades"]])
def test_chosen_cells_belong_to_the_sweep_of_their_space(words):
    whole, part = planned(), planned(*words)
    assert (part.sweep, part.experiment) == (whole.sweep, whole.experiment)
    assert planned(*words, "--set", "epochs=3").sweep == planned("--set", "epochs=3").sweep != whole.sweep


def test_a_chosen_cell_has_its_study_and_a_new_one_another():
    whole = planned().studies
    assert planned("--cell", "pgd").studies == {study: cell for study, cell in whole.items() if cell.name == "pgd"}
    ((study, cell),) = planned("--cell", "pgd", "--set", "method=trades").studies.items()
    assert study not in whole and study.startswith("pgd-digits/trades @") and cell.name == "trades"


def test_cells_keep_their_place_and_a_new_one_is_last():
    whole, made = planned(), planned("--cell", "pgd", "--set", "method=trades")
    assert [whole.order(cell) for cell in whole.studies.values()] == [0, 1, 2, 3, 4]
    assert [made.order(cell) for cell in made.studies.values()] == [5]
    assert [p.order(cell) for p in [planned("--cell", "pgd + noise")] for cell in p.studies.values()] == [4]
