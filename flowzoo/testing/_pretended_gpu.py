"""A GPU that is pretended: what would fail or wait on a real one is found on a machine that has none.

::

    from flowzoo.testing import pretended_gpu

    with pretended_gpu() as gpu:
        flow = flow.to(gpu.device)
        drawn = flow.sample(context.to(gpu.device), generator=generator(0, "z", device=gpu.device))

Tensors of ``gpu.device`` live on the CPU and are calculated there, so their values are those of the CPU to the last
bit; but torch and everybody else see another device, by torch's own way of plugging one in (``PrivateUse1``). As on a
GPU an operation on tensors of two devices raises, numpy cannot read them, and a generator must be of their device.
What the host waits for is listed in ``gpu.waits``. An operation of which torch has no CUDA kernel raises too.

Inside ``gpu.graphs()`` ``torch.cuda.graph`` records the operations on this device, and a replay does them again on the
tensors that it recorded, with all that Python said then: what a CUDA graph does, and with the errors of a capture.
``torch.autocast`` makes convolutions and products of matrices of low precision, as it does on the CPU.

What it cannot show: speed, memory, rounding of another order, streams, kernels that are wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.amp import autocast_mode
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from flowzoo.host_sync import waits_for_the_host
from flowzoo.testing._cuda_kernels import has_cuda_kernel
from flowzoo.testing._recording import Recording
from flowzoo.testing._remote_generators import generators_of, is_generator, is_remote
from flowzoo.testing._suite import NotApplicable

NAME = "pretended"
CPU = torch.device("cpu")
# These may have tensors of both devices: copies, and an index on the CPU.
COPIES = frozenset({"_to_copy", "copy_", "copy"})
INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
# These may have a number on the CPU, beside what torch calls pointwise.
NUMBERS = INDEXED | {"masked_fill", "masked_fill_", "fill_", "fill", "is_same_size", "set_"}


class PretendedGPU:
    """What is known of the device.

    Args:
        device: of tensors and generators.
        waits: the operations for which a GPU's host would have waited, in their order; may be cleared.
        launches: how many operations the host asked it for, those of a replayed graph not among them; may be set.
    """

    def __init__(self) -> None:
        self.device = torch.device("privateuseone", 0)  # torch's name of it until there is another
        self.waits: list[str] = []
        self.launches = 0
        self.recording: Recording | None = None

    @contextmanager
    def graphs(self) -> Iterator[None]:
        """Inside the block torch's CUDA graphs are recordings of this device."""

        @contextmanager
        def graph(recording: Recording, **options: Any) -> Iterator[None]:
            self.recording = recording
            try:
                yield
            finally:
                self.recording = None

        stands_for: dict[str, Any] = {
            "Stream": mock.MagicMock,
            "current_stream": mock.MagicMock,
            "stream": lambda stream: nullcontext(),
            "CUDAGraph": Recording,
            "graph": graph,
        }
        with mock.patch.multiple("torch.cuda", **stands_for):
            yield


