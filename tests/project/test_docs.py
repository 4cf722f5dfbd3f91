"""README and docs: every code block runs or parses, lists of names are whole, links resolve, quoted errors exist."""

import ast
import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml

import methods
import reports.__main__
import reports.export
import reports.verify
from harness import api, check, cli, deliver, evaluate, new, prune, tune
from harness.bench import __main__
from harness.config import chosen_cells
from harness.config import trial as config_trial
from harness.config.dataset_defaults import DATASET_DEFAULTS
from harness.contracts import kinds
from harness.data.corruptions.registry import CORRUPTIONS
from harness.evaluation import suites
from harness.evaluation.checks.registry import CHECKS
from harness.explain.maps import MAPS, attackable
from harness.models import nets
from harness.sweep import plan
from harness.training import settings
from methods.sat import Schedule

ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent

LONGEST = 250  # lines of the README
PAGES = {p.relative_to(ROOT).as_posix(): p.read_text() for p in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
TEXT = PAGES["README.md"]
MAKEFILE = (ROOT / "Makefile").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"^\s*(?:ray job submit .* -- |.* && )?(python -m [^#\n]+)", re.M)


def blocks(*languages):
    """(page and number, code) of every block in one of these languages."""
    found = [(page, *block) for page, text in PAGES.items() for block in BLOCK.findall(text)]
    return [(f"{page} {i}", code) for i, (page, language, code) in enumerate(found) if language in languages]


def prose(page):
    return BLOCK.sub("", PAGES[page])


def spans(page):
    """What stands in backticks outside of code blocks."""
    return SPAN.findall(prose(page))


def joined(code):
    """Shell lines, those that go on in the next one as one."""
    return re.sub(r"\\\n\s*", "", code)


COMMANDS = list(
    dict.fromkeys(
        command.strip()
        for text in (*(joined(code) for _, code in blocks("sh")), *(s for page in PAGES for s in spans(page)))
        for command in COMMAND.findall(text)
    )
)


def arguments(command):
    module, *words = shlex.split(command)[2:]
    return module, words


def rows(page, heading=""):
    """The rows of the tables under a heading: what stands in each column."""
    text = prose(page)
    if heading:
        text = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.M)[1]
        text = re.split(r"^#+ ", text, flags=re.M)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("|--")]


# Code blocks


def test_every_block_says_what_it_is():
    languages = {language for text in PAGES.values() for language, _ in BLOCK.findall(text)}
    assert languages <= {"sh", "python", "yaml", "text", "toml"}
    for page, text in PAGES.items():
        assert text.count("```") == 2 * len(BLOCK.findall(text)), page
        assert not re.search(r"\n\n {4}\S", prose(page)), page  # a block by indentation alone


