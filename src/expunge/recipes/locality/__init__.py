"""The controlled experiment: does it matter for unlearning whether the right weights are changed?

The region that holds the knowledge is known, because it was put there: from a model trained on the retain set only, the
forget set is taught into a random tenth of the MLP's value vectors (`teaching`). Then the same method unlearns with the
same data order and budget in several places of the same size (`cells`): in that region (`oracle`), in a random one
outside it (`random`), and in what attributions select. `matching` takes the unlearning objective out of the question,
`findings` compares places over seeds, and `experiment` is the way through all of it.

Source: Lee et al. 2025, arXiv:2505.16252. Departures: the paper's rules for AUES, MU95 and its test are not published;
ours are named beside the numbers. Its learning rates and budgets are not known either, nor whether teaching holds on to
the retain set: here it does by default, as without it a small model loses that set before the forget set is known.
"""

from expunge.recipes.locality.experiment import Locality, locality

__all__ = ["Locality", "locality"]
