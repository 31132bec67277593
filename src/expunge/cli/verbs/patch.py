"""`expunge patch`: what a run changed, applied to its base or taken back bit for bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.cli.console import say, table
from expunge.cli.inputs import LoadingConfig, load
from expunge.cli.verb import Call, Verb
from expunge.core.output import check_output, check_output_file

if TYPE_CHECKING:
    from expunge.models.patch import Patch


@dataclass(frozen=True, kw_only=True)
class CreateConfig(LoadingConfig):
    """Two models of one kind."""

    base: str
    """Model before: a folder or a hub id."""
    model: str
    """Model after."""
    output: str
    """Patch file to write, such as `patch.safetensors`."""


@dataclass(frozen=True, kw_only=True)
class ChangeConfig(LoadingConfig):
    """A model and a patch."""

    model: str
    """Model that the patch is applied to or reverted from: a folder or a hub id. It is not changed itself."""
    patch: str
    """Patch file."""
    output: str
    """Folder that the changed model is written to."""


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """A patch."""

    patch: str
    """Patch file."""


def create(call: Call[CreateConfig]) -> int:
    """Keep the difference of two models: only the weights that differ, as flipped bits."""
    from expunge.core.manifest import FILE, Manifest
    from expunge.models.patch import make_patch

    config = call.config
    check_output_file(config.output, overwrite=call.overwrite, kind="patch")
    base, _ = load(config.base, config)
    result, _ = load(config.model, config)
    manifest = Manifest.load(config.model) if (Path(config.model) / FILE).is_file() else None
    patch = make_patch(base, result, manifest=manifest)
    patch.save(config.output)
    weights = sum(p.numel() for p in base.parameters())
    say(f"{patch.weights} of {weights} weights ({patch.weights / weights:.2%}) in {config.output}")
    return 0


def apply(call: Call[ChangeConfig]) -> int:
    """Turn a patch's base into its result; another model is refused."""
    return _changed(call, "apply")


def revert(call: Call[ChangeConfig]) -> int:
    """Turn a patch's result into its base again, bit for bit; another model is refused."""
    return _changed(call, "revert")


def _changed(call: Call[ChangeConfig], how: str) -> int:
    from expunge.core.whole import whole_folder
    from expunge.models.load import save_model

    config = call.config
    check_output(config.output, overwrite=None, names=())
    patch = _read(config.patch)
    model, tokenizer = load(config.model, config)
    if how == "apply":
        patch.apply(model)
    else:
        patch.revert(model)
    with whole_folder(Path(config.output)) as aside:
        save_model(model, tokenizer, aside)
    say(f"{patch.weights} weights changed; the model, now {patch.result if how == 'apply' else patch.base}:")
    say(config.output)
    return 0


def info(call: Call[InfoConfig]) -> int:
    """Show what a patch changes, between which models, and what made it."""
    config = call.config
    patch = _read(config.patch)
    say(f"base    {patch.base}")
    say(f"result  {patch.result}")
    if patch.manifest is not None:
        made = patch.manifest
        method = made.arguments.get("method")
        say(f"made by {made.stage}{f' with {method}' if method else ''}, {made.created}")
    say(f"{patch.weights} weights in {len(patch.changes)} tensors, {Path(config.patch).stat().st_size} bytes")
    say()
    rows = []
    for name, change in patch.changes.items():
        cut = "single weights" if change.part.cut == "weights" else f"slices along dimension {change.part.dim}"
        rows.append((name, str(change.weights), f"{change.weights / change.part.numel:.2%}", cut))
    table(("tensor", "weights", "share", "kept as"), rows, numeric=(1, 2))
    return 0


def _read(path: str) -> "Patch":
    from expunge.models.patch import Patch

    return Patch.load(path)


CREATE = Verb(
    name="patch create",
    config=CreateConfig,
    run=create,
    flags=("overwrite",),
    note="Example: expunge patch create base=my-model model=runs/npo output=npo.safetensors",
)
APPLY = Verb(
    name="patch apply",
    config=ChangeConfig,
    run=apply,
    note="Example: expunge patch apply model=my-model patch=npo.safetensors output=unlearned",
)
REVERT = Verb(
    name="patch revert",
    config=ChangeConfig,
    run=revert,
    note="Example: expunge patch revert model=unlearned patch=npo.safetensors output=restored",
)
INFO = Verb(name="patch info", config=InfoConfig, run=info, note="Example: expunge patch info patch=npo.safetensors")
