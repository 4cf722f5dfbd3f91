"""Tables and figures of a report as HTML for a notebook's cell: no script, no network, styles that stay inside."""

from itertools import chain

from markupsafe import escape

from reports.present import plots
from reports.present.figures import Figure, Spread
from reports.present.tables import Entry, Table
from reports.write.visible_text import visible

_COLOURS = (
    "--page: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --faint: #eef1f4; --far: #c3cad2;"
    " --accent: #0a63b0; background: #fff; color: #1b1f24; padding: .5rem; "
)
_LAYOUT = (
    ".drawings { display: flex; flex-wrap: wrap; gap: 1rem; } .drawing { width: 20rem; }"
    " .spread { display: grid; grid-template-columns: auto auto 20rem; column-gap: 1rem; align-items: center; }"
)


def table(shown: Table) -> str:
    """A table with its caption; best figures are bold."""
    heads = "".join(f"<th>{_text(column.label)}</th>" for column in shown.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{_figure(entry)}</td>' for entry in row)}</tr>" for row in shown.rows)
    remark = f"<p>{_text(shown.remark)}</p>" if shown.remark else ""
    caption = f"<caption>{_text(shown.caption)}</caption>"
    return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{remark}"


def figure(shown: Figure | Spread) -> str:
    """The drawings of a figure, side by side, under its caption."""
    if isinstance(shown, Spread):
        cells = chain.from_iterable(
            (_bold(name), f"<span>{_text(number)}</span>", svg) for name, number, svg in shown.rows
        )
        body = f"<div class='spread'>{''.join(cells)}<span></span><span></span>{shown.axis}</div>"
    else:
        drawings = (f"<div class='drawing'>{_bold(d.name)}{d.svg}</div>" for d in shown.drawings)
        body = f"<div class='drawings'>{''.join(drawings)}</div>{_text(shown.why_not)}"
    # Rules are nested, so that they hold in this figure alone: a notebook is one document.
    style = f".harness-figure {{ {_COLOURS}{plots.CSS.replace(':root', '&')}{_LAYOUT} }}"
    caption = f"<p>{_bold(shown.caption)}</p><p>{_text(shown.remark)}</p>"
    return f"<div class='harness-figure'><style>{style}</style>{caption}{body}</div>"


def _figure(entry: Entry) -> str:
    text = _text(f"{entry.text} ({entry.mark})" if entry.mark else entry.text)
    return f"<b>{text}</b>" if entry.best else text


def _bold(text: str) -> str:
    return f"<b>{_text(text)}</b>"


def _text(text: str) -> str:
    return str(escape(visible(text)))
