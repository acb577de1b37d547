"""Plans within a memory budget: the same gradients, the bytes that were predicted, the same plan when resumed."""
import copy
import itertools
import json
import random
import re
import uuid
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmdet')
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

import mmrev.hooks.memory_budget_hook  # noqa: E402
from mmrev.apis.run import build_runner, load_config, running  # noqa: E402
from mmrev.cli import main  # noqa: E402
from mmrev.hooks import MemoryBudgetHook  # noqa: E402
from mmrev.memory.budget import Planner, Speed  # noqa: E402
from mmrev.memory.forecast import Counter, Forecaster  # noqa: E402
from mmrev.memory.parts import apply, find_parts  # noqa: E402
from mmrev.memory.training import Batch, default_batch  # noqa: E402
from mmrev.memory.watch import aside  # noqa: E402
from mmrev.problems import ProblemError  # noqa: E402
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling  # noqa: E402
from support import toy_classification  # noqa: E402
from support.commands import said  # noqa: E402

pytestmark = pytest.mark.slow

MIB = 2**20
SPEED = Speed(3e10, 4e9)
CASES = {  # config, options, batch
    'blocks': ('mmpretrain::resnet/resnet18_8xb32_in1k.py', {}, Batch(16, 96, 96)),
    'reversible': (Path(__file__).parents[2] / 'configs/revvit/revvit_digits.py',
                   {'model.backbone.arch.num_layers': 2}, Batch(64, 32, 32))}


class Net(nn.Module):
    """A stem, blocks, a reversible sequence, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)) for _ in range(3)))
        self.sequence = ReversibleSequence([TwoStreamCoupling(self.function(), self.function()) for _ in range(2)])
        self.head = nn.Linear(16, 2)

    @staticmethod
    def function():
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 1))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(torch.cat(self.sequence(x, x.sigmoid()), 1).mean((2, 3))).square().sum()


def gradients(model, x):
    model.zero_grad()
    model(x).backward()
    return [p.grad.clone() for p in model.parameters()]


def test_every_plan_gives_the_gradients_of_plain_autograd():
    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(2, 3, 16, 16, dtype=torch.double)
    plain = copy.deepcopy(model)
    plain.sequence.reversible = False
    expected = gradients(plain, x)
    parts = find_parts(model, {name for name, _ in model.named_modules()})
    assert {part.name: part.choices[-1] for part in parts} == {
        '': 'cheap', 'stem': 'cheap', **{f'blocks.{i}': 'recomputed' for i in range(3)}, 'head': 'cheap',
        **{f'sequence.couplings.{i}.{f}': 'undone' for i in range(2) for f in 'fg'}}
    random.seed(0)
    plans = [[part.choices[min(level, len(part.choices) - 1)] for part in parts] for level in range(3)]
    for plan in plans + random.sample(list(itertools.product(*(part.choices for part in parts))), 12):
        remove = apply(model, {part.name: choice for part, choice in zip(parts, plan)})
        for got, wanted in zip(gradients(model, x), expected):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10, msg=lambda text: f'{plan}: {text}')
        remove()
    assert model.sequence.keep is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize('name', ['reversible', pytest.param('blocks', marks=pytest.mark.slow)])
def test_a_real_step_needs_what_the_plan_predicts_and_no_more_than_the_budget(name):
    file, options, batch = CASES[name]
    cfg = load_config(str(file), options)
    planner, counter = Planner(Forecaster(cfg), batch, SPEED), Counter(cfg)
    assert planner(0) is None
    plain, least = planner.plain.peak, planner.least.peak
    assert least < 0.95 * plain and least <= planner.forecast(planner.uniform(2)).peak
    for level in range(3):
        levels = [min(level, len(part.choices) - 1) for part in planner.parts]
        assert planner.estimate.peak(levels) == planner.forecast(planner.uniform(level)).peak
    seconds = []
    for share in (.3, 1):
        budget = int(plain - share * (plain - least))
        plan = planner(budget)
        remove = apply(counter.training.model, plan.choices)
        real = counter(batch).peak
        remove()
        assert plan.peak == pytest.approx(real, rel=0.01)
        assert 0.95 * budget <= plan.peak <= budget and real <= 1.01 * budget
        seconds.append(sum(plan.seconds.values()))
        assert all(seconds[-1] <= planner.cost(planner.uniform(level)) for level in (1, 2)
                   if planner.forecast(planner.uniform(level)).peak <= budget)
    assert 0 < seconds[0] < seconds[1]


def test_of_plans_that_are_equally_fast_the_one_with_the_lowest_peak_is_taken():
    file, options, batch = CASES['reversible']
    planner = Planner(Forecaster(load_config(str(file), options)), batch, Speed(SPEED.macs, 1e30))  # cheap is free
    planner(0)
    cheap = planner.forecast(planner.uniform(1)).peak
    assert planner((cheap + planner.plain.peak) // 2).peak == cheap < planner.plain.peak


def test_multi_scale_counts_with_its_largest_size():
    yolox = load_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    assert default_batch(yolox)[1:3] == (640, 640)
    assert default_batch(yolox, (64, 96))[1:3] == (64, 96)


# ---------------------------------------------------------------------------------------------------- runs

class Failing(nn.Module):
    """Asks for more memory than there is, in its fourth forward in training."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return x if self.calls < 4 else torch.empty(2**55)


