"""One object for the whole way: load, unlearn, evaluate, save."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, path_of
from expunge.core.output import check_folder, in_use
from expunge.core.progress import shown
from expunge.data.corpus import Corpus, load_corpus
from expunge.data.schema import Columns, Turns
from expunge.data.template import Template, dated
from expunge.evaluation.collect import collect
from expunge.evaluation.evaluate import evaluate, unavailable
from expunge.evaluation.probe import Probe
from expunge.models.load import check_tokenizer_fits, load_model, load_tokenizer, save_model
from expunge.results.measures import Evaluation
from expunge.results.places import FINAL_MODEL, START_RECORDS
from expunge.results.records import Records
from expunge.training.run import Run
from expunge.training.unlearn import unlearn

Data = str | Path | Iterable[Mapping[str, Any]]

SUITE = "unlearun"

ALIASES = {
    "ga": "grad_ascent",
    "gradient_ascent": "grad_ascent",
    "gradascent": "grad_ascent",
    "gd": "grad_diff",
    "gradient_diff": "grad_diff",
    "gradient_difference": "grad_diff",
    "graddiff": "grad_diff",
    "kl": "kl_min",
    "kl_minimization": "kl_min",
    "sim_npo": "simnpo",
}
"""Other packages' names of methods."""
# Other packages' words for hyperparameters of ours.
_RENAMED = {"steering_coeff": "coefficient", "target_layer": "layer"}
# Words of this class for settings that messages call otherwise.
_OWN_WORDS = {
    "epochs": "num_epochs",
    "micro_batch_size": "batch_size",
    "warmup": "warmup_steps",
    "retain_loss": "retain_loss_type",
    "forget": "forget_data",
    "retain": "retain_data",
    "holdout": "holdout_data",
}
_ONE_COLUMN = re.compile(r"columns=\{'(question|answer|alternate)': ('[^']*')\}")
_RETAIN_LOSSES = {"nll": "nll", "kl": "kl", "embed_diff": "hidden", "hidden": "hidden", "none": "none"}


