"""expunge removes chosen knowledge from a language model and measures the effect.

The names below load on first use, so that `import expunge` stays light.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Attacked": "expunge.results.attacked",
    "Chat": "expunge.chat.chat",
    "Comparison": "expunge.results.curves",
    "Corpus": "expunge.data.corpus",
    "ErasureRecord": "expunge.record.record",
    "Erased": "expunge.erase.erase",
    "Evaluation": "expunge.results.measures",
    "ExpungeError": "expunge.core.checks",
    "Example": "expunge.data.corpus",
    "Manifest": "expunge.core.manifest",
    "Mask": "expunge.masks.mask",
    "Measure": "expunge.results.measures",
    "Patch": "expunge.models.patch",
    "Records": "expunge.results.records",
    "Release": "expunge.release.export",
    "Run": "expunge.training.run",
    "Scores": "expunge.masks.scores",
    "Studied": "expunge.sweep.results",
    "Template": "expunge.data.template",
    "Unlearning": "expunge.unlearning",
    "Verification": "expunge.record.verify",
    "attack": "expunge.attack.attack",
    "collect": "expunge.evaluation.collect",
    "compare": "expunge.comparison.compare",
    "compute_loss": "expunge.training.loss",
    "erase": "expunge.erase.erase",
    "evaluate": "expunge.evaluation.evaluate",
    "export": "expunge.release.export",
    "finetune": "expunge.training.finetune",
    "forgotten_thresholds": "expunge.evaluation.extraction_thresholds",
    "harness": "expunge.evaluation.lm_eval",
    "load_attacked": "expunge.results.attacked",
    "load_adapter": "expunge.models.adapter_files",
    "load_corpus": "expunge.data.corpus",
    "load_model": "expunge.models.load",
    "load_records": "expunge.results.foreign_logs",
    "load_tokenizer": "expunge.models.load",
    "localize": "expunge.localize.localize",
    "make_patch": "expunge.models.patch",
    "measured_rule": "expunge.stop_rules",
    "record": "expunge.record.record",
    "report": "expunge.report.html",
    "sweep": "expunge.sweep.sweep",
    "unlearn": "expunge.training.unlearn",
    "verify": "expunge.record.verify",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from expunge.attack.attack import attack as attack
    from expunge.chat.chat import Chat as Chat
    from expunge.comparison.compare import compare as compare
    from expunge.core.checks import ExpungeError as ExpungeError
    from expunge.core.manifest import Manifest as Manifest
    from expunge.data.corpus import Corpus as Corpus
    from expunge.data.corpus import Example as Example
    from expunge.data.corpus import load_corpus as load_corpus
    from expunge.data.template import Template as Template
    from expunge.erase.erase import Erased as Erased
    from expunge.erase.erase import erase as erase
    from expunge.evaluation.collect import collect as collect
    from expunge.evaluation.evaluate import evaluate as evaluate
    from expunge.evaluation.extraction_thresholds import forgotten_thresholds as forgotten_thresholds
    from expunge.evaluation.lm_eval import harness as harness
    from expunge.localize.localize import localize as localize
    from expunge.masks.mask import Mask as Mask
    from expunge.masks.scores import Scores as Scores
    from expunge.models.adapter_files import load_adapter as load_adapter
    from expunge.models.load import load_model as load_model
    from expunge.models.load import load_tokenizer as load_tokenizer
    from expunge.models.patch import Patch as Patch
    from expunge.models.patch import make_patch as make_patch
    from expunge.record.record import ErasureRecord as ErasureRecord
    from expunge.record.record import record as record
    from expunge.record.verify import Verification as Verification
    from expunge.record.verify import verify as verify
    from expunge.release.export import Release as Release
    from expunge.release.export import export as export
    from expunge.report.html import report as report
    from expunge.results.attacked import Attacked as Attacked
    from expunge.results.attacked import load_attacked as load_attacked
    from expunge.results.curves import Comparison as Comparison
    from expunge.results.foreign_logs import load_records as load_records
    from expunge.results.measures import Evaluation as Evaluation
    from expunge.results.measures import Measure as Measure
    from expunge.results.records import Records as Records
    from expunge.stop_rules import measured_rule as measured_rule
    from expunge.sweep.results import Studied as Studied
    from expunge.sweep.sweep import sweep as sweep
    from expunge.training.finetune import finetune as finetune
    from expunge.training.loss import compute_loss as compute_loss
    from expunge.training.run import Run as Run
    from expunge.training.unlearn import unlearn as unlearn
    from expunge.unlearning import Unlearning as Unlearning


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from expunge.core.checks import nearest

        near = nearest(name, _HOMES)
        raise AttributeError(f"expunge has no '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""))
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the folder `expunge/report` would bind it here and hide the public function `expunge.report`.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
