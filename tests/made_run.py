"""A finished run made by hand, what was measured of it, and attacks on it: no model, a few bytes a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zoo
from expunge.core.manifest import Manifest, file_digests
from expunge.data.corpus import Corpus
from expunge.results.attacked import Attacked, Column, Control, Leak
from expunge.results.measures import Evaluation, Measure

START, RESULT = "xxh3:start", "xxh3:result"
CORPUS = zoo.corpus()
FORGET = CORPUS.fingerprint("forget")
FILES = {
    "model.safetensors": b"\x00weights\xff",
    "config.json": b"{}\n",
    "tokenizer.json": b'{"vocab": 3}\n',
    "chat_template.jinja": b"{{ messages }}\n",
    "history.csv": b"step\n1\n",
}
REQUIRED = ("plain", "prompts.quiz", "sampling", "quantize.nf4", "prune.0.3", "relearn.forget", "lens")
"""What the default policy asks for."""


def run(folder: Path, *, start: str = START, result: str = RESULT, start_model: str = "start", **results: Any) -> Path:
    """A run folder with its files and manifest."""
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    manifest(file_digests(folder), start=start, result=result, start_model=start_model, **results).save(folder)
    return folder


def manifest(
    files: Mapping[str, str] | None = None,
    *,
    start: str = START,
    result: str = RESULT,
    start_model: str = "start",
    **results: Any,
) -> Manifest:
    """What a finished run says of itself; `results` are changed or further results."""
    known = {
        "finished": True,
        "steps": 10,
        "seconds_a_step": 0.5,
        "start_model": start_model,
        "result": {"model": result, "dtype": "float32"},
        "data": CORPUS.about("forget"),
        "probability": {"before": {"forget": 0.9, "retain": 0.8}, "after": {"forget": 0.1, "retain": 0.76}},
        "files": dict(files or {}),
    }
    return Manifest(
        stage="unlearn",
        arguments={"method": "npo", "learning_rate": 1e-5, "template": {"name": "chat"}},
        seed=7,
        inputs={"model": start, "tokenizer": "xxh3:tokenizer"},
        results={**known, **results},
        git={"commit": "abc", "dirty": False},
    )


def evaluation(model: str = RESULT, *, reference: bool = False, **values: float | None) -> Evaluation:
    """An evaluation of a model with these values."""
    about: dict[str, Any] = {"inputs": {"model": model, "data.forget": FORGET}, "settings": {"dtype": "float32"}}
    if reference:
        about["reference"] = {"model": "xxh3:retain"}
    measures = {
        name: Measure(
            value=value,
            better="higher",
            definition="d",
            source="s",
            n=6,
            interval=None if value is None else (value, value),
            note="missing" if value is None else "",
        )
        for name, value in values.items()
    }
    return Evaluation(measures, about=about)


def leak(name: str, values: Sequence[float]) -> Leak:
    return Leak(
        name=name,
        measure="extraction strength",
        facts=tuple(range(len(values))),
        values=tuple(values),
        prompts=tuple(fact.prompt for fact in CORPUS["forget"][: len(values)]),
        texts=tuple(fact.completion for fact in CORPUS["forget"][: len(values)]),
    )


def attacked(
    values: Mapping[str, Sequence[float]] | None = None,
    *,
    control: Control | None = "retain model",
    threshold: float = 0.2,
    model: str = RESULT,
    corpus: Corpus = CORPUS,
) -> Attacked:
    """Attacks that drew out these values, and nothing from the control; what the policy asks for drew nothing else."""
    facts = corpus["forget"]
    drawn = {name: (0.0,) * len(facts) for name in REQUIRED} | dict(values or {})
    columns = tuple(
        Column(name=name, leak=leak(name, own), control=leak(name, (0.0,) * len(own)), threshold=threshold)
        for name, own in drawn.items()
    )
    return Attacked(
        columns=columns,
        questions=tuple(fact.question for fact in facts),
        answers=tuple(fact.completion for fact in facts),
        control=control,
        settings={"seed": 0},
        inputs={"model": model, "control": "xxh3:retain", "forget": corpus.fingerprint("forget")},
    )


def keys(folder: Path, key: Any = None, name: str = "controller") -> tuple[Path, Path]:
    """A private and a public key as PEM files, of ed25519 unless another key is given; needs the extra `record`."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = key or ed25519.Ed25519PrivateKey.generate()
    pem, private, public = serialization.Encoding.PEM, folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public
