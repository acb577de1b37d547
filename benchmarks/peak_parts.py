"""Where the bytes of the peak are: which tensors are alive at that moment of a training step, and what made them."""
import gc
from collections import Counter
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from networks import Network, build_on, images, train_step
from torch import Tensor

from mmrev.analysis import ModuleStack
from mmrev.reversible.call import Call
from mmrev.testing import PeakMemory

MIB = 2**20
BATCH = 37  # a number that no layer has: tensors with it as their first dimension grow with the batch


class Part(NamedTuple):
    """Tensors of one kind that are alive: what they are, or the operator and the module that made them."""
    kind: str
    module: str
    operator: str
    shape: tuple


class _PeakParts(PeakMemory):
    """Records what made each tensor; lists all that are alive when the ``look_at``-th is made.

    Attributes:
        peak_at: Number of the tensor that was made when the peak was reached.
        alive: What was alive then, in bytes.
    """

    def __init__(self, running: ModuleStack, look_at: Optional[int] = None):
        super().__init__()
        self.peak_at = 0
        self.alive: Dict[Part, int] = Counter()
        self._running = running
        self._look_at = look_at
        self._number = 0
        self._makers: Dict[int, Part] = {}
        self._paths: Dict[int, str] = {}  # of the module that made a node of autograd's graph, by its number

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._maker = Part(*self._kind_and_path(), func.__name__.partition('.')[0], ())
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _kind_and_path(self) -> Tuple[str, str]:
        """In which phase an operator runs now, and for which module."""
        node, path = torch._C._current_autograd_node(), self._running.path
        if node is not None and not node.name().startswith('ReversibleNode'):
            return 'made by autograd in backward', self._paths.get(node._sequence_nr(), path)
        if node is not None and not path:  # no module runs
            return 'made by the engine in backward', path
        if torch.is_grad_enabled():
            self._paths.setdefault(torch.autograd._get_sequence_nr() - 1, path)  # its node exists when an operator runs
        return 'made in forward' if node is None else 'made in forward, again in backward', path

    def _count(self, x: Tensor) -> Tensor:
        key, before = x.untyped_storage()._cdata, self.peak
        new = key not in self._alive
        super()._count(x)
        if new:
            self._number += 1
            self._makers[key] = self._maker._replace(shape=tuple(x.shape))
            if self.peak > before:
                self.peak_at = self._number
            if self._number == self._look_at:
                self._look()
        return x

    def _look(self) -> None:
        roles = _roles(self._running)
        for key, storage in self._alive.items():
            self.alive[roles.get(key, self._makers[key])] += storage().nbytes()


def _roles(running: ModuleStack) -> Dict[int, Part]:
    """What the engine itself holds at this moment, by storage."""
    roles = {}
    for call in [x for x in gc.get_objects() if type(x) is Call]:
        path = running.path_of(call.plan.segments[0][0]).rsplit('.couplings', 1)[0]
        held = {'output kept for backward': call.final or [],
                'kept state': call.states.tensors()}
        holder = call.undo or call
        held['value of a stream'] = holder.streams.tensors if holder.streams else []
        held['gradient of a stream'] = call.undo.gradients.tensors if call.undo else []
        for kind, tensors in held.items():
            for i, x in enumerate(tensors):
                if x is not None:
                    roles[x.untyped_storage()._cdata] = Part(kind, path, f'stream {i}', tuple(x.shape))
    return roles


def find_parts(network: Network, device: str = 'meta', batch: int = BATCH) -> Dict[Part, int]:
    """What is alive at the peak of a training step with ``batch`` images, in bytes."""
    model = build_on(device, network)
    train_step(model, images(network, batch, device))  # the first call also looks at the functions
    look_at = None
    for _ in range(2):  # once to find the peak, once to look
        with ModuleStack(model) as running, _PeakParts(running, look_at) as memory:
            train_step(model, images(network, batch, device))
        look_at = memory.peak_at
    return memory.alive


def report(networks: List[Network]) -> Dict[str, List[dict]]:
    """Print the parts of each network's peak, per image; parts that do not grow with the batch are omitted."""
    figures = {}
    for network in networks:
        parts = find_parts(network)
        grown = {part: size / BATCH / MIB for part, size in parts.items() if part.shape[:1] == (BATCH, )}
        rest = sum(parts.values()) / MIB - sum(grown.values()) * BATCH
        rows = sorted(grown.items(), key=lambda item: (-_of_kind(grown, item[0].kind), item[0].kind, -item[1]))
        height, width = network.shape
        print(f'\n{network.name}, {height}x{width}: {sum(grown.values()):.1f} MiB per image alive at the peak of a '
              f'training step\n(besides {rest:.1f} MiB that do not grow with the batch: gradients of weights)')
        kind = None
        for part, mib in rows:
            if part.kind != kind:
                kind = part.kind
                print(f'  {_of_kind(grown, kind):8.2f}  {kind}')
            print(f'  {"":8s} {mib:8.2f}  {part.operator:28s} {"x".join(map(str, part.shape[1:])):14s} {part.module}')
        figures[network.name] = [dict(part._asdict(), mib_per_image=mib) for part, mib in rows]
    return figures


def _of_kind(grown: Dict[Part, float], kind: str) -> float:
    return sum(mib for part, mib in grown.items() if part.kind == kind)
