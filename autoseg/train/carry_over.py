"""What a network takes over from another one: what fits, with its input and output adapted by name.

Two states, the names of what goes in and comes out -> the state to begin with, and what became of each tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from autoseg.artifacts.labels import BACKGROUND, foreground, has_regions
from autoseg.artifacts.model import CarriedOver, Pretrained
from autoseg.artifacts.plan import Plan
from autoseg.errors import SettingError

Outcome = Literal["loaded", "adapted", "fresh"]
Shapes = Mapping[str, tuple[int, ...]]
# Of these the network counts the levels from the coarsest, whose number differs with the depth; the finest are alike.
FROM_THE_COARSEST = ("up", "decoder", "heads")
INPUT, OUTPUT = "input", "output"
# Below this share of the encoder, or of all, training would begin from noise under another name.
LEAST_SHARE = 0.1
MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Ends:
    """What a network is shown and what it tells, by name.

    Attributes
    ----------
    channels, outputs : tuple of str
    regions : bool
        Each output answers for itself, rather than that exactly one of them holds.
    """

    channels: tuple[str, ...]
    outputs: tuple[str, ...]
    regions: bool


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a tensor.

    Attributes
    ----------
    part : str
        ``input`` or ``output`` where its shape depends on the channels or outputs, else its place in the network.
    why : str
        In words, where it is not simply loaded.
    """

    name: str
    part: str
    outcome: Outcome
    numbers: int
    why: str = ""


def ends_of(plan: Plan, configuration_name: str) -> Ends:
    """The channels and outputs of a plan's network."""
    names = list(foreground(plan.labels))
    regions = has_regions(plan.labels)
    # Of regions the previous stage's values are shown, which are other and more.
    count = plan.num_previous(plan.configurations[configuration_name])
    previous = [f"value {value}" for value in range(1, count + 1)] if regions else names[:count]
    return Ends(
        channels=(*plan.channel_names, *(f"predicted {name}" for name in previous)),
        outputs=tuple(names if regions else [BACKGROUND, *names]),
        regions=regions,
    )


def match(wanted: Sequence[str], known: Sequence[str]) -> tuple[int | None, ...]:
    """Where in `known` each wanted name stands, capitals aside; of names that occur twice, the first with the first.

    Returns
    -------
    tuple of int or None
        None where it is not there.
    """
    left: dict[str, list[int]] = {}
    for index, name in enumerate(known):
        left.setdefault(name.strip().casefold(), []).append(index)
    places = (left.get(name.strip().casefold(), []) for name in wanted)
    return tuple(each.pop(0) if each else None for each in places)


def adapt_input(weight: Tensor, axis: int, places: Sequence[int | None]) -> Tensor:
    """A convolution's weight for other channels.

    Parameters
    ----------
    weight : Tensor
        Filters along the first axis.
    axis : int
        Of the channels.
    places : sequence of int or None
        Which old channel each new one is; None: a mean over all old ones.

    Returns
    -------
    Tensor
        Each filter as long (root of the sum of squares) as it was.

    Notes
    -----
    For inputs that are independent and of variance 1, as z-scores roughly are, a filter's length is the standard
    deviation of what it gives: the layers behind see what they are used to, whether channels come or go.
    """
    old = weight.unbind(axis)
    mean = weight.mean(axis)
    new = torch.stack([mean if place is None else old[place] for place in places], axis)
    if sorted(place for place in places if place is not None) == list(range(len(old))) and None not in places:
        return new
    over = tuple(range(1, weight.ndim))
    length = new.square().sum(over, keepdim=True).sqrt()
    scale = weight.square().sum(over, keepdim=True).sqrt() / length.clamp(min=torch.finfo(new.dtype).tiny)
    return new * scale


def adapt_output(old: Tensor, fresh: Tensor, axis: int, places: Sequence[int | None]) -> Tensor:
    """A head's weight or bias for other outputs: the old rows of known ones, the fresh rows of the others."""
    rows = [fresh.select(axis, i) if place is None else old.select(axis, place) for i, place in enumerate(places)]
    return torch.stack(rows, axis)


def axes_that_differ(shapes: Shapes, others: Shapes) -> dict[str, int]:
    """The first axis in which two networks' tensors of the same name differ, of those that do."""
    return {
        name: next(axis for axis, (m, n) in enumerate(zip(shape, others[name], strict=True)) if m != n)
        for name, shape in shapes.items()
        if shape != others[name]
    }


