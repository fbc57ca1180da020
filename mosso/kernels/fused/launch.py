"""How fused ops are registered and their kernels compiled and started."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.library import Library, custom_op, impl, triton_op, wrap_triton
from triton import AsyncCompileMode

from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused.overlap import overlapping

# torch 2.11 takes a kernel with inline assembly for one that may change any of its inputs, and then fails to compile training; its
# inductor also fails on the gradient of radial moments where shapes are dynamic.
COMPILERS_TRACE_ALL = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)

# A100, H100 and H200: their tensor cores multiply float64 at the rate at which other units multiply float32.
DOUBLE_TENSOR_CORES = ((8, 0), (9, 0))


class Config(NamedTuple):
    """How a generated kernel is cut.

    Attributes:
        block: channels of one program.
        num_warps: warps of one program.
        step: edges whose loads are under way together.
        max_sums: numbers per channel that are kept in registers over the loop.
        ahead: load the numbers of the next step while this one computes.
        warp_sum: bytes of a number where dY is summed by shuffles written out (block 32, one warp), else 0.
        max_registers: of a thread, so that more programs share a multiprocessor; 0 for what the compiler takes.
    """

    block: int
    num_warps: int
    step: int
    max_sums: int
    ahead: bool = False
    warp_sum: int = 0
    max_registers: int = 0

    @property
    def options(self) -> dict[str, int]:
        """Of the launch."""
        return {"num_warps": self.num_warps, **({"maxnreg": self.max_registers} if self.max_registers else {})}


_LIBRARY = Library("mosso", "FRAGMENT")
# Where kernels are compiled and not run: those, each with its device.
_COMPILED: ContextVar[set[tuple[torch.device, Any]] | None] = ContextVar("compiled", default=None)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@lru_cache
def multiplies_in_double(device: torch.device) -> bool:
    """Whether products of float32 are made in float64 there: more accurate, and no slower, on DOUBLE_TENSOR_CORES alone."""
    return device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability(device) in DOUBLE_TENSOR_CORES


@contextmanager
def compiled_together() -> Iterator[None]:
    """Inside, kernels are compiled and not run; those of all ops side by side, on all processors, until the end of the block.

    Ops give zeros. One that cannot be compiled is left to the launch that needs it, which will say so.
    """
    compiled: set[tuple[torch.device, Any]] = set()
    with ThreadPoolExecutor() as pool:
        # Kernels of a backward pass are launched from another thread else, which would know nothing of this.
        with torch.autograd.set_multithreading_enabled(False), AsyncCompileMode(pool, ignore_errors=True):
            before = _COMPILED.set(compiled)
            try:
                yield
            finally:
                _COMPILED.reset(before)
        list(pool.map(_load, compiled))


def _load(place: tuple[torch.device, Any]) -> None:
    """Bring a kernel to the device. Triton 3.6 compiles C for that, what hands the arguments over, longer than most kernels take."""
    device, kernel = place
    with suppress(Exception), torch.cuda.device(device):
        kernel.result(ignore_errors=True).run  # noqa: B018


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel, which awaits its inputs, on the device of its first argument, or record it where a compiler traces."""
    assert "OVERLAPS" in kernel.arg_names, f"{kernel} does not await its inputs"
    traced = isinstance(arguments[0], (FakeTensor, FunctionalTensor))
    if INTERPRETED:
        # The interpreter wants memory behind its tensors; shapes are all that a trace wants.
        if not traced:
            kernel[grid](*arguments, **constants)
        return
    # triton launches on the current device, which need not be that of the tensors
    with torch.cuda.device_of(arguments[0]):
        if traced:
            # imports torch's compiler, seconds that only those who compile should wait for
            wrap_triton(kernel)[grid](*arguments, OVERLAPS=False, **constants)  # inductor wants every argument
            return
        constants |= overlapping(kernel, arguments[0].device)
        compiled = _COMPILED.get()
        if compiled is None:
            kernel[grid](*arguments, **constants)
        else:
            compiled.add((arguments[0].device, kernel.warmup(*arguments, grid=grid, **constants)))


def register(name: str, fake: Callable[..., Any] | None = None, *, opaque_before_2_12: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Make an op of a function: transparent to compilers, or opaque where they could not trace it.

    Nothing traces kernels under the interpreter; ``opaque_before_2_12``: torch's own before that release fail on it.
    Without ``fake``, which gives the shapes, the function itself does, its launches left out.

    Importing torch's compiler takes seconds, so nothing here does before somebody compiles. triton_op would, to look in the source of a
    function for the kernels it names; those given to ``launch`` have no name there, and it gets an object without a source. custom_op
    would at the first call, to keep the compiler out of what runs; ``impl`` gives that to the dispatcher, behind which no compiler looks.
    """
    opaque = INTERPRETED or (opaque_before_2_12 and not COMPILERS_TRACE_ALL)

    def decorate(function: Callable[..., Any]) -> Any:
        qualified = f"mosso::{name}"
        sourceless: Any = partial(function)
        sourceless.__globals__ = function.__globals__  # names in annotations are looked up there
        op: Any = custom_op(qualified, function, mutates_args=()) if opaque else triton_op(qualified, sourceless, mutates_args=())
        op.register_fake(fake or function)
        impl(qualified, ("cpu", "cuda"), _zeros_unless_run(function), lib=_LIBRARY)
        return op

    return decorate


def _zeros_unless_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """What ``function`` gives, or zeros where its kernels were only compiled: others may be indices out of bounds."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        results = function(*arguments, **options)
        if _COMPILED.get() is not None:
            for tensor in (results,) if isinstance(results, Tensor) else results:
                tensor.zero_()
        return results

    return run
