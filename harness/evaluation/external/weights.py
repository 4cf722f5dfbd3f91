"""Fit the weights of a checkpoint to a net: wrappers' prefixes come off, counters may lack, anything else is refused.

Compiling, data parallelism, Lightning and averaging rename or add tensors. What is renamed, left out or converted is
said in one line; a state dict that differs in more than that is of another net.
"""

import contextlib
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.evaluation.external.checkpoints import StateDict, read_state_dicts

Say = Callable[[str], object]
Fit = tuple[dict[str, Tensor], list[str]]  # tensors by a net's names, and in words what was done to get them

# Of several state dicts that fit a net and differ, the one whose key comes first here; of others none.
_KEYS = ("state_dict", "model_state_dict", "model", "net", "params", "ema", "average")
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"}  # anywhere in a name
_PREFIXES = ("module.", "model.", "net.")  # at its beginning, of some names or of all, also several
_COUNTER = "num_batches_tracked"  # of BatchNorm; old and converted checkpoints lack it, and evaluation reads none
_NORMALISERS = {"mean", "std", "mu", "sigma", "new_mean", "new_std"}  # tensors of a layer that normalises the input
_COUNTERS = {"n_averaged", "total_ops", "total_params", _COUNTER}  # of averaging, of thop, of a frozen BatchNorm


class _SeveralFit(UserError):
    """Below each of these names the net fits, with other weights."""

    def __init__(self, names: Sequence[str]):
        super().__init__(", ".join(names))
        self.names = names


def silent(line: str) -> None:
    """A `Say` that drops what was interpreted."""


def load_into(net: nn.Module, file: Path, key: str | None = None, say: Say = silent) -> None:
    """Load the weights of a checkpoint into a net. say: takes one line if anything in the file was interpreted.

    key: see `read_state_dicts`. Raises `UserError` for the weights of another net, and for several that fit and differ.
    """
    state, done = _choose(net.state_dict(), read_state_dicts(file, key), file)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    done += [f"{kind} made float32" for kind in sorted(kinds - {"float32"})]
    net.load_state_dict(state)
    if done:
        say(f"weights of {str(file)!r}: {'; '.join(done)}")


def _choose(own: StateDict, found: Mapping[str, StateDict], file: Path) -> Fit:
    """The state dict that fits, of several by `_KEYS`."""
    fits: dict[str, Fit] = {}
    faults: dict[str, UserError] = {}
    for path in sorted(found, key=_rank):
        try:
            fits[path] = _fit(own, found[path])
        except _SeveralFit as several:
            raise _ambiguous(file, several.names) from None
        except UserError as fault:
            faults[path] = fault
    if not fits:
        raise UserError(f"{str(file)!r} holds the weights of another net: {next(iter(faults.values()))}")
    chosen = next(iter(fits))
    state, done = fits[chosen]
    others = [path for path in fits if path != chosen and not _same(fits[path][0], state)]
    if others and _rank(chosen) in (len(_KEYS), *map(_rank, others)):
        raise _ambiguous(file, [chosen, *others])
    taken = [f"those of {chosen!r}, and not of {', '.join(map(repr, others))}: --weights-key names others"]
    return state, [*(taken if others else [f"those of {chosen!r}"] if chosen else []), *done]


def _ambiguous(file: Path, names: Sequence[str]) -> UserError:
    of = ", ".join(sorted(names))
    return UserError(
        f"{str(file)!r} holds several weights that fit the net and differ: {of}; name one by --weights-key"
    )


def _rank(path: str) -> int:
    key = path.rpartition(".")[2]
    return _KEYS.index(key) if key in _KEYS else len(_KEYS)


