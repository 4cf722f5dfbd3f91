"""Tables as LaTeX: a small reader proves them well-formed, and pdfLaTeX sets them where it is installed."""

import itertools
import math
import random
import re
import shutil
import subprocess

import pytest

from reports.present.tables import Column, Entry, Table
from reports.write.latex import NUMBERS, ROWS, latex

NASTY = "\\{}$&#_%^~<>|\"'`-[]*@!?/:;,.=+()0aZ \n\t\0é±−×·…–中½ñß°²α"
COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
# What this module writes; anything else would have come from outside.
KNOWN = re.compile(
    r"\\(begin|end|centering|small|caption|label|toprule|midrule|bottomrule|textbf|footnotesize|scriptsize|par|smallskip"
    r"|text(backslash|asciicircum|asciitilde|less|greater|bar)|pm|times|cdot|dots|ss|circ|alpha|[\\{}$&#_%`'~])"
)
OURS = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"


def entries(*texts, **more):
    return [Entry(text, text, **more) for text in texts]


def table(labels, rows, text=(0,), **more):
    columns = [Column(label, number=i not in text) for i, label in enumerate(labels)]
    return Table("ranking", more.pop("caption", "Accuracy"), columns, rows, **more)


def check(source):
    """Assert that braces, environments, maths and fields are in order and nothing unknown is in it; its tabulars."""
    assert source.isascii() and source.endswith("\n")
    comment, body = source.split("\n", 1)
    assert comment.startswith("% ")
    body = body.replace(OURS, "{")
    open_environments, depth, at = [], 0, 0
    plain = []  # text without commands and what they take as a name
    while at < len(body):
        if found := COMMAND.match(body, at):
            assert KNOWN.fullmatch(found[0]), found[0]
            at = found.end()
            if found[0] in (r"\begin", r"\end"):
                name = re.compile(r"\{(\w+)\}").match(body, at)
                at = name.end()
                open_environments.append(name[1]) if found[0] == r"\begin" else None
                if found[0] == r"\end":
                    assert open_environments.pop() == name[1]
            plain.append(" " if found[0] != r"\\" else "\\")
            continue
        depth += (body[at] == "{") - (body[at] == "}")
        assert depth >= 0
        plain.append(body[at])
        at += 1
    assert depth == 0 and not open_environments
    plain = "".join(plain)
    assert not set('%#~<>|"') & set(plain)
    assert plain.count("$") % 2 == 0
    for i, piece in enumerate(plain.split("$")):
        assert i % 2 or not set("_^") & set(piece)
    tabulars = re.findall(r"\\begin\{tabular\}\{((?:[lr]|p\{6cm\})+)\}\n\\toprule\n(.*?)\n\\bottomrule", body, re.S)
    assert len(tabulars) == body.count(r"\begin{tabular}")
    parts = []
    for columns, lines in tabulars:
        columns = re.sub(r"\{.*?\}", "", columns)
        rows = [line for line in lines.split("\n") if line != r"\midrule"]
        fields = [row.removesuffix(r" \\").split(" & ") for row in rows]
        for row, cells in zip(rows, fields, strict=True):
            assert row.endswith(r" \\") and len(cells) == len(columns)
            assert not row.lstrip().startswith(("[", "*"))  # the row before would take it as an argument
        parts.append((columns, fields))
    return parts


def test_a_table_as_a_paper_has_it():
    rows = [entries("pgd") + entries("62.0 ± 5.0", best=True), entries("standard", "−1.2"), entries("sat", "–")]
    rows[1][0] = Entry("standard", "standard", "control")
    source = latex([table(["Cell", "PGD-10×3 8/255"], rows, remark="100 % of it.")], "sat-digits")
    expected = r"""% sat-digits, for the preamble: \usepackage{booktabs}  \usepackage{graphicx}

\begin{table}[htbp]
\centering
\caption{Accuracy}
\label{tab:sat-digits-ranking}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{lr}
\toprule
Cell & PGD-10$\times$3 8/255 \\
\midrule
pgd & \textbf{62.0 $\pm$ 5.0} \\
standard {\footnotesize control} & $-$1.2 \\
sat & -- \\
\bottomrule
\end{tabular}}
\par\smallskip{\footnotesize 100 \% of it.\par}
\end{table}
"""
    assert source == expected


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b & c", r"a\_b \& c"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("50 % of $5 #1 ^ ~", r"50 \% of \$5 \#1 \textasciicircum{} \textasciitilde{}"),
        ("<b>|x|", r"\textless{}b\textgreater{}\textbar{}x\textbar{}"),
        ("--trials ---", "-{}-trials -{}-{}-"),
        ("[x] *", "{[}x{]} {*}"),
        ("a\n\tb\u00a0c", "a b c"),
        ("Gödel, Čech, Erdős, Łojasiewicz", r"G\"{o}del, \v{C}ech, Erd\H{o}s, \L{}ojasiewicz"),
        ("x → ∞ ≥ 2 · π", r"x $\to$ $\infty$ $\geq$ 2 $\cdot$ $\pi$"),
        ("“so”…", r"``so''\dots{}"),
        ("中ş🙂", r"U+4E2D\c{s}U+1F642"),
        ("0.01 – 1", "0.01 -- 1"),
    ],
)
def test_text_from_outside_stays_text(text, written):
    source = latex([table(["Cell"], [entries(text)])], "x")
    assert f"\\midrule\n{written} \\\\\n" in source and source.isascii()


