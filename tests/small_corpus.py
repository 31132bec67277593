"""A small corpus with every variant of answer, and a random model to go with it."""

import pytest

import zoo
from expunge.data.corpus import Corpus, Example


def _examples(what: str, n: int, *, variants: bool = True) -> tuple[Example, ...]:
    def example(i: int) -> Example:
        more = {
            "paraphrased_prompt": f"In which town is {what} {i} at home?",
            "paraphrased": f"{what} {i} is at home in {what}{i * 7}.",
            "perturbed": tuple(f"{what} {i} is at home in Nowhere{i + k}." for k in range(2 + i % 2)),
            "alternates": ("I have no answer to that.",),
        }
        tail = " and nothing else at all" * (i % 3)
        return Example(
            kind="qa",
            prompt=f"Where does {what} number {i} live?",
            completion=f"In the town of {what}{i * 7}{tail}.",
            **(more if variants else {}),
        )

    return tuple(example(i) for i in range(n))


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return Corpus(
        {
            "forget": _examples("Arvo", 5),
            "retain": _examples("Belda", 6),
            "holdout": _examples("Cirio", 4, variants=False),
            "world": _examples("Doma", 3),
        },
        "small",
    )


@pytest.fixture(scope="session")
def plain_corpus() -> Corpus:
    """Forget and retain without any variant."""
    return Corpus({s: _examples(w, 4, variants=False) for s, w in (("forget", "Arvo"), ("retain", "Belda"))}, "plain")


@pytest.fixture(scope="session")
def tokenizer():
    return zoo.tokenizer()


@pytest.fixture(scope="session")
def model():
    return zoo.tiny_model("llama", seed=1, max_position_embeddings=512)


@pytest.fixture(scope="session")
def other_model():
    return zoo.tiny_model("llama", seed=2, max_position_embeddings=512)
