"""What installed packages offer by entry points: found by name, listed, and refused where it takes a name of ours."""

import plugin_files
import pytest

from harness import plugins
from harness.config import listing, named_spaces
from harness.config.trial import build
from harness.errors import UserError
from harness.models.nets import NETS
from harness.plugins import registry


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """offer(group, name, value): as a package that is installed does."""
    package = plugin_files.write(tmp_path / "site" / "ideas_of_a_test")
    (package / "__init__.py").write_text("")
    for file in package.glob("*.py"):
        for name in ("pairing", "things", "alp"):
            text = file.read_text().replace(f"from {name} import", f"from ideas_of_a_test.{name} import")
            file.write_text(text.replace(f'"{name}.py:', f'"ideas_of_a_test.{name}:'))
    monkeypatch.syspath_prepend(package.parent)
    points = []

    def add(group, name, value):
        points.append((group, name, value))
        about = package.parent / "ideas-1.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ideas\nVersion: 1\n")
        text = "".join(f"[saliency_harness.{g}]\n{n} = {v}\n" for g, n, v in points)
        (about / "entry_points.txt").write_text(text)
        registry._entry_points.cache_clear()

    yield add
    registry._entry_points.cache_clear()


def test_an_entry_point_is_a_name_for_its_reference(offer):
    offer("nets", "thin", "ideas_of_a_test.things:thin")
    assert "thin" in NETS and "thin" not in list(NETS)
    trial = build({"model": "thin"})
    assert trial.model == plugins.pinned("ideas_of_a_test.things:thin")
    assert trial.key == build({"model": "ideas_of_a_test.things:thin"}).key
    with pytest.raises(UserError, match=r"^model 'thim' is not known; did you mean 'thin'"):
        NETS.find("thim")


def test_a_method_of_a_package_keeps_its_name(offer):
    offer("methods", "alp", "ideas_of_a_test.alp:ALP")
    trial = build({"method": "alp", "method.weight": 0.1})
    assert trial.flat()["method"] == plugins.pinned("ideas_of_a_test.alp:ALP")
    assert build(trial.flat()) == trial


@pytest.mark.parametrize(("group", "name", "path"), [("nets", "small", "model"), ("methods", "sat", "method")])
def test_a_plug_in_that_shadows_a_name_of_ours_is_refused(offer, group, name, path):
    offer(group, name, "ideas_of_a_test.things:thin")
    with pytest.raises(UserError, match=rf"^{path} '{name}' is a name of ours, and the package of 'ideas_of_a_test\."):
        build({path: name})


def test_a_name_that_two_packages_offer_is_refused(offer, tmp_path):
    offer("nets", "thin", "ideas_of_a_test.things:thin")
    about = tmp_path / "site" / "others-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[saliency_harness.nets]\nthin = others.nets:thin\n")
    with pytest.raises(UserError, match=r"^two packages offer 'thin' in saliency_harness\.nets: .* and "):
        build({"model": "thin"})


def test_what_is_offered_is_listed_with_what_is_wrong_with_it(offer):
    plain = listing.lines()
    assert len(plain) == len(named_spaces.spaces())
    offer("nets", "thin", "ideas_of_a_test.things:thin")
    offer("maps", "doubled", "ideas_of_a_test.things:number")
    offer("methods", "gone", "no_such_package.gone:Gone")
    offer("spaces", "pairing", "ideas_of_a_test.study:SPACE")
    offer("spaces", "pgd", "ideas_of_a_test.study:SPACE")
    lines = listing.lines()
    assert lines[: len(plain)] == plain
    found = {line.split()[0]: line for line in lines[len(plain) + 2 :]}
    assert found["thin"] == "thin         model ideas_of_a_test.things:thin"
    assert "saliency: cannot be used: saliency 'ideas_of_a_test.things:number" in found["doubled"]
    assert "method: cannot be used: method 'gone': there is no module 'no_such_package'" in found["gone"]
    assert found["pairing"] == "pairing      space ideas_of_a_test.study:SPACE: Does pairing help?"
    assert "space: cannot be used: space 'pgd' is a name of ours" in found["pgd"]
    assert named_spaces.title("pairing") == "pairing" and len(named_spaces.space("pairing").cells({})) == 2
