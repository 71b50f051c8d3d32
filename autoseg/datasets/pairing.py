"""Finds out how the names in an image folder and a label folder make cases: two lists of names -> pairs.

``pt_1_ct`` and ``pt_1_oar`` share the case ``pt_1``: each folder's names have a prefix and a suffix of their own,
and what lies between is the case. The pair of prefixes and suffixes that matches the most names wins.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product

from autoseg.errors import DatasetError
from autoseg.images.endings import file_ending

SEPARATORS = "_-. "
CHANNEL = re.compile(r"_\d{4}$")
FIRST_CHANNEL = "_0000"
LAST_WORD, FIRST_WORD = re.compile(r"[_\-. ][^_\-. ]+$"), re.compile(r"^[^_\-. ]+[_\-. ]")


@dataclass(frozen=True, slots=True)
class Cut:
    """The affixes between which a case's name stands, in the image and in the label names (without ending)."""

    image_prefix: str
    label_prefix: str
    image_suffix: str
    label_suffix: str


def stem(name: str) -> str:
    """A file's name without its readable ending."""
    return name.removesuffix(file_ending(name) or "")


def stems_of(names: Iterable[str], folder: str) -> dict[str, str]:
    """Stem to file name.

    Raises
    ------
    DatasetError
        Two files differ only by their ending, so a case would be there twice.
    """
    found: dict[str, str] = {}
    for name in names:
        if stem(name) in found:
            raise DatasetError(
                "a case is there twice",
                where=f"case {stem(name)} in {folder}",
                found=f"{found[stem(name)]} and {name}",
                hint="remove one of the two",
            )
        found[stem(name)] = name
    return found


def commonest_ending(names: Iterable[str]) -> str:
    """The ending that most of the names have."""
    return Counter(file_ending(name) or "" for name in names).most_common(1)[0][0]


def split_channel(image_stem: str) -> tuple[str, str]:
    """Part ``CASE_0002`` into ``CASE`` and ``_0002``; the latter is empty where there is no such ending."""
    match = CHANNEL.search(image_stem)
    return (image_stem[: match.start()], match.group()) if match else (image_stem, "")


def chosen_channels(known: Sequence[str], wished: Sequence[str] | None) -> list[str] | None:
    """Those of the `known` channels that the user wishes, in the order of the wish; None where the names are others."""
    by_name = {name.casefold(): name for name in known}
    if wished and all(name.casefold() in by_name for name in wished):
        return [by_name[name.casefold()] for name in wished]
    return None


def closest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The `n` names most like `name`, as text; the first ones when none is like it."""
    names = sorted(known)
    return ", ".join(get_close_matches(name, names, n=n, cutoff=0.3) or names[:n]) or "none"


def find_cut(images: Sequence[str], labels: Sequence[str]) -> tuple[Cut, int]:
    """The affixes that make the most image and label names agree.

    Parameters
    ----------
    images, labels : sequence of str
        Names without ending, each list without repetition, not empty.

    Returns
    -------
    cut : Cut
        Of those with the most matches, the one that takes the least from the names; a separator left at the end
        of every case belongs to the affix.
    matches : int
        How many cases it finds; 0 when nothing agrees.
    """
    keys_of_labels = {cut: _keys(labels, *cut) for cut in _cuts(labels)}
    best, most, least = Cut("", "", "", ""), 0, 0
    for image_cut in _cuts(images):
        image_keys = _keys(images, *image_cut)
        for label_cut, label_keys in keys_of_labels.items():
            matches = len(image_keys & label_keys)
            taken = sum(map(len, (*image_cut, *label_cut)))
            if matches > most or (matches == most > 0 and taken < least):
                best, most, least = Cut(image_cut[0], label_cut[0], image_cut[1], label_cut[1]), matches, taken
    return _trim(best, images) if most else best, most


def case_of(name: str, prefix: str, suffix: str) -> str | None:
    """What lies between prefix and suffix; None when the name lacks one of them or nothing is left."""
    if name.startswith(prefix) and name.endswith(suffix) and len(name) > len(prefix) + len(suffix):
        return name[len(prefix) : len(name) - len(suffix)]
    return None


def shared_start(names: Sequence[str]) -> str:
    """The whole words that all names begin with, without the separator behind them."""
    start = _common_start(names)
    while (
        start
        and start[-1] not in SEPARATORS
        and any(name[len(start)] not in SEPARATORS for name in names if len(name) > len(start))
    ):
        start = start[:-1]
    return start.rstrip(SEPARATORS)


def misnamed(names: Sequence[str], others: Sequence[str]) -> tuple[str, str] | None:
    """A name without which `names` would go together with `others`, and what it should have been.

    Parameters
    ----------
    names, others : sequence of str
        Of images and of labels, or the reverse, without ending.

    Returns
    -------
    (str, str) or None
        Of names such as ``a_ct``, ``b_ct``, ``c_tc`` the odd one and its correction ``c_ct``.
    """
    for pattern in (LAST_WORD, FIRST_WORD):
        words = {name: match.group() for name in names if (match := pattern.search(name))}
        if not words:
            continue
        usual, count = Counter(words.values()).most_common(1)[0]
        odd = [name for name in names if words.get(name) != usual]
        if odd and count > len(odd) and find_cut([name for name in names if name not in odd], others)[1] == count:
            corrected = pattern.sub(usual, odd[0]) if odd[0] in words else odd[0] + usual
            return odd[0], corrected
    return None


def _cuts(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every (prefix, suffix) that all names share and that ends where a word or number does."""
    prefix = _common_start(names)
    suffix = _common_start([name[::-1] for name in names])[::-1]
    first = names[0]
    prefixes = [first[:n] for n in range(len(prefix) + 1) if _is_border(first, n)]
    suffixes = [first[len(first) - n :] for n in range(len(suffix) + 1) if _is_border(first, len(first) - n)]
    return [(p, s) for p, s in product(prefixes, suffixes) if len(p) + len(s) < min(map(len, names))]


def _common_start(names: Sequence[str]) -> str:
    """The longest text all names start with: what the first and the last of them share."""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _is_border(name: str, position: int) -> bool:
    """Whether a word or number starts or ends at this position."""
    if position in (0, len(name)):
        return True
    before, after = name[position - 1], name[position]
    return _kind(before) != _kind(after) or (before.islower() and after.isupper())


def _kind(letter: str) -> str:
    return "number" if letter.isdigit() else "word" if letter.isalpha() else "separator"


def _keys(names: Sequence[str], prefix: str, suffix: str) -> set[str]:
    return {key for name in names if (key := case_of(name, prefix, suffix)) is not None}


def _trim(cut: Cut, images: Sequence[str]) -> Cut:
    """Move separators at the ends of the cases into the suffixes."""
    keys = _keys(images, cut.image_prefix, cut.image_suffix)
    while len(ends := {key[-1] for key in keys}) == 1 and ends <= set(SEPARATORS) and min(map(len, keys)) > 1:
        (mark,) = ends
        cut = Cut(cut.image_prefix, cut.label_prefix, mark + cut.image_suffix, mark + cut.label_suffix)
        keys = {key[:-1] for key in keys}
    return cut
