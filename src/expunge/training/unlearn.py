"""Unlearning: from a start model and a corpus to a model that should no longer know the forget set."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.config.signature import shows_settings
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError, path_of
from expunge.core.distributed import sharded
from expunge.core.lock import locked
from expunge.core.manifest import Manifest, fingerprint, jsonable
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.masks.mask import Mask
from expunge.models.anatomy import causal_lm
from expunge.models.fingerprint import base_fingerprint, model_fingerprint, tokenizer_fingerprint
from expunge.models.load import bits_of, check_tokenizer_fits, reshard
from expunge.models.lowrank import StartModel
from expunge.models.placement import refuse_spread
from expunge.models.reference import Reference, frozen_copy, kept_of
from expunge.models.rows_fit import check_rows_fit
from expunge.models.vocabulary_head import head_of
from expunge.objectives.combine import Stream
from expunge.results.places import check_run_folder
from expunge.training import generated_answers
from expunge.training.adapter import (
    adapter_on,
    check_rows,
    describe_own_adapter,
    result_writer,
)
from expunge.training.budget import as_results, explained, fitted
from expunge.training.masked import mask_fingerprint, mask_summary
from expunge.training.masters import narrow, widen
from expunge.training.memory import Conditions, run_peak
from expunge.training.options import place_now
from expunge.training.plan import Plan, plan_unlearning, split_settings
from expunge.training.reference_rows import check_eps, with_reference
from expunge.training.rows import RunRows
from expunge.training.run import Run, finished_run, train, uses_bf16
from expunge.training.start import check_start
from expunge.training.stopping import StopRule, StopWhen, described
from expunge.training.trainable import trainable
from expunge.training.training_config import TrainingConfig
from expunge.training.unlearn_config import UnlearnConfig


@shows_settings(UnlearnConfig, TrainingConfig)
def unlearn(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    retain: str | None = None,
    stop: StopRule | None = None,
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
    """Make a model forget.

    Args:
        model: the start model; it is changed in place and returned inside the run. A PEFT model with a trainable LoRA
            has that adapter trained and nothing else, and stays one.
        tokenizer: its tokenizer.
        corpus: holds `forget`, and `retain` where the retain loss needs one.
        retain: short for `retain_loss`.
        stop: called now and then with (model, step); a text, the reason, ends the run early. The manifest holds its
            attribute `about`, or its name, and a run resumes with the same one alone.
        mask: what may change, with any method: a mask or its file; all else stays bit for bit as it is. None: what the
            method trains by default.
        patch: also write `patch.safetensors` into the run folder: what the masked run changed, and how to take it back.
        output_dir: run folder for model, manifest, history and checkpoints; None keeps the result in memory.
        overwrite: replace a run of ours in `output_dir`.
        resume: go on with a run that was stopped there; it ends with the weights of a run that was not.
        template: how questions are framed; None: the tokenizer's chat template where it has one.
        max_length: longest row in tokens.
        progress: called with (what, steps done, steps in all, numbers).
        **settings: fields of `UnlearnConfig` (`method`, `alpha`, `adapter`, ...) and of `TrainingConfig`
            (`learning_rate`, `epochs`, `batch_size`, ...), and hyperparameters of the method (`beta`, ...), its retain
            loss and the adapter (`rank`, ...).

    Returns:
        The run: the unlearned model, one history row a step, the manifest.

    Raises:
        ExpungeError: unknown names, settings out of range, missing sets, a folder in use, a non-finite loss.
        KeyboardInterrupt: after Ctrl-C, once the step is finished and a checkpoint is saved.
    """
    config, training, hyperparameters = split_settings({"retain": retain, **settings})
    if stop is not None and not callable(stop):
        raise ExpungeError(
            f"stop={stop!r}: from Python a function of (model, step) that returns a reason or None. Conditions such as "
            "'forget_rouge<=0.1' are made into one: "
            "expunge.measured_rule(model, tokenizer, corpus, [condition])."
        )
    check_tokenizer_fits(model, tokenizer)
    refuse_spread(model, "training")
    check_corpus(corpus)
    plan = plan_unlearning(
        model,
        config,
        training,
        hyperparameters,
        corpus=corpus,
        mask=mask,
        patch=patch,
        output_dir=output_dir,
        template=template,
        max_length=max_length,
        stop=described(stop) if stop is not None else None,
    )
    folder = path_of("output_dir", output_dir) if output_dir is not None else None
    plan = plan.dated(tokenizer, folder if resume else None)
    objective, adaptation, training = plan.objective, plan.adaptation, plan.training
    if folder is not None:
        check_run_folder(folder, overwrite=overwrite, resume=resume)
    given = corpus
    if objective.generates:
        corpus = generated_answers.supplied(
            model,
            tokenizer,
            corpus,
            alternates=objective.generates["alternates"],
            temperature=objective.generates["alternate_temperature"],
            seed=training.seed,
            template=plan.template,
            max_length=max_length,
            progress=progress,
        )
    rows = plan.rows(corpus, tokenizer, model)
    plan, steps_in = _within_memory(plan, model, rows, config)
    training = plan.training
    check_eps(model, rows, objective)
    own_adapter = model if isinstance(model, PeftModel) else None
    looked_at = _looked_at(plan, corpus, tokenizer, rows)
    check_rows_fit(model, chain.from_iterable(looked_at.values()))
    if adaptation is not None:
        check_rows(model, adaptation, plan.matrices, looked_at, training.seed)
    manifest = _manifest(plan, model, tokenizer, given, rows, looked_at)
    with ExitStack() as around:
        around.enter_context(locked(folder))
        finished = finished_run(
            folder,
            manifest,
            overwrite=overwrite,
            resume=resume,
            patch=patch,
            own_adapter=own_adapter if plan.save == "adapter" else None,
        )
        if finished is not None:
            return finished
        autocast = uses_bf16(model, training)
        before = check_start(model, rows, autocast=autocast)
        # A mask and the adapters of ours bring float32 masters of their own.
        stored = widen(model) if adaptation is None and plan.mask is None else {}
        around.callback(narrow, model, stored)
        rows, how = with_reference(model, rows, objective, config.reference, progress, autocast=autocast)
        reshard(model)
        second: Reference | None = None
        keep, about, trained = None, None, model
        if adaptation is not None:
            assert isinstance(model, PreTrainedModel)
            micro, _ = training.split()
            supplies = {"seed": training.seed, "progress": progress, "rows_at_once": micro, **looked_at}
            adapted = around.enter_context(adapter_on(model, adaptation, plan.matrices, supplies=supplies))
            trained = adapted.model
            numbers = sum(p.numel() for p in trained.parameters() if p.requires_grad)
            results = {"trained_parameters": numbers, "adapted_matrices": len(plan.matrices), **adapted.report}
            manifest = replace(manifest, results=manifest.results | results)
        elif plan.mask is None and own_adapter is None:
            around.enter_context(trainable(model, objective))
        if isinstance(trained, PeftModel):
            base = manifest.inputs["model"]
            about = jsonable({"kind": adaptation.name if adaptation else "lora", **manifest.arguments, "base": base})
            about["dtype"] = str(next(trained.parameters()).dtype).removeprefix("torch.")
            about |= {"bits": bits} if (bits := bits_of(model)) is not None else {}
            keep = result_writer(plan.save, tokenizer, about, own=own_adapter is not None)
        if how == "model":
            own = adaptation is None
            second = StartModel(trained, own_adapter=own) if isinstance(trained, PeftModel) else frozen_copy(trained)
        elif any("states" in kept_of(names) for names in objective.needs("reference").values()):
            second = head_of(trained).frozen()
        when = None
        if stop is not None:
            per_epoch, size = rows.pairs.n_forget, training.rows_a_step
            when = StopWhen(stop, every=config.stop_every, rows_per_epoch=per_epoch, batch_size=size)
        return train(
            trained,
            tokenizer,
            rows,
            plan,
            manifest,
            before=before,
            reference=second,
            folder=folder,
            resume=resume,
            progress=progress,
            keep=keep,
            about=about,
            stop=when,
            stored=stored,
            steps_in=steps_in,
        )


def _within_memory(
    plan: Plan, model: PreTrainedModel | PeftModel, rows: RunRows, config: UnlearnConfig
) -> tuple[Plan, AbstractContextManager[None]]:
    """The plan that keeps to its limit of memory, and what explains it where memory runs out in a step."""
    plain = causal_lm(model)
    assert isinstance(plain, PreTrainedModel)
    under = Conditions(
        bits=bits_of(model),
        autocast=uses_bf16(model, plan.training),
        reference=config.reference,
        place=place_now(plain),
    )

    def estimate(way: Plan) -> float:
        return run_peak(plain, way, rows, under)

    divided = sharded(plain)
    found = fitted(plan, estimate, divided=divided)
    return found, explained(plan, found, estimate, divided=divided)


def _manifest(
    plan: Plan,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    rows: RunRows,
    looked_at: Mapping[Stream, Sequence[Encoded]],
) -> Manifest:
    """What a run says of itself before it starts."""
    own_adapter = model if isinstance(model, PeftModel) else None
    mask = plan.mask
    return Manifest(
        stage="unlearn",
        arguments=dict(plan.arguments),
        seed=plan.training.seed,
        inputs={
            "model": base_fingerprint(model),
            **({"start_adapter": model_fingerprint(own_adapter)} if own_adapter is not None else {}),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            **{stream: _rows_fingerprint(found) for stream, found in sorted({**looked_at, **rows.encoded}.items())},
            **({"mask": mask_fingerprint(mask)} if mask is not None else {}),
        },
        results={
            "rows": {s: len(r) for s, r in rows.encoded.items()},
            "start_model": str(model.config._name_or_path),
            "corpus": jsonable(corpus.origin),
            "data": corpus.about(*(split for split in rows.encoded if split in corpus)),
            "data_notes": list(rows.notes),
            **as_results(plan),
            **({"mask": mask_summary(model, mask)} if mask is not None else {}),
            **(describe_own_adapter(own_adapter) if own_adapter is not None else {}),
        },
    )


def _rows_fingerprint(rows: Sequence[Encoded]) -> str:
    return fingerprint([[row.ids, row.start] for row in rows])


def _looked_at(
    plan: Plan, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, rows: RunRows
) -> dict[Stream, Sequence[Encoded]]:
    """The rows that an adapter reads before training: forget and retain set, even where no loss reads the latter."""
    if plan.adaptation is None or not plan.adaptation.wants_retain:
        return {}
    retain = rows.encoded.get("retain")
    if retain is None:
        retain = encode(corpus["retain"], tokenizer, template=plan.template, max_length=plan.max_length)
    return {"forget": list(rows.encoded["forget"]), "retain": list(retain)}
