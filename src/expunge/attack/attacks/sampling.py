"""Sampling: let the model answer many times at a temperature, and count the best of k."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget
from expunge.attack.measuring import NEW_TOKENS
from expunge.core.checks import require_at_least, require_positive
from expunge.core.distributed import share_of
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.metrics._rouge import rouge_l
from expunge.models.anatomy import evaluating
from expunge.models.generate import Prompt, continuations, end_tokens, sampler
from expunge.results.attacked import Leak


def sampling(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    k: int = 4,
    samples: int = 8,
    temperature: float = 0.8,
    seed: int = 0,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """ROUGE-L recall of the best of k sampled answers, expected over all choices of k of the samples.

    Args:
        model: only read.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        k: answers that an attacker draws.
        samples: answers drawn here, at least k; more make the estimate steadier.
        temperature: of the softmax.
        seed: of the draws.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: fewer samples than k, or a temperature not above 0.

    Source: leak@k, arXiv:2511.04934, whose estimator is that of pass@k. Departures: the expected best value stands in
    place of the chance that one passes a threshold.
    """
    require_at_least("k", k, 1)
    require_at_least("samples", samples, k, hint="Draw at least k answers.")
    require_positive("temperature", temperature)
    facts = {i: fact for i, fact in enumerate(corpus["forget"]) if fact.kind != "text"}
    rows = dict(zip(facts, encode([*facts.values()], tokenizer, template=template, max_length=max_length), strict=True))
    ends, device = end_tokens(model, tokenizer, rows.values()), next(model.parameters()).device
    share = share_of(model)
    said: dict[int, dict[Prompt, list[int]]] = {}
    for turn in share.mine(range(samples)):  # whole turns: what is drawn depends on the batches drawn before
        with evaluating(model):
            said[turn] = continuations(
                model,
                {row.prompt_ids: NEW_TOKENS for row in rows.values()},
                eos_ids=ends,
                pick=sampler(temperature=temperature, seed=seed + turn, device=torch.device(device)),
                progress=under(progress, f"sample {turn + 1} of {samples}"),
            )
    said = share.gathered(said)
    drawn = {
        i: [tokenizer.decode(said[turn][row.prompt_ids], skip_special_tokens=True).strip() for turn in range(samples)]
        for i, row in rows.items()
    }
    values, texts = [], []
    for i, fact in facts.items():
        scores = [rouge_l(fact.completion, text).recall for text in drawn[i]]
        values.append(best_of(scores, k))
        texts.append(drawn[i][scores.index(max(scores))])
    return [
        Leak(
            name=f"sampling.best_of_{k}",
            measure="ROUGE-L recall",
            facts=tuple(facts),
            values=tuple(values),
            texts=tuple(texts),
            about={"samples": samples, "temperature": temperature},
        )
    ]


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """Every sample is an answer."""
    asking = sum(fact.kind != "text" for fact in corpus["forget"])
    return Budget(forms=(f"sampling.best_of_{settings['k']}",), generated=settings["samples"] * asking)


def best_of(values: list[float], k: int) -> float:
    """Mean of the largest of k values over all choices of k of n, without drawing them.

    The i-th smallest of n is the largest of C(i - 1, k - 1) choices.
    """
    n = len(values)
    chosen = (value * math.comb(i - 1, k - 1) for i, value in enumerate(sorted(values), 1))
    return math.fsum(chosen) / math.comb(n, k)
