"""`expunge train`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.cli.inputs import corpus_of, framed_data, load, source_settings, template_of
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs._training import (
    RunConfig,
    conclude,
    dry_run,
    note_mask,
    say_resumed,
    training_fields,
)
from expunge.core.checks import ExpungeError
from expunge.core.progress import shown
from expunge.results.places import check_run_folder
from expunge.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.data.corpus import Corpus
    from expunge.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """What the model learns."""

    data: str | None = None
    """Rows to learn: a JSON, JSON lines, CSV or Parquet file or a dataset id; short for `retain=...`."""
    splits: tuple[str, ...] = ("retain",)
    """Sets to learn: `retain` makes a retain model, `forget,retain` one that knows both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None and (self.forget, self.retain, self.splits) != (None, None, ("retain",)):
            raise ExpungeError(
                "data stands for retain=... alone; to learn several sets, use forget=, retain= and splits=."
            )
        if self.bits is not None:
            raise ExpungeError(
                f"bits={self.bits}: quantized weights cannot be trained. Leave bits out; unlearn trains an adapter on "
                "them."
            )
        if not self.splits:
            raise ExpungeError("splits names no set to learn. Name one: splits=retain")


def train(call: Call[TrainConfig]) -> int:
    """Fine-tune a model on the completions of some rows: a target model, or a retain model."""
    config = call.config
    if call.dry_run:
        return dry_run(
            call,
            corpus=lambda: learned(config, call.resolved.extra),
            plan=lambda model, corpus: planned(config, model, corpus),
            origins={name: "fine-tuning" for name in TrainingConfig.__dataclass_fields__},
        )
    check_run_folder(config.output, overwrite=call.overwrite, resume=call.resume)
    if call.resume:
        say_resumed(config.output)
    from expunge.training.finetune import finetune

    corpus = _corpus(config, call.resolved.extra)
    model, tokenizer = load(config.model, config)
    note_mask(config, model)
    with shown() as report:
        run = finetune(
            model,
            tokenizer,
            corpus,
            splits=config.splits,
            mask=config.mask,
            patch=config.patch,
            output_dir=config.output,
            overwrite=call.overwrite,
            resume=call.resume,
            template=template_of(config),
            max_length=config.max_length,
            progress=report,
            **training_fields(config),
        )
    conclude(
        run, "trained", framed_data(config, call.resolved.extra) | ({"retain": config.data} if config.data else {})
    )
    return 0


def _corpus(config: TrainConfig, extra: Mapping[str, Any]) -> "Corpus":
    return corpus_of(config, extra, reads=config.splits, **({"retain": config.data} if config.data else {}))


def learned(config: TrainConfig, extra: Mapping[str, Any]) -> "Corpus":
    """The rows to learn, joined as fine-tuning joins them."""
    from expunge.data.corpus import Corpus

    corpus = _corpus(config, extra)
    return Corpus({"retain": tuple(example for split in config.splits for example in corpus[split])}, corpus.name)


def planned(config: TrainConfig, model: "PreTrainedModel", corpus: "Corpus | None") -> "Plan":
    """The run that a configuration describes, on these rows."""
    from expunge.models.load import place_of
    from expunge.training.plan import plan_finetuning

    return plan_finetuning(
        model,
        config.splits,
        TrainingConfig(**training_fields(config)),
        rows=None if corpus is None else len(corpus["retain"]),
        mask=config.mask,
        patch=config.patch,
        output_dir=config.output,
        template=template_of(config),
        max_length=config.max_length,
        place=place_of(config.device),
        divided=config.sharded,
    )


VERB = Verb(
    name="train",
    config=TrainConfig,
    run=train,
    extra_settings=source_settings,
    shared=True,
    flags=("dry_run", "overwrite", "resume"),
    note="Example: expunge train model=my-model data=retain.jsonl output=runs/retain",
)
