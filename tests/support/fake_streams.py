"""A fake accelerator: operators run on the CPU, in order, and hazards between its streams are noted.

A stream is a vector clock. As on CUDA, an operator is ordered after earlier ones of its stream and after what that
stream waited for; a freed block goes to the stream that allocated it, whose next operator may overwrite it; and a
gradient is computed on the stream of its forward, with a wait before and after.
"""
from contextlib import contextmanager

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmrev import compat


class Stream:

    def __init__(self, device=None):
        self.clock = {self: 0}  # by stream, its newest operator that comes before what is given to this one next

    def wait_stream(self, other):
        for stream, time in other.clock.items():
            self.clock[stream] = max(self.clock.get(stream, 0), time)

    def follows(self, uses):
        return all(self.clock.get(stream, 0) >= time for stream, time in uses.items())


class Accelerator:
    """The functions of ``torch.cuda`` that the engine calls."""

    def __init__(self):
        self.main = self.current = Stream()
        self.made = 0

    def Stream(self, device):  # noqa: N802
        self.made += 1
        return Stream()

    def current_stream(self, device):
        return self.current

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def output_edge(self, out):
        edge = compat.output_edge(out)
        compat.edge_node(edge).metadata['stream'] = self.current
        return edge

    def differentiate(self, edge, *args):
        stream, caller = compat.edge_node(edge).metadata.get('stream', self.current), self.current
        stream.wait_stream(caller)
        with self.stream(stream):
            found = compat.differentiate(edge, *args)
        caller.wait_stream(stream)
        return found


class Memory:

    def __init__(self, storage, stream, freed):
        self.stream, self.written, self.uses = stream, {}, {}
        self.alive = compat.when_freed(storage, lambda _: freed(self))


class Sanitizer(TorchDispatchMode):
    """Notes reads and writes that are not ordered, and memory that may be overwritten while it is read."""

    def __init__(self, accelerator):
        super().__init__()
        self.accelerator = accelerator
        self.unordered, self.unsafe_releases = [], []
        self.streams = set()
        self._known = {}
        self._freed = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        stream = self.accelerator.current
        self._reuse(stream, str(func))
        stream.clock[stream] += 1
        self.streams.add(stream)
        for argument, x in zip(func._schema.arguments, args):
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_flatten(x)[0]:
                if isinstance(tensor, Tensor):
                    self._use(tensor, self.accelerator.main, str(func), is_written)
        out = func(*args, **kwargs)
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                self._use(tensor, stream, str(func), True)
        return out

    def _use(self, tensor, stream, name, is_written):
        storage, current = tensor.untyped_storage(), self.accelerator.current
        memory = self._known.get(storage._cdata)
        if memory is None:
            key = storage._cdata
            memory = self._known[key] = Memory(storage, stream, lambda m: self._freed.append(self._known.pop(key)))
        if not current.follows({**memory.written, **(memory.uses if is_written else {})}):
            self.unordered.append(name)
        memory.uses[current] = current.clock[current]
        if is_written:
            memory.written = {current: current.clock[current]}

    def _reuse(self, stream, name):
        mine = [m for m in self._freed if m.stream is stream]
        self._freed = [m for m in self._freed if m.stream is not stream]
        self.unsafe_releases += [name for m in mine if not stream.follows(m.uses)]
