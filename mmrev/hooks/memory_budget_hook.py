"""Train within a memory budget, and explain out-of-memory errors in two lines."""
import copy
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper

from mmrev import compat
from mmrev.memory.budget import Plan, Planner, Speed, measure_speed
from mmrev.memory.forecast import Forecaster, describe
from mmrev.memory.parts import apply
from mmrev.memory.report import mib, parse_bytes
from mmrev.memory.training import Batch, default_batch
from mmrev.memory.watch import Peak, aside, explain, is_out_of_memory, observe
from mmrev.problems import ProblemError
from mmrev.registry import HOOKS

from .inplace_abn_hook import InPlaceABNHook
from .save_memory_hook import SaveMemoryHook

PLAN = 'memory_plan.json'
_SAMPLES = 16  # read for their size if the pipeline does not specify one
_MORE = 1.01  # a peak is logged if it exceeds the largest so far by this factor
_EVERY = 50  # iterations between two counted steps on the CPU


@HOOKS.register_module()
class MemoryBudgetHook(Hook):
    """Keep a training step within a memory budget, at the lowest expected time. Outputs and gradients stay the same.

    Before training, the hook predicts steps of the config (see ``mmrev memory``) with parts of the model kept,
    recomputed or, in reversible sequences, undone, and chooses a plan that fits. The plan is logged and saved next to
    the checkpoints; a resumed run uses the same plan. The budget is for tensors only: on a GPU, leave memory for CUDA,
    cuDNN and the allocator.

    During training, the log compares the peak with the forecast, and warns if the forecast is exceeded. On the CPU, the
    hook counts the bytes of every 50th step and of steps with a larger batch than before; on a GPU, it reads the
    allocator's statistics.

    If memory runs out, even without a budget, the error says what the step needs, in which part, and which budget would
    be sufficient.

    Args:
        budget: Amount of memory such as ``'10GB'``; with ``None`` there is no plan.
        image: Height and width in pixels of the largest padded image; the default is the largest image of the training
            pipeline, or of the first images if the pipeline does not specify a size.
        objects: Maximum number of annotated objects in an image.
        allow: ``'leaky'`` allows InPlace-ABN with leaky ReLUs, as ``InPlaceABNHook(relu='leaky')``, if no plan fits
            without it. It changes the function of the model.

    Raises:
        ProblemError: If no plan fits the budget when training starts, or if memory runs out; the exit status is 2.

    Example:
        >>> custom_hooks = [dict(type='mmrev.MemoryBudgetHook', budget='10GB')]
    """

    priority = 'VERY_LOW'  # after hooks that change the model

    def __init__(self, budget: Optional[str] = None, image: Optional[Sequence[int]] = None, objects: int = 8,
                 allow: Optional[str] = None):
        if allow not in (None, 'leaky'):
            raise ValueError(f"`allow` must be None or 'leaky', got {allow!r}")
        self.budget = None if budget is None else parse_bytes(budget)
        self.image = image
        self.objects = objects
        self._leaky = InPlaceABNHook(relu='leaky') if allow else None
        self.plan: Optional[Plan] = None
        self.peak: Optional[Peak] = None  # largest so far
        self.largest = 0  # pixels of a batch so far

    def before_train(self, runner) -> None:
        """Make a plan or load that of a resumed run, prepare the model, and watch its steps."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if self.budget is not None:
            self.plan = self._load(runner) if runner._resume else None
            self.plan = self.plan or self._make(runner)
            if is_main_process():
                self.plan.save(Path(runner.work_dir, PLAN))
            if self.plan.leaky:
                self._leaky.before_train(runner)
            apply(model, self.plan.choices)
            runner.logger.info(f'MemoryBudgetHook: {mib(self.plan.peak)} predicted for {describe(self.plan.batch)}'
                               f'{" with leaky ReLUs" * self.plan.leaky}, '
                               f'{mib(self.plan.plain)} if everything is kept, budget {mib(self.budget)}\n{self.plan}')
        if hasattr(runner.train_loop, 'run_iter'):
            _watch(runner, _Watched(self, runner, model))

    def before_val(self, runner) -> None:
        """Convert the model if the plan includes InPlace-ABN."""
        plan = self.plan or (self._load(runner) if self._leaky else None)
        if plan is not None and plan.leaky:
            self._leaky.before_val(runner)

    before_test = before_val

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """See :class:`InPlaceABNHook`."""
        if self._leaky:
            self._leaky.after_load_checkpoint(runner, checkpoint)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See :class:`InPlaceABNHook`."""
        if self._leaky:
            self._leaky.before_save_checkpoint(runner, checkpoint)

    def _load(self, runner) -> Optional[Plan]:
        for folder in (Path(runner._load_from or '').parent, Path(runner.work_dir)):
            plan = Plan.load(folder / PLAN) if (folder / PLAN).is_file() else None
            if plan is not None and plan.budget == self.budget:
                return plan
        return None

    def _make(self, runner) -> Plan:
        cfg = runner.cfg
        if any(isinstance(hook, SaveMemoryHook) for hook in runner.hooks):
            raise ProblemError('SaveMemoryHook and MemoryBudgetHook both choose what is recomputed',
                               'Remove SaveMemoryHook')
        if not compat.can_save_memory:
            raise ProblemError(f'a memory budget needs PyTorch 2.5 or later, got {torch.__version__}',
                               'Update it, or use activation checkpointing (`with_cp=True` in many configs)')
        with aside():
            try:
                batch = default_batch(cfg, self.image)
            except ProblemError:  # the pipeline does not resize images
                batch = default_batch(cfg, _largest_of(runner.train_loop.dataloader.dataset))
            batch = batch._replace(objects=self.objects)
            runner.logger.info(f'MemoryBudgetHook: planning for {describe(batch)}, which takes up to a minute')
            planner = self._planner(cfg, batch)
            plan = planner(self.budget)
            if plan is None and self._leaky:
                leaky = copy.deepcopy(cfg)
                leaky.custom_hooks = [*(cfg.get('custom_hooks') or ()), dict(type='mmrev.InPlaceABNHook', relu='leaky')]
                planner = self._planner(leaky, batch)
                plan = planner(self.budget)
                plan = plan and plan._replace(leaky=True)
        if plan is None:
            least = planner.least
            raise ProblemError(
                f'no plan for {describe(batch)} meets a budget of {mib(self.budget)}: the least is {mib(least.peak)}, '
                f'instead of {mib(least.plain)} with everything kept',
                f'Use --memory-budget {-(-least.peak // 2**20)}MB, smaller images or a smaller batch. `mmrev memory '
                '--what-if` lists other methods')
        return plan

    def _planner(self, cfg: Config, batch: Batch) -> Planner:
        forecaster = Forecaster(cfg, get_world_size())
        fixed = sum(forecaster.training.fixed_bytes().values())
        if fixed > self.budget:
            raise ProblemError(f'a budget of {mib(self.budget)} is below the {mib(fixed)} of weights and optimizer',
                               'Raise it, or train a smaller model')
        return Planner(forecaster, batch, _common_speed())


