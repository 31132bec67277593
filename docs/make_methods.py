"""Writes docs/methods.md from the docstrings of the losses: `python docs/make_methods.py`."""

import inspect
from pathlib import Path

from expunge.core import catalogue
from expunge.objectives.method import method_of

HEAD = """# Methods

Made by `python docs/make_methods.py` from the docstrings of the losses; change those, not this page.

A method is a forget loss with a default retain loss; any forget loss goes with any retain loss:
`L = gamma * L_forget + alpha * L_retain`. "Token mean" losses divide the sum over all supervised tokens of a step by
their number, "sequence mean" losses average one value a sequence; either way over the whole optimizer step, however it
is cut into micro-batches. Learning rates are given for full-parameter training of models of 1 billion parameters and
more; for smaller ones a run multiplies them by 1e9 / parameters, at most by 30.
[Which method when](which-method.md) says what is known of what each reaches.
"""


def page() -> str:
    """The page as text."""
    parts = [HEAD]
    for kind, title in (("methods", "Forget losses"), ("retain_losses", "Retain losses")):
        names = catalogue.names(kind)
        parts.append(f"## {title}\n\n" + "\n".join(f"- [`{name}`](#{name})" for name in names) + "\n")
        parts += [_entry(kind, name) for name in names]
    return "\n".join(parts)


def _entry(kind: str, name: str) -> str:
    function = catalogue.resolve(kind, name)
    method = method_of(function)
    lines = [f"### {name}\n", f"Mean over {method.reduction}s. Needs {_quoted(catalogue.needs(function))}."]
    settings = {**catalogue.hyperparameters(function), **method.beside}
    if settings:
        lines.append("Hyperparameters: " + ", ".join(f"`{k}={_value(v)}`" for k, v in settings.items()) + ".")
    if kind == "methods":
        retain = (
            f"retain loss `{method.retain}` with alpha {method.alpha:g}"
            if method.retain != "none"
            else "no retain loss"
        )
        lines.append(
            f"Defaults: gamma {method.gamma:g}, {retain}, {method.epochs:g} epochs, "
            f"learning rate {method.learning_rate:g}."
        )
    return "\n".join([*lines, "", "```text", inspect.cleandoc(function.__doc__ or ""), "```", ""])


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _value(value: object) -> str:
    return "(required)" if value is inspect.Parameter.empty else str(value)


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(page(), encoding="utf-8")