def _same(one: StateDict, other: StateDict) -> bool:
    pairs = [(tensor.double(), other[name].double()) for name, tensor in one.items()]  # float8 knows no comparison
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def _fit(own: StateDict, state: StateDict) -> Fit:
    """The tensors by the net's own names. Raises `UserError` that says what differs."""
    names = {_plain(name): name for name in own}
    needed = {plain: own[name] for plain, name in names.items()}
    given = {_plain(name): tensor for name, tensor in state.items()}
    wrappers = sorted({part for name in state for part in name.split(".") if part in _WRAPPERS})
    try:
        fitted, done = _without_prefixes(needed, given)
    except UserError:
        below = _below_one_prefix(needed, given)
        if below is None:
            raise
        fitted, done = below
    done = [f"{', '.join(wrappers)} removed from names"] * bool(wrappers) + done
    return {names[name]: tensor for name, tensor in fitted.items()}, done


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _without_prefixes(own: StateDict, state: StateDict) -> Fit:
    """Known prefixes come off a name as far as the net has no such name."""
    renamed: dict[str, Tensor] = {}
    removed: dict[str, None] = {}
    for given, tensor in state.items():
        name = given
        while name not in own and (prefix := next((p for p in _PREFIXES if name.startswith(p)), None)):
            name = name.removeprefix(prefix)
            removed[prefix] = None
        if name in renamed:
            raise UserError(f"without prefixes two of its tensors are {name!r}")
        renamed[name] = tensor
    state, done = _complete(own, renamed)
    return state, [f"prefix {', '.join(map(repr, removed))} removed"] * bool(removed) + done


def _below_one_prefix(own: StateDict, state: StateDict) -> Fit | None:
    """The whole net below one prefix of any name, as an attribute of a training module; None if there is none."""
    longest = max(own, key=len, default="")
    fits: dict[str, Fit] = {}
    for prefix in sorted({name.removesuffix(longest) for name in state if name.endswith(f".{longest}")}):
        with contextlib.suppress(UserError):
            below = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            fits[prefix] = _complete(own, below)
    if not fits:
        return None
    first, (fitted, done) = next(iter(fits.items()))
    if not all(_same(fitted, other) for other, _ in fits.values()):
        raise _SeveralFit([prefix.rstrip(".") for prefix in fits])
    outside = [name for name in state if not name.startswith(tuple(fits)) and _last(name) not in _COUNTERS]
    if normaliser := next((name for name in outside if _last(name) in _NORMALISERS), None):
        raise UserError(
            f"its {normaliser!r} normalises the input outside of the net; give a net with that layer, or leave it out"
            f" by --weights-key {first.rstrip('.')}"
        )
    left = [f"{len(outside)} tensors outside left out, such as {outside[0]!r}"] if outside else []
    return fitted, [f"prefix {first!r} removed", *left, *done]


def _complete(own: StateDict, state: StateDict) -> Fit:
    """Leave out and fill in counters. Raises `UserError` if names, shapes or kinds of numbers differ still."""
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    left = {name for name in extra if _last(name) in _COUNTERS and state[name].numel() <= 1}
    filled = {name for name in missing if _last(name) == _COUNTER}
    missing, extra = missing - filled, extra - left
    if missing or extra:
        raise UserError(f"{_difference(own, missing, extra)}")
    for name in sorted(own.keys() & state.keys()):
        if state[name].is_meta or state[name].layout != torch.strided:
            raise UserError(
                f"{name!r} is {'empty (of device meta)' if state[name].is_meta else 'sparse'}; save it dense"
            )
        shape, needed = tuple(state[name].shape), tuple(own[name].shape)
        if shape != needed:
            raise UserError(f"{name!r} is {shape}, the net's is {needed}")
        if state[name].is_floating_point() != own[name].is_floating_point() and _last(name) != _COUNTER:
            raise UserError(f"{name!r} is of {state[name].dtype}, the net's of {own[name].dtype}")
    done = []
    if left:
        done.append(f"{len(left)} counters left out ({', '.join(sorted({_last(name) for name in left}))})")
    if filled:
        done.append(f"{len(filled)} {_COUNTER} missing, which evaluation does not read")
    return {name: state.get(name, own[name]) for name in own}, done


def _difference(own: StateDict, missing: set[str], extra: set[str]) -> str:
    count = f"({len(missing)} of {len(own)} tensors missing, {len(extra)} too many)"
    if not missing:
        return f"it has {min(extra)!r}, which the net has not {count}"
    close = difflib.get_close_matches(min(missing), extra, n=1, cutoff=0.5)
    return f"it lacks {min(missing)!r}{f', and has {close[0]!r}' if close else ''} {count}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
