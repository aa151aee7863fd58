"""Prints the JSON schema of settings files, for completion and checks in editors."""

from __future__ import annotations

import json
import re
from typing import Any

import click

from iotid.cli import command
from iotid.config import DEFAULT_LAYERS, Settings, conf_dir

_SECTION = re.compile(r"(\w+):$")
_KEY = re.compile(r"  (\w+): .*?(?:#\s*(.*))?$")
_MORE = re.compile(r"\s{8,}#\s*(.*)$")  # a comment that continues on the next line


@click.command("settings-schema")
def main() -> None:
    """Print the JSON schema of settings files, for completion and checks in editors.

    Reads the comments of conf/base.yaml. Writes only to stdout.
    """
    command.print_lines(*json.dumps(schema(), indent=2, ensure_ascii=False).split("\n"))


def schema() -> dict[str, Any]:
    """The schema of a settings file; no key is required, because a file may change only some."""
    whole = Settings.model_json_schema()
    comments = dict(
        pair for name in DEFAULT_LAYERS for pair in _comments((conf_dir() / name).read_text("utf-8")).items()
    )
    for section, reference in whole["properties"].items():
        own = whole["$defs"][reference["$ref"].rpartition("/")[2]]
        own.pop("required")
        for key, value in own["properties"].items():
            value.update({"description": comments[section, key]} if (section, key) in comments else {})
    del whole["required"]
    return whole | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Settings of iotid"}


def _comments(text: str) -> dict[tuple[str, str], str]:
    """(section, key) -> its comment (unit and reason), from a file that has every setting once."""
    found: dict[tuple[str, str], str] = {}
    section = key = ""
    for line in text.splitlines():
        if match := _SECTION.match(line):
            section, key = match[1], ""
        elif match := _KEY.match(line):
            key = match[1]
            found[section, key] = match[2] or ""
        elif (match := _MORE.match(line)) and key:
            found[section, key] = f"{found[section, key]} {match[1]}".strip()
    return {setting: comment for setting, comment in found.items() if comment}