class Unlearning:
    """Load a model, make it forget, evaluate it, save it.

    Example:
        ```python
        unlearner = expunge.Unlearning(method="grad_diff", model="gpt2", output_dir="./outputs", gamma=2.0, alpha=1.0)
        unlearner.load_data(forget_data="forget.json", retain_data="retain.json", max_length=128)
        unlearner.run(batch_size=4, learning_rate=5e-5, num_epochs=3)
        results = unlearner.evaluate(metrics=["forget_quality", "model_utility"])
        unlearner.save_model("./final_model")
        ```

    Attributes:
        model: the model, changed in place by `run`.
        tokenizer: its tokenizer.
        corpus: what `load_data` read; None before.
    """

    def __init__(
        self,
        method: str,
        model: str | Path | PreTrainedModel,
        *,
        tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
        device: str = "auto",
        seed: int = 42,
        output_dir: str | Path = "./outputs",
        retain_loss_type: str | None = None,
        adaptive: bool = False,
        gamma: float | None = None,
        alpha: float | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Load the model; nothing is written before `run`.

        Args:
            method: `grad_ascent` (`ga`), `grad_diff` (`gd`), `dpo`, `rmu`, `simnpo`, or any other of `expunge list
                methods`.
            model: folder, hub id, or a loaded model.
            tokenizer: folder, id or loaded tokenizer; None: the model's own.
            device: `auto` takes a GPU where there is one; else `cpu`, `cuda`, ...
            seed: of order and pairing.
            output_dir: folder that `run` writes the run into; where it is in use, the first free one of
                `<output_dir>-2`, `<output_dir>-3`, ...
            retain_loss_type: `NLL`, `KL`, `EMBED_DIFF` (hidden states) or `none`; None: the method's default.
            adaptive: with `rmu`: a target that grows with the hidden states (Adaptive RMU).
            gamma: weight of the forget loss; None: the method's default.
            alpha: weight of the retain loss; None: the method's default.
            **hyperparameters: of the method: `beta` (dpo, simnpo), `delta` (simnpo), `steering_coeff` and
                `target_layer` (rmu; also under our names `coefficient`, `scale`, `layer`).

        Raises:
            ExpungeError: an unknown method or retain loss, a model that cannot be loaded, a loaded model without
                tokenizer.
        """
        name = method
        if isinstance(method, str) and ":" not in method:
            name = method.lower().replace("-", "_").replace(" ", "_")
            name = ALIASES.get(name, name)
        if adaptive and name not in ("rmu", "adaptive_rmu"):
            raise ExpungeError(f"adaptive=True belongs to method='rmu'; the method is {method!r}.")
        self.method = "adaptive_rmu" if adaptive else name
        catalogue.resolve("methods", self.method)
        renamed = _RENAMED | ({"steering_coeff": "scale"} if self.method == "adaptive_rmu" else {})
        self.hyperparameters = {renamed.get(name, name): value for name, value in hyperparameters.items()}
        self._words = _OWN_WORDS | {renamed[name]: name for name in hyperparameters if name in renamed}
        self.retain_loss = _retain_loss(retain_loss_type)
        self.gamma, self.alpha, self.seed = gamma, alpha, seed
        self.output_dir = path_of("output_dir", output_dir)
        if tokenizer is None and not isinstance(model, str | Path):
            raise ExpungeError("a loaded model comes without its tokenizer; pass tokenizer=<folder, id or tokenizer>.")
        place = None if device == "auto" else device
        self.model = load_model(model, device=place) if isinstance(model, str | Path) else model
        words = model if tokenizer is None else tokenizer
        self.tokenizer = load_tokenizer(words) if isinstance(words, str | Path) else words
        check_tokenizer_fits(self.model, self.tokenizer)
        self.corpus: Corpus | None = None
        self.max_length = 512
        self.template = Template()
        self._start: Records | None = None
        self._folder: Path | None = None
        self._source = Path(model) if isinstance(model, str | Path) else None
        self._saved: set[Path] = set()

    def load_data(
        self,
        forget_data: Data,
        retain_data: Data | None = None,
        holdout_data: Data | None = None,
        *,
        question_key: str = "question",
        answer_key: str = "answer",
        alternate_key: str = "alternate",
        columns: Columns | None = None,
        turns: Turns = "last",
        max_length: int = 512,
        template: Template | None = None,
    ) -> None:
        """Read the data sets.

        Args:
            forget_data: JSON, JSON lines, CSV, TSV or Parquet file, a folder of them, dataset id, `datasets.Dataset` or
                list of dictionaries.
            retain_data: likewise; needed by methods with a retain loss.
            holdout_data: likewise, never trained on; membership inference is measured against it where it is there.
            question_key: column that holds the question.
            answer_key: column that holds the answer.
            alternate_key: column with the answer to be preferred, for dpo; rows without one get a refusal.
            columns: more names of columns, for all sets or for one: `{"holdout": {"question": "asked"}}`.
            turns: which messages of the assistant are supervised in a conversation: the `last`, or `all`.
            max_length: longest row in tokens.
            template: how questions are framed; None: the tokenizer's chat template where it has one.

        Raises:
            ExpungeError: data that cannot be read; the message names file, line and column.
        """
        keys = {"question": question_key, "answer": answer_key, "alternate": alternate_key}
        named: Columns = {ours: theirs for ours, theirs in keys.items() if ours != theirs}
        with self._own_words():
            self.corpus = load_corpus(
                "files",
                forget=forget_data,
                retain=retain_data,
                holdout=holdout_data,
                columns={**named, **(columns or {})},
                turns=turns,
            )
        self.max_length, self.template = max_length, dated(template, self.tokenizer)
        self._start = None

    def run(
        self,
        *,
        batch_size: int = 4,
        learning_rate: float = 5e-5,
        num_epochs: float = 3,
        gradient_accumulation_steps: int = 1,
        warmup_steps: int = 0,
        overwrite: bool = False,
        resume: bool = False,
        **settings: Any,
    ) -> Run:
        """Unlearn, and write the run into `output_dir`, or a numbered folder beside it where that one is in use.

        Args:
            batch_size: forget rows that a device computes at once.
            learning_rate: peak learning rate of AdamW.
            num_epochs: passes over the forget set.
            gradient_accumulation_steps: such batches in one optimizer step.
            warmup_steps: optimizer steps over which the learning rate rises.
            overwrite: replace an earlier run in `output_dir`.
            resume: go on with a run that was stopped, the last one of `output_dir` and the numbered folders beside it.
            **settings: more fields of `expunge.training.training_config.TrainingConfig`, such as `weight_decay` or
                `retain_per_forget`.

        Raises:
            ExpungeError: data was not loaded, or settings out of range.
        """
        corpus = self._loaded()
        rows = batch_size * gradient_accumulation_steps
        folder = self.output_dir if overwrite else run_folder(self.output_dir, resume=resume)
        with shown() as progress, self._own_words():
            start = self._start_records()
            run = unlearn(
                self.model,
                self.tokenizer,
                corpus,
                method=self.method,
                retain=self.retain_loss,
                gamma=self.gamma,
                alpha=self.alpha,
                output_dir=folder,
                overwrite=overwrite,
                resume=resume,
                template=self.template,
                max_length=self.max_length,
                progress=progress,
                seed=self.seed,
                batch_size=rows,
                micro_batch_size=batch_size,
                learning_rate=learning_rate,
                epochs=num_epochs,
                warmup=warmup_steps * rows / len(corpus["forget"]),
                **self.hyperparameters,
                **settings,
            )
        self.model, self._folder = run.model, folder
        start.save(folder / START_RECORDS)
        return run

    def evaluate(
        self,
        *,
        metrics: Sequence[str] | None = None,
        reference: Records | str | Path | None = None,
        label: str | None = None,
    ) -> Evaluation:
        """Measure the model as it is now.

        Without a retain model `forget_quality` is the share of the forget answers' mean probability that was removed,
        and `model_utility` the share of the retain answers' mean probability that was kept, both in [0, 1], 1 best.
        With records of one they are TOFU's. Each result names its definition.

        Args:
            metrics: out of `perplexity` (of the forget set, and of the retain set in its `details`), `forget_quality`,
                `model_utility`, `rouge`, `verbatim_memorization`, `mia`, `retain_perplexity`, or any other that
                `expunge.evaluate` knows; None: all. One that the data do not allow has no value, and its note says why.
            reference: records of a retain model, or their path.
            label: what to call the model in tables.

        Returns:
            An Evaluation: `results["forget_quality"].value`; a measure formats and compares as its number, too.

        Raises:
            ExpungeError: data was not loaded, a metric is unknown, or none of those named is available.
        """
        corpus = self._loaded()
        asked = [metrics] if isinstance(metrics, str) else metrics
        with shown() as progress, self._own_words():
            start = self._start_records()
            absent = unavailable(corpus, suite=SUITE, metrics=asked, reference=reference, start=start) if asked else {}
            there = None if asked is None else [name for name in asked if name not in absent] or asked
            beside = there is not None and "perplexity" in there and "retain" in corpus
            found = evaluate(
                self.model,
                self.tokenizer,
                corpus,
                suite=SUITE,
                metrics=[*dict.fromkeys([*there, "retain_perplexity"])] if there is not None and beside else there,
                reference=reference,
                start=start,
                template=self.template,
                max_length=self.max_length,
                label=label or self.method,
                progress=progress,
            )
        measures = {**found.measures, **absent}
        for name, measure in measures.items():
            if measure.value is None:
                measures[name] = replace(measure, note=in_words_of(self._words, measure.note))
        if absent:
            lacking = "\n".join(f"{name} is not available. {measures[name].note}" for name in absent)
            warnings.warn(lacking, stacklevel=2)
        if "perplexity" in measures and "retain_perplexity" in measures:
            kept, forgotten = measures["retain_perplexity"], measures["perplexity"]
            if kept.value is not None:
                details = {**forgotten.details, "retain": kept.value}
                measures["perplexity"] = replace(forgotten, details=details)
        if asked is None:
            return replace(found, measures=measures)
        if "retain_perplexity" not in asked:
            measures.pop("retain_perplexity", None)
        order = {name: position for position, name in enumerate(asked)}
        names = sorted(measures, key=lambda name: order.get(name, len(order)))
        return replace(found, measures={name: measures[name] for name in names})

    def save_model(self, path: str | Path | None = None, *, overwrite: bool = False) -> Path:
        """Write model and tokenizer as transformers reads them, and what later evaluations need of the start model.

        Args:
            path: folder; None: `final_model` in the folder of the last run.
            overwrite: replace the model that is there.

        Raises:
            ExpungeError: the folder is in use, holds something else, or is that of the start model.
        """
        default = (self._folder or self.output_dir) / FINAL_MODEL
        folder = default if path is None else path_of("path", path)
        check_folder(folder)
        if self._source is not None and folder.resolve() == self._source.resolve():
            raise ExpungeError(f"{folder} is the folder of the start model, which is not replaced. Choose another one.")
        if folder.resolve() not in self._saved and folder.exists() and any(folder.iterdir()):
            if not (folder / "config.json").is_file():
                raise ExpungeError(f"{folder} holds something other than a model; choose another folder.")
            if not overwrite:
                raise in_use(folder)
        save_model(self.model, self.tokenizer, folder)
        self._saved.add(folder.resolve())
        if self._start is not None:
            self._start.save(folder / START_RECORDS)
        return folder

    def load_model(self, path: str | Path) -> None:
        """Go on with a model that was saved before.

        Args:
            path: folder that `save_model` or `run` wrote.
        """
        self.model = load_model(path, device=str(self.model.device))
        self.tokenizer = load_tokenizer(path)
        if (Path(path) / START_RECORDS).is_dir():
            self._start = Records.load(Path(path) / START_RECORDS)

    @contextmanager
    def _own_words(self) -> Iterator[None]:
        """Within, errors call settings as this class does."""
        try:
            yield
        except ExpungeError as error:
            raise type(error)(in_words_of(self._words, str(error))) from error

    def _loaded(self) -> Corpus:
        if self.corpus is None:
            raise ExpungeError("no data yet: call load_data(forget_data=..., retain_data=...) first.")
        return self.corpus

    def _start_records(self) -> Records:
        # Before `run` the model is the start model; afterwards this is already there.
        if self._start is None:
            corpus = self._loaded()
            probes = [Probe(split=split) for split in ("forget", "retain") if split in corpus]
            found = collect(
                self.model, self.tokenizer, corpus, probes, template=self.template, max_length=self.max_length
            )
            # They are kept beside models that are handed on, and must not carry what was to be forgotten.
            self._start = found.with_texts("drop")
        return self._start


def run_folder(folder: Path, *, resume: bool) -> Path:
    """The folder itself where it is free, else the first free numbered one; with `resume` the last one in use.

    Of several processes none can know what another has begun to write, so the folder itself is taken there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return folder
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    last, free = None, folder
    while free.exists() and (not free.is_dir() or any(free.iterdir())):
        last, free = free, next(numbered)
    if last is None or resume:
        return last or free
    warnings.warn(
        f"{folder} is in use, so this run goes into {free}. To replace what is in {folder}, pass overwrite=True; to "
        "go on with a run that was stopped, resume=True.",
        stacklevel=3,
    )
    return free


def in_words_of(words: Mapping[str, str], message: str) -> str:
    """A message with other names of settings, where it begins with one or assigns it: `layer must be`, `epochs=3`.

    `columns={'question': 'q'}` becomes `question_key='q'`.
    """
    message = _ONE_COLUMN.sub(r"\1_key=\2", message)
    for ours, theirs in words.items():
        message = re.sub(rf"(?m)^{ours}(?= must )|(?<![\w.=]){ours}(?==)", theirs, message)
    return message


def _retain_loss(name: str | None) -> str | None:
    if name is None:
        return None
    if name.lower() not in _RETAIN_LOSSES:
        raise ExpungeError(f"retain_loss_type must be NLL, KL, EMBED_DIFF or none; got {name!r}.")
    return _RETAIN_LOSSES[name.lower()]