def _watch(runner: Any, watched: '_Watched') -> None:
    """Replace ``train_step`` during each iteration only, so that the model can be copied between iterations."""
    run_iter = runner.train_loop.run_iter

    def watching(*args: Any, **kwargs: Any) -> Any:
        runner.model.train_step = watched
        try:
            return run_iter(*args, **kwargs)
        finally:
            del runner.model.train_step

    runner.train_loop.run_iter = watching


class _Watched:
    """``train_step`` of a model that records its peak, and explains an out-of-memory error."""

    def __init__(self, hook: MemoryBudgetHook, runner: Any, model: torch.nn.Module):
        self._hook, self._runner, self._model, self._step = hook, runner, model, runner.model.train_step
        self._averaged = any(isinstance(h, EMAHook) for h in runner.hooks)
        self._on_gpu = get_device() == 'cuda'
        self._look = False  # count the next step

    def __call__(self, data: Any, optim_wrapper: Any) -> Any:
        step = partial(self._step, data, optim_wrapper=optim_wrapper)
        try:
            if self._hook.plan is None:
                return step()
            counted = partial(observe, self._model, optim_wrapper, self._averaged, data, step)
            return self._asked(step, counted, data) if self._on_gpu else self._counted(step, counted, data)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            ran_out = error.with_traceback(None)  # its frames hold tensors
        optim_wrapper.zero_grad()
        self._runner.logger.info('MemoryBudgetHook: out of memory; looking for a plan that fits')
        raise explain(self._runner.cfg, _size(data, self._model), self._hook.plan, ran_out)

    def _counted(self, step: Callable[[], Any], counted: Callable[[], Tuple[Any, Peak]], data: Any) -> Any:
        pixels = _pixels(data)
        if pixels <= self._hook.largest and self._runner.iter % _EVERY:
            return step()
        if self._runner.iter:  # before the second step, the optimizer has no state
            self._hook.largest = max(pixels, self._hook.largest)
        output, peak = counted()
        self._note(peak, data)
        return output

    def _asked(self, step: Callable[[], Any], counted: Callable[[], Tuple[Any, Peak]], data: Any) -> Any:
        """Read the allocator's peak; if it exceeds the forecast, count the next step to find the part."""
        look, self._look = self._look, False
        output, found = counted() if look else (step(), Peak(0, ''))
        peak = Peak(torch.cuda.max_memory_allocated(), found.moment)
        if peak.bytes <= self._hook.plan.peak or look:
            self._note(peak, data)
        elif self._hook.peak is None or self._hook.peak.bytes <= self._hook.plan.peak:
            self._look = True
        return output

    def _note(self, peak: Peak, data: Any) -> None:
        hook, runner = self._hook, self._runner
        if hook.peak is not None and peak.bytes <= _MORE * hook.peak.bytes:
            return
        hook.peak, plan = peak, hook.plan
        line = (f'MemoryBudgetHook: peak {mib(peak.bytes)} in iteration {runner.iter + 1} with '
                f'{describe(_size(data, self._model))}, predicted {mib(plan.peak)}')
        if peak.bytes <= plan.peak:
            runner.logger.info(line)
        else:
            runner.logger.warning(f'{line} for {describe(plan.batch)}; in {peak.moment}. If batches are larger than '
                                  'planned, specify their size: MemoryBudgetHook(image=(H, W), objects=K)')


