"""The pretended GPU: its numbers are those of the CPU, and what fails or waits on a GPU does so on it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from flowzoo.cuda_graph import Captured
from flowzoo.seeding import generator
from flowzoo.testing import NotApplicable, pretended_gpu
from flowzoo.testing import _pretended_gpu as module
from flowzoo.testing._cuda_kernels import has_cuda_kernel


@pytest.fixture
def gpu():
    with pretended_gpu() as gpu:
        yield gpu


@pytest.fixture
def ones(gpu):
    return torch.ones(3, device=gpu.device)


def test_numbers_are_those_of_the_cpu(gpu):
    def trained(device):
        source = generator(0, "x", device=device)
        net = nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 1))
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))
        net.to(device)
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(5, 3, generator=source, device=device)).square().sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        again = copy.deepcopy(net)
        again.load_state_dict(net.state_dict())
        return again

    there, here = trained(gpu.device), trained("cpu")
    for p, q in zip(there.parameters(), here.parameters(), strict=True):
        assert p.device == gpu.device
        assert torch.equal(p.cpu(), q)


@pytest.mark.parametrize(
    "function", [nn.functional.silu, nn.functional.mish, nn.functional.gelu, nn.functional.elu, nn.functional.softplus]
)
def test_slopes_are_those_of_the_cpu(function, gpu):
    here = torch.linspace(-5, 5, 1001).requires_grad_()
    there = here.detach().to(gpu.device).requires_grad_()
    for x in (here, there):
        function(x).sum().backward()
    assert torch.equal(there.grad.cpu(), here.grad)


def test_complex_numbers_are_conjugate_where_they_should_be(gpu):
    def both(z, scale):
        turned = z.conj()
        (torch.fft.rfft(z.real) * scale).abs().square().sum().backward()
        return turned, turned * z, turned.imag, turned.imag * 2, torch.view_as_real(turned.resolve_conj()), scale.grad

    z = torch.tensor([1 + 2j, 3 - 1j])
    here, there = (
        both(z.to(device), torch.ones(2, device=device, requires_grad=True)) for device in ("cpu", gpu.device)
    )
    for mine, known in zip(there, here, strict=True):
        assert torch.equal(mine.cpu(), known)
        assert (mine.is_conj(), mine.is_neg()) == (known.is_conj(), known.is_neg())


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_is_that_of_the_cpu(enabled, gpu):
    x = torch.linspace(-1, 1, 2 * 3 * 25).reshape(2, 3, 5, 5)
    weight, turn = torch.linspace(-2, 2, 4 * 3 * 9).reshape(4, 3, 3, 3), torch.linspace(0, 1, 25).reshape(5, 5)

    def found(device):
        own = weight.to(device).requires_grad_()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled):
            y = nn.functional.conv2d(x.to(device), own) @ turn[:3].to(device)
            y = torch.einsum("oc,nchw->nohw", turn[:4, :4].to(device), y)
        y.float().square().sum().backward()
        return y.detach(), own.grad

    for mine, known in zip(found(gpu.device), found("cpu"), strict=True):
        assert mine.dtype == known.dtype
        assert torch.equal(mine.cpu(), known)


def test_shapes_that_change_in_place_are_seen(ones, gpu):
    assert ones.unsqueeze_(0).t_().shape == (3, 1)
    assert (ones * 2).shape == (3, 1)
    assert torch.fft.fftfreq(5, device=gpu.device).shape == (5,)
    assert torch.ones(2, 3, device=gpu.device).T.reshape(-1)[1:].tolist() == [1.0] * 5
    weight = nn.Parameter(torch.zeros(2, device=gpu.device))
    weight.data = torch.ones(4, device=gpu.device)
    assert weight.requires_grad
    assert weight.detach().tolist() == [1.0] * 4


def test_inference_mode_is_that_of_torch(ones):
    with torch.inference_mode():
        assert not ones[1:].is_inference()
        made = ones + 1
    assert made.is_inference()
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        made.add_(1)


REFUSED = {
    "a sum": lambda t: t + torch.ones(3),
    "a stack": lambda t: torch.stack([t.sum(), torch.zeros(())]),
    "a product": lambda t: torch.eye(3) @ t,
    "an index on the GPU of what is not": lambda t: torch.ones(3)[t.long()],
    "values on the CPU": lambda t: t.index_put((torch.tensor([0]),), torch.ones(1)),
    "edges on the CPU": lambda t: torch.bucketize(t, torch.arange(3.0)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_tensors_of_two_devices_do_not_meet(ones, what):
    with pytest.raises(RuntimeError, match="expected one device"):
        REFUSED[what](ones)


def test_numbers_and_indices_on_the_cpu_may(ones):
    assert (ones + torch.tensor(1.0)).tolist() == [2.0] * 3
    assert ones[torch.tensor([0, 1])].tolist() == [1.0] * 2
    assert ones.masked_fill(ones > 0, torch.tensor(2.0)).tolist() == [2.0] * 3


def test_numpy_cannot_read_it(ones):
    for read in (lambda t: t.numpy(), np.asarray):
        with pytest.raises(TypeError, match="can't convert pretended:0 device type tensor to numpy"):
            read(ones)
    assert ones.cpu().numpy().tolist() == [1.0] * 3


def test_generators_are_of_their_device(gpu):
    own, other = torch.Generator(gpu.device).manual_seed(1), torch.Generator().manual_seed(1)
    assert own.device == gpu.device
    assert isinstance(own, torch.Generator)
    assert torch.equal(
        torch.randn(3, generator=own, device=gpu.device).cpu(), torch.randn(3, generator=other, device="cpu")
    )
    with pytest.raises(RuntimeError, match="expected a 'pretended' device type for generator but found 'cpu'"):
        torch.randn(3, generator=other, device=gpu.device)
    with pytest.raises(RuntimeError, match="expected a 'cpu' device type for generator but found 'pretended'"):
        torch.randn(3, generator=own)


def test_state_of_a_generator_is_of_its_device(gpu):
    own, other = torch.Generator(gpu.device).manual_seed(1), torch.Generator().manual_seed(1)
    before = own.get_state()
    drawn = torch.randn(3, generator=own, device=gpu.device)
    assert torch.equal(torch.randn(3, generator=own.set_state(before), device=gpu.device).cpu(), drawn.cpu())
    for generator_, state in ((own, other.get_state()), (other, before)):
        with pytest.raises(RuntimeError, match=r"RNG state (is wrong size|size to be)"):
            generator_.set_state(state)


def test_what_cuda_has_no_kernel_for_is_refused(ones):
    with pytest.raises(NotImplementedError, match=r"aten::histogram\.bin_ct has no CUDA kernel"):
        torch.histogram(ones)
    aten = torch.ops.aten
    assert has_cuda_kernel(aten.add.Tensor)
    assert has_cuda_kernel(aten.special_gammaincc.default)
    assert not has_cuda_kernel(aten._histogramdd_from_bin_cts.default)


WAITS = {
    "a number read": (lambda t: t.sum().item(), "aten::_local_scalar_dense"),
    "a truth": (lambda t: bool((t > 0).all()), "aten::_local_scalar_dense"),
    "a number in a text": (lambda t: f"{t[0]:.4g}", "aten::_local_scalar_dense"),
    "a list": (lambda t: t.tolist(), "tolist"),
    "a mask": (lambda t: t[t > 0], "aten::index"),
    "a copy to the CPU": (lambda t: t.cpu(), "aten::_to_copy"),
    "a copy from it": (lambda t: torch.tensor(1.0, device=t.device), "aten::_to_copy"),
    "a copy into what is there": (lambda t: t.copy_(torch.zeros(3)), "aten::copy_"),
    "a size": (lambda t: t.repeat_interleave(t.long()), "aten::repeat_interleave"),
}


@pytest.mark.parametrize("what", WAITS)
def test_waiting_is_seen(ones, gpu, what):
    function, name = WAITS[what]
    function(ones)
    assert gpu.waits == [name]


def test_nothing_else_waits(ones, gpu):
    total = (ones + 1).sum() + torch.full((), 2.0, device=gpu.device) + ones[1] + ones[ones.long() - 1].sum()
    torch.where(total > 0, total, 0.0)
    assert gpu.waits == []


# -- graphs ---------------------------------------------------------------------------------------------------------


def test_replay_does_with_other_numbers_what_was_done(gpu, ones):
    weight, calls = torch.full((3,), 2.0, device=gpu.device), []

    def run(x):
        calls.append(1)
        parts = torch.zeros(2, 3, device=gpu.device)
        parts[0] += weight * x
        parts[1].copy_(x)
        return parts.sum(0) * len(calls)

    with gpu.graphs():
        graph = Captured(run, (ones,))
    count = len(calls)
    assert graph(ones).tolist() == [3.0 * count] * 3
    assert graph(3 * ones).tolist() == [9.0 * count] * 3
    weight.fill_(0.0)
    assert graph(ones).tolist() == [1.0 * count] * 3
    assert len(calls) == count


def test_gradients_are_written_where_they_were(gpu, ones):
    weight = nn.Parameter(ones.clone())

    def run(x):
        weight.grad = None
        (weight * x).square().sum().backward()
        return weight.grad

    with gpu.graphs():
        graph = Captured(run, (ones,))
    first = graph(2 * ones)
    assert first.tolist() == [8.0] * 3
    assert graph(ones) is first
    assert first.tolist() == [2.0] * 3


@pytest.mark.parametrize("what", WAITS)
def test_capture_with_a_wait_fails(gpu, ones, what):
    with gpu.graphs(), pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
        Captured(lambda x: WAITS[what][0](x), (ones,))


def test_capture_with_a_generator_fails(gpu, ones):
    source = torch.Generator(gpu.device)
    with gpu.graphs(), pytest.raises(RuntimeError, match="not registered with the graph"):
        Captured(lambda x: x + torch.randn(3, generator=source, device=gpu.device), (ones,))


def test_number_on_the_host_is_that_of_the_capture(gpu, ones):
    scale = torch.tensor(2.0)
    with gpu.graphs():
        graph = Captured(lambda x: x * scale, (ones,))
    scale.fill_(5.0)
    assert graph(ones).tolist() == [2.0] * 3


# -- where there can be none ----------------------------------------------------------------------------------------


def test_obstacle_is_a_reason(monkeypatch):
    monkeypatch.setattr(module, "_obstacle", "torch has a device npu in its place")
    with pytest.raises(NotApplicable, match=r"^torch has a device npu in its place$"), pretended_gpu():
        pass
    real = torch.Generator
    assert torch.Generator is real
