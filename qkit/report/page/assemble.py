# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Templates, styles, scripts and data put together into one page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from qkit.report.fields import describe_fields, summarize
from qkit.report.figures import figure_name
from qkit.report.names import short_name, source_name
from qkit.report.page import formats
from qkit.report.page.figures import SPACE_FIGURES, accuracy_rows, is_worse, space_rows
from qkit.report.tuning import gain_rows

FILTERS: tuple[Callable[..., str], ...] = (
    formats.change,
    formats.count,
    formats.decibels,
    formats.difference,
    figure_name,
    formats.fixed,
    formats.listing,
    formats.megabytes,
    formats.number,
    formats.percent,
    formats.quantity,
    short_name,
    formats.sort_key,
    source_name,
)


def assemble(template: str, **content: Any) -> str:
    """Render a template into a page that holds all it needs.

    Args:
        template: name of the template.
        content: what it shows; ``data`` is embedded as JSON for the scripts.
    """
    return _environment().get_template(template).render(content)


def _environment() -> Environment:
    """Everything is escaped; a name that a template does not know is an error."""
    environment = Environment(
        loader=PackageLoader("qkit.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.tests["worse"] = is_worse
    environment.globals |= {
        "accuracy_rows": accuracy_rows,
        "describe": describe_fields,
        "gain_rows": gain_rows,
        "plotly": lambda: Markup(get_plotlyjs()),
        "source": partial(_source, environment),
        "space_figures": SPACE_FIGURES,
        "space_rows": space_rows,
        "summarize": summarize,
    }
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _source(environment: Environment, name: str) -> Markup:
    """A style sheet or script of this package as it stands, which is no template."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])
