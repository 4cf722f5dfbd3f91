"""What a mistake says: the nearest name, or what there is."""

from harness.errors import NAMES, first_line, nearest, one_line, unknown_name


def test_the_nearest_name_or_those_that_there_are():
    assert str(unknown_name("suite", "corrupton", ["corruption", "full"])).endswith("did you mean 'corruption'?")
    assert nearest("xyz", ["b", "a"]) == "there are: a, b"
    assert nearest("xyz", []) == "there are: none"


def test_many_names_are_cut_short():
    keys = [f"{k:04d}" for k in range(NAMES + 5)]
    said = nearest("none of them", keys)
    assert said.endswith(f"{keys[NAMES - 1]} and 5 more") and keys[NAMES] not in said


def test_an_exception_on_one_line_with_its_type_or_without():
    error = ValueError("\n no store at postgresql://me:secret@host/db\nand more")
    assert first_line(error) == "no store at postgresql://me:***@host/db"
    assert one_line(error) == f"ValueError: {first_line(error)}"
    assert first_line(ValueError(" ")) == one_line(ValueError()) == "ValueError"
