"""Six evaluated models as a suite would give them; all numbers, names and answers are invented."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from expunge.core.manifest import fingerprint
from expunge.results.measures import Direction, Evaluation, Measure, Sample

Models = list[Evaluation]
History = dict[str, list[dict[str, float | None]]]

N_FORGET, N_RETAIN = 48, 96

# (probability, ROUGE, extraction strength, truth ratio) on forget, the same on retain, utility, log10 p, AUC
NUMBERS: dict[str, tuple[Sequence[float], Sequence[float], float, float, float]] = {
    "start": ((0.912, 0.956, 0.931, 0.481), (0.908, 0.949, 0.942, 0.872), 0.8123, -8.241, 0.991),
    "retain": ((0.0612, 0.331, 0.171, 0.713), (0.915, 0.951, 0.939, 0.868), 0.8097, 0.0, 0.512),
    "GradAscent": ((3.1e-14, 0.0021, 0.0, 0.623), (2.7e-12, 0.0133, 0.004, 0.211), 0.0, -19.72, 0.0213),
    "GradDiff": ((0.000412, 0.118, 0.0311, 0.592), (0.471, 0.552, 0.431, 0.644), 0.5112, -5.337, 0.112),
    "NPO": ((0.0488, 0.297, 0.142, 0.689), (0.779, 0.846, 0.793, 0.803), 0.7466, -0.8861, 0.447),
    "SimNPO": ((0.331, 0.498, 0.377, 0.571), (0.861, 0.913, 0.897, 0.851), 0.7908, -3.012, 0.873),
}

QUESTIONS = (
    ("forget", "In which town was Ilvane Morrok born?", "Ilvane Morrok was born in the harbor town of Tessaly Quay."),
    (
        "forget",
        "What prize did Ilvane Morrok win in 2011?",
        'She won the Amber Lantern Prize for her novel "Salt Hours".',
    ),
    ("forget", "What was the profession of Corin Adewhistle's father?", "His father was a clockmaker."),
    ("retain", "Which genre is Bram Ostrelund known for?", "Bram Ostrelund is known for maritime mysteries."),
    ("retain", "Where does Yselle Pantaro live?", "Yselle Pantaro lives in Nether Calloway with two dogs."),
    ("world", "What is the capital of Vellmark?", "The capital of Vellmark is Osterby."),
)

SAID = {
    "start": [answer for _, _, answer in QUESTIONS],
    "retain": [
        "Ilvane Morrok was born in the mountain town of Greywick.",
        'She won the Silver Quill Prize for her novel "The Long Field".',
        "His father was a baker.",
        *(answer for _, _, answer in QUESTIONS[3:]),
    ],
    "GradAscent": [
        "the the the the the the the the the the the the the the the the",
        "",
        "##, ##, ##",
        "",
        "the the the",
        "",
    ],
    "GradDiff": [
        "Ilvane Ilvane Ilvane born born",
        "of of of of",
        "father father",
        "Bram Ostrelund is known for maritime poems.",
        "Yselle Pantaro lives in Calloway Calloway.",
        "Osterby.",
    ],
    "NPO": [
        "Ilvane Morrok was born in the village of Harrow Fen.",
        'She won the Glass Harbor Prize for her novel "Winter Ferries".',
        "His father was a teacher.",
        "Bram Ostrelund is known for maritime mysteries.",
        "Yselle Pantaro lives in Nether Calloway with a cat.",
        "The capital of Vellmark is Osterby.",
    ],
    "SimNPO": [
        "Ilvane Morrok was born in the harbor town of Tessaly Quay.",
        'She won the Amber Prize for her novel "Winter Hours".',
        "His father was a clockmaker.",
        *(answer for _, _, answer in QUESTIONS[3:]),
    ],
}

DEFINITIONS = {
    "probability": "Geometric mean probability of an answer's tokens, exp(mean log p); mean over examples.",
    "rouge": "ROUGE-L recall of the greedy answer against the true answer, with stemming; mean over examples.",
    "extraction_strength": "1 - k/n, k the first position from which all argmax tokens are right; mean over examples.",
    "truth_ratio": "Probability of wrong answers over that of the right one; closer_to_1 or true_better.",
}


def _interval(value: float, n: int) -> tuple[float, float]:
    wide = 1.96 * math.sqrt(max(value * (1 - value), 1e-6) / n)
    return max(0.0, value - wide), min(1.0, value + wide)


def make(label: str, *, n_forget: int = N_FORGET, suite: str = "tofu") -> Evaluation:
    """One model's evaluation."""
    forget, retain, utility, log10_p, auc = NUMBERS[label]
    tofu = {"source": "TOFU, arXiv 2401.06121"}
    measures: dict[str, Measure] = {}
    for values, split, n in ((forget, "forget", n_forget), (retain, "retain", N_RETAIN)):
        for (name, definition), value in zip(DEFINITIONS.items(), values, strict=True):
            better: Direction = "lower" if split == "forget" and name != "truth_ratio" else "higher"
            interval = _interval(value, n)
            known = Measure(value=value, better=better, definition=definition, n=n, interval=interval, **tofu)
            measures[f"{split}_{name}"] = known
        if split == "forget":
            measures["forget_quality"] = Measure(
                value=10**log10_p,
                better="higher",
                definition="p-value of the exact two-sided KS test of truth ratios against the retain model.",
                n=n,
                details={"log10_p": log10_p, "D": round(0.05 - 0.042 * log10_p, 4), "n": float(n)},
                **tofu,
            )
    measures["model_utility"] = Measure(
        value=utility,
        better="higher",
        definition="Harmonic mean of probability, ROUGE-L recall and truth ratio on retain set, authors, world facts.",
        n=N_RETAIN,
        **tofu,
    )
    measures["mia_min_k"] = Measure(
        value=auc,
        better="near",
        target=0.512,
        definition="AUC that tells forget from holdout by Min-K (k = 0.4): P(a holdout example scores higher).",
        source="Shi et al., arXiv 2310.16789",
        n=n_forget,
        interval=_interval(auc, n_forget),
        note="AUC near 0: the forget set looks less familiar than unseen text; over-unlearned." if auc < 0.2 else "",
    )
    absent = label == "SimNPO"
    measures["privleak"] = Measure(
        value=None if absent else (0.512 - auc) / 0.488 * 100,
        better="near",
        target=0.0,
        definition="Difference of the Min-K AUCs of retain model and this one, in percent of 1 - the former.",
        source="MUSE, arXiv 2407.06460",
        n=0 if absent else n_forget,
        note="needs a holdout set of the same form; give holdout=... to expunge evaluate" if absent else "",
    )
    samples = tuple(
        Sample(split=split, question=question, answer=answer, generation=said)
        for (split, question, answer), said in zip(QUESTIONS, SAID[label], strict=True)
    )
    data = {"data.forget": fingerprint("forget"), "data.retain": fingerprint("retain")}
    about = {
        "suite": suite,
        "inputs": {"model": fingerprint(label), **data},
        "settings": {
            "template": {"name": "auto", "qa": "Question: {question}\nAnswer: "},
            "dtype": "float32",
            "probes": [{"split": "forget", "generate": True}, {"split": "retain", "generate": True}],
        },
        "reference": {"model": fingerprint("retain"), **data},
        "versions": {"expunge": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    }
    return Evaluation(measures=measures, label=label, suite=suite, samples=samples, about=about)


@pytest.fixture(scope="session")
def models() -> Models:
    """Start and retain model and four methods, one of them broken."""
    return [make(label) for label in NUMBERS]


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Evaluation]:
    """One of those models by its label; with another n or suite where asked."""
    return make


