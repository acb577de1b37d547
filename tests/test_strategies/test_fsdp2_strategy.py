"""`mmrev train` with FSDP2: two processes with gloo against one process without it, and each other's checkpoints."""

import pytest
import torch
import torch.distributed as dist
from mmengine.registry import STRATEGIES
from torch import nn

from mmrev.checkpoints import allow_mmengine_checkpoints
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from support import toy_classification
from support.commands import forked

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.subprocess
fsdp = pytest.importorskip('torch.distributed.fsdp')
if not hasattr(fsdp, 'fully_shard'):
    pytest.skip(f'PyTorch {torch.__version__} lacks fully_shard', allow_module_level=True)

SHARDED = dict(runner_type='FlexibleRunner', strategy=dict(type='mmrev.FSDP2Strategy', modules=['head']))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """With the same training of four epochs in one process (``plain/``) and, sharded, in two (``sharded/``)."""
    folder = tmp_path_factory.mktemp('fsdp2')
    toy_classification.write_dataset(folder / 'data')
    (folder / 'plain.py').write_text(toy_classification.config_text(folder / 'data', 4))
    (folder / 'sharded.py').write_text(toy_classification.config_text(folder / 'data', 2, **SHARDED))
    train(folder, 'plain.py', 'plain')
    train(folder, 'sharded.py', 'sharded', processes=2)
    return folder


def train(folder, config, work_dir, *arguments, processes=1):
    launcher = 'pytorch' if processes > 1 else 'none'
    status, errors = forked('train', config, '--work-dir', work_dir, '--launcher', launcher, *arguments, cwd=folder,
                            processes=processes)
    assert status == 0, errors


def checkpoint(folder, run):
    allow_mmengine_checkpoints()
    content = torch.load(folder / run / 'epoch_4.pth', map_location='cpu')
    return content['state_dict'], content['optimizer']


def assert_close(found, expected, **tolerance):
    assert list(found[0]) == list(expected[0])
    assert found[1]['param_groups'] == expected[1]['param_groups']
    torch.testing.assert_close(dict(found[0]), dict(expected[0]), **tolerance)
    torch.testing.assert_close(found[1]['state'], expected[1]['state'], **tolerance)


ROUNDING = dict(rtol=1e-4, atol=2e-5)


def test_two_processes_train_as_one_and_write_its_checkpoint(folder):
    assert_close(checkpoint(folder, 'sharded'), checkpoint(folder, 'plain'), **ROUNDING)


def test_a_resumed_run_is_the_run_that_was_never_stopped(folder):
    train(folder, 'sharded.py', 'resumed', '--resume', 'sharded/epoch_2.pth', processes=2)
    assert_close(checkpoint(folder, 'resumed'), checkpoint(folder, 'sharded'), rtol=0, atol=0)


@pytest.mark.parametrize('writer', ['plain', 'sharded'])
def test_one_process_resumes_what_either_has_written(writer, folder):
    train(folder, 'plain.py', f'from_{writer}', '--resume', f'{writer}/epoch_2.pth')
    tolerance = dict(rtol=0, atol=0) if writer == 'plain' else ROUNDING
    assert_close(checkpoint(folder, f'from_{writer}'), checkpoint(folder, 'plain'), **tolerance)


def test_two_processes_resume_what_one_has_written(folder):
    train(folder, 'sharded.py', 'from_one', '--resume', 'plain/epoch_2.pth', processes=2)
    assert_close(checkpoint(folder, 'from_one'), checkpoint(folder, 'plain'), **ROUNDING)


def test_without_a_launcher_it_trains_in_one_process(folder):
    train(folder, 'plain.py', 'alone', '--cfg-options', 'runner_type=FlexibleRunner',
          'strategy.type=mmrev.FSDP2Strategy')
    assert_close(checkpoint(folder, 'alone'), checkpoint(folder, 'plain'), rtol=0, atol=0)


class Network(nn.Module):

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.blocks = sequence(nn.Linear(4, 4), sequence(nn.Linear(2, 2), nn.Linear(2, 2)))


def sequence(f, g):
    return ReversibleSequence([TwoStreamCoupling(f, g)])


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group('gloo', f'file://{tmp_path / "store"}', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def prepared(tmp_path, **options):
    strategy = STRATEGIES.build(dict(type='mmrev.FSDP2Strategy', work_dir=str(tmp_path), **options))
    return strategy, strategy.prepare(Network())


def test_outer_couplings_and_named_modules_are_sharded_on_their_own(alone, tmp_path):
    _, model = prepared(tmp_path, modules=[r'stem\.\d'])
    names = [name for name, module in model.named_modules() if isinstance(module, fsdp.FSDPModule)]
    assert names == ['', 'stem.0', 'stem.1', 'blocks.couplings.0']


def test_a_name_that_matches_nothing_is_named(alone, tmp_path):
    with pytest.raises(ValueError, match='no module of Network is called `stam`'):
        prepared(tmp_path, modules=['stam'])


def test_weights_of_another_shape_are_left_out_as_without_shards(alone, tmp_path):
    strategy, model = prepared(tmp_path)
    before = strategy.model_state_dict()
    state = {'module.stem.0.weight': torch.ones(4, 4), 'module.stem.1.weight': torch.ones(5, 4)}
    strategy.load_model_state_dict(state)
    after = strategy.model_state_dict()
    assert (after.pop('stem.0.weight') == 1).all() and before.pop('stem.0.weight') is not None
    torch.testing.assert_close(dict(after), dict(before), rtol=0, atol=0)
