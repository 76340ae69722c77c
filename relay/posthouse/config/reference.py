"""The settings written out: as TOML for a person to start from, as the page docs/configuration.md, and as they are.

Everything here is made from the sections, so that it cannot say anything else than what the relay does.
"""

import json
import textwrap
from typing import Any

from posthouse.config.forms import hidden_password
from posthouse.config.loading import FIELDS, Resolved
from posthouse.config.sections import Config
from posthouse.config.setting import Field

_WIDTH = 110

_TOML_HEAD = """\
# Every setting of Posthouse with its default. Keep what you change, drop the rest.
# A flag stands above the environment, the environment above this file.
"""

_MARKDOWN_HEAD = """\
# Configuration

Made by `make docs` from the annotations in `relay/posthouse/config/`; change it there.

Settings come from a TOML file (`posthouse serve --config FILE`), from the environment and from flags. A flag stands
above the environment, which stands above the file. A list in the environment is separated by commas. An unknown
key, an unknown variable beginning with `POSTHOUSE_` or a bad value ends the start with one line that names it.

`posthouse config check` checks, `posthouse config show` prints what is in force and where it comes from (without
passwords), `posthouse config reference` prints a file with every default.
"""


def reference() -> str:
    """A TOML file with every setting at its default, each with what it does, its bounds and its reason."""
    lines = [_TOML_HEAD]
    section = ""
    for field in FIELDS.values():
        if field.section != section:
            section = field.section
            lines += ["", *_comment(_section_text(section)), f"[{section}]"]
        lines += ["", *_comment(field.setting.about), *_comment(f"Why this default: {field.setting.why}")]
        lines += _comment(f"Allowed: {field.allowed()}. Also: {field.variable}{_flag(field)}")
        lines.append(f"{field.name} = {_toml(field.default)}")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The page docs/configuration.md."""
    lines = [_MARKDOWN_HEAD]
    section = ""
    for field in FIELDS.values():
        if field.section != section:
            section = field.section
            lines += [f"## {section}", "", _section_text(section), ""]
            lines += [
                "| key and variable | default | allowed | what it does, and why this default |",
                "|---|---|---|---|",
            ]
        names = f"`{field.key}`<br>`{field.variable}`" + (
            f"<br>`{field.setting.flag}`" if field.setting.flag else ""
        )
        meaning = f"{field.setting.about}<br>*{field.setting.why}*"
        cells = [names, f"`{_toml(field.default)}`", field.allowed(), meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if field is _last_of(section):
            lines.append("")
    return "\n".join(lines)


def redacted(config: Config) -> dict[str, dict[str, Any]]:
    """Every value by section and name, with the passwords in URLs hidden: what may be shown and logged."""
    shown: dict[str, dict[str, Any]] = {}
    for field in FIELDS.values():
        value = getattr(getattr(config, field.section), field.name)
        if field.setting.secret:
            value = hidden_password(value)
        shown.setdefault(field.section, {})[field.name] = list(value) if field.is_list else value
    return shown


def shown(resolved: Resolved) -> str:
    """A configuration as TOML, without passwords, saying where each value comes from."""
    lines: list[str] = []
    for section, values in redacted(resolved.config).items():
        lines.append(f"[{section}]")
        for name, value in values.items():
            source = resolved.sources[f"{section}.{name}"]
            remark = "" if source == "default" else f"  # from the {source}"
            lines.append(f"{name} = {_toml(value)}{remark}")
        lines.append("")
    return "\n".join(lines)


def _section_text(section: str) -> str:
    text = getattr(Config(), section).__doc__
    return " ".join(text.split())


def _last_of(section: str) -> Field:
    return [field for field in FIELDS.values() if field.section == section][-1]


def _flag(field: Field) -> str:
    return f", {field.setting.flag}" if field.setting.flag else ""


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return "[" + ", ".join(_toml(item) for item in value) + "]"