def test_a_wide_table_comes_in_equal_parts_that_repeat_the_first_column():
    labels = ["Cell", *(f"s{i}" for i in range(19)), "Note"]
    rows = [entries("pgd", *map(str, range(19)), "why"), entries("sat", *map(str, range(19)), "not")]
    source = latex([table(labels, rows, text=(0, 20), remark="Below.")], "x")
    parts = check(source)
    assert [columns.count("r") for columns, _ in parts] == [6, 6, 7]
    assert all(fields[0][0] == "Cell" and [row[0] for row in fields[1:]] == ["pgd", "sat"] for _, fields in parts)
    assert list(itertools.chain.from_iterable(fields[0][1:] for _, fields in parts)) == labels[1:]
    assert list(itertools.chain.from_iterable(fields[1][1:] for _, fields in parts))[:19] == list(map(str, range(19)))
    assert re.findall(r"part . of .", source) == ["part 1 of 3", "part 2 of 3", "part 3 of 3"]
    assert re.findall(r"\\label\{(.*)\}", source) == ["tab:x-ranking", "tab:x-ranking-2", "tab:x-ranking-3"]
    assert source.count("Below.") == 1 and source.count(r"\small" + "\n") == 3


@pytest.mark.parametrize("numbers", [1, NUMBERS, NUMBERS + 1, 2 * NUMBERS, 2 * NUMBERS + 1])
@pytest.mark.parametrize("length", [1, ROWS, ROWS + 1])
def test_parts_are_as_few_as_they_can_be_and_hold_everything_once(numbers, length):
    labels = ["Cell", *(f"s{i}" for i in range(numbers))]
    rows = [entries(f"c{k}", *(f"{k}.{i}" for i in range(numbers))) for k in range(length)]
    parts = check(latex([table(labels, rows)], "x"))
    assert len(parts) == math.ceil(numbers / NUMBERS) * math.ceil(length / ROWS)
    found = sorted(field for _, fields in parts for row in fields[1:] for field in row[1:])
    assert found == sorted(entry.text for row in rows for entry in row[1:])


def test_remarks_of_columns_stand_below_their_headers_and_long_text_is_broken():
    columns = [Column("Cell", number=False), Column("lr", "searched: 0.1_2"), Column("Why", number=False)]
    why = "Diverged: the loss became nan in epoch 3, batch 14"
    source = latex([Table("failed", "Failed", columns, [entries("pgd", "0.1", why)])], "x")
    assert r" & {\scriptsize searched: 0.1\_2} &  \\" in source and r"\begin{tabular}{lrp{6cm}}" in source


def test_labels_hold_letters_digits_and_hyphens_alone():
    assert r"\label{tab:a-b-ranking}" in latex([table(["Cell"], [entries("x")])], "A_{b}%")
    assert r"\label{tab:ranking}" in latex([table(["Cell"], [entries("x")])], "中")


def test_tables_without_rows_are_left_out():
    assert check(latex([table(["Cell", "a"], [])], "x")) == [] and check(latex([], "line\n\\input{x}")) == []


def nasty(seed):
    rng = random.Random(seed)

    def text(most=12):
        return "".join(rng.choice(NASTY) for _ in range(rng.randint(0, most)))

    columns = [Column(text(), text(), rng.random() < 0.7) for _ in range(rng.randint(1, 20))]
    rows = [
        [Entry(text(60 if rng.random() < 0.1 else 12), 0.0, text(3), rng.random() < 0.3) for _ in columns]
        for _ in range(rng.choice([1, 3, ROWS + 2]))
    ]
    return Table(text(5), text(40), columns, rows, text(80))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_text_there_is_the_source_is_well_formed(seed):
    source = latex([nasty(seed)], "x\n%\\" + str(seed))
    assert check(source)
    assert source == latex([nasty(seed)], "x\n%\\" + str(seed))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_pdflatex_sets_it(tmp_path):
    for package in ("booktabs", "graphicx"):
        if not subprocess.run(["kpsewhich", f"{package}.sty"], capture_output=True, text=True).stdout:
            pytest.skip(f"this LaTeX has no {package}")
    tables = [nasty(seed) for seed in range(6)] + [table(["Cell", "a"], [entries("[pgd]", "71.2 ± 1.3", best=True)])]
    preamble = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
    (tmp_path / "a.tex").write_text(preamble + latex(tables, "x") + "\\clearpage\n\\end{document}\n")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