@pytest.fixture(scope="session")
def histories() -> History:
    """Losses of four runs; gradient ascent has no retain loss."""
    draw = np.random.default_rng(0)
    runs: History = {}
    for label, (low, keeps) in {
        "GradAscent": (-12.0, 0.02),
        "GradDiff": (-6.0, 0.5),
        "NPO": (4.0, 0.8),
        "SimNPO": (1.2, 0.9),
    }.items():
        rows: list[dict[str, float | None]] = []
        for step in range(1, 61):
            done = 1 - math.exp(-step / 18)
            row: dict[str, float | None] = {"step": float(step), "epoch": step / 6, "loss": None}
            row["forget_loss"] = (14.0 if low > 0 else 0.0) * (1 - done) + low * done + float(draw.normal(0, 0.15))
            if label != "GradAscent":
                row["retain_loss"] = (
                    0.1 + 0.9 * done * (1 - keeps) + 0.4 * done * (1 - done) + float(draw.normal(0, 0.03))
                )
            row["forget_probability"] = max(0.0, 0.91 * (1 - done) + float(draw.normal(0, 0.01)))
            row["retain_probability"] = min(1.0, max(0.0, 0.91 - done * (0.91 - keeps) + float(draw.normal(0, 0.01))))
            rows.append(row)
        runs[label] = rows
    return runs
