"""Unlearning: from a start model and a corpus to a model that should no longer know the forget set."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, fingerprint, jsonable
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.masks.mask import Mask
from expunge.models.anatomy import blocks, causal_lm
from expunge.models.load import (
    base_fingerprint,
    bits_of,
    check_tokenizer_fits,
    model_fingerprint,
    reshard,
    tokenizer_fingerprint,
)
from expunge.models.lowrank import Save, StartModel
from expunge.models.reference import ReferencePolicy, frozen_copy
from expunge.objectives.combine import Objective, Stream, build
from expunge.training import generated_answers
from expunge.training.adapter import LEARNING_RATE as ADAPTER_RATE
from expunge.training.adapter import (
    Adaptation,
    about_own,
    adapted_matrices,
    adapter_on,
    asked,
    check_adaptable,
    check_rows,
    check_settings,
    keeping,
    warn_of_size,
)
from expunge.training.config import TrainingConfig
from expunge.training.masked import given_mask, mask_fingerprint, mask_summary
from expunge.training.reference_rows import check_eps, with_reference
from expunge.training.rows import RunRows, run_rows
from expunge.training.run import CHECKPOINTS, Run, check_folder, check_patch, open_folder, train, uses_bf16
from expunge.training.stopping import StopRule, StopWhen, described
from expunge.training.tracking import check_tracking
from expunge.training.trainable import trainable


def unlearn(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    method: str = "npo",
    retain: str | None = None,
    gamma: float | None = None,
    alpha: float | None = None,
    retain_sets: Mapping[str, float] | None = None,
    reference: ReferencePolicy = "auto",
    adapter: str | None = None,
    targets: str | None = None,
    save: Save | None = None,
    stop: StopRule | None = None,
    stop_every: float = 1.0,
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
        method: forget loss: a name of `expunge list methods`, or `package.module:function`.
        retain: retain loss, `none` for none; None takes the method's default.
        gamma: weight of the forget loss; None takes the method's default.
        alpha: weight of the retain loss; None takes the method's default.
        retain_sets: several retain sets with their weights, by split of the corpus: `{"retain": 1, "general": 0.5}`.
            Each brings `retain_per_forget` rows to a step and has a mean of its own. None: the split `retain` alone.
        reference: how the start model's values are had: `precomputed` (once before training, on the rows that the run
            meets), `model` (a frozen second model), or `auto` (precomputed up to a gigabyte). With an adapter no second
            model is held: the start model is the same one with its adapter switched off.
        mask: what may change, with any method: a mask or its file; all else stays bit for bit as it is. None: what the
            method trains by default.
        patch: also write `patch.safetensors` into the run folder: what the masked run changed, and how to take it back.
        adapter: train low-rank factors instead of the weights: a name of `expunge list adapters`; its settings (`rank`,
            ...) go beside those of the method.
        targets: which matrices the adapter is put on: `all-linear`, `attention`, `mlp`, or a regular expression; None:
            those that the method trains where these are few, else `all-linear`.
        save: what is written of an adapter: `merged` (a plain model, the default), `adapter` (its factors alone), or
            `both`. Of one that the model brings itself `adapter` is the default; with the others it is merged, and the
            run returns the plain model.
        stop: asked now and then with (model, step); a text, the reason, ends the run early. The manifest holds what
            its attribute `about` says, or its name, and a run resumes with the same one alone.
        stop_every: epochs between two such questions.
        output_dir: run folder for model, manifest, history and checkpoints; None keeps the result in memory.
        overwrite: replace a run of ours in `output_dir`.
        resume: go on with a run that was stopped there; it ends with the weights of a run that was not.
        template: how questions are framed; None: the tokenizer's chat template where it has one.
        max_length: longest row in tokens.
        progress: called with (what, steps done, steps in all, numbers).
        **settings: fields of `TrainingConfig` (`learning_rate`, `epochs`, `batch_size`, ...) and hyperparameters of the
            method (`beta`, ...) and of the adapter.

    Returns:
        The run: the unlearned model, one history row a step, the manifest.

    Raises:
        ExpungeError: unknown names, settings out of range, missing sets, a folder in use, a non-finite loss.
        KeyboardInterrupt: after Ctrl-C, once the step is finished and a checkpoint is saved.
    """
    config, others = split_settings(settings)
    if stop is not None and not callable(stop):
        raise ExpungeError(
            f"stop={stop!r}: from Python a function of (model, step) that returns a reason or None. Conditions such as "
            "'forget_rouge<=0.1' are made into one: "
            "expunge.measured_rule(model, tokenizer, corpus, [condition])."
        )
    adaptation, hyperparameters = asked(adapter, targets, save, others, own=isinstance(model, PeftModel))
    check_adaptable(model, adaptation, save)
    check_tokenizer_fits(model, tokenizer)
    mask = given_mask(mask)
    check_patch(patch, mask, output_dir)
    check_tracking(config, output_dir)
    _check_mask(model, mask, patch, adaptation)
    depth = len(blocks(causal_lm(model)))
    objective = build(
        method,
        retain=retain,
        gamma=gamma,
        alpha=alpha,
        depth=depth,
        retain_sets=retain_sets,
        hyperparameters=hyperparameters,
        adapter=adaptation.settings if adaptation else (),
    )
    config = with_defaults(config, objective, adapter=adaptation is not None or isinstance(model, PeftModel))
    matrices = adapted_matrices(model, objective, targets, mask) if adaptation else ()
    if adaptation is not None:
        check_settings(model, adaptation, matrices, corpus)
        warn_of_size(model, adaptation, matrices)
    check_objective(causal_lm(model), method, objective, config)
    folder = Path(output_dir) if output_dir is not None else None
    if folder is not None:
        check_folder(folder, overwrite=overwrite, resume=resume)
    if objective.generates:
        corpus = generated_answers.supplied(
            model,
            tokenizer,
            corpus,
            folder if resume else None,
            alternates=objective.generates["alternates"],
            temperature=objective.generates["alternate_temperature"],
            seed=config.seed,
            template=template,
            max_length=max_length,
            progress=progress,
        )
    rows = run_rows(
        corpus,
        tokenizer,
        streams=objective.streams,
        epochs=_epochs(config),
        seed=config.seed,
        retain_per_forget=config.retain_per_forget,
        template=template or Template(),
        max_length=max_length,
    )
    check_eps(model, rows, objective)
    base = base_fingerprint(model)
    own_adapter = model if isinstance(model, PeftModel) else None
    saved = save or "adapter" if own_adapter is not None else adaptation.save if adaptation else "merged"
    arguments = run_arguments(method, objective, config, template or Template(), max_length, reference, adaptation)
    looked_at = _looked_at(corpus, tokenizer, rows, adaptation, template or Template(), max_length)
    if adaptation is not None:
        check_rows(model, adaptation, matrices, looked_at, config.seed)
    manifest = Manifest(
        stage="unlearn",
        arguments=arguments
        | (jsonable({"stop": described(stop), "stop_every": stop_every}) if stop is not None else {}),
        seed=config.seed,
        inputs={
            "model": base,
            **({"start_adapter": model_fingerprint(own_adapter)} if own_adapter is not None else {}),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            **{stream: _rows_fingerprint(found) for stream, found in sorted({**looked_at, **rows.encoded}.items())},
            **({"mask": mask_fingerprint(mask)} if mask is not None else {}),
        },
        results={
            "rows": {s: len(r) for s, r in rows.encoded.items()},
            "start_model": str(model.config._name_or_path),
            "corpus": jsonable(corpus.origin),
            **({"mask": mask_summary(model, mask)} if mask is not None else {}),
            **(about_own(own_adapter) if own_adapter is not None else {}),
        },
    )
    if folder is not None and (
        finished := open_folder(
            folder,
            manifest,
            overwrite=overwrite,
            resume=resume,
            patch=patch,
            own_adapter=own_adapter if saved == "adapter" else None,
        )
    ):
        return finished
    if folder is not None and objective.generates:
        generated_answers.write(corpus["forget"], folder)
    rows, how = with_reference(model, rows, objective, reference, progress, autocast=uses_bf16(model, config))
    reshard(model)
    with ExitStack() as around:
        temporary = Path(around.enter_context(tempfile.TemporaryDirectory()))
        second, keep, about, trained = None, None, None, model
        if adaptation is not None:
            assert isinstance(model, PreTrainedModel)
            micro, _ = config.split(int(os.environ.get("WORLD_SIZE", "1")))
            supplies = {"seed": config.seed, "progress": progress, "rows_at_once": micro, **looked_at}
            adapted = around.enter_context(adapter_on(model, adaptation, matrices, supplies=supplies))
            trained = adapted.model
            numbers = sum(p.numel() for p in trained.parameters() if p.requires_grad)
            results = {"trained_parameters": numbers, "adapted_matrices": len(matrices), **adapted.report}
            manifest = replace(manifest, results=manifest.results | results)
        elif mask is None and own_adapter is None:
            around.enter_context(trainable(model, objective))
        if isinstance(trained, PeftModel):
            about = jsonable({"kind": adaptation.name if adaptation else "lora", **manifest.arguments, "base": base})
            about["dtype"] = str(next(trained.parameters()).dtype).removeprefix("torch.")
            about |= {"bits": bits} if (bits := bits_of(model)) is not None else {}
            keep = keeping(saved, tokenizer, about, own=own_adapter is not None)
        if how == "model":
            own = adaptation is None
            second = StartModel(trained, own_adapter=own) if isinstance(trained, PeftModel) else frozen_copy(trained)
        return train(
            trained,
            tokenizer,
            rows,
            objective,
            config,
            manifest,
            reference=second,
            mask=mask if adaptation is None else None,
            patch=patch,
            folder=folder,
            scratch=folder / CHECKPOINTS if folder is not None else temporary / CHECKPOINTS,
            what=method,
            progress=progress,
            keep=keep,
            about=about,
            stop=StopWhen(stop, every=stop_every, rows_per_epoch=rows.pairs.n_forget, batch_size=config.batch_size)
            if stop is not None
            else None,
        )


