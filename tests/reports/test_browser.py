"""The report's page as a reader meets it, in a browser: whole, alone, sortable, legible, by keyboard, on a phone."""

import collections
import contextlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from browser import TEXTS, chromium, contrast, settled, shot, tabbed, visit
from sweeps import answers, free_port, until

from harness.config.trial import build
from harness.evaluation.checks.evidence import Check
from harness.evaluation.scores import Score
from harness.storage.workspace import Workspace
from harness.sweep.job_types import Job, Outcome
from harness.tracking import delivery
from harness.tracking.tracker import Tracker
from harness.trials.result import Result
from reports.read.artifacts import Files
from reports.write.report import write

TRICKY = {
    "pgd": """<img src=x onerror="window.hit=1"> 'pgd' & "all\"""",
    "sat": "</script><script>window.hit=2</script><svg onload='window.hit=3'>",
    "name": "robust <b onclick=window.hit=4>digits</b>",
    "reason": "Diverged: <iframe src=javascript:parent.hit=5></iframe> {{ 7 * 7 }}",
    "class": "</td><img src=x onerror=window.hit=6>",
    "note": "doubt: <style>* { display: none }</style> <a href=http://example.com>off</a>",
}
PLAIN = {what: re.sub(r"[^\w .:]", "x", text) for what, text in TRICKY.items()}  # of equal length
SEVERE = ("fog", "snow", "pixelate")
WIDTHS = (390, 1200)
PAPER = 718  # CSS pixels between the margins of an A4 page


def study(words):
    """The runs of a sweep that fills every part of a page, with these words from outside in them."""
    cells = {"standard": 0.2, words["pgd"]: 0.6, words["sat"]: 0.45, "trades, a longer name_with_parts": 0.55}
    rows = []
    for order, (cell, level) in enumerate(cells.items()):
        about = {
            "sweep": "5eed0001",
            "study": f"study/{cell}",
            "cell": cell,
            "order": order,
            "control": not order,
            "goal": "val/robust",
            "winners": f"{order}-2",
            "param:search.optim.lr": "0.01 to 0.1, log",
            "space:optim.lr": json.dumps({"low": 0.01, "high": 0.1, "log": True}),
            "param:search.method.eps": "4/255, 8/255, 16/255",
            "space:method.eps": json.dumps({"choices": [4 / 255, 8 / 255, 16 / 255]}),
        }
        rows += [about | _searched(order, level, number, words) for number in range(9)]
        rows += [about | _repeated(order, level, number, words) for number in (1, 2, 3)]
    return pd.DataFrame(rows).assign(started=pd.Timestamp("2026-01-01", tz="UTC"))


def _run(order, role, number, level):
    proposal = number if role == "search" else 2
    return {
        "run_id": f"{order}{role}{number}",
        "role": role,
        "state": "complete",
        "number": number,
        "key": f"{order}-{number}" if role == "search" else f"{order}-2-{number}",
        "winner": f"{order}-2" if role == "seed" else None,
        "reason": "",
        "protocol": "2",
        "param:method": "pgd",
        "param:data": "digits",
        "param:epochs": "18",
        "param:optim.lr": f"{0.01 * 1.3**proposal:.6g}",
        "param:method.eps": f"{(4, 8, 16)[proposal % 3] / 255:.9g}",
        "tag:git": "0123456789ab",
        "tag:package.torch": "2.13.0",
        "tag:device": "cpu (x86_64)",
        "tag:data.test": "fd6693b073367b17",
        "curve:robust": " ".join(f"{e}:{level * (1 - (e - 12) ** 2 / 200):.4f}" for e in (6, 12, 18)),
        "curve:clean": "6:0.8 12:0.9 18:0.92",
        "seconds/train": 40.0 + number,
        "val/robust": level,
        "val/clean": 0.9,
        "val_n/robust": 288.0,
    }


def _searched(order, level, number, words):
    row = _run(order, "search", number, level - 0.01 * (number - 2) ** 2)
    if number in (5, 6):
        return row | {"state": "pruned", "val/robust": math.nan, "val/clean": math.nan}
    return row | ({"state": "failed", "reason": words["reason"], "val/robust": math.nan} if number == 7 else {})


