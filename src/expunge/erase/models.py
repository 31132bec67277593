"""Start and control model of a request, loaded as seldom as memory allows."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.models.load import load_model, load_tokenizer

Model: TypeAlias = PreTrainedModel | PeftModel


@dataclass
class Models:
    """The models that a request is about; each is loaded when it is asked for and then kept, until it is let go.

    Only one copy of each is ever held, and none beside a model that is trained: a request needs no more memory than
    unlearning does.
    """

    start_at: str | Path
    """Folder or hub id."""
    control_at: str | Path | None
    """Likewise; None: there is no control."""
    _held: dict[str, Model] = field(default_factory=dict)

    @property
    def start(self) -> Model:
        """The start model, to be looked at and left as it is."""
        return self._kept("start", self.start_at)

    @property
    def control(self) -> Model | None:
        """The control, likewise; None where there is none."""
        return None if self.control_at is None else self._kept("control", self.control_at)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the start model, for all."""
        return load_tokenizer(self.start_at)

    def to_train(self) -> Model:
        """The start model to be trained: it is no longer the one of this request, and nothing else is held."""
        found = self.start
        self.let_go()
        return found

    def let_go(self) -> None:
        """Hold nothing, for what needs the memory."""
        self._held.clear()

    def _kept(self, role: str, source: str | Path) -> Model:
        if role not in self._held:
            self._held[role] = load_model(source)
        return self._held[role]
