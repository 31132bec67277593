"""What holds for every metric of the catalogue, found by discovery."""

import inspect
import zlib
from typing import get_args

import numpy as np
import pytest

from expunge.core.catalogue import names, needs, resolve
from expunge.core.checks import ExpungeError
from expunge.evaluation import judges
from expunge.results.measures import Direction
from expunge.results.records import SCHEMA, Records
from made_records import MANIFEST, view

METRICS = names("metrics")
EXAMPLES, WRONG, LONG = 6, 3, 14


def example_view(parameter: str) -> Records:
    """Rows such as a metric's positional parameter of this name takes, the same each time."""
    rng = np.random.default_rng(zlib.crc32(parameter.encode()))
    wrong = parameter.endswith("wrong")
    index = [i for i in range(EXAMPLES) for _ in range(WRONG if wrong else 1)]
    lengths = rng.integers(2, 7, size=len(index))
    split = next((s for s in ("holdout", "retain", "real_authors", "world_facts") if s in parameter), "forget")
    rows = view(
        [(-rng.exponential(1.0, n)).tolist() for n in lengths],
        split=split,
        answer="perturbed" if wrong else "answer",
        hits=[(rng.random(n) < 0.5).tolist() for n in lengths],
        ended=[bool(e) for e in rng.random(len(index)) < 0.5],
        index=index,
        number=[k % WRONG if wrong else 0 for k in range(len(index))],
        completion=[f"the {'wrong' if wrong else ''} answer is number {i} of all" for i in index],
        generation=[f"the {'' if i % 3 else 'wrong '}answer is number {i * 2}" for i in index],
    ).table.to_pylist()
    for row in rows:
        n = len(row["logprobs"])
        row["logprob_means"], row["logprob_variances"] = (-rng.exponential(3.0, n)).tolist(), rng.random(n).tolist()
        row["gradient_norm"] = rng.random()
        row["tokens"] = rng.integers(0, 5, LONG).tolist()
        row["hits"] = row["hits"] if parameter != "records" else (rng.random(LONG - 1) < 0.5).tolist()
        misses = [i for i, hit in enumerate(row["hits"]) if not hit]
        row["prefix_generations"] = [rng.integers(0, 5, LONG - 1 - i).tolist() for i in misses]
    return Records.from_rows(rows, MANIFEST)


@pytest.fixture(autouse=True)
def judged_by_letters(monkeypatch):
    """Judges that are at hand: vectors of letters, and the share of letters."""

    def vectors(texts):
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        found = np.array([[text.count(letter) + 0.5 for letter in letters] for text in texts])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    monkeypatch.setattr(judges, "embeddings", vectors)
    monkeypatch.setattr(
        judges, "clean_probabilities", lambda texts: np.array([text.count("a") / len(text) for text in texts])
    )


def arguments(name: str) -> dict[str, Records]:
    return {parameter: example_view(parameter) for parameter in needs(resolve("metrics", name))}


def test_the_metrics_are_there():
    assert {"forget_quality", "rouge", "mia", "extraction_strength"} <= set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_measure_says_what_it_is(name):
    measure = resolve("metrics", name)(**arguments(name))
    assert measure.value is not None and np.isfinite(measure.value)
    assert measure.better in get_args(Direction)
    assert measure.definition and measure.source
    assert measure.n >= EXAMPLES
    low, high = measure.interval
    assert low <= high
    assert all(isinstance(v, float) for v in (*measure.per_example, *measure.details.values()))


@pytest.mark.parametrize("name", METRICS)
def test_row_order_does_not_matter(name):
    metric, given = resolve("metrics", name), arguments(name)
    rng = np.random.default_rng(1)
    shuffled = {k: Records(v.table.take(rng.permutation(len(v)).tolist()), v.manifest) for k, v in given.items()}
    assert any(shuffled[k].column("index") != given[k].column("index") for k in given)
    assert metric(**shuffled) == metric(**given)


@pytest.mark.parametrize("name", METRICS)
def test_each_view_changes_the_value_or_what_it_is_compared_with(name):
    metric, given = resolve("metrics", name), arguments(name)
    whole = metric(**given)
    for parameter, v in given.items():
        changed = v.table.to_pylist()
        for row in changed:
            row["logprobs"] = [4 * x - 1 for x in row["logprobs"]]
            row["hits"] = [not h for h in row["hits"]]
            row["completion"] = row["generation"] if parameter.endswith("wrong") else "zzz wrong and wrong and"
            row["generation"] = row["completion"] if row["index"] % 2 else "I am sorry," + " wrong and" * 5
            misses = [i for i, hit in enumerate(row["hits"]) if not hit]
            row["prefix_generations"] = [row["tokens"][i + 1 :] for i in misses]
        other = metric(**{**given, parameter: Records.from_rows(changed, MANIFEST)})
        assert (other.value, other.target) != (whole.value, whole.target), parameter


@pytest.mark.parametrize("name", METRICS)
def test_no_rows_is_an_error(name):
    metric, given = resolve("metrics", name), arguments(name)
    parameters = inspect.signature(metric).parameters
    required = [k for k in given if parameters[k].default is inspect.Parameter.empty] or list(given)[:1]
    for parameter in required:
        empty = Records(SCHEMA.empty_table(), MANIFEST)
        with pytest.raises(ExpungeError, match=r"no rows to score"):
            metric(**{**given, parameter: empty})


@pytest.mark.parametrize("name", METRICS)
def test_the_definition_stands_beside_the_function(name):
    definition = inspect.getmodule(resolve("metrics", name)).DEFINITION
    assert definition.text and definition.source and definition.reads
    missing = definition.missing("because")
    assert missing.value is None and missing.note == "because"
