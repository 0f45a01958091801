"""Collective work of a torch.distributed group: an error in one process is raised in all."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_RAISED_AS = {
    kind.__name__: kind
    for kind in (TypeError, ValueError, IndexError, RuntimeError, FileNotFoundError, ImportError)
}
_BROKEN = (
    "the other processes of the group did not answer: one of them has ended, did not make this "
    "call or was slower by more than the group's timeout; make all calls in all processes, or set "
    "init_process_group(timeout=...)"
)


class Group:
    """A torch.distributed group whose processes wait for each other, but never for one that failed.

    Work that may raise is passed as ``work``: if it fails in some processes, the next collective
    tells the others, and the error is raised in all.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        Default: all processes.

    Raises
    ------
    RuntimeError
        If torch.distributed is not initialized.
    ValueError
        If this process does not belong to the group.
    """

    def __init__(self, group: Any = None) -> None:
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed is not initialized; "
                "call torch.distributed.init_process_group first"
            )
        self._dist, self._group = dist, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError(
                "this process does not belong to the group; call it in its members only"
            )

    @property
    def device(self) -> torch.device:
        """The device from which tensors are sent: NCCL sends CUDA tensors only."""
        if self._dist.get_backend(self._group) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def run(self, work: Callable[[], T]) -> T:
        """Return the result of `work` once it has succeeded in all processes."""
        result, error = _attempt(work)
        failed = torch.tensor([error is not None], dtype=torch.int64, device="cpu")
        if self._sum(failed).item():
            self._raise(error)
        return result  # type: ignore[return-value]

    def sum(self, shape: tuple[int, ...], work: Callable[[], Tensor]) -> Tensor:
        """Sum the result of `work`, int64 of this shape, over all processes."""
        mine, error = _with_flag(shape, work)
        sums = self._sum(mine)
        if sums[-1]:
            self._raise(error)
        return sums[:-1].view(shape)

    def check_same(self, names: Sequence[str], work: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """Return the results of `work` if they are the same in all processes.

        There is one result per name: a tensor, or an object with a repr. They are compared by 64
        bits each.

        Raises
        ------
        ValueError
            In all processes, if a result differs; the message names it.
        """
        things: list[Any] = []

        def digests() -> Tensor:
            things.extend(work())
            digests = [_digest(thing) for thing in things]
            return torch.tensor(digests, dtype=torch.int64, device="cpu")

        columns = self.gather((len(names),), digests).unbind(1)
        for name, column in zip(names, columns, strict=True):
            other = (column != column[0]).nonzero()
            if other.numel():
                raise ValueError(
                    f"{name} must be the same in all processes of the group, but it differs in "
                    f"process {int(other[0])} from process 0; broadcast it from one of them"
                )
        return things

    def gather(self, shape: tuple[int, ...], work: Callable[[], Tensor]) -> Tensor:
        """Stack the result of `work`, int64 of this shape, from all processes, by rank."""
        mine, error = _with_flag(shape, work)
        mine = mine.to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        self._together(lambda: self._dist.all_gather(parts, mine, group=self._group))
        found = torch.stack(parts).cpu()
        if found[:, -1].any():
            self._raise(error)
        return found[:, :-1].reshape(self.size, *shape)

    def gather_objects(self, work: Callable[[], T]) -> list[T]:
        """Gather the result of `work`, which is pickled, from all processes, by rank."""
        return self._objects(self.run(work))

    def _objects(self, mine: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        self._together(lambda: self._dist.all_gather_object(found, mine, group=self._group))
        return found

    def _sum(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device)
        self._together(lambda: self._dist.all_reduce(tensor, group=self._group))
        return tensor.cpu()

    def _together(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:  # a timeout or a lost connection
            raise RuntimeError(f"{_BROKEN} ({error})") from error

    def _raise(self, error: BaseException | None) -> NoReturn:
        """Raise this process's own error, or the one of the first process that has one."""
        mine = None if error is None else (type(error).__name__, str(error))
        errors = self._objects(mine)
        if error is not None:
            raise error
        rank, (kind, text) = next((i, e) for i, e in enumerate(errors) if e is not None)
        text = text if kind in _RAISED_AS else f"{kind}: {text}"
        raise _RAISED_AS.get(kind, RuntimeError)(f"{text} (in process {rank} of the group)")


def _attempt(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return work(), None
    except BaseException as error:  # after Ctrl-C, too, the others are waiting
        return None, error


def _with_flag(
    shape: tuple[int, ...], work: Callable[[], Tensor]
) -> tuple[Tensor, BaseException | None]:
    """The result of `work`, flat, and behind it whether it failed."""
    result, error = _attempt(work)
    if result is None:
        result = torch.zeros(shape, dtype=torch.int64, device="cpu")
    return torch.cat([result.reshape(-1), result.new_tensor([error is not None])]), error


def _digest(thing: Any) -> int:
    """64 bits that differ if things differ."""
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(thing, Tensor):
        digest.update(f"{thing.dtype} {tuple(thing.shape)}".encode())
        # A copy: a tensor of one row is contiguous whatever its strides are, which view() is not.
        values = thing.detach().cpu().clone(memory_format=torch.contiguous_format).view(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    else:
        digest.update(repr(thing).encode())
    return int.from_bytes(digest.digest(), "little", signed=True)
