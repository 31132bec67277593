"""The small corpus and its models, for every test in this folder."""

from small_corpus import corpus, model, other_model, plain_corpus, tokenizer

__all__ = ["corpus", "model", "other_model", "plain_corpus", "tokenizer"]
