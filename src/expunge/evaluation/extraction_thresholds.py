"""When a text counts as forgotten in training data extraction: what the start model scores on text it never saw."""

from torch import nn
from transformers import PreTrainedTokenizerBase

from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.evaluation.collect import collect
from expunge.evaluation.metrics.extraction_likelihood import extraction_likelihood
from expunge.evaluation.metrics.memorization_accuracy import memorization_accuracy
from expunge.evaluation.probe import Probe
from expunge.results.measures import Measure


def forgotten_thresholds(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    unseen: Corpus,
    *,
    split: str = "holdout",
    n: int = 10,
    tokens: int = 200,
    progress: Progress | None = None,
) -> dict[str, Measure]:
    """Mean EL_n and MA of a model on unseen text: a forget set counts as forgotten when both of its means are below.

    Args:
        model: the start model.
        tokenizer: its tokenizer.
        unseen: text that it was never trained on.
        split: where that text stands in the corpus.
        n: tokens of an n-gram.
        tokens: the first tokens of each text that count.
        progress: called with how far it is.

    Returns:
        `extraction_likelihood` and `memorization_accuracy`.

    Raises:
        ExpungeError: no such split, or a text of n tokens or fewer.

    Source: Jang et al., arXiv:2210.01504, who publish values for GPT-Neo.
    """
    probe = Probe(split=split, answer="sequence", generate=True, max_new_tokens=tokens)
    records = collect(model, tokenizer, unseen, [probe], progress=progress)
    return {
        "extraction_likelihood": extraction_likelihood(records, n=n, better="higher"),
        "memorization_accuracy": memorization_accuracy(records, better="higher"),
    }
