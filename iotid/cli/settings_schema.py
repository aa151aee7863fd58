"""The settings as a JSON schema, with which editors complete and check files of settings."""

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
    """Print the JSON schema of the settings, for editors that complete and check files for --config.

    Reads the comments of conf/base.yaml. Writes nothing but to stdout.
    """
    command.print_lines(*json.dumps(schema(), indent=2, ensure_ascii=False).split("\n"))


def schema() -> dict[str, Any]:
    """The schema of a file of settings; no key is required, as such a file changes some keys only."""
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
    """(section, key) -> its comment, unit and reason, in a file that has every setting once."""
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
