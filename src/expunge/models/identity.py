"""What tells the weights of one model from those of another, as manifests hold it."""

from typing import Any

from torch import nn

from expunge.models.anatomy import causal_lm
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import bits_of


def weights_identity(model: nn.Module) -> dict[str, Any]:
    """Fingerprint and type of a model's weights as an evaluation of it sees them, with the adapters that it has."""
    plain: Any = causal_lm(model)
    bits = {"bits": found} if (found := bits_of(plain)) is not None else {}
    return {"model": model_fingerprint(plain), "dtype": str(plain.dtype).removeprefix("torch."), **bits}