def _common_speed() -> Speed:
    """The speed that the first process measured, so that all processes make the same plan."""
    numbers = torch.tensor(measure_speed(get_device()), device=get_device())
    broadcast(numbers)
    return Speed(*numbers.tolist())


def _largest_of(dataset: Any) -> Tuple[int, int]:
    """Maximum height and width of the first images."""
    shapes = [dataset[i]['inputs'].shape[-2:] for i in range(min(_SAMPLES, len(dataset)))]
    return max(h for h, _ in shapes), max(w for _, w in shapes)


def _images(data: Any) -> Union[Sequence[torch.Tensor], torch.Tensor]:
    return data['inputs'] if isinstance(data, dict) else data[0]


def _pixels(data: Any) -> int:
    images = _images(data)
    return len(images) * max(x.shape[-2] for x in images) * max(x.shape[-1] for x in images)


def _size(data: Any, model: torch.nn.Module) -> Batch:
    """The size of a batch, padded as the model pads it."""
    images, divisor = _images(data), getattr(model.data_preprocessor, 'pad_size_divisor', 1)
    height, width = (-(-max(x.shape[i] for x in images) // divisor) * divisor for i in (-2, -1))
    objects = [len(sample.gt_instances) for sample in data.get('data_samples') or () if 'gt_instances' in sample]
    return Batch(len(images), height, width, max(objects, default=0))
