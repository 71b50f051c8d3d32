"""`--set KEY=VALUE`: one value of a plan replaced, and the whole checked again."""

from collections.abc import Sequence
from typing import Any

import msgspec

from autoseg.artifacts.base import explain
from autoseg.artifacts.plan import Plan
from autoseg.errors import AutosegError, SettingError, nearest

Tree = dict[str, Any]


def overlay(plan: Plan, settings: Sequence[str]) -> Plan:
    """Replace values of a plan.

    Parameters
    ----------
    plan : Plan
    settings : sequence of str
        Each ``dotted.key=value``; the value is JSON, or text where it is not.

    Returns
    -------
    Plan
        A new one; the given one is unchanged.

    Raises
    ------
    SettingError
        No ``=``, an unknown key (the nearest known one is named), or a value out of bounds.
    """
    if not settings:
        return plan
    tree = msgspec.to_builtins(plan)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise SettingError(
                "a setting has no value", where=f"--set {setting}", allowed="KEY=VALUE", hint="e.g. training.epochs=50"
            )
        _replace(tree, key.strip(), _value(text), setting)
    try:
        return msgspec.convert(tree, Plan)
    except msgspec.ValidationError as error:
        told: AutosegError = explain(error, Plan, where=f"--set {' '.join(settings)}")
        raise SettingError(*told.args) from error


def differences(one: Tree, other: Tree) -> list[str]:
    """Where two (parts of) plans differ, as ``dotted.key was a, is b``."""
    trees = (one, other)
    keys = dict.fromkeys(_paths(one) + _paths(other))
    values = [(key, [_get(tree, key) for tree in trees]) for key in keys]
    return [
        f"{key} was {a}, is {b}"
        for key, (a, b) in values
        if a != b and not (isinstance(a, dict) and isinstance(b, dict))
    ]


def _get(tree: Any, key: str) -> Any:  # noqa: ANN401 - any JSON value
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _replace(tree: dict[str, Any], key: str, value: Any, setting: str) -> None:  # noqa: ANN401 - any JSON value
    node: Any = tree
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            here = list(node) if isinstance(node, dict) else []
            prefix = ".".join(parts[:depth])
            # A name from elsewhere in the plan helps one who forgot the path: `epochs` -> `training.epochs`.
            paths = _paths(tree)
            elsewhere = [path for path in paths if path.rpartition(".")[2] == parts[-1]]
            close = nearest(part, here)
            full = ".".join(filter(None, (prefix, close))) if close else nearest(key, paths)
            best = elsewhere[0] if elsewhere else full
            raise SettingError(
                f"unknown key {key!r}",
                where=f"--set {setting}",
                allowed=", ".join(here) if depth else None,
                hint=f"did you mean {best!r}?" if best else "see plan.json for the keys",
            )
        if depth == len(parts) - 1:
            node[part] = value
        else:
            node = node[part]


def _paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Every dotted key of a nested dict."""
    paths = []
    for key, value in tree.items():
        paths.append(prefix + key)
        if isinstance(value, dict):
            paths += _paths(value, f"{prefix}{key}.")
    return paths