def test_the_pages_show_commands_of_every_module():
    assert {arguments(command)[0] for command in COMMANDS} == {
        *(f"harness.{name}" for name in ("tune", "trial", "evaluate", "deliver", "prune", "bench", "check", "new")),
        "reports",
    }


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The methods that pages define (blocks that begin with a file of `methods/`) are there, and their TOML files."""
    folder = tmp_path_factory.mktemp("methods")
    for _, code in blocks("python"):
        if file := re.match(r"# methods/(\w+\.py)\n", code):
            (folder / file[1]).write_text(code)
    for where, code in blocks("toml"):
        file = re.match(r"# (\w+\.toml)\n", code)
        assert file, where
        (folder / file[1]).write_text(code)
    assert list(folder.iterdir())
    methods.__path__.append(str(folder))
    yield folder
    methods.__path__.remove(str(folder))
    for name in {file.stem for file in folder.iterdir()}:
        sys.modules.pop(f"methods.{name}", None)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the files of one's own that commands name."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_method.py").write_text(new.METHOD.format(thing="MyMethod"))
    (folder / "my_suite.py").write_text((ROOT / "examples" / "plugin" / "saliency_alp" / "suite.py").read_text())
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_valid_one(command, monkeypatch, examples, own):
    module, words = arguments(command)
    monkeypatch.chdir(own if "my_" in " ".join(words) else examples)
    if module == "harness.check":
        assert kinds.kind_of(check.arguments(words).name) in kinds.KINDS
    elif module == "harness.new":
        assert new.arguments(words).kind in new.TEMPLATES
    elif module == "harness.tune" and "--list" in words:
        assert tune.arguments(words).list
    elif module == "harness.tune":
        assert plan.plan(tune.request(tune.arguments(words))).studies
    elif module == "harness.evaluate":
        args = evaluate.arguments(words)
        assert suites.combined(args.suite.split(","))
        assert sum(name is not None for name in (args.trial, args.space, args.model)) == 1
        if args.space:
            assert cli.choose_cell(cli.space(args.space).cells({"data": args.data} if args.data else {}), args.cell)
        if args.model and ":" not in args.model:
            assert args.model in nets.NETS
    elif module == "harness.trial":
        args = cli.parser(module, "", single=True).parse_args(words)
        named = [args.cell] if args.cell not in (None, "all") else []
        cells = chosen_cells.choose(cli.space(args.space), named, cli.overrides(args)).cells
        assert args.cell == "all" or cli.choose_cell(cells, None)
    elif module == "harness.deliver":
        assert deliver.arguments(words)
    elif module == "harness.prune":
        assert prune.arguments(words)
    elif module == "harness.bench":
        asked = []
        monkeypatch.setattr(sys, "argv", [module, *words])
        for name in __main__.BENCHMARKS:
            monkeypatch.setitem(__main__.BENCHMARKS, name, asked.append)
        assert __main__.main() == 0
        (args,) = asked
        assert config_trial.build({"method": "standard", **cli.overrides(args)})
        assert set((args.methods or "standard").split(",")) <= set(methods.names())
    elif words[:1] == ["verify"]:
        assert reports.verify.arguments(words[1:]).run
    elif words[:1] == ["export"]:
        assert reports.export.arguments(words[1:]).run
    else:
        assert module == "reports" and reports.__main__.arguments(words)


@pytest.mark.parametrize(("where", "code"), blocks("sh"), ids=lambda v: v if ".md" in v else "")
def test_every_shell_block_parses(where, code):
    done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), where


def test_the_commands_of_the_first_block_are_in_the_makefile():
    made = (ROOT / "Makefile").read_text()
    assert re.findall(r"^make (\w+)", TEXT, re.M)
    for target in re.findall(r"^make (\w+)", TEXT, re.M):
        assert f"\n{target}:" in made
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_make_target_exists():
    shell = [joined(code) for _, code in blocks("sh")]
    used = {t for text in shell for t in re.findall(r"(?:^|&& )make ([\w-]+)", text, re.M)}
    used |= {t for page in PAGES for span in spans(page) for t in re.findall(r"^make ([\w-]+)", span)}
    missing = {target for target in used if f"\n{target}:" not in MAKEFILE}
    assert {"tune", "test", "test-all", "faults", "lint"} <= used
    assert not missing


def surroundings():
    """The names that code blocks take as given."""
    net, target = nets.build("small", 3, 5), torch.rand(8, 8)
    x = torch.rand(2, 3, 8, 8)
    return {"net": net, "x": x, "y": net.eval()(x).argmax(1), "target": target}


@pytest.mark.parametrize(
    ("where", "code"),
    [pytest.param(*b, id=b[0]) for b in blocks("python")],
)
def test_every_python_block_runs(where, code):
    names = surroundings()
    exec(code, names)
    made = [v for v in names.values() if isinstance(v, type) and dataclasses.is_dataclass(v)]
    for method in (cls() for cls in made if hasattr(cls, "loss")):
        assert isinstance(method, methods.Method)
        assert method.loss(names["net"], type("Batch", (), {"x": names["x"], "y": names["y"]})())
    if "SPACE" in names:
        assert len(names["SPACE"].cells({})) == 2


def test_the_page_of_the_python_interface_names_all_of_it():
    assert {name for row in rows("docs/api.md") for name in re.findall(r"`(\w+)[`(]", row[0])} == set(api.__all__)


def test_its_code_runs():
    attack, randomisation = [code for where, code in blocks("python") if where.startswith("docs/attribution.md")]
    names = surroundings()
    exec(attack, names)
    assert names["found"].z.shape == names["x"].shape and names["found"].kept.all()
    exec(randomisation, names)
    assert names["similar"].rank.shape == names["similar"].ssim.shape == names["y"].shape


@pytest.mark.parametrize(("where", "code"), blocks("yaml"), ids=lambda v: v if ".md" in v else "")
def test_every_yaml_block_is_part_of_the_example_it_names(where, code):
    example = re.match(r"# (\S+\.yaml)", code)[1]

    def within(part, whole):
        if isinstance(part, dict):
            return isinstance(whole, dict) and all(k in whole and within(v, whole[k]) for k, v in part.items())
        if isinstance(part, list):
            return isinstance(whole, list) and all(any(within(p, w) for w in whole) for p in part)
        return part == whole

    def anywhere(part, whole):
        below = whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ()
        return within(part, whole) or any(anywhere(part, w) for w in below)

    assert anywhere(yaml.safe_load(code), yaml.safe_load((ROOT / "examples" / example).read_text())), where


@pytest.mark.parametrize(("where", "code"), blocks("text"), ids=lambda v: v if ".md" in v else "")
def test_every_block_of_text_holds_errors_or_files(where, code):
    for line in code.splitlines():
        if line.startswith("error: "):
            assert is_message(line.removeprefix("error: ")), line
        else:
            assert re.match(r"[\w/]+(/|\.py) ", line), line  # files are looked up with all others


# Names


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("methods", methods.names()),
        ("methods", nets.NETS),
        ("methods", MAPS),
        ("methods", cli.spaces()),
        ("methods", get_args(Schedule)),
        ("methods", get_args(get_type_hints(settings.Maps)["binarise"])),
        ("methods", [f"maps.{field.name}" for field in dataclasses.fields(settings.Maps) if field.name != "quantile"]),
        ("data", DATASET_DEFAULTS),
        ("measuring", suites.SUITES),
        ("measuring", CHECKS),
        ("measuring", CORRUPTIONS),
        ("attribution", attackable()),
    ],
    ids=lambda v: v if isinstance(v, str) else next(iter(v)),
)
def test_every_name_is_listed(page, names):
    assert names
    for name in names:
        assert f"`{name}`" in PAGES[f"docs/{page}.md"], f"docs/{page}.md does not name `{name}`: add it there"


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    [
        ("docs/methods.md", "Training methods", methods.names()),
        ("docs/methods.md", "Saliency maps", {*MAPS, "captum.X"}),
        ("docs/methods.md", "Search spaces", cli.spaces()),
        ("docs/measuring.md", "Suites", suites.SUITES),
    ],
)
def test_a_table_of_names_holds_these_and_no_others(page, heading, names):
    listed = [name for row in rows(page, heading)[1:] for name in SPAN.findall(row[0])]
    assert sorted(listed) == sorted(names)


def test_every_benchmark_is_shown():
    for name in __main__.BENCHMARKS:
        assert f"python -m harness.bench {name}" in PAGES["docs/benchmarks.md"]


def test_every_setting_that_is_named_exists():
    suite = ("standard", "attribution")
    trials = [config_trial.build({"method": name, "measure.suites": suite}) for name in methods.names()]
    there = {path for trial in trials for path in trial.flat()}
    groups = "method|maps|measure|attribution|data|optim|augment"
    for page in PAGES:
        if page != "docs/troubleshooting.md":
            for span in spans(page):
                for path in re.findall(rf"(?:^|[ (])((?:{groups})\.(?!py\b)[a-z]\w*)(?=$|[= ,)])", span):
                    assert path in there, f"{page}: {path}"


def test_the_glossary_holds_the_projects_own_terms():
    said = ", ".join(row[0] for row in rows("README.md", "Glossary")[1:])
    for term in (
        *("space", "cell", "published setting", "rung", "floor", "strength", "teacher", "maps", "suite", "protocol"),
        *("check", "test evaluations", "trial key", "control", "group"),
    ):
        assert re.search(rf"\b{term}\b", said), term


# Errors


def test_what_it_says_of_a_mistake_is_what_is_said():
    with pytest.raises(Exception) as mistake:
        plan.plan(tune.request(tune.arguments(["--space", "sat", "--set", "method.alhpa10=1"])))
    assert f"error: {mistake.value}" in TEXT


@cache
def messages():
    """Every text of the code that could be a message, as a pattern: any words where it has values."""
    found = set()
    for folder in ("harness", "reports", "methods", "search_spaces"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [p.value if isinstance(p, ast.Constant) else None for p in parts]
                if all(t is None or isinstance(t, str) for t in texts) and len("".join(t or "" for t in texts)) >= 8:
                    found.add("".join(".+" if t is None else re.escape(t) for t in texts))
    return [re.compile(pattern) for pattern in found]


def is_message(line):
    return any(message.fullmatch(line) for message in messages())


def quoted():
    """The lines that the tables of the troubleshooting page begin with."""
    return [SPAN.fullmatch(row[0])[1] for row in rows("docs/troubleshooting.md") if SPAN.fullmatch(row[0])]


def test_a_line_that_is_not_in_the_code_is_detected():
    assert len(quoted()) > 50
    assert not is_message("SAT lost its 'alhpa10'; did you mean 'alpha10'?")


@pytest.mark.parametrize("line", quoted())
def test_every_error_line_is_one_of_the_code(line):
    assert is_message(line)


# Files and links


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= LONGEST


def test_the_readme_links_to_every_page():
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in TEXT, page


def anchors(page):
    """What a heading of the page is called in links, as GitHub makes it."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
        found.append(name if name not in found else f"{name}-{found.count(name)}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_resolves(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    assert links
    for link in links:
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        file = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert file.exists() and file.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT).as_posix()), link


