"""What a metric means, without a model."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

from expunge.cli.console import heading, say
from expunge.core import catalogue
from expunge.core.checks import unknown
from expunge.results.measures import Definition

_ALL_SPLITS = ("forget", "retain", "holdout", "retain_perturbed", "real_authors", "world_facts", "world")


def explain(name: str, suite: str) -> None:
    """Print what a metric, or a measure of a suite, is: definition, direction, source, and how it departs from them.

    Raises:
        ExpungeError: neither a metric nor a measure of the suite goes by that name.
    """
    if name.replace("-", "_") in catalogue.names("metrics") or ":" in name:
        _explain(catalogue.resolve("metrics", name))
        return
    chosen = catalogue.resolve("suites", suite)(_ALL_SPLITS)
    if name not in chosen.names:
        raise unknown(f"metric or measure of the suite '{suite}'", name, {*catalogue.names("metrics"), *chosen.names})
    for one in chosen.derived:
        if one.name == name:
            heading(f"{name}: made of {', '.join(one.parts)}")
            _define(one.definition)
    for entry in (entry for entry in chosen.entries if entry.name == name):
        views = "; ".join(f"{role} = {view.probe.name} of the {view.whose}" for role, view in entry.views.items())
        heading(f"{name}: {entry.metric.__name__} with {views}")
        _explain(entry.metric)


def _explain(metric: Callable[..., Any]) -> None:
    definition = getattr(sys.modules[metric.__module__], "DEFINITION", None)
    if isinstance(definition, Definition):
        _define(definition)
        say()
    say(inspect.getdoc(metric) or "")


def _define(definition: Definition) -> None:
    say(f"definition: {definition.text}")
    say(f"better: {definition.better or 'lower on the forget set, higher elsewhere'}")
    say(f"source: {definition.source}")
