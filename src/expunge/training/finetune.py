"""Fine-tuning: how target and retain models are made, with the same engine and the same rows as unlearning."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.manifest import Manifest, fingerprint, jsonable
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.masks.mask import Mask
from expunge.models.load import check_tokenizer_fits, model_fingerprint, refuse_adapters, tokenizer_fingerprint
from expunge.objectives.combine import build
from expunge.training.config import TrainingConfig
from expunge.training.masked import given_mask, mask_fingerprint, mask_summary
from expunge.training.rows import run_rows
from expunge.training.run import CHECKPOINTS, Run, check_patch, open_folder, train
from expunge.training.tracking import check_tracking

DEFAULT_EPOCHS = 5.0
DEFAULT_LEARNING_RATE = 1e-5


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    splits: tuple[str, ...] = ("retain",),
    mask: Mask | str | Path | None = None,
    patch: bool = False,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Train a model on the completions of some splits.

    `("retain",)` gives a retain model, `("forget", "retain")` a target.

    Args:
        model: trained in place and returned inside the run.
        tokenizer: its tokenizer.
        corpus: holds the splits.
        splits: what is learned, joined in this order.
        mask: what may change: a mask or its file; all else stays bit for bit as it is. None: everything.
        patch: also write `patch.safetensors` into the run folder: what the masked run changed, and how to take it back.
        output_dir: run folder; None keeps the result in memory.
        overwrite: replace a run of ours in `output_dir`.
        resume: go on with a run that was stopped there.
        template: how questions are framed; None: the tokenizer's chat template where it has one.
        max_length: longest row in tokens.
        progress: called with (what, steps done, steps in all, numbers).
        **settings: fields of `TrainingConfig`; learning rate 1e-5 and 5 epochs by default, as TOFU's models were made.

    Raises:
        ExpungeError: unknown settings or splits, a folder in use, a non-finite loss.
    """
    refuse_adapters(model)
    check_tokenizer_fits(model, tokenizer)
    mask = given_mask(mask)
    check_patch(patch, mask, output_dir)
    config = TrainingConfig(**settings).filled(learning_rate=DEFAULT_LEARNING_RATE, epochs=DEFAULT_EPOCHS)
    check_tracking(config, output_dir)
    learned = Corpus({"retain": tuple(example for split in splits for example in corpus[split])}, corpus.name)
    objective = build(None, retain="nll")
    assert config.epochs is not None
    rows = run_rows(
        learned,
        tokenizer,
        streams=objective.streams,
        epochs=config.epochs,
        seed=config.seed,
        retain_per_forget=1,
        template=template or Template(),
        max_length=max_length,
    )
    manifest = Manifest(
        stage="train",
        arguments=run_arguments(splits, template or Template(), max_length, config),
        seed=config.seed,
        inputs={
            "model": model_fingerprint(model),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "data": fingerprint([[row.ids, row.start] for row in rows.encoded["retain"]]),
            **({"mask": mask_fingerprint(mask)} if mask is not None else {}),
        },
        results={
            "rows": len(rows.encoded["retain"]),
            "start_model": str(model.config._name_or_path),
            **({"mask": mask_summary(model, mask)} if mask is not None else {}),
        },
    )
    folder = Path(output_dir) if output_dir is not None else None
    if folder is not None and (
        finished := open_folder(folder, manifest, overwrite=overwrite, resume=resume, patch=patch)
    ):
        return finished
    model.requires_grad_(True)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = folder / CHECKPOINTS if folder is not None else Path(temporary) / CHECKPOINTS
        return train(
            model,
            tokenizer,
            rows,
            objective,
            config,
            manifest,
            mask=mask,
            patch=patch,
            folder=folder,
            scratch=scratch,
            what="fine-tune",
            progress=progress,
        )


def run_arguments(
    splits: tuple[str, ...], template: Template, max_length: int, config: TrainingConfig
) -> dict[str, Any]:
    """What the manifest of a run says of its settings."""
    return jsonable({"splits": splits, "template": asdict(template), "max_length": max_length, **asdict(config)})
