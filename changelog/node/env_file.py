"""Small files that are a machine's own, such as .env: read, changed in one setting, and written whole or not at all."""

from __future__ import annotations

import io
import re
from pathlib import Path

from dotenv.parser import parse_stream

from changelog.connection import write_whole
from changelog.errors import ConfigError
from changelog.storage import not_yours

PRIVATE = 0o600  # mode of a file that only its owner may read

_QUOTED = re.compile(r"""\s*(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')\s*(?:#(.*))?""", re.DOTALL)
_COMMENT = re.compile(r".*?\s#(.*)")


def read_env(env_file: Path) -> dict[str, str]:
    """The keys and texts of an .env file ({} when there is none); raises ConfigError naming the line that cannot be read."""
    values: dict[str, str] = {}
    try:
        with env_file.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        return {}
    except PermissionError as exc:
        raise ConfigError(f"{env_file}: cannot be read: {not_yours(env_file)}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{env_file}: cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8 text'}") from exc
    for binding in bindings:
        text = binding.original.string
        line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
        if binding.error or (binding.key is not None and binding.value is None):
            raise ConfigError(f"{env_file}: line {line} cannot be read: write NAME=value, and # before a comment")
        if binding.key in values:
            raise ConfigError(f"{env_file}: {printable(binding.key)} is set twice, again in line {line}: keep one of them")
        if binding.key is not None:
            values[binding.key] = binding.value or ""
    return values


def with_setting(text: str, name: str, value: str) -> str:
    """The text of an .env file in which `name` has `value`: in the line that sets it or holds its default, else in a new one.

    All other lines stay as they are; what the reader takes for this setting (an `export` before it, quotes, a comment) is replaced.
    """
    pieces = [(binding.key, binding.original.string) for binding in parse_stream(io.StringIO(text, newline=""))]
    default = re.compile(rf"#{re.escape(name)}=")
    for holds in (lambda key, line: key == name, lambda key, line: key is None and default.match(line)):
        for number, (key, piece) in enumerate(pieces):
            line = piece.lstrip()
            if holds(key, line):
                before, end = piece[: len(piece) - len(line)], piece[len(piece.rstrip("\r\n")) :] or "\n"
                comment = _comment_of(line.rstrip())
                # The comment goes above: what stands behind `=` is the value alone, for `cut -d= -f2` as well.
                above = f"#{comment}{end}" if comment is not None else ""
                pieces[number] = (name, f"{before}{above}{name}={value}{end}")
                return "".join(piece for _, piece in pieces)
    whole = "".join(piece for _, piece in pieces)
    separator = "\n" if whole and not whole.endswith(("\n", "\r")) else ""
    return f"{whole}{separator}{name}={value}\n"


def _comment_of(line: str) -> str | None:
    """What stands behind the # of a line NAME=value # comment."""
    rest = line.partition("=")[2]
    found = _QUOTED.fullmatch(rest) or _COMMENT.fullmatch(rest)
    return found[1] if found else None


def write_env(path: Path, text: str) -> None:
    """Write an .env file whole, or not at all, for its owner alone. Raises OSError."""
    write_whole(path, text.encode(), PRIVATE)


def printable(text: str) -> str:
    """`text` on one line and not too long."""
    return "".join(char if char.isprintable() else "?" for char in text[:80])
