"""The policy of a record: what must be shown before it says that something was erased. Fixed before the results."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from expunge.config.resolve import resolve
from expunge.core.checks import ExpungeError, path_of, require, require_at_least, require_between, unknown
from expunge.record.attack_classes import CLASSES

FOLDER = Path(__file__).parent / "policies"
SUFFIXES = (".yaml", ".yml")

Reference = Literal["retrained", "base", "none"]
"""`retrained`: the retain model. `base`: another model that never saw the rows. `none`: no such model."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What must be shown before a record says that something was erased."""

    name: str = ""
    """What the policy is called; empty: as its file."""
    about: str = ""
    """A line on what it asks for."""
    attacks: tuple[str, ...] = ()
    """Attacks that must have run, by name or by form (`quantize.nf4`)."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings that required attacks must have been run with, by attack; those that are not named here must have been
    run with their defaults, since a weaker attack of the same name shows less."""
    least_tested: float = 0.5
    """Least share of the facts that each required attack must have a value for, in one of its forms."""
    most_known_by_reference: float = 0.5
    """Mean that the reference may give of the answers when it is asked as they are; one that gives more knew them."""
    references: tuple[Literal["retrained", "base"], ...] = ("retrained", "base")
    """What the attacks must be compared with."""
    least_known: float = 0.1
    """Probability of the forget set's answers from which on the start model knew them."""
    largest_threshold: float = 0.2
    """An attack whose threshold is laxer does not count."""
    largest_share_leaking: float = 0.0
    """Largest share of the facts that may leak in at least one attack."""
    least_utility: float = 0.9
    """Least share of the start model's utility that must be kept."""
    utility: tuple[str, ...] = ("model_utility", "retain_probability")
    """Measures of utility; the first that is there counts."""
    faults_allowed: bool = False
    """May the model repeat itself, write gibberish, decline to answer, or still answer? Otherwise an evaluation must
    have looked, and have seen none of these."""
    neighbors: tuple[str, ...] = ("neighbors", "real_authors", "world_facts")
    """Sets near the forget set: what their measures lost is listed."""
    out_of_scope: dict[str, str] = field(default_factory=dict)
    """Classes of attacks that are left out on purpose, each with the reason."""
    retest_days: int = 180
    """Days until the attacks are to be run again."""

    def __post_init__(self) -> None:
        require(
            bool(self.attacks), "attacks must name at least one attack that has to be run: attacks: [plain, prompts]"
        )
        require(bool(self.references), "references must be retrained, base, or both.")
        for name in (
            "least_known",
            "least_tested",
            "most_known_by_reference",
            "largest_threshold",
            "largest_share_leaking",
            "least_utility",
        ):
            require_between(name, getattr(self, name), 0, 1)
        require_at_least("retest_days", self.retest_days, 1)
        for name in self.settings:
            if name not in (required := {attack.partition(".")[0] for attack in self.attacks}):
                raise unknown("required attack (in settings)", name, sorted(required))
        for known in self.out_of_scope:
            if known not in CLASSES:
                raise unknown("class of attacks (in out_of_scope)", known, CLASSES)

    def as_json(self) -> dict[str, Any]:
        """All of it, for the record."""
        return asdict(self)


def load_policy(source: str | Path | Policy) -> Policy:
    """A policy by name, or from a YAML file.

    Args:
        source: `default`, or a path that ends in `.yaml`.

    Raises:
        ExpungeError: no such policy, or one with an unknown key or a wrong value; the message names the line.
    """
    if isinstance(source, Policy):
        return source
    path = path_of("policy", source)
    if path.suffix not in SUFFIXES:
        shipped = {file.stem: file for file in FOLDER.glob("*.yaml")}
        if str(source) not in shipped:
            raise unknown("policy", str(source), shipped, hint="A policy of your own is a file that ends in .yaml.")
        path = shipped[str(source)]
    if not path.is_file():
        raise ExpungeError(f"no policy at '{path}'.")
    try:
        found = resolve(Policy, files=[path]).config
    except ExpungeError as error:
        raise ExpungeError(f"the policy {path}: {error}") from error
    return found if found.name else replace(found, name=path.stem)