def check_objective(model: nn.Module, method: str, objective: Objective, config: TrainingConfig) -> None:
    """Raise for settings that a loss refuses, and for combinations that would train something else than was asked for.

    Args:
        model: a causal language model, of which the configuration alone is read.
        method: name of the forget loss.
        objective: what is to be trained.
        config: how.
    """
    shape = model.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    objective.check(depth=shape.num_hidden_layers, width=shape.hidden_size, vocabulary=shape.vocab_size)
    if objective.forget is not None and objective.forget.method.compares_with == "other":
        raise ExpungeError(
            f"{method} matches another model than the start model, and a run has none. Use it in a loop of your own: "
            f"expunge.compute_loss(model, forget=batch, method='{method}', reference=<that model>)."
        )
    if objective.retain is None and (config.surgery != "none" or objective.dual is not None):
        what = f"surgery={config.surgery}" if config.surgery != "none" else method
        raise ExpungeError(f"{what} looks at the retain loss, and there is none; name one, such as nll.")
    if objective.dual is not None and objective.retain is not None and objective.retain.name != "nll":
        raise ExpungeError(f"{method} bounds the retain set's NLL by eps; retain={objective.retain.name} is another.")
    if config.surgery != "none" and (objective.alpha == 0 or objective.dual is not None):
        why = "alpha=0 leaves none" if objective.alpha == 0 else f"{method} weighs that gradient itself"
        raise ExpungeError(f"surgery={config.surgery} holds the forget against the retain gradient, and {why}.")


