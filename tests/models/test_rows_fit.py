"""Rows that a model cannot compute are refused in words; ids and positions that no row uses do not matter."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

import expunge
import zoo
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.localize.localize import localize
from expunge.models.load import check_tokenizer_fits
from expunge.models.rows_fit import check_rows_fit, most_positions
from expunge.training.finetune import finetune
from expunge.training.unlearn import unlearn

HOW: dict[str, Any] = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-4}


def row(tokens: int, largest: int = 5) -> Encoded:
    return Encoded((*[4] * (tokens - 1), largest), 1, False, 0)


@pytest.mark.parametrize("verb", ["unlearn", "train", "evaluate", "localize"])
def test_rows_beyond_learned_positions_are_refused(verb: str) -> None:
    model, tokenizer, corpus = zoo.tiny_model("gpt2", n_positions=12), zoo.tokenizer(), zoo.corpus()
    run = {
        "unlearn": lambda: unlearn(model, tokenizer, corpus, method="npo", **HOW),
        "train": lambda: finetune(model, tokenizer, corpus, **HOW),
        "evaluate": lambda: expunge.evaluate(model, tokenizer, corpus),
        "localize": lambda: localize(model, tokenizer, corpus, attribution="activation"),
    }
    with pytest.raises(
        ExpungeError, match=r"rows are longer than the 12 tokens .* the longest has \d+\. .*max_length=12"
    ):
        run[verb]()


def test_which_positions_have_an_end() -> None:
    assert most_positions(zoo.tiny_model("gpt2"))[0] == most_positions(zoo.tiny_model("gpt_neo"))[0] == 256
    for architecture in ("llama", "gpt_neox", "phi", "gemma3_text"):
        assert most_positions(zoo.tiny_model(architecture))[0] is None
        check_rows_fit(zoo.tiny_model(architecture), [row(300)])


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        (
            {
                "rope_type": "longrope",
                "factor": 2.0,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 128,
            },
            128,
        ),
        ({"rope_type": "linear", "factor": 2.0}, None),
    ],
)
def test_rotary_scaling_that_depends_on_the_batch_ends_where_it_begins_to(rope: dict[str, Any], limit: Any) -> None:
    model = zoo.tiny_model("llama", rope_parameters={"rope_theta": 10000.0, **rope})
    assert most_positions(model)[0] == limit
    if limit is None:
        return
    check_rows_fit(model, [row(limit)])
    with pytest.raises(
        ExpungeError, match=rf"longer than the {limit} tokens up to which rows do not change each other"
    ):
        check_rows_fit(model, [row(9), row(limit + 1)])


def test_a_token_that_no_row_holds_may_be_without_an_embedding() -> None:
    """As published Gemma 3 1B: a token for images, which the text model does not embed."""
    tokenizer = copy.deepcopy(zoo.tokenizer())
    model = zoo.tiny_model(vocab_size=len(tokenizer))
    tokenizer.add_tokens(["<image_soft>"], special_tokens=True)
    check_tokenizer_fits(model, tokenizer)
    unlearn(model, tokenizer, zoo.corpus(), method="npo", **HOW)
    with pytest.raises(
        ExpungeError, match=rf"do not fit: a row holds the token id {len(tokenizer) - 1}, and the model"
    ):
        check_rows_fit(model, [row(4, len(tokenizer) - 1)])


def test_a_tokenizer_of_a_larger_vocabulary_is_refused_before_any_row() -> None:
    with pytest.raises(ExpungeError, match=r"do not fit: the tokenizer writes ids up to 319, the model embeds 300"):
        check_tokenizer_fits(zoo.tiny_model(vocab_size=300), zoo.tokenizer())


def test_noise_is_drawn_among_the_ids_that_the_model_embeds() -> None:
    tokenizer = copy.deepcopy(zoo.tokenizer())
    model = zoo.tiny_model(vocab_size=len(tokenizer))
    tokenizer.add_tokens([f"<image_{i}>" for i in range(500)], special_tokens=True)
    localize(model, tokenizer, zoo.corpus(), attribution="memflex")


def test_a_text_model_inside_another_configuration() -> None:
    text = {
        **zoo.SIZES, "num_hidden_layers": 2, "vocab_size": len(zoo.tokenizer()), "sliding_window": 16,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    sight = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4, image_token_id=319)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    tokenizer, corpus = zoo.tokenizer(), zoo.corpus(2, 2)
    assert 0 < float(expunge.evaluate(model, tokenizer, corpus)["forget_probability"]) < 1
    for method in ({"method": "npo"}, {"method": "rmu", "layer": 1}, {"method": "npo", "adapter": "lora", "rank": 2}):
        assert unlearn(model, tokenizer, corpus, epochs=1, batch_size=2, **method).history
