"""A page as its reader meets it: in Chromium without a window, driven by Playwright, away from the network."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 600_000  # milliseconds in which something has to show; it is not the speed that is tested
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Every visible text: its colour, and what lies below it, from near to far, each as [r, g, b, alpha] in [0, 1].
# A canvas turns whatever way of writing a colour into that one.
TEXTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = {};
  const rgba = (colour) => {
    if (colour === "none") return [0, 0, 0, 0];
    if (!(colour in known)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      known[colour] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
    }
    return known[colour];
  };
  const faded = ([r, g, b, alpha], by) => [r, g, b, alpha * by];
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const holder = node.parentElement;
    if (!node.data.trim() || holder.closest("script, style, title, desc") || !holder.checkVisibility(
        {opacityProperty: true, visibilityProperty: true})) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    const style = getComputedStyle(holder), svg = holder.closest("svg");
    let opacity = 1;
    for (let at = holder; at; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
    const layers = [];
    if (svg) {
      const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
      for (const shape of svg.querySelectorAll("rect, circle")) {
        const there = shape.getBoundingClientRect(), look = getComputedStyle(shape);
        const before = shape.compareDocumentPosition(holder) & Node.DOCUMENT_POSITION_FOLLOWING;
        if (before && there.left <= x && x <= there.right && there.top <= y && y <= there.bottom)
          layers.unshift(faded(rgba(look.fill), look.fillOpacity * look.opacity));
      }
    }
    for (let at = svg || holder; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 600;
    found.push({
      text: node.data.trim().slice(0, 60), ink: faded(rgba(svg ? style.fill : style.color), opacity), layers,
      large: size >= 24 || (bold && size >= 18.66),
    });
  }
  return found;
}
"""


@dataclass
class Visit:
    """A page that was opened. complaints: errors and warnings of its console. asked: every address it asked for."""

    page: object
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


_LOUD = ("error", "warning")


@contextlib.contextmanager
def chromium() -> Iterator[object]:
    """A Chromium of this machine without a window, and its driver; the test is skipped where there is none."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium here; looked for {', '.join(NAMES)}")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra `test`, is not installed")
    with sync_api.sync_playwright() as driver:
        # The sandbox asks for rights that a container seldom gives; the pages are our own.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visit(browser, address: str, *, width: int = 1200, height: int = 900, **how) -> Iterator[Visit]:
    """The page at that address, alone in a fresh context. how: of the context, such as `color_scheme="dark"`.

    What it asks of other machines is refused, and kept in `asked` like all else."""
    context = browser.new_context(viewport={"width": width, "height": height}, **how)
    context.set_default_timeout(PATIENCE)
    try:
        context.route(_elsewhere, lambda route: route.abort())
        seen = Visit(context.new_page())
        seen.page.on("request", lambda request: seen.asked.append(request.url))
        seen.page.on("console", lambda said: seen.complaints.append(said.text) if said.type in _LOUD else None)
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.goto(address)
        yield seen
    finally:
        context.close()


def _elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in LOOPBACK


def contrast(ink: list[float], layers: list[list[float]]) -> float:
    """Contrast ratio of WCAG 2 of a colour upon layers from near to far, each (r, g, b, alpha) in [0, 1]."""
    ground = (1.0, 1.0, 1.0)
    for layer in reversed(layers):
        ground = _over(layer, ground)
    lighter, darker = sorted((_luminance(_over(ink, ground)), _luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _over(colour: list[float], ground: tuple[float, ...]) -> tuple[float, ...]:
    *parts, alpha = colour
    return tuple(alpha * part + (1 - alpha) * below for part, below in zip(parts, ground, strict=True))


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def settled(page) -> None:
    """Let the page draw what was asked of it, and hear that it was scrolled."""
    page.evaluate("new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))")


def shot(visited: Visit, file: Path, *, full: bool = True) -> int:
    """Take a picture of the page into the file; returns how many colours it has (up to 256): one is a blank page."""
    from PIL import Image

    visited.page.screenshot(path=file, full_page=full)
    with Image.open(file) as picture:
        return len(picture.convert("P", palette=Image.Palette.ADAPTIVE).getcolors())


def tabbed(visited: Visit, script: str, most: int = 2000) -> list:
    """What a script says of each element that the Tab key reaches, from the top of the page to its end."""
    reached = []
    for _ in range(most):
        visited.page.keyboard.press("Tab")
        if visited.page.evaluate("document.activeElement === document.body"):
            break
        reached.append(visited.page.evaluate(f"({script})(document.activeElement)"))
    return reached
