"""What was planned and why: plan.json as a table, plan.md as it explains itself."""

from collections.abc import Iterator
from dataclasses import dataclass

from autoseg.artifacts.plan import Configuration, Plan
from autoseg.report.found import Found
from autoseg.report.html import Element, Node, element, facts, items, paragraph, section, table
from autoseg.report.words import by, listed

CHOSE = "Chose:"


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading of plan.md and what stands below it.

    Attributes
    ----------
    title : str
    blocks : tuple of str or tuple of str
        A paragraph, or the items of a list.
    """

    title: str
    blocks: tuple[str | tuple[str, ...], ...]

    @property
    def outcome(self) -> str:
        """What was chosen, in a row; empty where the chapter says nothing of it."""
        after = self.blocks[self.blocks.index(CHOSE) + 1 :] if CHOSE in self.blocks else ()
        return "; ".join(after[0]) if after and isinstance(after[0], tuple) else ""


def planned(found: Found) -> Element:
    """The part."""
    if found.plan is None:
        return section("Plan", "plan", paragraph("No plan to show: there is no plan.json that can be read."))
    parts: list[Node] = [_configurations(found.plan), facts(_training(found.plan))]
    if found.explanation is None:
        parts.append(paragraph("plan.md, which says why, is not there; autoseg plan writes it again."))
        return section("Plan", "plan", *parts)
    chapters = list(read_chapters(found.explanation))
    reasons = [each for each in chapters if each.title and each.title != chapters[0].title]
    parts.append(element("h3", "Why"))
    if chapters:
        parts += _blocks(chapters[0])
    parts += [_reason(each) for each in reasons]
    return section("Plan", "plan", *parts)


def read_chapters(markdown: str) -> Iterator[Chapter]:
    """Headings, paragraphs and lists: all that plan.md is made of.

    Parameters
    ----------
    markdown : str

    Yields
    ------
    Chapter
        The first is what stands before any second heading.
    """
    title, blocks = "", list[str | tuple[str, ...]]()
    for line in markdown.splitlines():
        if line.startswith("#"):
            if title or blocks:
                yield Chapter(title, tuple(blocks))
            title, blocks = line.lstrip("#").strip(), []
        elif line.startswith("- "):
            before = blocks.pop() if blocks and isinstance(blocks[-1], tuple) else ()
            blocks.append((*before, line[2:]))
        elif line.strip():
            blocks.append(line.strip())
    if title or blocks:
        yield Chapter(title, tuple(blocks))


def _reason(chapter: Chapter) -> Element:
    """A choice: what came out, and behind it the rule, what it saw and its source."""
    head = element("summary", element("b", chapter.title), f": {chapter.outcome}" if chapter.outcome else "")
    return element("details", head, *_blocks(chapter), class_="reason")


def _blocks(chapter: Chapter) -> list[Node]:
    return [paragraph(block) if isinstance(block, str) else items(block) for block in chapter.blocks]


def _configurations(plan: Plan) -> Element:
    head: list[Node] = ["", *plan.configurations]
    rows = (
        ("Spacing (mm)", lambda each: by(each.spacing)),
        ("Median image (voxels)", lambda each: by(each.median_image_size_in_voxels)),
        ("Patch (voxels)", lambda each: by(each.patch_size)),
        ("Batch", lambda each: str(each.batch_size)),
        ("Network", _network),
        ("Features", lambda each: listed(each.features_per_stage)),
        ("Normalization", lambda each: listed(dict.fromkeys(each.normalization_schemes))),
        ("Mirrored axes", lambda each: listed(each.mirror_axes) or "none"),
        ("Dice of the loss", lambda each: "over the batch" if each.batch_dice else "sample by sample"),
    )
    lines = [[name, *(tell(each) for each in plan.configurations.values())] for name, tell in rows]
    return table("Configurations; axes in the network's order", head, lines, name="configurations")


def _network(configuration: Configuration) -> str:
    kind = "residual encoder" if configuration.residual else "plain"
    blocks = listed(configuration.encoder_blocks)
    unit = "blocks" if configuration.residual else "convolutions"
    return f"U-Net, {kind}, {configuration.n_stages} stages of {blocks} {unit}"


def _training(plan: Plan) -> list[tuple[str, Node]]:
    recipe = plan.training
    length = (
        f"{recipe.max_hours:g} hours a fold"
        if recipe.max_hours is not None
        else f"{recipe.epochs} epochs of {recipe.iterations_per_epoch} steps"
    )
    mirroring = "with" if plan.prediction.mirroring else "without"
    rate = "the optimizer's usual one" if recipe.initial_learning_rate is None else f"{recipe.initial_learning_rate:g}"
    return [
        ("Preset", f"{plan.preset}, for {plan.gpu_memory_gb:g} GB"),
        ("Length", length),
        ("Loss", recipe.loss),
        ("Optimizer", f"{recipe.optimizer}, first rate: {rate}, schedule {recipe.schedule}"),
        (
            "Prediction",
            f"windows {plan.prediction.step:g} patch edges apart, {mirroring} mirroring",
        ),
    ]
