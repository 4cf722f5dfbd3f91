"""Tables of a report as LaTeX (booktabs), to paste into a paper."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

from reports.present.tables import Column, Entry, Table

NUMBERS = 8  # maximum number columns per part of a table
SMALL = 5  # number columns from which on a part is set in \small
ROWS = 40  # maximum rows per part, to fit a page
LONG = 40  # characters from which on a column is a paragraph column
WIDTH = "6cm"  # of a paragraph column

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "{}$&#_%"},
    **{"^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "`": r"\`{}", '"': "''"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{c: f"{{{c}}}" for c in "[]*"},  # at the start of a row they would be arguments of the \\ before
    "\0": "{}",
}
_MATHS = {
    **{"±": r"\pm", "−": "-", "×": r"\times", "·": r"\cdot", "≤": r"\leq", "≥": r"\geq", "≈": r"\approx"},
    **{"→": r"\to", "∞": r"\infty", "°": r"^\circ", "¹": "^1", "²": "^2", "³": "^3", "µ": r"\mu"},
    **{"α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\epsilon", "η": r"\eta", "θ": r"\theta"},
    **{"λ": r"\lambda", "μ": r"\mu", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\phi"},
    **{"ω": r"\omega", "Δ": r"\Delta", "Σ": r"\Sigma", "Ω": r"\Omega"},
}
_TEXT = {
    **{"–": "--", "—": "---", "…": r"\dots{}", "‘": "`", "’": "'", "“": "``", "”": "''"},
    **{"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}"},
}
_ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=.\"rHvc", strict=True))


def latex(tables: Sequence[Table], name: str) -> str:
    """Every non-empty table as one or several floats with booktabs rules, labelled `tab:<name>-<key>`.

    A table of more than `NUMBERS` number columns or `ROWS` rows is split into parts that repeat its first column; one
    that is still too wide is scaled to the line width. Entries that are indistinguishable from the best of their column
    are bold. LaTeX commands in text are escaped, and a letter for which pdfLaTeX has no glyph is written as its code
    point, `U+4E2D`. The result is ASCII."""
    floats = [_float(part, name) for table in tables if table.rows for part in _parts(table)]
    needs = r"\usepackage{booktabs}  \usepackage{graphicx}"
    return "\n\n".join([f"% {_escaped(name)}, for the preamble: {needs}", *floats]) + "\n"


def _parts(table: Table) -> list[Table]:
    """Split the table into parts of about equal size that fit a page; the last one has the remark."""
    numbers = [i for i, column in enumerate(table.columns) if i and column.number]
    cuts = [numbers[at] for at in _cuts(len(numbers), NUMBERS)[1:-1]]
    chosen = [[0, *range(*ends)] for ends in pairwise([1, *cuts, len(table.columns)])]
    rows = list(pairwise(_cuts(len(table.rows), ROWS)))
    count = len(chosen) * len(rows)
    parts: list[Table] = []
    for columns in chosen:
        for first, last in rows:
            at = len(parts) + 1
            part = Table(
                key=table.key if at == 1 else f"{table.key}-{at}",
                caption=table.caption + (f" (part {at} of {count})" if count > 1 else ""),
                columns=[table.columns[i] for i in columns],
                rows=[[row[i] for i in columns] for row in table.rows[first:last]],
                remark=table.remark if at == count else "",
            )
            parts.append(part)
    return parts


def _cuts(length: int, most: int) -> list[int]:
    """Boundaries, from 0 to length, of the fewest parts of at most `most`, with sizes equal up to one."""
    parts = max(1, -(-length // most))
    return [length * part // parts for part in range(parts + 1)]


def _float(table: Table, name: str) -> str:
    label = "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", t.lower()).strip("-") for t in (name, table.key))))
    sizes = "".join(_aligned(column, [row[i] for row in table.rows]) for i, column in enumerate(table.columns))
    small = sum(column.number for column in table.columns) >= SMALL
    heads = [_row(_escaped(column.label) for column in table.columns)]
    if any(column.remark for column in table.columns):
        heads.append(_row(rf"{{\scriptsize {_escaped(c.remark)}}}" if c.remark else "" for c in table.columns))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        *([r"\small"] if small else []),
        rf"\caption{{{_escaped(table.caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{sizes}}}",
        r"\toprule",
        *heads,
        r"\midrule",
        *(_row(map(_entry, row)) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *([rf"\par\smallskip{{\footnotesize {_escaped(table.remark)}\par}}"] if table.remark else []),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _aligned(column: Column, entries: Sequence[Entry]) -> str:
    """Column type: numbers right-aligned, text left-aligned, long text as a paragraph."""
    if column.number:
        return "r"
    return f"p{{{WIDTH}}}" if max(len(entry.text) for entry in entries) >= LONG else "l"


def _row(fields: Iterable[str]) -> str:
    return " & ".join(fields) + r" \\"


def _entry(entry: Entry) -> str:
    text = _escaped(entry.text)
    text = rf"\textbf{{{text}}}" if entry.best and text else text
    return text + (rf" {{\footnotesize {_escaped(entry.mark)}}}" if entry.mark else "")


def _escaped(text: str) -> str:
    """Escaped text, on one line, in ASCII."""
    line = re.sub(r"([-',])(?=\1)", "\\1\0", " ".join(text.split()))  # -- would become a dash
    return "".join(map(_character, line))


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    if c in _MATHS:
        return f"${_MATHS[c]}$"
    if c in _TEXT:
        return _TEXT[c]
    if c.isascii():
        return c if c.isprintable() else ""
    base, *accents = list(unicodedata.normalize("NFD", c))
    if base.isascii() and base.isalpha() and len(accents) == 1 and accents[0] in _ACCENTS:
        return rf"\{_ACCENTS[accents[0]]}{{{base}}}"
    return f"U+{ord(c):04X}"