@pytest.fixture
def train(tmp_path):
    """Trains a toy classifier, two iterations an epoch: the weights, the runner and the log."""
    toy_classification.write_dataset(tmp_path / 'data', size=64)
    (tmp_path / 'c.py').write_text(toy_classification.config_text(tmp_path / 'data', 8, val_dataloader=None,
                                                                  val_evaluator=None, val_cfg=None))

    def run(hooks=(), work_dir='work', change=lambda model: None, img_size=64, **options):
        cfg = load_config(str(tmp_path / 'c.py'), {
            **({'model.backbone.img_size': img_size} if img_size else {}), 'train_cfg.max_epochs': 2,
            'work_dir': str(tmp_path / work_dir),
            'experiment_name': uuid.uuid4().hex, 'custom_hooks': list(hooks),
            'visualizer': dict(type='Visualizer', name=uuid.uuid4().hex, vis_backends=[]), **options})
        runner = build_runner(cfg)
        change(runner.model)
        with running(runner, 'train'):
            runner.train()
        return runner.model.state_dict(), runner, Path(runner.logger.log_file).read_text()

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield run


def budget(size, **options):
    return [dict(type='mmrev.MemoryBudgetHook', budget=size, **options)]


def test_a_run_within_a_budget_has_the_same_weights_and_a_resumed_one_the_same_plan(train, tmp_path):
    expected = train(work_dir='plain')[0]
    got, runner, log = train(budget('1500KB'))
    assert all(torch.allclose(got[name], value, atol=1e-5) for name, value in expected.items())
    hook = next(hook for hook in runner.hooks if isinstance(hook, MemoryBudgetHook))
    plan = hook.plan
    assert 'undone' in plan.choices.values() and plan.peak <= 1500 * 1024 < plan.plain
    assert f'{plan}' in log and f'predicted {plan.peak / MIB:.1f} MiB' in log
    iterations = re.findall(r'MiB in iteration (\d) with 8 images of 64x64', log)
    assert iterations == ['1', '2']  # in the first, the optimizer has no state
    assert hook.peak.bytes == pytest.approx(plan.peak, rel=0.02) and 'WARNING - MemoryBudgetHook' not in log
    file = tmp_path / 'work/memory_plan.json'
    saved = json.loads(file.read_text())
    file.write_text(json.dumps(dict(saved, peak=saved['peak'] - 7)))  # known again
    checkpoint = {'resume': True, 'load_from': str(tmp_path / 'work/epoch_1.pth')}
    resumed, runner, _ = train(budget('1500KB'), **checkpoint)
    assert all(torch.equal(got[name], value) for name, value in resumed.items())
    assert next(hook for hook in runner.hooks if isinstance(hook, MemoryBudgetHook)).plan == plan._replace(
        peak=plan.peak - 7)


def test_the_log_warns_where_a_batch_is_larger_than_planned(train):
    log = train(budget('1500KB', image=(32, 32)), **{'train_cfg.max_epochs': 1})[2]
    warning = next(line for line in log.splitlines() if 'WARNING - MemoryBudgetHook' in line)
    assert 'in iteration 1 with 8 images of 64x64' in warning and 'for 8 images of 32x32' in warning
    assert re.search(r'; in \w+ of backbone\.', warning)


def test_on_a_gpu_the_allocator_is_asked_and_a_counted_step_says_where_it_exceeds_the_forecast(train, monkeypatch):
    monkeypatch.setattr(mmrev.hooks.memory_budget_hook, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(mmrev.hooks.memory_budget_hook, '_common_speed', lambda: SPEED)
    said = iter([5 * 2**19, 2**22, 2**22, 5 * 2**20])
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: next(said))
    log = train(budget('3MB'))[2]
    lines = re.findall(r'MemoryBudgetHook: (peak [\d.]+ MiB in iteration \d)(?:.*(; in \w+ of))?', log)
    assert len(lines) == 1 and lines[0][0] == 'peak 4.0 MiB in iteration 2' and lines[0][1].startswith('; in ')


