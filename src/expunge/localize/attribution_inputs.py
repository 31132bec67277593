"""The inputs of an attribution for each group of units."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress
from expunge.localize.gradients import Dataset, gradients, input_means
from expunge.localize.localization_plan import Plan
from expunge.masks.units import Layout
from expunge.models.anatomy import blocks, causal_lm, is_linear, output_dim
from expunge.models.fingerprint import whole
from expunge.models.placement import kept_weight


class Inputs:
    """The inputs of an attribution for each group; each pass over the data is made when it is first asked for."""

    def __init__(
        self,
        model: nn.Module,
        units: Layout,
        plan: Plan,
        datasets: Mapping[str, Dataset],
        how: str,
        batch_size: int,
        seed: int,
        identity: str,
        progress: Progress | None,
    ) -> None:
        self.model, self.units, self.plan, self.datasets = model, units, plan, datasets
        self.how, self.batch_size, self.seed, self.identity, self.progress = how, batch_size, seed, identity, progress
        self.passed: dict[str, dict[str, Tensor]] = {}

    def __call__(self, what: str, group: str) -> Any:
        """The thing of that name, out of `attribution.INPUTS`, for one group."""
        plain = {"unit": self.units.unit, "group": group, "seed": self.seed}
        if what in plain:
            return plain[what]
        if what == "weights":
            return unit_rows(self.units, group, self._weights(group))
        if what == "value_vectors":
            part = self.units.parts[group]
            return self._weights(group)[group].double().movedim(part.dim, 0).reshape(part.units, -1)
        if what in ("forget_gradients", "retain_gradients", "forget_squares"):
            gradients = self._gradients(what)
            return unit_rows(self.units, group, {name: whole(gradients[name]) for name in self._names(group)})
        return self._inputs(what, group)

    def _weights(self, group: str) -> dict[str, Tensor]:
        """The parameters of a group, whole, wherever they are kept."""
        inner = causal_lm(self.model)
        return {n: whole(kept_weight(inner, n, inner.get_parameter(n).detach())) for n in self._names(group)}

    def _names(self, group: str) -> list[str]:
        return [name for name, part in self.units.parts.items() if part.group == group]

    def _gradients(self, what: str) -> dict[str, Tensor]:
        if what not in self.passed:
            with torch.enable_grad():
                self.passed[what] = gradients(
                    self.model,
                    self.datasets[what.partition("_")[0]],
                    list(self.units.parts),
                    how="squares" if what == "forget_squares" else self.how,
                    batch_size=self.batch_size,
                    model_fingerprint=self.identity,
                    progress=self.progress,
                )
        return self.passed[what]

    def _inputs(self, what: str, group: str) -> Tensor:
        layers = self._layers()
        if what not in self.passed:
            found = input_means(
                self.model,
                layers,
                next(iter(self.datasets["forget"].rows.values())),
                positions=self.plan.reading.get("positions", "predicting"),
                batch_size=self.batch_size,
                progress=self.progress,
            )
            self.passed["mean_inputs"], self.passed["mean_squared_inputs"] = found
        means, part = self.passed[what][group], self.units.parts[group]
        if part.cut == "slices":
            return means
        across = means[None, :] if output_dim(layers[group]) == 0 else means[:, None]
        return across.expand(part.shape).reshape(-1)

    def _layers(self) -> dict[str, nn.Module]:
        """The linear layer of each group: the one whose weight goes by the group's name."""
        inner = causal_lm(self.model)
        by_weight = {id(m.weight): m for block in blocks(inner) for m in block.modules() if is_linear(m)}
        found, parameters = {}, dict(inner.named_parameters())
        for group in self.units.groups:
            layer = by_weight.get(id(parameters[group]))
            if layer is None:
                raise ExpungeError(
                    f"{self.plan.name} reads the inputs of the decoder blocks' linear layers, and {group} is none's "
                    "weight. Use modules=linear, mlp, down or attention."
                )
            found[group] = layer
        return found


def unit_rows(units: Layout, group: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """What belongs to each unit of a group, [U, K], float64.

    Args:
        units: how parameters are cut.
        group: a group of it.
        tensors: a tensor in its shape for each parameter of the group.
    """
    rows = []
    for name, part in units.parts.items():
        if part.group != group:
            continue
        values = tensors[name].detach().double()
        rows.append((values.movedim(part.dim, 0) if part.cut == "slices" else values).reshape(part.units, -1))
    return torch.cat(rows, 1)
