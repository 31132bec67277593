"""What a model will be shown, before it is loaded: rows and tokens of each probe."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.batch import Encoded
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.probe import Probe, completions, prompt_of
from expunge.models.rows_fit import check_rows_fit


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one probe shows."""

    name: str
    """`forget/question/answer`."""
    rows: int
    """That are scored."""
    tokens: int
    """Of these rows, prompts included."""
    answers: int | None
    """That the model writes itself; None where it is not asked to."""
    first: Encoded


def shown(
    probes: Sequence[Probe],
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    *,
    template: Template | None = None,
    max_length: int = 512,
) -> list[Shown]:
    """Rows and tokens of each probe.

    Args:
        probes: what is looked at.
        corpus: where the rows come from.
        tokenizer: of the model.
        model: whose positions and vocabulary the rows must fit; a skeleton is enough.
        template: how questions are framed.
        max_length: longest row in tokens.

    Raises:
        ExpungeError: rows that do not fit the model.
    """
    found = []
    for probe in probes:
        examples = corpus[probe.split]
        numbers = probe.rows(len(examples))
        asked = [
            examples[i].asking(text, prompt=prompt_of(examples[i], probe))
            for i in numbers
            for text in completions(examples, i, probe)
        ]
        rows = encode(asked, tokenizer, template=template, max_length=max_length)
        check_rows_fit(model, rows)
        found.append(
            Shown(
                name=probe.name,
                rows=len(rows),
                tokens=sum(len(row.ids) for row in rows),
                answers=len(numbers) if probe.generate else None,
                first=rows[0],
            )
        )
    return found