def counterparts(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """The name of the same tensor in a network that may be deeper or shallower; what has none there keeps its name."""
    moved = {part: _count(known, part) - _count(names, part) for part in FROM_THE_COARSEST}
    found = {}
    for name in names:
        part, _, rest = name.partition(".")
        index, _, inner = rest.partition(".")
        found[name] = f"{part}.{int(index) + moved[part]}.{inner}" if part in moved else name
    return found


def _count(names: Sequence[str], part: str) -> int:
    """Entries of a list of modules."""
    return len({name.split(".")[1] for name in names if name.startswith(f"{part}.")})


def carry_over(
    old: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    old_ends: Ends,
    ends: Ends,
    channel_axes: Mapping[str, int],
    output_axes: Mapping[str, int],
) -> tuple[dict[str, Tensor], list[Fate]]:
    """The state a network begins with, made of another one's and its own fresh one.

    Parameters
    ----------
    old, fresh : mapping of str to Tensor
        State of the pretrained network and of the new one.
    old_ends, ends : Ends
        Theirs.
    channel_axes, output_axes : mapping of str to int
        Tensors of the new network whose shape depends on the number of channels, or of outputs, and the axis.

    Returns
    -------
    state : dict of str to Tensor
        With the names, shapes and types of `fresh`.
    fates : list of Fate
        One a tensor.

    Notes
    -----
    Channels are matched by name; a new one begins as the mean of the old ones (see `adapt_input`). Outputs are matched
    by name; a new one begins fresh. Between classes, which exclude each other, and regions nothing is carried over:
    the one's logits count relative to the others, the other's do not. A tensor that differs otherwise is left fresh.
    """
    alike = ends.regions == old_ends.regions
    places = {
        INPUT: match(ends.channels, old_ends.channels),
        OUTPUT: match(ends.outputs, old_ends.outputs) if alike else (None,) * len(ends.outputs),
    }
    known = counterparts(tuple(fresh), tuple(old))
    state, fates = {}, []
    for name, own in fresh.items():
        there = old.get(known[name])
        part = INPUT if name in channel_axes else OUTPUT if name in output_axes else name.partition(".")[0]
        axis = channel_axes.get(name, output_axes.get(name))
        tensor, why = own, ""
        if there is None:
            why = "not there"
        elif not _fits(there.shape, own.shape, axis):
            why = f"{_shape(there)} there, {_shape(own)} here"
        elif axis is None:
            tensor = there
        elif part == INPUT:
            tensor = adapt_input(there, axis, places[part])
        elif any(place is not None for place in places[part]):
            tensor = adapt_output(there.to(own.dtype), own, axis, places[part])
        else:
            why = "no label of the same name" if alike else "classes on one side, regions on the other"
        outcome: Outcome = "fresh" if why else _outcome(places.get(part), there, axis)
        state[name] = tensor.to(own.dtype)
        fates.append(Fate(name, part, outcome, own.numel(), why))
    return state, fates


def _fits(there: Sequence[int], here: Sequence[int], axis: int | None) -> bool:
    """Whether shapes are the same but for the axis that can be adapted."""
    return len(there) == len(here) and all(
        m == n or i == axis for i, (m, n) in enumerate(zip(there, here, strict=True))
    )


def _outcome(places: Sequence[int | None] | None, there: Tensor | None, axis: int | None) -> Outcome:
    """Whether a tensor that was carried over had to be changed."""
    same = axis is None or there is None or places is None or tuple(places) == tuple(range(there.shape[axis]))
    return "loaded" if same else "adapted"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def sums(fates: Sequence[Fate]) -> dict[str, CarriedOver]:
    """How many numbers were loaded, adapted and left fresh, part by part."""
    counts: dict[str, dict[str, int]] = {}
    for fate in fates:
        part = counts.setdefault(fate.part, {"loaded": 0, "adapted": 0, "fresh": 0})
        part[fate.outcome] += fate.numbers
    return {part: CarriedOver(**count) for part, count in counts.items()}


def check_enough(fates: Sequence[Fate], where: str) -> None:
    """Refuse weights that hardly fit.

    Raises
    ------
    SettingError
        Less than a tenth of the network fits, or of its encoder, without which the rest is of no use.
    """
    inward = [fate for fate in fates if fate.part in (INPUT, "stem", "encoder")]
    if min(_share(fates), _share(inward)) >= LEAST_SHARE:
        return
    raise SettingError(
        "the pretrained weights hardly fit this network",
        where=where,
        found="; ".join((f"{100 * _share(fates):.0f} % of its numbers fit", *misfits(fates))),
        allowed=f"at least {100 * LEAST_SHARE:.0f} % of all numbers, and of the encoder's",
        hint="give the network the shape of the pretrained one: --set, or edit plan.json",
    )


def misfits(fates: Sequence[Fate]) -> list[str]:
    """The first layers that were left fresh, and why."""
    layers: dict[str, str] = {}
    for fate in fates:
        if fate.outcome == "fresh":
            layers.setdefault(fate.name.rpartition(".")[0], fate.why)
    lines = [f"{layer}: {why}" for layer, why in layers.items()]
    return lines[:MOST_SHOWN] + ([f"and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else [])


def _share(fates: Sequence[Fate]) -> float:
    """Share of the numbers that came along."""
    return sum(f.numbers for f in fates if f.outcome != "fresh") / max(1, sum(f.numbers for f in fates))


def table(pretrained: Pretrained, ends: Ends) -> list[str]:
    """What was carried over, for a person."""
    notes = {
        INPUT: ", ".join(
            f"{name} from {source or 'the mean'}"
            for name, source in zip(ends.channels, pretrained.channels, strict=True)
        ),
        OUTPUT: ", ".join(
            f"{name} from {source}" if source else f"{name} fresh"
            for name, source in zip(ends.outputs, pretrained.outputs, strict=True)
        ),
    }
    rows = [("part", "loaded", "adapted", "left fresh", "")]
    rows += [
        (name, f"{part.loaded:,}", f"{part.adapted:,}", f"{part.fresh:,}", notes.get(name, ""))
        for name, part in pretrained.parts.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join((row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4])).rstrip()
        for row in rows
    ]