_gpu = PretendedGPU()  # one in a process, as torch has one such device


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Inside the block there is such a device, and ``torch.Generator`` makes generators of it.

    Raises:
        NotApplicable: if this torch cannot have one, or has another device in its place.
    """
    if _obstacle:
        raise NotApplicable(_obstacle)
    _gpu.waits.clear()
    with mock.patch.object(torch, "Generator", _generators), _OnTheHost():
        yield _gpu


class Remote(Tensor):
    """A tensor of the device; ``held`` is what it holds, on the CPU."""

    held: Tensor
    is_cuda = True  # for whom that decides what to do

    @staticmethod
    def __new__(cls, held: Tensor) -> Remote:
        """A tensor that looks like what it holds."""
        shape: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, held.size(), **shape, dtype=held.dtype, device=_gpu.device)
        made.held = held
        # What is conjugate or negative by a mark alone: torch makes it so before an operation that cannot read marks.
        torch._C._set_conj(made, held.is_conj())
        torch._C._set_neg(made, held.is_neg())
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """An operation on such tensors."""
        return _do(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        """Without gradient; to set it is to hold another tensor."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        assert isinstance(value, Remote), "what is on the GPU cannot become what is not"
        self.held = value.held
        self.follow()

    def follow(self) -> None:
        """Have the shape of what is held, after an operation that changed it in place."""
        held, was = self.held, torch._C._meta_in_tls_dispatch_include()
        if held.shape == self.shape and held.stride() == self.stride():
            return
        with torch.no_grad(), no_dispatch():  # to what torch does with tensors that hold nothing
            torch._C._set_meta_in_tls_dispatch_include(True)
            try:
                place = held.storage_offset(), held.shape, held.stride()
                torch.ops.aten.set_.source_Storage_storage_offset(self, Tensor.untyped_storage(self), *place)
            finally:
                torch._C._set_meta_in_tls_dispatch_include(was)

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where it is held, which tells who shares it."""
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        """Where it is held."""
        return self.held.data_ptr()

    def tolist(self) -> Any:
        """As Python's numbers."""
        _wait("tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """As on a GPU: an error."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    __array__ = numpy

    def __format__(self, spec: str) -> str:
        return self.detach().item().__format__(spec) if self.dim() == 0 else object.__format__(self, spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Remote({self.held!r})"


def _do(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that has tensors of the device, or makes some."""
    name = func.overloadpacket.__name__
    leaves, structure = pytree.tree_flatten((args, kwargs))
    tensors = [part for part in leaves if isinstance(part, Tensor)]
    remote = _is_of_the_device(leaves, kwargs)
    _refuse_mixtures(func, tensors, args)
    if not has_cuda_kernel(func):
        raise NotImplementedError(f"aten::{func.__name__} has no CUDA kernel in this torch")
    crosses = name in COPIES and any(isinstance(t, Remote) != remote for t in tensors)
    if crosses or waits_for_the_host(func, args):
        _wait(f"aten::{name}")
    held_args, held_kwargs = pytree.tree_unflatten([_held(part) for part in leaves], structure)
    out = func(*held_args, **held_kwargs)
    if remote and _gpu.recording is not None:
        _gpu.recording.add(func, held_args, held_kwargs, out)
    elif remote and not func.is_view and "empty" not in name:  # these calculate nothing
        _gpu.launches += 1
    if not remote:
        return out
    own = {id(t.held): t for t in tensors if isinstance(t, Remote)}
    for t in own.values():
        t.follow()
    # A view of weights is an ordinary tensor in inference mode too.
    ordinary = func.is_view and torch.is_inference_mode_enabled() and not any(t.is_inference() for t in tensors)
    with torch.inference_mode(False) if ordinary else nullcontext():
        return pytree.tree_map_only(Tensor, lambda t: own[id(t)] if id(t) in own else Remote(t), out)


def _held(part: Any) -> Any:
    """An argument of an operation as that on the CPU has it."""
    if isinstance(part, Remote):
        return part.held
    if isinstance(part, torch.device):
        return CPU
    # A number on the host is a part of what a graph launches, whatever becomes of it.
    return part.clone() if isinstance(part, Tensor) and _gpu.recording is not None else part


def _is_of_the_device(leaves: list[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operation is one of this device: that it is asked for, or that its tensors are on."""
    target = kwargs.get("device")
    return any(isinstance(part, Remote) for part in leaves) if target is None else torch.device(target).type == NAME


def _refuse_mixtures(func: Any, tensors: list[Tensor], args: tuple[Any, ...]) -> None:
    """Raise where a GPU would for tensors of two devices."""
    name = func.overloadpacket.__name__
    if name in COPIES or not any(isinstance(t, Remote) for t in tensors):
        return
    host = [t for t in tensors if not isinstance(t, Remote)]
    if torch.Tag.pointwise in func.tags or name.startswith(("_foreach", "_fused")) or name in NUMBERS:
        host = [t for t in host if t.dim()]  # a number on the CPU goes with any
    if name in INDEXED and isinstance(args[0], Remote):
        index = pytree.tree_leaves(args[1])
        host = [t for t in host if not any(t is part for part in index)]
    if host:
        shape = tuple(host[0].shape)
        raise RuntimeError(f"aten::{name}: tensors of {NAME} and, of the shape {shape}, of cpu: expected one device")


def _wait(what: str) -> None:
    if _gpu.recording is not None:
        raise RuntimeError(f"{what}: operation not permitted when stream is capturing")
    _gpu.waits.append(what)


def _refuse_generators(name: str, leaves: list[Any], remote: bool) -> None:
    """Raise where a GPU would for a generator of another device than that of the operation."""
    for part in filter(is_generator, leaves):
        owner, here = ((NAME if own else "cpu") for own in (is_remote(part), remote))
        if owner != here:
            raise RuntimeError(f"aten::{name}: expected a {here!r} device type for generator but found {owner!r}")
        if remote and _gpu.recording is not None:
            raise RuntimeError(f"aten::{name}: a generator that is not registered with the graph in its capture")


class _OnTheHost(TorchDispatchMode):
    """Sees the operations on the CPU too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the operation, then let it pass."""
        leaves = pytree.tree_leaves((args, kwargs))
        if any(map(is_generator, leaves)):
            _refuse_generators(func.overloadpacket.__name__, leaves, _is_of_the_device(leaves, kwargs or {}))
        return func(*args, **(kwargs or {}))


# -- torch's own plug -----------------------------------------------------------------------------------------------


def _as_declared(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _do(func, args, kwargs)


def _in_low_precision(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation inside ``torch.autocast``."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]
    with torch._C._ExcludeDispatchKeyGuard(key):
        dtype = torch.get_autocast_dtype(NAME)
        return func(*autocast_mode._cast(args, NAME, dtype), **autocast_mode._cast(kwargs, NAME, dtype))


class _Module:
    """``torch.pretended``, which has no generator of its own that ``fork_rng`` or ``manual_seed`` could mean."""

    def is_initialized(self) -> bool:
        return True

    is_available = is_initialized

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


def _plug_in() -> str:
    """Tell torch of the device, for the rest of the process; returns why that cannot be, or nothing."""
    from torch.utils import backend_registration

    if torch.accelerator.is_available():  # torch would take the pretended one for it, in its backward pass too
        return "torch has a real accelerator here"
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return "this torch has no devices that are written in Python; 2.10 has"
    if torch._C._get_privateuse1_backend_name() != "privateuseone":
        return f"torch has a device {torch._C._get_privateuse1_backend_name()} in its place"
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    _libraries[0].fallback(lambda func, *args, **kwargs: _do(func, args, kwargs), "PrivateUse1")
    aten = torch.ops.aten
    # torch.tensor finds no fallback, and torch would make the others of several operations, rounded otherwise.
    for own in (aten._to_copy.default, aten.silu_backward.default, aten.mish_backward.default):
        _libraries[1].impl(own.name(), functools.partial(_as_declared, own), "PrivateUse1")
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    _libraries[0].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for low in (aten.conv2d.default, aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default):
        _libraries[1].impl(low.name(), functools.partial(_in_low_precision, low), "AutocastPrivateUse1")
    try:
        torch.ones(1, device=_gpu.device, requires_grad=True).sum().backward()
    except RuntimeError:
        return "there was a backward pass before flowzoo.testing was imported, and torch looks for devices at the first"
    return ""


_generators = generators_of(_gpu.device)
_libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_obstacle = _plug_in()
