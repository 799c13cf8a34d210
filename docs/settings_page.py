"""The page of all settings, from the dataclasses that check them.

`python docs/settings_page.py` writes it anew, `docs/reference/settings.md`.
"""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fedcl.config.groups import Groups
from fedcl.config.timeline import Arrivals
from fedcl.registry import KINDS

FILE = Path(__file__).parent / "reference" / "settings.md"
HEAD = """# Settings

Every value can be given on the command line as `group.key=value`; `conf/config.yaml` and the files
in `conf/` hold the defaults of a run. This page is made from the dataclasses that check them, by
`python docs/settings_page.py`.
"""
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def page() -> str:
    """Return the page in markdown."""
    parts = [HEAD]
    for field in dataclasses.fields(Groups):
        kind = get_type_hints(Groups)[field.name]
        if field.name == "sites":
            parts += [f"## `sites.SITE`\n\n{table(get_args(kind)[1], 'sites.SITE')}"]
        elif dataclasses.is_dataclass(kind):
            title = "timeline" if kind is Arrivals else field.name
            parts += [f"## `{title}`\n\n{table(kind, title)}"]
    for kind in KINDS:
        parts += [f"## `{kind.key}`\n"]
        for name in kind.modules():
            cls = kind.find(name)
            rows = table(cls, kind.key)
            parts += [f"### `{kind.key}={name}`\n\n{summary(cls)}\n\n{rows or 'No settings.'}\n"]
    return "\n".join(parts) + "\n"


def summary(cls: type) -> str:
    """Return the first sentence of a class's docstring."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def table(cls: Any, prefix: str) -> str:
    """Return the settings of a dataclass as a table, those of dataclasses in it as well."""
    rows = list(settings(cls, prefix))
    if not rows:
        return ""
    head = ["| key | default | values | |", "|---|---|---|---|"]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def settings(cls: Any, prefix: str) -> list[tuple[str, str, str, str]]:
    """Return key, default, values and meaning of every setting."""
    hints, told, rows = get_type_hints(cls), attributes(cls), []
    for field in dataclasses.fields(cls):
        key, kind = f"{prefix}.{field.name}", hints[field.name]
        if dataclasses.is_dataclass(kind):
            rows += settings(kind, key)
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = "" if default is dataclasses.MISSING else f"`{spelt(default)}`"
        rows.append((f"`{key}`", shown, values(kind, field.metadata), told.get(field.name, "")))
    return rows


def spelt(value: Any) -> str:
    """Return a value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace("|", r"\|").replace("'", "") if value != "" else "''"


def values(kind: Any, bounds: Any) -> str:
    """Return what values there may be."""
    if bounds.get("choices"):
        return ", ".join(f"`{choice}`" for choice in bounds["choices"])
    options = [one for one in (get_args(kind) or (kind,)) if one is not type(None)]
    word = WORDS.get(options[0], "")
    if get_origin(kind) is list:
        word = f"list of {word}s" if options[0] in (int, float) else "list"
    if get_origin(kind) is dict:
        word = "group"
    for name, sign in (("low", "at least"), ("above", "above"), ("high", "at most")):
        if bounds.get(name) is not None:
            word += f", {sign} {bounds[name]:g}"
    return word


def attributes(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each attribute."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        text = inspect.cleandoc(one.__doc__ or "")
        _, _, listed = text.partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \w)", "\n" + listed.split("\n\n")[0]):
            names, colon, meaning = entry.strip().partition(": ")
            if colon and re.fullmatch(r"[\w, ]+", names):
                words = " ".join(meaning.split()).replace("|", r"\|")
                found |= dict.fromkeys(names.split(", "), words)
    return found


if __name__ == "__main__":
    FILE.write_text(page())
