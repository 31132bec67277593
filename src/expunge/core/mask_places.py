"""Where a mask lies, by layer and by kind of parameter."""

from expunge.core.mask import Mask
from expunge.core.places import Fingerprint, Place, kind_of, layer_of


def fingerprint(mask: Mask, label: str = "mask") -> Fingerprint:
    """Where a mask lies: selected weights by layer and by kind of parameter.

    Args:
        mask: the mask.
        label: what it is called in tables and drawings.
    """
    sizes, counts = mask.layout.groups, mask.counts()
    sums: dict[tuple[int, str], list[int]] = {}
    for name, part in mask.layout.parts.items():
        place = sums.setdefault((layer_of(name), kind_of(name)), [0, 0])
        place[0] += counts[part.group] * (part.numel // part.units)
        place[1] += part.numel
    return Fingerprint(
        label=label,
        unit=mask.layout.unit,
        units=sum(counts.values()),
        share=sum(counts.values()) / sum(sizes.values()),
        places=tuple(
            Place(layer=layer, kind=kind, selected=selected, weights=weights)
            for (layer, kind), (selected, weights) in sorted(sums.items())
        ),
    )
