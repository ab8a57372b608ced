"""Scale the Fourier modes of a periodic image by a learned, context-dependent spectrum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowzoo.nets import Given, mlp, vector_of

FLOOR = 1e-8  # of the largest mean power: below it there is only the rounding of float32's transforms


class SpectralNorm(nn.Module):
    r"""Activation normalisation in Fourier space: whitens a stationary, isotropic field given the context.

    .. math:: y = F^{-1}\, e^{-s(k) - r(k, c)}\, F\,(x - \mu - m(c)), \qquad
              \log\lvert\det\rvert = -\sum_{\mathbf k} \bigl(s(k) + r(k, c)\bigr)

    with the sum over all H W modes and k their wavenumber. s is a number for each k, set by ``initialize`` so that the
    first batch leaves with a flat spectrum; r is linear between knots in log k, their values an MLP of the context that
    starts at zero. A convolution with a circulant inverse: it commutes with every shift and, being isotropic, with
    turns and flips, which the squeeze of a Glow does not. Dai and Seljak 2022, arXiv:2202.05282, section 2.2,
    build a whole flow of such layers.

    Args:
        shape: ``(C, H, W)``, periodic along H and W.
        context_features: width of the context, 0 for none.
        num_knots: of r, from the lowest k to the highest; the zero mode has one of its own.
        hidden_features: width of the MLP.
        bound: r stays within (-bound, bound).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        context_features: int = 0,
        *,
        num_knots: int = 16,
        hidden_features: int = 64,
        bound: float = 4.0,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.shape, self.bound = shape, bound
        ky = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        kx = torch.fft.rfftfreq(width, dtype=torch.float64)
        # Wavenumbers that are equal but for rounding are one: 1e-9 is far below the distance of any two.
        k, index = torch.unique(((ky.square() + kx.square()).sqrt() * 1e9).round() / 1e9, return_inverse=True)
        twice = torch.full((height, width // 2 + 1), 2.0)
        twice[:, 0] = 1.0  # the transform of a real image leaves out the conjugates of the other columns
        if width % 2 == 0:
            twice[:, -1] = 1.0
        # They follow from the shape, so no checkpoint holds them.
        self.index: Tensor
        self.twice: Tensor
        self.counts: Tensor
        self.hats: Tensor
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("twice", twice, persistent=False)
        counts = torch.zeros(len(k)).index_add_(0, index.flatten(), twice.flatten())
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("hats", _hats(k, num_knots), persistent=False)
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels, len(k)))
        self.net = None
        if context_features:
            out = channels * (num_knots + 2)
            self.net = mlp(context_features, out, (hidden_features, hidden_features), zero_init=True)

    @torch.no_grad()
    def initialize(self, x: Tensor, c: Given) -> None:
        """Set the mean and the spectrum from a batch."""
        self.mean.copy_(x.mean((0, 2, 3)))
        modes = torch.fft.rfft2(x - self.mean[:, None, None], norm="ortho")
        power = (modes.abs().square().mean(0) * self.twice).flatten(1)
        sums = x.new_zeros(self.shape[0], len(self.counts))
        mean_power = sums.index_add_(1, self.index.flatten(), power) / self.counts
        floor = (FLOOR * mean_power.amax(1, keepdim=True)).clamp_min(torch.finfo(x.dtype).tiny)
        self.log_scale.copy_(0.5 * mean_power.clamp_min(floor).log())

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Subtract the mean, divide every mode by its scale."""
        log_scale, shift = self._affine(c)
        return self._scale(x - shift, -log_scale), -self._log_det(x, log_scale)

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """The inverse."""
        log_scale, shift = self._affine(c)
        return self._scale(y, log_scale) + shift, self._log_det(y, log_scale)

    def _affine(self, c: Given) -> tuple[Tensor, Tensor]:
        """Log-scale ``(N or 1, C, wavenumbers)`` and shift ``(N or 1, C, 1, 1)``."""
        log_scale, shift = self.log_scale[None], self.mean[None]
        if self.net is not None:
            raw = self.net(vector_of(c)).unflatten(1, (self.shape[0], -1))
            shift = shift + raw[..., 0]
            log_scale = log_scale + self.bound * torch.tanh(raw[..., 1:] / self.bound) @ self.hats
        return log_scale, shift[:, :, None, None]

    def _scale(self, x: Tensor, log_scale: Tensor) -> Tensor:
        modes = torch.fft.rfft2(x, norm="ortho")
        factor = torch.exp(log_scale).index_select(2, self.index.flatten()).unflatten(2, self.index.shape)
        return torch.fft.irfft2(modes * factor, s=self.shape[1:], norm="ortho")

    def _log_det(self, x: Tensor, log_scale: Tensor) -> Tensor:
        return (log_scale * self.counts).flatten(1).sum(1).expand(len(x))


def _hats(k: Tensor, num_knots: int) -> Tensor:
    """``(num_knots + 1, wavenumbers)``: the zero mode, then hat functions in log k; each column adds up to one."""
    hats = torch.zeros(num_knots + 1, len(k), dtype=torch.float64)
    hats[0, 0] = 1.0
    log_k = k[1:].log()
    place = (log_k - log_k[0]) / (log_k[-1] - log_k[0]).clamp_min(1e-12) * (num_knots - 1)
    low = place.floor().long().clamp(max=max(num_knots - 2, 0))
    rest = place - low
    column = torch.arange(1, len(k))
    hats[1 + low, column] += 1 - rest
    if num_knots > 1:
        hats[2 + low, column] += rest
    return hats.to(torch.get_default_dtype())
