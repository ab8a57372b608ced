"""Maps made of maps: one after another, or each on a part of the event."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Size, Tensor, nn

from flowzoo.bijectors._base import Bijector, pieces


class Compose(Bijector):
    """One map after another, in the order in which ``to_latent`` applies them."""

    def __init__(self, *maps: Bijector) -> None:
        super().__init__()
        self.maps = nn.ModuleList(maps)

    @property
    def partial(self) -> bool:
        """Whether one of them is."""
        return any(bijector.partial for bijector in self.maps)

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Fit each map on what the ones before it return."""
        for i, bijector in enumerate(self.maps):
            if i:
                x = _mapped(self.maps[i - 1], x)  # type: ignore[arg-type]
            bijector.fit(x, names)  # type: ignore[operator]

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All maps in order."""
        total = torch.zeros_like(x)
        for bijector in self.maps:
            x, log_slope = bijector.to_latent(x)  # type: ignore[operator]
            total = total + log_slope
        return x, total

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """All maps in reverse."""
        total = torch.zeros_like(u)
        for bijector in reversed(self.maps):
            u, log_slope = bijector.to_data(u)  # type: ignore[operator]
            total = total + log_slope
        return u, total

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "compose", "maps": [m.describe() for m in self.maps]}  # type: ignore[operator]


class Columns(Bijector):
    """A map on some columns of a vector, the others untouched.

    Args:
        columns: positions along the last axis.
        bijector: the map for them.
    """

    def __init__(self, columns: Sequence[int], bijector: Bijector) -> None:
        super().__init__()
        self.columns = [int(c) for c in columns]
        self.bijector = bijector
        self.index: Tensor  # a list would be copied to a GPU in every call, which no CUDA graph can hold
        self.register_buffer("index", torch.tensor(self.columns, dtype=torch.long), persistent=False)

    @property
    def partial(self) -> bool:
        """Whether the inner map is."""
        return self.bijector.partial

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Fit the inner map on its columns."""
        if names is None or len(names) != x.shape[-1]:
            # Without names a column is called by its position in the event, not in the part.
            names = [str(c) for c in range(x.shape[-1])]
        self.bijector.fit(x[..., self.index], [names[c] for c in self.columns])

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The inner map on its columns."""
        return self._merge(x, *self.bijector.to_latent(x[..., self.index]))

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of the inner map on its columns."""
        return self._merge(u, *self.bijector.to_data(u[..., self.index]))

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "columns", "columns": self.columns, "bijector": self.bijector.describe()}

    def _merge(self, x: Tensor, part: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        value, total = x.clone(), torch.zeros_like(x)
        value[..., self.index] = part
        total[..., self.index] = log_slope
        return value, total


class VectorAndImage(Bijector):
    """A flat context that is a vector and an image after it: one map for the vector, one for the image in its shape.

    So an image can be standardised with one scale for each channel, as a convolution needs, although it travels as
    columns.

    Args:
        image: shape ``(C, H, W)`` of the image, the last C H W columns.
        vector: map of the columns before it, ``(V,)``; there may be none of these.
        pixels: map of the image, ``(C, H, W)``.
    """

    def __init__(self, image: Sequence[int], vector: Bijector, pixels: Bijector) -> None:
        super().__init__()
        self.image = Size(image)
        self.vector, self.pixels = vector, pixels

    @property
    def partial(self) -> bool:
        """Whether one of both is."""
        return self.vector.partial or self.pixels.partial

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Fit each map on its part; of the names, the first V are those of the vector and C more of the channels."""
        vector, image = self._cut(x)
        width = vector.shape[-1]
        labels = list(names or ())
        self.vector.fit(vector, labels[:width])
        self.pixels.fit(image, labels[width : width + self.image[0]])

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each map on its part."""
        vector, image = self._cut(x)
        return self._join(self.vector.to_latent(vector), self.pixels.to_latent(image))

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of each map on its part."""
        vector, image = self._cut(u)
        return self._join(self.vector.to_data(vector), self.pixels.to_data(image))

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "kind": "vector_and_image",
            "image": list(self.image),
            "vector": self.vector.describe(),
            "pixels": self.pixels.describe(),
        }

    def _cut(self, x: Tensor) -> tuple[Tensor, Tensor]:
        width = x.shape[-1] - prod(self.image)
        if width < 0:
            raise ValueError(
                f"the last {prod(self.image)} columns are an image {tuple(self.image)}; got {x.shape[-1]} columns"
            )
        return x[..., :width], x[..., width:].unflatten(-1, self.image)

    def _join(self, vector: tuple[Tensor, Tensor], image: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        value, log_slope = (torch.cat([v, i.flatten(-3)], -1) for v, i in zip(vector, image, strict=True))
        return value, log_slope


def _mapped(bijector: Bijector, x: Tensor) -> Tensor:
    """In network units; in pieces, because a map has several times its result in memory."""
    mapped: Tensor | None = None
    start = 0
    for part in pieces(x):
        value = bijector.to_latent(part)[0]
        if len(part) == len(x):
            return value
        if mapped is None:
            mapped = value.new_empty(x.shape)
        mapped[start : start + len(part)] = value
        start += len(part)
    assert mapped is not None
    return mapped
