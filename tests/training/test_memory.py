"""What a run will take, estimated before it starts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

import zoo
from expunge.core.batch import Encoded
from expunge.data.pairing import Pairs
from expunge.masks.mask import Mask
from expunge.models.anatomy import causal_lm
from expunge.models.lowrank import without_known_warnings
from expunge.models.tiny import tiny_model
from expunge.objectives.combine import build
from expunge.objectives.method import Method
from expunge.training import recomputed as recomputed_module
from expunge.training.memory import LIBRARIES, Conditions, Work, blocks_kept, run_memory, training_memory, work
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.recomputed import recomputed
from expunge.training.rows import RunRows
from expunge.training.training_config import TrainingConfig

WORK = Work(
    rows=6,
    steps=5,
    micro=2,
    accumulation=2,
    tokens_an_epoch=300,
    tokens_at_once=100,
    groups_at_once=3,
    pairs_at_once=2000,
    completion_at_once=40,
)


def estimate(method: str = "grad_diff", **changes: Any) -> dict[str, float]:
    how: dict[str, Any] = {"second": False, "trained": 1000, "dtype": "auto", "checkpointing": False, "whole": True}
    how["autocast"] = False
    size = changes.pop("size", WORK)
    return training_memory(zoo.tiny_model(), size, objective=build(method), **(how | changes))


# Blocks: 3 x 100 tokens x (2 residual states of 32, outputs of linear layers 32 + 16 + 16 + 32 + 48 + 48 + 32 = 224, of
# which 32 + 32 are added to the residual, and 32 of attention: 2 x 32 + 192) x 4 bytes.
RESIDUAL, INSIDE = 3 * 100 * 64 * 4, 3 * 100 * 192 * 4
BLOCKS = RESIDUAL + INSIDE
# Logits: 40 tokens in two streams, so that both keep theirs, and three times those of one while it is scored.
LOGITS = 4 * 320 * (40 + 3 * 20)


def test_memory_by_hand() -> None:
    # Hidden size 32, intermediate size 48, vocabulary 320, float32 (4 bytes), 1000 parameters trained.
    parameters = sum(p.numel() for p in zoo.tiny_model().parameters())
    assert zoo.tiny_model().config.vocab_size == 320
    assert estimate() == {
        "weights": 4 * parameters,
        "optimizer": 8000,
        "gradients": 4000,  # of the first micro-batch, while the second has activations
        "activations": BLOCKS + LOGITS,
        "libraries": LIBRARIES,
    }


def test_without_accumulation_gradients_take_the_place_of_activations() -> None:
    once = Work(**{**vars(WORK), "accumulation": 1})
    active = BLOCKS + LOGITS
    few = estimate(size=once)
    assert "gradients" not in few and few["activations, then gradients"] == active
    many = estimate(size=once, trained=10_000_000)
    assert many["activations, then gradients"] == 40_000_000
    # All weights are trained: the gradient of the head, 320 x 32 numbers, comes before any activation goes.
    assert estimate(size=once, trained=20_000)["activations, then gradients"] == active + 4 * 320 * 32


def test_what_a_mask_selects_is_held_once_more() -> None:
    model = zoo.tiny_model()
    name = "model.layers.0.mlp.down_proj.weight"
    mask = Mask.of(model, {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool)})
    assert estimate(whole=False, mask=mask)["selected weights"] == 8 * 1000  # single weights, and their positions


def test_quantized_weights_are_counted_in_their_bits() -> None:
    # Linear layers of three blocks: q and o 32 x 32, k and v 16 x 32, gate, up and down 48 x 32.
    linear = 3 * (2 * 1024 + 2 * 512 + 3 * 1536)
    rest = sum(p.numel() for p in zoo.tiny_model().parameters()) - linear
    assert estimate(bits=4)["weights"] == 4 * rest + linear / 2


def test_what_changes_memory() -> None:
    parameters = sum(p.numel() for p in zoo.tiny_model().parameters())
    assert estimate(second=True)["frozen start model"] == 4 * parameters
    # Trained in float32, whatever they are stored in, unless a mask or an adapter says what changes.
    assert estimate(dtype="bfloat16") == estimate()
    few = estimate(dtype="bfloat16", whole=False)
    assert (few["weights"], few["gradients"], few["optimizer"]) == (2 * parameters, 4000, 8000)
    assert few["activations"] == BLOCKS / 2 + LOGITS
    # Under autocast each of 3 x (2 x 1024 + 2 x 512 + 3 x 1536) linear weights and of the 320 x 32 of the head has a
    # copy, and activations are halved but for the residual.
    fast = estimate(autocast=True)
    assert (fast["bfloat16 copies of weights"], fast["activations"]) == (
        2 * (3 * 7680 + 10_240),
        RESIDUAL + INSIDE / 2 + LOGITS,
    )
    # A copy of a frozen weight is made for each of the three groups of rows.
    frozen = estimate(autocast=True, whole=False)["bfloat16 copies of weights"]
    assert frozen == 3 * fast["bfloat16 copies of weights"]
    # Computed again: 3 x 100 x 32 x 4 = 38 400 kept, and one block at a time.
    assert estimate(checkpointing=True)["activations"] == 38_400 + BLOCKS / 3 + LOGITS


def test_whole_logits_are_kept_only_where_a_loss_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.training.memory.HEAD_CHUNK", 1000)
    for method in ("grad_diff", "kl_min", "undial"):
        assert estimate(method)["activations"] == BLOCKS + 16 * 1000
    monkeypatch.setattr("expunge.objectives.forget.undial.METHOD", Method(reduction="token", alpha=0, retain="none"))
    assert estimate("undial")["activations"] == BLOCKS + 4 * 320 * (40 + 3 * 40)  # without retain rows: one stream


def measured(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, *, rows: int = 4, tokens: int = 64, autocast: bool = False
) -> int:
    """Bytes that a decoder keeps for its backward pass, each once, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}
    pack = recomputed_module._packed

    def noting(tensor: torch.Tensor) -> Any:
        result = pack(tensor)
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in parameters:
            kept[result.untyped_storage().data_ptr()] = result
        return result

    ids = torch.randint(5, 100, (rows, tokens))
    with monkeypatch.context() as patched, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        patched.setattr(recomputed_module, "_packed", noting)
        with recomputed():
            model.get_decoder()(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def activations(model: PreTrainedModel, *, rows: int = 4, tokens: int = 64, **how: Any) -> float:
    """The estimate of the same."""
    size = replace(WORK, tokens_at_once=rows * tokens, pairs_at_once=rows * tokens**2, completion_at_once=0)
    given: dict[str, Any] = {"second": False, "trained": 0, "dtype": "auto", "whole": True, "checkpointing": False}
    return training_memory(model, size, objective=build("grad_diff"), **{**given, "autocast": False, **how})[
        "activations"
    ]


def test_the_estimate_of_blocks_agrees_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(zoo.tokenizer()).train()
    assert activations(model) == pytest.approx(measured(model, monkeypatch), rel=0.1)


@pytest.mark.parametrize("name", ["llama", "gpt_neo", "gemma2"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_probabilities_of_eager_attention_are_counted(
    name: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on as many tokens in longer and in shorter rows, so that what grows with the pairs is compared alone."""
    model = zoo.tiny_model(name).train()
    model.set_attn_implementation("eager")
    long, short = {"rows": 4, "tokens": 64}, {"rows": 16, "tokens": 16}
    kept = measured(model, monkeypatch, autocast=autocast, **long) - measured(
        model, monkeypatch, autocast=autocast, **short
    )
    expected = activations(model, autocast=autocast, eager=True, **long) - activations(
        model, autocast=autocast, eager=True, **short
    )
    assert expected > 0
    assert expected == pytest.approx(kept, rel=0.05)


def test_eager_attention_by_hand() -> None:
    # 2000 pairs of positions, 4 heads, a float32 number each, in 3 blocks; under autocast one of bfloat16 besides.
    probabilities = 3 * 2000 * 4 * 4
    assert estimate(eager=True)["activations"] == BLOCKS + LOGITS + probabilities
    more = estimate(eager=True, autocast=True)["activations"] - estimate(autocast=True)["activations"]
    assert more == probabilities * 6 / 4
    assert estimate(eager=True, checkpointing=True)["activations"] == 38_400 + (BLOCKS + probabilities) / 3 + LOGITS
    # Blocks that keep activations: one, and the inputs of one layer.
    some = estimate(eager=True, depth=1.2)["activations"] - estimate(depth=1.2)["activations"]
    assert some == probabilities / 3


@pytest.mark.parametrize(("name", "attention"), [("llama", "eager"), ("gpt_neo", "auto"), ("gemma2", "auto")])
def test_a_run_with_eager_attention_counts_it(name: str, attention: str) -> None:
    model = zoo.tiny_model(name)
    before = model.config._attn_implementation

    def active(**settings: Any) -> float:
        given = {"method": "grad_diff", "batch_size": 6, "micro_batch_size": 3, **settings}
        made = plan_unlearning(model, *split_settings(given))
        rows = made.rows(zoo.corpus(), zoo.tokenizer(), model)
        size = work(rows, made.training)
        found = run_memory(model, made, rows, Conditions())["activations"]
        return (
            found
            - training_memory(
                model,
                size,
                objective=made.objective,
                second=False,
                trained=1,
                dtype="auto",
                whole=True,
                autocast=False,
                checkpointing=False,
                eager=True,
            )["activations"]
        )

    assert active(attention=attention) == 0
    assert model.config._attn_implementation == before


def test_trained_parameters() -> None:
    model = zoo.tiny_model()
    everything = sum(p.numel() for p in model.parameters())

    def trained(**settings: Any) -> int:
        return plan_unlearning(model, *split_settings(settings)).trained_parameters(model)

    assert trained(method="npo") == everything
    assert trained(method="rmu", layer=1) == 2 * 32 * 48  # blocks 0 and 1: there is no block before them
    # 3 blocks of rank * (in + out): q 64, k and v 48 each, o 64, gate, up and down 80 each: 3 * 4 * 464.
    assert trained(method="undial", adapter="lora", rank=4) == 5568


def test_the_largest_micro_batch_is_counted_as_it_is_computed() -> None:
    lengths = (150, 148, 10, 9)
    encoded = tuple(Encoded(ids=(7,) * n, start=n - 3, ended=True, truncated=0) for n in lengths)
    rows = RunRows(Pairs(n_forget=4, n_retain=0, per_forget=1, epochs=1, seed=0), "forget", {"forget": encoded})
    size = work(rows, TrainingConfig(batch_size=4, epochs=1))
    # The two long rows run together, padded to 150, and the two short ones to 10.
    assert (size.tokens_at_once, size.groups_at_once, size.completion_at_once) == (2 * 150 + 2 * 10, 2, 12)
    assert size.pairs_at_once == 2 * 150**2 + 2 * 10**2
    assert size.tokens_an_epoch == sum(lengths)
    packed = work(rows, TrainingConfig(batch_size=4, epochs=1), packed=True)
    assert (packed.tokens_at_once, packed.groups_at_once, packed.pairs_at_once) == (317, 1, 317**2)


LAST = "model.layers.2.mlp.down_proj.weight"
INPUTS = 48 / 256  # of a down-projection, of what a block keeps of a token


@pytest.mark.parametrize(
    ("settings", "masked", "expected"),
    [
        ({"method": "npo"}, None, 3),
        ({"method": "rmu", "layer": 1}, None, 1 + INPUTS),  # down-projections of blocks 0 and 1; the pass ends there
        ({"method": "rmu", "layer": 0}, None, INPUTS),
        ({"method": "npo"}, LAST, INPUTS),  # nothing before the first trained weight is kept
        ({"method": "rmu", "layer": 1}, "model.layers.1.mlp.down_proj.weight", INPUTS),
        ({"method": "npo"}, "model.layers.1.mlp.up_proj.weight", 2),
        ({"method": "npo"}, "model.embed_tokens.weight", 3),
        ({"method": "npo", "adapter": "lora", "rank": 4}, None, 3),
        ({"method": "npo", "adapter": "lora", "rank": 4, "targets": r".*layers\.2\.mlp\..*"}, None, 1),
    ],
)
def test_blocks_that_keep_activations(settings: dict[str, Any], masked: str | None, expected: float) -> None:
    model = zoo.tiny_model()
    mask = None
    if masked is not None:
        mask = Mask.of(model, {masked: torch.ones_like(model.get_parameter(masked), dtype=torch.bool)})
    assert blocks_kept(model, plan_unlearning(model, *split_settings(settings), mask=mask)) == expected


def test_losses_on_hidden_states_have_no_logits() -> None:
    assert estimate("rmu", depth=2)["activations"] == 2 / 3 * BLOCKS


def test_reference_values_are_counted_where_they_are_kept() -> None:
    model = zoo.tiny_model()

    def parts(method: str, under: Conditions) -> dict[str, float]:
        made = plan_unlearning(model, *split_settings({"method": method, "batch_size": 3}))
        return run_memory(model, made, made.rows(zoo.corpus(), zoo.tokenizer(), model), under)

    assert not {"reference values", "frozen start model"} & set(parts("grad_diff", Conditions()))
    kept = parts("npo", Conditions())  # one float32 number for each completion token of the forget set
    rows = plan_unlearning(model, *split_settings({"method": "npo"})).rows(zoo.corpus(), zoo.tokenizer(), model)
    assert kept["reference values"] == 4 * sum(len(row.ids) - row.start for row in rows.encoded["forget"])
    assert "reference values" not in parts("npo", Conditions(place="cuda:0"))  # they stay in the computer's own memory
    assert "start model's head" not in kept
    assert parts("kl_min", Conditions())["start model's head"] == 4 * 320 * 32
    second = parts("npo", Conditions(reference="model"))
    assert second["frozen start model"] == second["weights"] and "reference values" not in second


def test_a_models_own_adapter_takes_what_an_adapter_of_ours_takes() -> None:
    plain = zoo.tiny_model()
    with without_known_warnings():
        adapted = get_peft_model(zoo.tiny_model(), LoraConfig(target_modules="all-linear", r=4))
    corpus, tokenizer = zoo.corpus(), zoo.tokenizer()
    ours = plan_unlearning(plain, *split_settings({"method": "grad_diff", "adapter": "lora", "rank": 4}))
    own = plan_unlearning(adapted, *split_settings({"method": "grad_diff"}))
    inner = causal_lm(adapted)
    assert isinstance(inner, PreTrainedModel)
    assert own.trained_parameters(inner) == ours.trained_parameters(plain) == 5568
    expected = run_memory(plain, ours, ours.rows(corpus, tokenizer, plain), Conditions(autocast=True))
    found = run_memory(inner, own, own.rows(corpus, tokenizer, adapted), Conditions(autocast=True))
    assert found.pop("weights") == expected.pop("weights") + 4 * 5568  # the factors are among its weights
    assert found == expected
