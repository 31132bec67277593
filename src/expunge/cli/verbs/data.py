"""`expunge data`: looking at data before anything is trained on it."""

from dataclasses import dataclass

from expunge.cli.inputs import LoadingConfig, corpus_of, source_settings, template_of, tokenizer_of
from expunge.cli.preview import show_example
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.data.data_config import DataConfig


@dataclass(frozen=True, kw_only=True)
class ShowMaskConfig(LoadingConfig, DataConfig):
    """Which rows are shown."""

    model: str | None = None
    """Model whose tokenizer is used; `tokenizer=` alone will do."""
    split: str = "forget"
    """The set."""
    row: int = 0
    """The first row shown, from 0."""
    rows: int = 1
    """How many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("row", self.row, 0)
        require_at_least("rows", self.rows, 1)


def show_mask(call: Call[ShowMaskConfig]) -> int:
    """Show examples as the model will see them, each supervised token between marks."""
    from expunge.data.tokenizing import encode

    config = call.config
    source = config.tokenizer or config.model
    if source is None:
        raise ExpungeError("name a tokenizer: tokenizer=<folder or hub id>, or model=<folder or hub id>.")
    examples = corpus_of(config, call.resolved.extra, reads=[config.split])[config.split]
    require_between("row", config.row, 0, len(examples) - 1, hint=f"The {config.split} set has {len(examples)} rows.")
    tokenizer = tokenizer_of(source, config)
    chosen = examples[config.row : config.row + config.rows]
    encoded = encode(chosen, tokenizer, template=template_of(config), max_length=config.max_length)
    for number, (example, row) in enumerate(zip(chosen, encoded, strict=True), start=config.row):
        show_example(row, tokenizer, f"Row {number}" + (f" ({example.origin})" if example.origin else ""))
    return 0


SHOW_MASK = Verb(
    name="data show-mask",
    config=ShowMaskConfig,
    run=show_mask,
    extra_settings=source_settings,
    note="Example: expunge data show-mask model=my-model forget=forget.jsonl row=3",
)