def _repeated(order, level, number, words):
    found = {"robust": level, "clean": 0.95, "pgd10-4": level + 0.2, "pgd10-8": level, "pgd10-16": level - 0.1}
    found |= {f"{name}-{severity}": level + 0.3 - 0.05 * severity for name in SEVERE for severity in range(1, 6)}
    found |= {name: level + 0.15 for name in SEVERE} | {"corrupted": level + 0.15}
    found |= {"art-in": 0.4, "art-k": 0.3, "gtknown-grad": 0.5, "iou": 0.35}
    away = 0.01 * (number - 2)
    return (
        _run(order, "seed", number, level + away)
        | {f"test/{name}": value + away for name, value in found.items()}
        | {f"test_n/{name}": 360.0 for name in found}
        | {"test_touches": 1.0, "seconds/val": 0.5, "seconds/test": 0.5, "check:reach": words["note"]}
    )


def kept(runs, words):
    """What its runs keep beside their numbers: one number per image and score, and pictures."""
    draws = np.random.default_rng(0)
    scores = {"test/robust": (360,), "test/clean": (360,)}
    right = {name: draws.random((len(runs), *shape)) < 0.6 for name, shape in scores.items()}
    images = {run: {name: right[name][i] for name in scores} for i, run in enumerate(runs["run_id"])}
    maps, labels = draws.random((4, 8, 8), np.float32).astype(np.float16), np.arange(4)
    pictures = draws.integers(0, 256, (4, 8, 8, 3), np.uint8)
    boxes = np.tile(np.array([1, 1, 5, 6]), (4, 1))
    seen = {
        "x": pictures,
        "y": labels,
        "classes": np.array([words["class"], "one", "two", "three"]),
        "predicted": labels,
        "gradient": (pictures / 128 - 1).astype(np.float16),
        "integrated": maps,
        "eps": np.float64(8 / 255),
        "attacked": pictures,
        "attacked_predicted": labels[::-1].copy(),
        "attacked_gradient": (pictures / 128 - 1).astype(np.float16),
        "attacked_integrated": maps,
        "moved": pictures[:2],
        "moved_predicted": labels[:2],
        "moved_integrated": maps[:2],
        "moved_in": np.array([0.5, np.nan]),
        "moved_k": np.array([0.4, np.nan]),
        "moved_eps": np.float64(8 / 255),
        "boxes": boxes,
        "located_grad": boxes + 1,
        "samples": pictures,
    }
    return Files(images, {cell: seen for cell in runs["cell"].unique()})


