"""The pages of the documentation against the program: documentation can't drift from the command line."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.overlay import overlay
from autoseg.artifacts.plan import Plan
from autoseg.cli import main
from autoseg.errors import AutosegError

ROOT = Path(__file__).parents[2]
OUTSIDE = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "plans" / "README.md"]
PAGES = [*OUTSIDE, *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "reference" / "cli.md"

BLOCK = re.compile(r"^( *)```[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`(autoseg [^`]+)`(?!`)")
CALL = re.compile(r"(?:^|[\s;&|(])autoseg (?=[a-z])")
PLACEHOLDER = re.compile(r"[A-Z]+|\$.*|.*\.\.\.")


class Call(NamedTuple):
    """One call of autoseg in a page."""

    where: str
    words: list[str]
    whole: bool  # in a block, to be typed as it stands; in running text arguments may be left out


def calls(page: Path) -> Iterator[Call]:
    """Every call in a page, in its blocks of code and in running text."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        for line in re.sub(r"\\\n", " ", block[2]).split("\n"):
            for call in CALL.finditer(line):
                yield Call(_place(page, text, block.start()), _words(line[call.end() :]), whole=True)
    for span in SPAN.finditer(BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)):
        yield Call(str(page.relative_to(ROOT)), _words(span[1].removeprefix("autoseg ")), whole=False)


def _place(page, text, start):
    return f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, start) + 1}"


def _words(line):
    """What a shell would make of the rest of a line; brackets mark what may be left out."""
    lexer = shlex.shlex(line.replace("[OPTIONS]", ""), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        words.append(word if "=" in word else word.strip("[]"))
    return words


def fault(call: Call, plans: list[Plan]) -> str | None:
    """What is wrong with a call, in one line."""
    name, *words = call.words
    if name in ("COMMAND", "-h", "--help", "--version") or words in (["-h"], ["--help"]):
        return None
    command = main.commands.get(name)
    if command is None:
        return "no command or option of the program"
    options = [p for p in command.params if isinstance(p, click.Option) and words and words[-1] in p.opts]
    if not call.whole and options and not options[0].is_flag:
        words.append("VALUE")
    try:
        settings = parse(command, words, whole=call.whole)
    except click.ClickException as error:
        return error.format_message()
    refusals = [told for plan in plans if (told := refusal(plan, settings))]
    return refusals[0] if len(refusals) == len(plans) else None


def parse(command: click.Command, words: list[str], *, whole: bool) -> list[str]:
    """Let click look at a command without running it; what is set. Raises click's errors."""
    # A command remembers the first context's words for help.
    context = click.Context(command, parent=click.Context(main, **main.context_settings))
    given, left, _ = command.make_parser(context).parse_args(words)
    if left:
        raise click.UsageError(f"too many arguments: {left}")
    for parameter in command.params:
        value = given.get(parameter.name)
        values = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, str)]
        if whole and isinstance(parameter, click.Argument) and parameter.required and not values:
            raise click.MissingParameter(ctx=context, param=parameter)
        for text in values:
            # Files need not be there.
            if not isinstance(parameter.type, click.Path) and not PLACEHOLDER.fullmatch(text):
                parameter.type.convert(text, parameter, context)
    return [text for text in given.get("settings") or () if text not in ("KEY=VALUE", "VALUE")]


def refusal(plan: Plan, settings: list[str]) -> str | None:
    """Why a plan can't have these settings."""
    try:
        overlay(plan, settings)
    except AutosegError as error:
        return str(error).replace("\n", " ")
    return None


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """The examples; what is set in a page has to fit one of them."""
    return [read(path, Plan) for path in sorted((ROOT / "plans").glob("*/plan.json"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_pages_are_commands_of_the_program(page, plans):
    faults = [f"{c.where}: autoseg {shlex.join(c.words)}: {told}" for c in calls(page) if (told := fault(c, plans))]
    assert not faults, "\n".join(faults)


def test_a_wrong_command_would_be_noticed(plans):
    assert sum(len(list(calls(page))) for page in PAGES) > 200
    for line, told in (
        ("plon RAW", "no command"),
        ("plan RAW --explian", "explian"),
        ("plan RAW --preset huge", "huge"),
        ("train -w W", "FOLD"),
        ("evaluate A B C", "too many"),
        ("train 0 --epochs 0", "0"),
        ("train 0 --set training.epoch=5", "epoch"),
        ("--hlep", "no command or option"),
    ):
        assert told in (fault(Call("", _words(line), whole=True), plans) or ""), line


@pytest.mark.parametrize("name", main.commands)
def test_the_reference_names_every_option(name):
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", REFERENCE.read_text(encoding="utf-8"), re.M | re.S))
    text = sections[f"autoseg {name}"] + sections["In common"]
    for option in (parameter for parameter in main.commands[name].params if isinstance(parameter, click.Option)):
        for written in (option.opts, option.secondary_opts):
            assert not written or any(re.search(rf"{re.escape(o)}(?![\w-])", text) for o in written), option.opts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_pages_imports_what_there_is(page):
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoseg"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Of pages outside docs/, whose links Sphinx checks."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], (
                target
            )
