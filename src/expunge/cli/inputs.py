"""What most verbs read: a model with its tokenizer, a corpus, and how its examples are framed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli.console import say
from expunge.config.convert import describe
from expunge.config.settings import Setting, parameters, settings
from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.data.data_config import CorpusConfig, DataConfig
from expunge.training.training_config import TrainingConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.data.corpus import Corpus
    from expunge.data.template import Template


@dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """How a model is loaded."""

    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; null: the model's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` takes the one that they are stored in."""
    bits: int | None = None
    """8 or 4: keep the weights quantized, through bitsandbytes; such a model can be evaluated, and trained with an
    adapter."""
    device: str | None = None
    """Where the model is put, such as `cpu` or `cuda:1`, or `auto`: over all GPUs, and what does not fit there in the
    memory of the CPU, for evaluate and localize; null: the first GPU, else the CPU."""
    trust_remote_code: bool = False
    """Run code that comes with a model; leave it off unless you trust its author."""


@dataclass(frozen=True, kw_only=True)
class ShardingConfig(LoadingConfig):
    """How a model is loaded, into one process or several."""

    sharded: bool = False
    """Divide the weights among the processes of a launcher (FSDP2), for a model that one device does not hold."""


def load(source: str, config: LoadingConfig) -> "tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]":
    """A model and a tokenizer that fits it."""
    from expunge.models.load import check_loading, check_tokenizer_fits, load_model

    sharded = isinstance(config, ShardingConfig) and config.sharded
    # First: a missing folder lacks a tokenizer too, which is not what is wrong.
    check_loading(source, device=config.device, bits=config.bits, sharded=sharded)
    tokenizer = tokenizer_of(source, config)
    model = load_model(
        source,
        dtype=config.dtype,
        device=config.device,
        bits=config.bits,
        sharded=sharded,
        trust_remote_code=config.trust_remote_code,
    )
    check_tokenizer_fits(model, tokenizer)
    return model, tokenizer


def tokenizer_of(source: str, config: LoadingConfig) -> "PreTrainedTokenizerBase":
    """The tokenizer that was named, else the model's own."""
    from expunge.models.load import load_tokenizer

    return load_tokenizer(config.tokenizer or source, trust_remote_code=config.trust_remote_code)


def source_settings(values: Mapping[str, Any]) -> list[Setting]:
    """What the source named by the values takes besides the data settings, such as the size of a synthetic corpus.

    A training setting of the same name goes first: `seed` never changes the data.

    Raises:
        ExpungeError: a setting of the source has the name of a data setting and another type, so that neither could be
            given.
    """
    name = values["source"]
    data_settings = {setting.name: setting for setting in settings(DataConfig)}
    found = []
    for setting in parameters(catalogue.resolve("sources", name), owner=name):
        if setting.name in data_settings:
            if not _takes_text(setting.type) and _takes_text(data_settings[setting.name].type):
                ours = describe(data_settings[setting.name].type)
                raise ExpungeError(
                    f"the source {name} has a setting {setting.name} ({describe(setting.type)}), and so have the data "
                    f"settings ({ours}). Rename it in the source, such as {name.rpartition(':')[2]}_{setting.name}."
                )
        elif setting.name not in (*TrainingConfig.__dataclass_fields__, "reads"):
            found.append(setting)
    return found


def _takes_text(kind: Any) -> bool:
    return any(word in describe(kind) for word in ("text", "path", "anything"))


def corpus_of(
    config: CorpusConfig, more: Mapping[str, Any], *, reads: Collection[str] | None = None, **instead: Any
) -> "Corpus":
    """The corpus that the data settings name.

    Args:
        config: the data settings; those left at nothing are not passed on.
        more: further settings that were given; those of the source are picked from them.
        reads: the sets that the verb reads of files; others are said not to be read, and not checked. None: all.
        instead: values that take the place of settings of the same name.
    """
    from expunge.data.corpus import load_corpus

    given = data_given(config, more) | instead
    source = given.pop("source", config.source)
    if source == "files" and reads is not None:
        named = [name for name in ("forget", "retain", "holdout") if name in given]
        left_out = [name for name in (*named, *given.get("sets", {})) if name not in reads]
        if left_out:
            say(f"note: not read here, and not checked: {', '.join(left_out)}")
    return load_corpus(source, reads=reads, **given)


def data_given(config: CorpusConfig, more: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that name the data, as far as they were given: arguments of `load_corpus`."""
    asked = {name: getattr(config, name) for name in CorpusConfig.__dataclass_fields__}
    own = {setting.name for setting in source_settings({"source": config.source})}
    named = {name: value for name, value in asked.items() if value and (name, value) != ("source", "files")}
    return named | {name: value for name, value in more.items() if name in own}


def framed_data(config: DataConfig, more: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that name the data and say how they are framed, as far as they are not the defaults."""
    plain, own = DataConfig(), {*DataConfig.__dataclass_fields__} - {*CorpusConfig.__dataclass_fields__}
    framing = {name: getattr(config, name) for name in DataConfig.__dataclass_fields__ if name in own}
    changed = {name: value for name, value in framing.items() if value != getattr(plain, name)}
    return data_given(config, more) | changed


def template_of(config: DataConfig) -> "Template":
    """How questions are framed."""
    from expunge.data.template import Template

    return Template(name=config.template, system=config.system, arguments=config.template_arguments, date=config.date)