@pytest.mark.parametrize('hooks', [[], budget('1500KB')], ids=['without a budget', 'with one'])
def test_a_run_out_of_memory_says_where_and_which_budget_fits_and_keeps_its_checkpoint(train, tmp_path, hooks):
    with pytest.raises(ProblemError) as caught:
        train(hooks, change=lambda model: model.backbone.add_module('drop_after_pos', Failing()))
    error = caught.value
    assert error.status == 2 and len(str(error).splitlines()) == 2
    assert re.match(r'out of memory with 8 images of 64x64: such a step needs 1\.\d MiB, most in \w+ of', error.what)
    assert '--memory-budget' in error.fix or 'Train smaller images' in error.fix
    assert 'Iteration 3 is in' in error.fix
    assert (tmp_path / 'work/interrupted.pth').is_file()


@pytest.mark.parametrize('options, words', [
    (dict(hooks=budget('1KB')), 'below the 0.'), (dict(hooks=budget('1MB')), 'the least is'),
    (dict(hooks=budget('1500KB') + [dict(type='mmrev.SaveMemoryHook')]), 'Remove SaveMemoryHook')])
def test_a_budget_that_cannot_be_met_ends_the_run_with_two_lines(train, options, words):
    with pytest.raises(ProblemError) as caught:
        train(**options)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 2 and caught.value.status == 2


def test_the_command_refuses_an_amount_that_it_cannot_read_and_a_config_without_data(tmp_path, capsys):
    (tmp_path / 'c.py').write_text("_base_ = ['mmpretrain::_base_/models/resnet18.py']\n")
    for size, words in (('', '`memory-budget` is empty'), ('12', '`12` has no unit'),
                        ('12parsecs', '`12parsecs` is not an amount of memory'), ('1GB', 'train_dataloader')):
        assert main(['train', str(tmp_path / 'c.py'), '--work-dir', str(tmp_path / 'w'), '--memory-budget', size]) == 2
        assert words in ' '.join(said(capsys.readouterr().err))
    assert not (tmp_path / 'w').exists()


@pytest.mark.slow
def test_leaky_relus_are_taken_where_they_are_allowed_and_nothing_else_fits(train, tmp_path):
    resnet = {'model.backbone': dict(_delete_=True, type='ResNet', depth=18, stem_channels=64, base_channels=8),
              'model.neck': dict(type='GlobalAveragePooling'), 'model.head.in_channels': 64}
    with pytest.raises(ProblemError, match='the least is'):
        train(budget('10.5MB'), img_size=None, **resnet)
    expected = train([dict(type='mmrev.InPlaceABNHook', relu='leaky')], 'plain', img_size=None, **resnet)[0]
    got, runner, log = train(budget('10.5MB', allow='leaky'), img_size=None, **resnet)
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert 'with leaky ReLUs' in log and 'WARNING - MemoryBudgetHook' not in log
    resumed = train(budget('10.5MB', allow='leaky'), 'resumed', img_size=None, resume=True,
                    load_from=str(tmp_path / 'work/epoch_1.pth'), **resnet)[0]
    for name, value in resumed.items():  # eps was added to weights and subtracted again
        torch.testing.assert_close(value, got[name], rtol=1e-5, atol=1e-5)
    assert (tmp_path / 'resumed/memory_plan.json').read_text() == (tmp_path / 'work/memory_plan.json').read_text()


def test_steps_of_a_plan_leave_no_trace_in_the_log_of_the_run():
    """As the norm of gradients, which clipping logs and the log of the run averages over iterations."""
    hub = MessageHub.get_instance('budget')
    MessageHub._instance_dict.move_to_end('budget')  # the current one
    hub.update_scalar('train/grad_norm', 2.)
    forecaster = Forecaster(load_config('mmrev::revvit/revvit_digits.py', {
        'model.backbone.arch.num_layers': 1, 'optim_wrapper.clip_grad': dict(max_norm=1.)}), 1)
    with aside():
        forecaster(Batch(2, 32, 32))
    assert {name: list(buffer.data[0]) for name, buffer in hub.log_scalars.items()} == {'train/grad_norm': [2.]}
    del MessageHub._instance_dict['budget']
