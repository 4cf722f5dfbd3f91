"""Check a method, net, map, suite or anything else of your own as the tests check ours.

    python -m harness.check my_method.py:MyMethod
    python -m harness.check package.nets:build --as net
    python -m harness.check pgd

One line per promise that it has to keep: `ok`, or `FAIL` with what to do. The exit status is 1 if one is broken.
"""

import argparse
import sys
import warnings

from harness.arguments import Arguments
from harness.errors import UserError, exit_status, one_line, unknown_name


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = Arguments("harness.check", __doc__)
    p.add_argument("name", metavar="NAME", help="path/to/file.py:thing, package.module:thing, or a name of ours")
    p.add_argument("--as", dest="kind", metavar="KIND", help="method, net, data, map, corruption, suite, space, ...")
    return p.parse_args(argv)


def main() -> int:
    args = arguments()
    from harness.contracts.kinds import KINDS, kind_of
    from harness.contracts.promise import title

    if args.kind is not None and args.kind not in KINDS:
        raise unknown_name("kind", args.kind, KINDS)
    kind = args.kind or kind_of(args.name)
    name = KINDS[kind].registry.pinned(args.name)
    KINDS[kind].registry.find(name)
    print(f"{kind} {name}")
    broken = 0
    for promise in KINDS[kind].contract:
        says = ""
        try:
            with warnings.catch_warnings(action="ignore"):
                promise(name)
        except AssertionError as error:
            says = str(error).partition("\n")[0].removeprefix(f"{name}: ")
        except UserError as error:
            says = str(error)
        except Exception as error:  # of anybody's code
            says = f"it raises {one_line(error)}"
        broken += bool(says)
        print(f"FAIL  {title(promise)}: {says}" if says else f"ok    {title(promise)}", flush=True)
    print(f"{broken} of {len(KINDS[kind].contract)} promises are broken" if broken else "all kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
