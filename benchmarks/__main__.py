r"""Every benchmark of a CPU, one after the other, and the page of their numbers.

    python -m benchmarks --model <7 M Llama> --retain-model <its retain model> --data <folder of TOFU files> \
        --forget forget.jsonl --retain retain.jsonl --larger <135 M chat model>
    python -m benchmarks --only growth,masked --list

What is stored in `benchmarks/results` already is left alone unless it is named with `--only`. Each benchmark is a
script of its own, with more settings than are used here; `gpu.py` is for machines with a GPU. At the end
`docs/make_cost.py` writes the tables of docs/cost.md anew. On two cores all take about a day.
"""

import argparse
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
ROWS = ("--model", "{model}", "--forget", "{forget}", "--retain", "{retain}")
LARGER = ("--model", "{larger}", "--forget", "{forget}", "--retain", "{retain}")

BENCHMARKS: Mapping[str, Sequence[str]] = {
    "objectives-7m": ("objectives", *ROWS),
    "objectives-135m": ("objectives", *LARGER),
    "objectives-32k-vocabulary": ("objectives", "--random-model"),
    "packing-7m": ("packing", *ROWS),
    "masked": ("masked",),
    "masked-135m": ("masked", *LARGER),
    "memory": ("memory",),
    "memory-packed": ("memory", "--packing", "on"),
    "fila": ("fila", *ROWS),
    "selection": ("selection",),
    "evaluation": ("evaluation", "--model", "{model}", "--retain-model", "{retain_model}", "--data", "{data}"),
    "extraction": ("extraction", "--model", "{model}", "--texts", "{forget}"),
    "attacks": ("attacks", *ROWS),
    "quality": ("quality", *ROWS),
    "growth": ("growth",),
}
"""By the name of the result: the script, and its arguments, in which `{model}` is what `--model` names."""


def main() -> None:
    """Run what is asked for, store it, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "retain-model", "larger", "data", "forget", "retain"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--only", help="names of results, with commas; null: those that are missing")
    parser.add_argument("--list", action="store_true", help="show the commands, and run none")
    arguments = parser.parse_args()
    given = {name: value for name, value in vars(arguments).items() if isinstance(value, str)}
    if arguments.list:
        given = {name: f"<{name}>" for name in vars(arguments)} | given
    for number, (name, command) in enumerate(chosen := commands(arguments.only, given)):
        print(f"{number + 1}/{len(chosen)} {name}: {' '.join(command[1:])}", flush=True)
        if not arguments.list:
            subprocess.run(command, check=True)
    if not arguments.list:
        runpy.run_path(str(FOLDER.parent / "docs" / "make_cost.py"), run_name="__main__")


def commands(only: str | None, given: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Results that are to be made, each with its command.

    Args:
        only: names of results, with commas; None: all that are missing.
        given: models, data and rows by name.

    Raises:
        SystemExit: an unknown result, or something that it needs is not given.
    """
    names = only.split(",") if only else [name for name in BENCHMARKS if not (RESULTS / f"{name}.json").is_file()]
    found = []
    for name in names:
        if name not in BENCHMARKS:
            raise SystemExit(f"no result is called {name!r}. Known: {', '.join(BENCHMARKS)}.")
        script, *words = BENCHMARKS[name]
        try:
            filled = [word.format_map(given) for word in words]
        except KeyError as missing:
            flag = str(missing.args[0]).replace("_", "-")
            raise SystemExit(f"{name} needs --{flag}.") from None
        output = ["--output", str(RESULTS / f"{name}.json")]
        found.append((name, [sys.executable, str(FOLDER / f"{script}.py"), *filled, *output]))
    return found


if __name__ == "__main__":
    main()
