"""Templates of the office say what Jinja itself would say, escaped as Jinja escapes, only sooner."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.templating import Environment
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from server.rendering import OfficeEnvironment
from server.show import text_of

SOURCES = (
    "{{ x }}",
    "<p title=\"{{ x }}\">{{ x }}{{ x or 'none' }}</p>",
    "{% macro m(v) %}<b>{{ v }}</b>{% endmacro %}{{ m(x) }}{{ m(m(x)) }}",
    "{% set s %}<i>{{ x }}</i>{% endset %}{{ s }}{{ s ~ x }}",
    "{{ x|safe }}",
    "{{ x|e }}{{ x|string|upper }}",
    "{% for each in [x, 'a<b', 1] %}{{ each }},{% endfor %}{{ [x] }}{{ {'k': x} }}",
)
VALUES: Any = st.one_of(
    st.text(), st.sampled_from("<>&'\""), st.integers(), st.floats(), st.none(), st.booleans(), st.binary(), st.text().map(Markup)
)


def rendered(kind: type[Environment], source: str, x: Any) -> str:
    environment = kind(Flask(__name__), autoescape=True)
    environment.finalize = None if kind is OfficeEnvironment else text_of
    return environment.from_string(source).render(x=x)


@pytest.mark.parametrize("source", SOURCES)
@given(x=VALUES)
def test_every_value_is_written_as_jinja_writes_it(source: str, x: Any) -> None:
    assert rendered(OfficeEnvironment, source, x) == rendered(Environment, source, x)


@pytest.mark.parametrize("x", ["<script>alert(1)</script>", "\" onmouseover='x'", "a & b", b"<b>", ["<script>"]])
def test_nothing_that_a_row_holds_becomes_markup(x: Any) -> None:
    found = rendered(OfficeEnvironment, '<p title="{{ x }}">{{ x }}</p>', x)
    assert found.count("<") == 2 and found.count('"') == 2