def _check_mask(model: nn.Module, mask: Mask | None, patch: bool, adaptation: Adaptation | None) -> None:
    """Raise for masks and patches that an adapter has no use for; those of matrices are the adapter's."""
    if patch and adaptation is not None:
        raise ExpungeError("a patch holds weights that a masked run changed; what an adapter changes is save=adapter.")
    if mask is not None and isinstance(model, PeftModel):
        raise ExpungeError("the model's own adapter is trained, which a mask of its weights says nothing about.")


def split_settings(settings: dict[str, Any]) -> tuple[TrainingConfig, dict[str, Any]]:
    """Keyword arguments to (training configuration, the rest, which the method must know)."""
    known = {field.name for field in fields(TrainingConfig)}
    return TrainingConfig(**{k: v for k, v in settings.items() if k in known}), {
        k: v for k, v in settings.items() if k not in known
    }


def with_defaults(config: TrainingConfig, objective: Objective, *, adapter: bool = False) -> TrainingConfig:
    """The configuration with learning rate and epochs filled in from the method, or from what suits an adapter."""
    (loss, _), *_ = objective.losses.values()
    rate = ADAPTER_RATE if adapter else loss.method.learning_rate
    return config.filled(learning_rate=rate, epochs=loss.method.epochs)


def _epochs(config: TrainingConfig) -> float:
    assert config.epochs is not None
    return config.epochs


def run_arguments(
    method: str,
    objective: Objective,
    config: TrainingConfig,
    template: Template,
    max_length: int,
    reference: str,
    adaptation: Adaptation | None,
) -> dict[str, Any]:
    """What the manifest of a run says of its settings, those of a rule to stop by left out."""
    return jsonable(
        {
            "method": method,
            "retain": objective.retain.name if objective.retain else "none",
            "gamma": objective.gamma,
            "alpha": objective.alpha,
            "retain_sets": dict(objective.retain_sets),
            "hyperparameters": objective.forget.hyperparameters if objective.forget else {},
            "retain_hyperparameters": objective.retain.hyperparameters if objective.retain else {},
            **({"dual": asdict(objective.dual)} if objective.dual else {}),
            **objective.generates,
            "layer": objective.layer,
            "positions": objective.positions,
            "reference": reference,
            "template": asdict(template),
            "max_length": max_length,
            **asdict(config),
            **(adaptation.arguments() if adaptation else {}),
        }
    )


def _rows_fingerprint(rows: Sequence[Encoded]) -> str:
    return fingerprint([[row.ids, row.start] for row in rows])


def _looked_at(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    rows: RunRows,
    adaptation: Adaptation | None,
    template: Template,
    max_length: int,
) -> dict[Stream, Sequence[Encoded]]:
    """The rows that an adapter looks at before training: forget and retain set, even where no loss reads the latter."""
    if adaptation is None or not adaptation.wants_retain:
        return {}
    retain = rows.encoded.get("retain")
    if retain is None:
        retain = encode(corpus["retain"], tokenizer, template=template, max_length=max_length)
    return {"forget": list(rows.encoded["forget"]), "retain": list(retain)}