def written(folder, words):
    """The address of a study's page on disk."""
    runs = study(words)
    files = write(runs, folder, words["name"], kept(runs, words))
    return next(f for f in files if f.suffix == ".html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), TRICKY)


@pytest.fixture
def desk(browser, address):
    with visit(browser, address) as visited:
        yield visited


def test_contrast_is_that_of_the_standard():
    black, white = [0, 0, 0, 1], [1, 1, 1, 1]
    assert contrast(black, [white]) == pytest.approx(21)
    assert contrast([0x77 / 255] * 3 + [1], [white]) == pytest.approx(4.48, abs=0.005)  # the well-known near miss
    assert contrast([0, 0, 0, 0.5], [white]) == pytest.approx(contrast([0.5, 0.5, 0.5, 1], []))
    assert contrast(white, [[0, 0, 0, 0], black, white]) == pytest.approx(21)  # what is clear shows what lies below


@pytest.mark.browser
def test_the_page_is_whole_quiet_and_needs_nothing_else(desk, address):
    desk.page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    sizes = desk.page.evaluate(
        """async () => {
          const images = [...document.images];
          for (const image of images) image.loading = "eager";
          await Promise.all(images.map((image) => image.decode().catch(() => null)));
          return images.map((image) => [image.naturalWidth, image.alt]);
        }"""
    )
    assert all(width > 0 and alt for width, alt in sizes)
    assert desk.complaints == []
    assert {asked for asked in desk.asked if not asked.startswith("data:")} == {address}


@pytest.mark.browser
def test_text_from_outside_never_becomes_an_element(browser, desk, tmp_path):
    census = "[...document.querySelectorAll('*')].map((element) => element.localName)"
    with visit(browser, written(tmp_path, PLAIN)) as plain:
        there = collections.Counter(plain.page.evaluate(census))
    here = collections.Counter(desk.page.evaluate(census))
    assert here == there
    attributes = "[...document.querySelectorAll('*')].flatMap((element) => element.getAttributeNames())"
    assert not [name for name in desk.page.evaluate(attributes) if name.startswith("on")]
    assert desk.page.evaluate("typeof window.hit") == "undefined"
    said = desk.page.evaluate("document.body.textContent")
    assert all(TRICKY[word] in said for word in ("pgd", "sat", "name", "reason"))
    assert TRICKY["name"] in desk.page.title()


def _sortable(visited):
    """(table, column, whether it holds numbers) of every header that sorts."""
    return visited.page.evaluate(
        """[...document.querySelectorAll("table")].flatMap((table, t) =>
          [...table.tHead.rows[0].cells].flatMap((head, c) =>
            head.querySelector("button") ? [[t, c, head.classList.contains("number")]] : []))"""
    )


def _column(visited, table, column):
    """How the header is sorted, the values of its column from top to bottom, and the texts of the rows."""
    return visited.page.evaluate(
        """([t, c]) => {
          const table = document.querySelectorAll("table")[t], rows = [...table.tBodies[0].rows];
          return [table.tHead.rows[0].cells[c].ariaSort, rows.map((row) => row.cells[c].dataset.sort),
            rows.map((row) => row.textContent)];
        }""",
        [table, column],
    )


def _press(visited, table, column, key=None):
    head = visited.page.locator("table").nth(table).locator("thead th").nth(column)
    button = head.locator("button")
    button.press(key) if key else button.click()


@pytest.mark.browser
def test_a_click_sorts_and_the_next_one_reverses(desk):
    columns = _sortable(desk)
    assert len({table for table, _, _ in columns}) > 1
    for table, column, number in columns:
        before = sorted(_column(desk, table, column)[2])
        seen = {}
        for _ in range(2):
            _press(desk, table, column)
            way, values, rows = _column(desk, table, column)
            assert sorted(rows) == before
            filled = [v for v in values if v != ""]
            assert values[: len(filled)] == filled  # what is missing comes last either way
            seen[way] = [float(v) for v in filled] if number and filled else filled
        assert set(seen) == {"ascending", "descending"}
        if number:
            assert seen["ascending"] == sorted(seen["ascending"])
            assert seen["descending"] == sorted(seen["descending"], reverse=True)
        else:
            distinct = [[value for value, _ in itertools.groupby(seen[way])] for way in ("ascending", "descending")]
            assert distinct[0] == distinct[1][::-1]
    sorted_by = "[...document.querySelectorAll('table')].map((t) => t.querySelectorAll('[aria-sort]').length)"
    assert max(desk.page.evaluate(sorted_by)) == 1


@pytest.mark.browser
@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_sorts_too(desk, key):
    table, column, _ = _sortable(desk)[0]
    ways = []
    for _ in range(2):
        _press(desk, table, column, key)
        ways.append(_column(desk, table, column)[0])
        assert desk.page.evaluate("document.activeElement.localName") == "button"  # stays where it was
    assert sorted(ways) == ["ascending", "descending"]


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_hovering_says_the_value(browser, address, width):
    with visit(browser, address, width=width) as visited:
        page, say = visited.page, visited.page.get_by_role("tooltip")
        shown = page.locator("svg:has([data-say])")
        assert shown.count()
        heard = 0
        for drawn in shown.all():
            mark = drawn.locator("[data-say]").last
            mark.scroll_into_view_if_needed()
            settled(page)
            box = mark.bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            top = "([x, y]) => document.elementFromPoint(x, y)?.closest('[data-say]')?.dataset.say"
            if (said := page.evaluate(top, [x, y])) is None:
                continue  # the middle of a bent line lies off it
            page.mouse.move(x, y)
            say.wait_for(state="visible")
            assert say.text_content() == said
            over = say.bounding_box()
            assert over["x"] >= 0 and over["x"] + over["width"] <= width
            page.mouse.move(0, 0)
            say.wait_for(state="hidden")
            heard += 1
        assert heard >= shown.count() / 2


@pytest.mark.browser
def test_the_keyboard_reaches_what_hovering_says(desk):
    page, say = desk.page, desk.page.get_by_role("tooltip")
    page.locator("svg[tabindex='0'], svg [tabindex='0']").first.focus()
    settled(page)
    page.keyboard.press("ArrowRight")
    say.wait_for(state="visible")
    marks = "document.activeElement.closest('svg').querySelectorAll('[data-say]')"
    assert say.text_content() in page.evaluate(f"[...{marks}].map((mark) => mark.dataset.say)")
    page.keyboard.press("Escape")
    say.wait_for(state="hidden")


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_only_tables_scroll_sideways(browser, address, width):
    with visit(browser, address, width=width) as visited:
        far = visited.page.evaluate("(scrollTo(10000, 0), [scrollX, document.documentElement.scrollWidth])")
        assert far == [0, width]
        cut = visited.page.evaluate(
            """[...document.querySelectorAll("table")].filter((table) => {
              const region = table.closest("[role=region][tabindex='0']");
              return !region || !/auto|scroll/.test(getComputedStyle(region).overflowX);
            }).length"""
        )
        assert cut == 0


@pytest.mark.browser
def test_dark_is_dark_and_all_text_can_be_read(browser, address):
    luminance = {}
    for scheme in ("light", "dark"):
        with visit(browser, address, color_scheme=scheme) as visited:
            texts = visited.page.evaluate(TEXTS)
            assert len(texts) > 100
            faint = [
                (text["text"], round(ratio, 2))
                for text in texts
                if (ratio := contrast(text["ink"], text["layers"])) < (3 if text["large"] else 4.5)
            ]
            assert faint == []
            luminance[scheme] = contrast([0, 0, 0, 1], texts[0]["layers"])
    assert luminance["light"] > 15 and luminance["dark"] < 3


@pytest.mark.browser
def test_print_hides_nothing_of_the_tables(browser, address):
    with visit(browser, address, width=PAPER, color_scheme="dark") as visited:
        visited.page.emulate_media(media="print", color_scheme="dark")
        visited.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        hidden = visited.page.evaluate(
            """[...document.querySelectorAll("tbody th, tbody td, thead .label, caption")].filter((cell) => {
              const box = cell.getBoundingClientRect(), region = cell.closest("[role=region]");
              const cut = region && getComputedStyle(region).overflowX !== "visible" &&
                region.scrollWidth > region.clientWidth;
              return cut || !box.width || !box.height || !cell.checkVisibility({visibilityProperty: true});
            }).map((cell) => cell.textContent.trim())"""
        )
        assert hidden == []
        ground = visited.page.evaluate(TEXTS)[0]["layers"]
        assert contrast([0, 0, 0, 1], ground) > 15  # dark ink on paper, whatever the screen likes


@pytest.mark.browser
def test_what_assistive_technology_is_told(desk):
    levels = desk.page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((h) => +h.localName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper <= above + 1 for above, deeper in itertools.pairwise(levels))
    ids = desk.page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    named = """[...document.querySelectorAll("[aria-labelledby], [aria-describedby], [for], a[href^='#']")].flatMap(
      (at) => ["aria-labelledby", "aria-describedby", "for", "href"].flatMap(
        (name) => (at.getAttribute(name) || "").replace(/^#/, "").split(" ").filter(Boolean)))"""
    assert set(desk.page.evaluate(named)) <= set(ids)
    unnamed = """[...document.querySelectorAll("svg")].filter((svg) => !svg.closest("[aria-hidden=true]") &&
      !(svg.getAttribute("role") === "img" && (svg.ariaLabel || svg.getAttribute("aria-labelledby")))).length"""
    assert desk.page.evaluate(unnamed) == 0
    roles = {"image", "region", "button", "link", "table", "navigation", "columnheader", "rowheader", "img"}
    session = desk.page.context.new_cdp_session(desk.page)
    tree = session.send("Accessibility.getFullAXTree")["nodes"]
    told = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"] and "role" in n]
    assert [role for role, name in told if role in roles and not name.strip()] == []
    assert desk.page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.browser
def test_tab_reaches_every_table_in_reading_order(desk):
    where = "(at) => [[...document.querySelectorAll('*')].indexOf(at), at.matches('[role=region]') ? at.id || "
    where += "at.getAttribute('aria-labelledby') : null]"
    reached = tabbed(desk, where)
    places = [position for position, _ in reached]
    assert places == sorted(places)
    regions = desk.page.evaluate(
        """[...document.querySelectorAll("table")].map((table) => table.closest("[role=region]")).map(
          (region) => region.id || region.getAttribute("aria-labelledby"))"""
    )
    assert set(regions) <= {region for _, region in reached}


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_there_is_something_to_see(browser, address, tmp_path, width, scheme):
    with visit(browser, address, width=width, color_scheme=scheme) as visited:
        assert shot(visited, tmp_path / "page.png") > 16


# ---- MLflow's own pages, on what the harness writes


def tracked(folder):
    """The URI of a store with a sweep of two cells, each searched twice and repeated once; and its experiment."""
    workspace = Workspace(folder, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, about its own dependencies
        tracker = Tracker(workspace, "sat-digits", {"harness.sweep": "5eed0001"})
        tracker.start_sweep("sat-digits 5eed0001", "Which map serves **best**?")
        for order, cell in enumerate(("standard", "pgd")):
            tags = {"harness.order": str(order), "harness.goal": "val/robust", "mlflow.note.content": f"Of {cell}."}
            tracker.start_study(f"sat-digits/{cell}", cell, tags, {"optim.lr": "0.01 to 0.1, log"})
            for role, number in (("search", 0), ("search", 1), ("seed", 1)):
                job = Job(f"sat-digits/{cell}", role, number, build({"method": cell, "seed": number}))
                tracker.on_start(job)
                for epoch in (1, 2, 3):
                    tracker.on_epoch(job, {"epoch": epoch, "train/ce": 1 / epoch, "curve/robust": 0.1 * epoch})
                scores = [Score(f"{part}/{name}", 0.5, 0.02, 360) for part in ("val", "test") for name in ("robust",)]
                checks = [Check("reach", True, {}, "goes 2.50 times eps")]
                result = Result(job.trial, scores, [], {"train": 2.0}, {"test": "fd66"}, {"device": "cpu"}, 1, checks)
                tracker.on_end(job, Outcome("complete", 3, result))
        tracker.close()
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        return uri, delivery.deliver_all(uri, tracker.log, workspace).writer.experiment


@contextlib.contextmanager
def served(uri, log):
    """The address of MLflow's pages on a store, served by one process of their own until the end."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with open(log, "w") as said:
        server = subprocess.Popen(command, cwd=log.parent, stdout=said, stderr=said, env=quiet, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{address}/health"), server, log.read_text)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # the server and its worker
            server.wait()


@pytest.mark.browser
@pytest.mark.slow
def test_the_ui_of_mlflow_shows_studies_runs_and_what_they_are(browser, tmp_path):
    uri, experiment = tracked(tmp_path)
    with served(uri, tmp_path / "log") as server:
        with visit(browser, f"{server}/#/experiments/{experiment}/runs", width=1600) as visited:
            page = visited.page

            def row(name):
                return page.locator("[role=row]", has=page.get_by_text(name, exact=True))

            row("sat-digits 5eed0001").locator("button").first.click()
            row("standard").wait_for()
            row("pgd").locator("button").first.click()
            for name in ("trial 0: pgd", "trial 1: pgd", "seed 1: pgd"):
                row(name).wait_for()
            assert row("seed 1: standard").count() == 0  # that of the other cell stays folded up
            shot(visited, tmp_path / "runs.png", full=False)

            page.goto(f"{server}/{row('sat-digits 5eed0001').locator('a').get_attribute('href')}")
            page.get_by_text("Which map serves best?").wait_for()  # its Markdown is laid out
            page.get_by_role("link", name="pgd").click()
            page.get_by_text("Of pgd.").wait_for()
            page.get_by_role("link", name="seed 1: pgd").click()
            page.get_by_text("Checks passed: reach.").wait_for()
            for said in ("test/robust", "optim.lr", "harness.role"):
                page.get_by_text(said, exact=True).first.wait_for()
            page.get_by_role("tab", name="Model metrics").click()
            for group in ("curve", "test", "val"):  # metrics are grouped by what stands before the slash
                page.get_by_text(group, exact=True).first.wait_for()
            shot(visited, tmp_path / "run.png", full=False)
            assert [asked for asked in visited.asked if not asked.startswith((server, "data:", "blob:"))] == []
