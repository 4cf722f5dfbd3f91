"""What `harness.tune --list` prints: our spaces and their questions, and what packages offer of every kind."""

from harness import plugins
from harness.config import named_spaces
from harness.errors import UserError
from harness.plugins.registry import Registry, offers_anything


def lines() -> list[str]:
    """One line per space of ours, and per entry point, with what is wrong with one that cannot be used."""
    return [f"{name:<12} {named_spaces.summary(name)}" for name in named_spaces.spaces()] + _offered()


def _offered() -> list[str]:
    if not offers_anything():  # else torch is imported, for the kinds of things
        return []
    from harness.config.named_settings import REGISTRIES
    from harness.data.corruptions.registry import CORRUPTIONS

    kinds = {registry.group: registry for registry in (named_spaces.REGISTRY, *REGISTRIES.values(), CORRUPTIONS)}
    found = [_line(registry, name) for registry in kinds.values() for name in registry.offered()]
    return ["", "of installed packages:", *found] if found else []


def _line(registry: Registry, name: str) -> str:
    try:
        reference = registry.pinned(name)
        registry[reference]
        about = named_spaces.summary(name) if registry is named_spaces.REGISTRY else ""
    except UserError as error:
        return f"{name:<12} {registry.kind}: cannot be used: {error}"
    return f"{name:<12} {registry.kind} {plugins.unpinned(reference)}{about and f': {about}'}"
