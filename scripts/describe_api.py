#!/usr/bin/env python3
"""Writes the descriptions of both HTTP APIs: pi/openapi.json and server/openapi.json. `--check` only looks whether they are fresh."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pi.openapi
import server.openapi

ROOT = Path(__file__).resolve().parents[1]

FILES = {ROOT / "pi/openapi.json": pi.openapi.described, ROOT / "server/openapi.json": server.openapi.described}


def text_of(document: object) -> str:
    """As it stands in the file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    stale = [path for path, described in FILES.items() if not path.exists() or path.read_text() != text_of(described())]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is not fresh' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(text_of(FILES[path]()))
    sys.exit(bool(stale) and "--check" in sys.argv)
