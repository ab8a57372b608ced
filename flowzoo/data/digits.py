"""scikit-learn's handwritten digits given their class: real data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flowzoo.bijectors import Identity
from flowzoo.data._data import Data, Levels
from flowzoo.registry import DATASETS


@DATASETS.register
@dataclass(frozen=True)
class Digits:
    """1,797 images of 1 x 8 x 8 with levels 0 to 16, conditioned on the one-hot class (10).

    The test set of the NIST collection, preprocessed by E. Alpaydin and C. Kaynak (UCI ML repository, 1998);
    writers are not recorded, so each image is its own group.
    """

    def load(self) -> Data:
        """Read the copy that scikit-learn carries."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).to(torch.uint8)
        return Data(
            x=images[:, None],
            context=torch.eye(10),
            context_index=torch.from_numpy(bunch.target).long(),
            names=("ink",),
            context_names=tuple(f"digit {k}" for k in range(10)),
            levels=Levels(0, 1, 17),
            context_map=Identity(),
        )
