"""Every public function says the types of its arguments and of what it returns, and none of them is `object`."""

import ast
from collections.abc import Iterator

from sweeps import ROOT

PACKAGES = ("harness", "methods", "search_spaces", "reports")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, Function]]:
    """Name and definition of each public function of a module or class; special methods are public."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{inside}{node.name}.")
        elif isinstance(node, Function) and (not node.name.startswith("_") or node.name.endswith("__")):
            yield inside + node.name, node


def says_nothing(annotation: ast.expr | None) -> bool:
    """Whether an annotation is missing or is `object`, alone or in a union."""
    if isinstance(annotation, ast.BinOp):
        return says_nothing(annotation.left) or says_nothing(annotation.right)
    return annotation is None or ast.unparse(annotation).strip("'\"") == "object"


def untyped(source: str) -> list[str]:
    """The arguments of public functions that say no type, as `function(argument)`, and returns, as `function()`."""
    found = []
    for name, function in public_functions(ast.parse(source).body):
        named = [*function.args.posonlyargs, *function.args.args]
        static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
        if "." in name and not static:
            named = named[1:]
        extra = [argument for argument in (function.args.vararg, function.args.kwarg) if argument]
        for argument in (*named, *function.args.kwonlyargs, *extra):
            if says_nothing(argument.annotation):
                found.append(f"{name}({argument.arg})")
        if says_nothing(function.returns) and not (function.returns is None and function.name == "__init__"):
            found.append(f"{name}()")
    return found


def test_public_functions_say_their_types():
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    found = {file.relative_to(ROOT).as_posix(): untyped(file.read_text()) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_what_says_no_type_is_found():
    source = """
def f(a, b: int, *c: object, d: "object" = 1, e: int | object, **f) -> object: ...
def g(a: int): ...
def _hidden(a): ...
class C:
    def __init__(self, a: int, b): ...
    def m(self, a: dict[str, object]) -> list[object]: ...
    @staticmethod
    def s(a) -> None: ...
class _Hidden:
    def m(self, a): ...
"""
    assert untyped(source) == ["f(a)", "f(d)", "f(e)", "f(c)", "f(f)", "f()", "g()", "C.__init__(b)", "C.s(a)"]
