"""Fine-tuning: how target and retain models are made, with the same engine and the same rows as unlearning."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import path_of
from expunge.core.distributed import sharded
from expunge.core.lock import locked
from expunge.core.manifest import Manifest, fingerprint
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template
from expunge.masks.mask import Mask
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.models.load import check_tokenizer_fits, reshard
from expunge.models.placement import refuse_spread
from expunge.results.places import check_run_folder
from expunge.training.budget import as_results, explained, fitted
from expunge.training.masked import mask_fingerprint, mask_summary
from expunge.training.masters import narrow, widen
from expunge.training.memory import Conditions, run_peak
from expunge.training.options import place_now
from expunge.training.plan import Plan, plan_finetuning
from expunge.training.run import Run, finished_run, train, uses_bf16
from expunge.training.start import check_start
from expunge.training.training_config import TrainingConfig


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
        **settings: fields of `TrainingConfig`; learning rate 1e-5 (more below 1 billion parameters) and
            5 epochs by default, as TOFU's models were made.

    Raises:
        ExpungeError: unknown settings or splits, a folder in use, a non-finite loss.
    """
    folder = path_of("output_dir", output_dir) if output_dir is not None else None
    if folder is not None:
        check_run_folder(folder, overwrite=overwrite, resume=resume)
    check_tokenizer_fits(model, tokenizer)
    refuse_spread(model, "training")
    check_corpus(corpus)
    learned = Corpus({"retain": tuple(example for split in splits for example in corpus[split])}, corpus.name)
    plan = plan_finetuning(
        model,
        splits,
        TrainingConfig(**settings),
        rows=len(learned["retain"]),
        mask=mask,
        patch=patch,
        output_dir=output_dir,
        template=template,
        max_length=max_length,
    )
    folder = path_of("output_dir", output_dir) if output_dir is not None else None
    plan = plan.dated(tokenizer, folder if resume else None)
    rows = plan.rows(learned, tokenizer, model)
    under = Conditions(autocast=uses_bf16(model, plan.training), place=place_now(model))

    def estimate(way: Plan) -> float:
        return run_peak(model, way, rows, under)

    asked, divided = plan, sharded(model)
    plan = fitted(asked, estimate, divided=divided)
    steps_in = explained(asked, plan, estimate, divided=divided)
    manifest = Manifest(
        stage="train",
        arguments=dict(plan.arguments),
        seed=plan.training.seed,
        inputs={
            "model": model_fingerprint(model),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "data": fingerprint([[row.ids, row.start] for row in rows.encoded["retain"]]),
            **({"mask": mask_fingerprint(plan.mask)} if plan.mask is not None else {}),
        },
        results={
            "rows": len(rows.encoded["retain"]),
            "data_notes": list(rows.notes),
            **as_results(plan),
            "start_model": str(model.config._name_or_path),
            "data": corpus.about(*splits),
            **({"mask": mask_summary(model, plan.mask)} if plan.mask is not None else {}),
        },
    )
    with locked(folder):
        finished = finished_run(folder, manifest, overwrite=overwrite, resume=resume, patch=patch)
        if finished is not None:
            return finished
        before = check_start(model, rows, autocast=uses_bf16(model, plan.training))
        model.requires_grad_(True)
        stored = widen(model) if plan.mask is None else {}
        try:
            reshard(model)
            return train(
                model,
                tokenizer,
                rows,
                plan,
                manifest,
                before=before,
                folder=folder,
                resume=resume,
                progress=progress,
                stored=stored,
                steps_in=steps_in,
            )
        finally:
            narrow(model, stored)
