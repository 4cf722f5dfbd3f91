"""Text of a store as it may stand in a page: what is invisible is shown, what runs to the left stays by itself."""

import re
import unicodedata

# Invisible letters that Unicode does not call format characters: fillers, a joiner, vowels, a blank of Braille, and
# variation selectors.
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u2028\u2029"
_SELECTORS = (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_KEPT = "\t\n"
_ISOLATE, _END = "\u2068", "\u2069"  # FIRST STRONG ISOLATE and its end: the text around has its own direction
_UNUSUAL = re.compile(r"[^\t\n\x20-\x7e\u00a0-\u00ac\u00ae-\u02ff\u2010-\u2027\u2030-\u205e\u2190-\u27ff\u2801-\u2bff]")


def visible(text: str) -> str:
    """Text with `[U+202E]` for every control, format and other invisible character.

    Runs of letters that are written from right to left are isolated, so that they reorder nothing beside them. Text of
    a subclass, such as `Markup`, keeps its class. Plain text is returned as it is.
    """
    if not _UNUSUAL.search(text):
        return text
    shown = _RIGHT_TO_LEFT.sub(rf"{_ISOLATE}\g<0>{_END}", "".join(map(_shown, str(text))))
    return type(text)(shown)


def _shown(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cn", "Co", "Cs") and letter not in _KEPT
    hidden |= letter in _FILLERS or ord(letter) in _SELECTORS
    return f"[U+{ord(letter):04X}]" if hidden else letter


def _right_to_left() -> re.Pattern[str]:
    """Runs of letters and digits of Hebrew, Arabic and their like, with the marks and blanks between them."""
    letters = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
    return re.compile(f"[{letters}](?:[{letters} ]*[{letters}])?")


_RIGHT_TO_LEFT = _right_to_left()
