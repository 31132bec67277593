"""What to know of the data of a request before anything is trained on it."""

from expunge.core.format import counted
from expunge.core.surface import assigned
from expunge.data.corpus import Corpus

FEWEST = 20
"""Retain rows below which little holds the rest of the model in place."""


def findings(corpus: Corpus) -> tuple[str, ...]:
    """Sentences on rows that repeat or leak between sets, and on too few retain rows; each with what to do."""
    found = list(corpus.notes)
    retain, forget = (len(corpus[name]) if name in corpus else 0 for name in ("retain", "forget"))
    if retain < max(FEWEST, forget):
        found.append(
            f"{counted(retain, 'retain row')} for {counted(forget, 'forget row')} hold little in place. "
            f"Add rows near those to forget that are to stay, or let the model make some: {assigned(neighbors=40)}."
        )
    return tuple(found)
