"""Text of the same form and no content in common: it shares grammar, length and punctuation with the facts alone."""

import random
import re
from collections.abc import Callable, Sequence

from expunge.data.corpus import Example

WORD = re.compile(r"[^\W\d_]+|\d+")
"""Runs of letters, and runs of digits."""
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any no each every both either neither all another other such same own
    i me my mine myself you your yours yourself he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves one
    who whom whose which what when where why how whether
    am is are was were be been being do does did done doing have has had having can could should would might must shall
    about above across after against along among around as at before behind below beneath beside besides between beyond
    by despite down during except for from in inside into like near of off on onto out outside over past per since
    through throughout to toward towards under until up upon via with within without
    and but or nor so yet if because although though while unless than then not there here
    very also too only just even more most less least much many few
    """.split()
)
"""Closed classes of English. `may` and `will` are names as well, and left out."""
ENDINGS = frozenset(("s", "t", "d", "m", "ll", "re", "ve"))
"""What stands after an apostrophe."""
ONSETS, VOWELS = "bdfgklmnprstvz", "aeiou"
TRIES = 50


def same_form(examples: Sequence[Example], known: Sequence[Example], seed: int = 0) -> list[Example]:
    """The examples with invented words and numbers in place of their content.

    A word of letters is content unless it is an English function word. Each is replaced by an invented word of
    alternating consonants and vowels, of its length and capitals; each number by another one of its length. Both are
    one digit or letter longer where no free one is found soon. A word has the same replacement everywhere, so that what
    question and answer share stays shared. No replacement is a word or number of what is known, or a function word.
    Function words, endings after an apostrophe, punctuation and spaces stay. In other languages than English every
    word is replaced.

    Args:
        examples: what is rewritten.
        known: no word of these is used: the facts that are measured afterwards.
        seed: of what is invented.
    """
    taken = {*FUNCTION_WORDS, *(word.lower() for fact in [*known, *examples] for word in WORD.findall(_text(fact)))}
    invented: dict[str, str] = {}

    def replaced(found: re.Match[str]) -> str:
        word = found[0]
        plain = word.lower()
        if plain in FUNCTION_WORDS and (len(word) == 1 or not word.isupper()):  # US and IT are names
            return word
        if word in ENDINGS and found.string[: found.start()].endswith(("'", "’")):
            return word
        if plain not in invented:
            draw = random.Random(f"{seed} {plain}")
            invented[plain] = _free(_number if plain.isdigit() else _word, len(plain), draw, taken)
            taken.add(invented[plain])
        return _with_capitals(invented[plain], word)

    def rewritten(text: str) -> str:
        return WORD.sub(replaced, text)

    return [
        Example(
            kind=example.kind,
            prompt=rewritten(example.prompt),
            messages=tuple((role, rewritten(text)) for role, text in example.messages),
            completion=rewritten(example.completion),
        )
        for example in examples
    ]


def _text(example: Example) -> str:
    return "\n".join([*(text for _, text in example.messages), example.prompt, example.completion])


def _free(make: Callable[[int, random.Random], str], length: int, draw: random.Random, taken: set[str]) -> str:
    """One that is not taken, longer than asked for only where the short ones are used up."""
    tries = 0
    while (found := make(length + tries // TRIES, draw)) in taken:
        tries += 1
    return found


def _word(length: int, draw: random.Random) -> str:
    return "".join(draw.choice(VOWELS if at % 2 else ONSETS) for at in range(length))


def _number(length: int, draw: random.Random) -> str:
    return "".join(draw.choice("0123456789") for _ in range(length))


def _with_capitals(invented: str, word: str) -> str:
    if len(word) > 1 and word.isupper():
        return invented.upper()
    return invented.capitalize() if word[:1].isupper() else invented
