"""How templates become text: as Jinja does it, everything escaped, in less time.

A list writes a thousand values, and half of its time went into making a `Markup` of each, only to join them. Here each becomes a plain
string at once. What may stand in a page unescaped is decided as before: `Markup`, which filters and macros give, and nothing else.
"""

from __future__ import annotations

import re
from typing import Any

from flask.templating import Environment
from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from markupsafe import Markup, escape

from server.show import text_of

NEEDS_ESCAPING = re.compile("[&<>'\"]").search


def written(found: Any) -> str:
    """What a template writes for a value: escaped, unless it is Markup already."""
    kind = type(found)
    if kind is str:
        return found if NEEDS_ESCAPING(found) is None else str(escape(found))
    if kind is Markup:
        return found
    if kind is int or kind is float:
        return str(found)
    return str(escape(text_of(found)))


class _Generator(CodeGenerator):
    """Writes `written(x)` where it would write `escape(finalize(x))`."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.eval_ctx.volatile or not frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("environment.written(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.eval_ctx.volatile or not frame.eval_ctx.autoescape:
            super()._output_child_post(node, frame, finalize)
        else:
            self.write(")")


class _Template(Template):
    """A template whose macros are made once: they know their arguments and the globals, which never change, and nothing of a page."""

    def _get_default_module(self, ctx: Context | None = None) -> Any:
        return super()._get_default_module(None)


class OfficeEnvironment(Environment):
    """The environment of the office's templates."""

    template_class = _Template
    code_generator_class = _Generator
    written = staticmethod(written)
