"""Evaluations and attacks of a few facts, with the values that a test wants."""

from collections.abc import Sequence
from typing import Any

from expunge.results.attacked import Attacked, Column, Control, Leak
from expunge.results.measures import Evaluation, Measure, Sample

Values = Sequence[float | None]


def evaluation(
    label: str,
    forget: Values,
    retain: Values = (),
    *,
    measure: str = "extraction_strength",
    said: str = "It is {answer}",
    **more: Any,
) -> Evaluation:
    """A model with these values on the facts of a forget and a retain set, and a measure of each set's mean."""
    samples, measures = [], {}
    for split, values in (("forget", forget), ("retain", retain)):
        name = f"{split}_{measure}"
        for i, value in enumerate(values):
            answer = f"{split} answer {i}."
            samples.append(
                Sample(
                    split=split,
                    question=f"{split} question {i}?",
                    answer=answer,
                    generation=said.format(answer=answer),
                    values={name: value},
                    probabilities=(0.5, 0.25, 1.0),
                    ends=(len(split), len(answer), len(answer)),
                )
            )
        known = [value for value in values if value is not None]
        if known:
            measures[name] = Measure(
                value=sum(known) / len(known),
                better="lower" if split == "forget" else "higher",
                definition="share of the answer",
                source="a paper",
                n=len(known),
                interval=(0.0, 1.0),
            )
    about = {"inputs": {"model": f"digest of {label}"}}
    return Evaluation(measures, label=label, samples=tuple(samples), about=about, **more)


def column(name: str, values: Sequence[float], control: Sequence[float] | None = None, **more: Any) -> Column:
    """An attack with these values on the first facts, and those of its control; texts where they are named."""
    said = more.pop("said", "")

    def leak(of: Sequence[float], who: str) -> Leak:
        return Leak(
            name=name,
            measure="extraction strength",
            facts=tuple(range(len(of))),
            values=tuple(of),
            prompts=tuple(f"{said} prompt {i}" for i in range(len(of))) if said else (),
            texts=tuple(f"{said} {who} text {i}" for i in range(len(of))) if said else (),
            **more,
        )

    other = None if control is None else leak(control, "control")
    return Column(name=name, leak=leak(values, "model"), control=other, threshold=0.2)


def attacked(label: str, facts: int, *columns: Column, control: Control | None = "retain model") -> Attacked:
    """Attacks on the model of `evaluation(label, ...)`."""
    return Attacked(
        columns=columns,
        questions=tuple(f"forget question {i}?" for i in range(facts)),
        answers=tuple(f"forget answer {i}." for i in range(facts)),
        control=control,
        label=label,
        inputs={"model": f"digest of {label}"},
    )