def named_files(page):
    """Files and folders of the project that the page names, in text, tables and blocks."""
    found = re.findall(r"(?<![\w./<])((?:harness|reports|methods|search_spaces|tests|docs|\.ci)/[\w./-]*)", PAGES[page])
    return {name.rstrip(".") for name in found}


def listed_files(page):
    """Those of tables whose first column names a folder, and others the files in it."""
    found = set()
    for first, *others in rows(page):
        folders = [name for name in SPAN.findall(first) if re.fullmatch(r"[\w/]+/", name)]
        if len(folders) == 1:
            inside = [span for cell in others[:1] for span in SPAN.findall(cell)]
            found |= {folders[0] + name for name in inside if re.fullmatch(r"\w+(\.py|/)", name)}
    return found


def test_every_file_that_is_named_exists():
    named = {page: named_files(page) | listed_files(page) for page in PAGES}
    missing = {f"{page}: {name}" for page, names in named.items() for name in names if not (ROOT / name).exists()}
    assert sum(map(len, named.values())) > 100
    written = {
        f"{page}: {name}" for page in PAGES for name in re.findall(r"^```python\n# (\S+\.py)$", PAGES[page], re.M)
    }
    assert not missing - written


def test_the_map_shows_every_room():
    for folder in (ROOT / "harness").iterdir():
        if folder.is_dir() and any(folder.glob("*.py")):
            for page in ("README.md", "docs/architecture.md"):
                assert f"`harness/{folder.name}/`" in PAGES[page], f"{page}: {folder.name}"


def test_the_citation_and_the_package_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert [len(paper["authors"]) for paper in citation["references"]] == [3, 6]
    assert all((ROOT / file).read_text().lstrip().startswith("Apache License") for file in project["license-files"])
