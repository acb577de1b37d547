"""``mmrev publish``: weights alone, those of the moving average, under a name that holds their hash."""
import hashlib

import pytest
import torch
from torch import nn

from mmrev.cli import main

pytest.importorskip('mmengine')
from mmengine.model import BaseModel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


class Line(BaseModel):
    """One layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, x, mode='tensor'):
        return dict(loss=self.fc(x).square().mean() + 3 * self.fc(x).mean())


def run(folder, hooks=()):
    """Train a few steps; the runner, and the file that it left."""
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader([dict(x=torch.randn(2, generator=generator)) for _ in range(8)], batch_size=2)
    runner = Runner(Line(), work_dir=str(folder / 'run'), train_dataloader=loader, train_cfg=dict(
        by_epoch=True, max_epochs=2), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        custom_hooks=list(hooks), experiment_name=folder.name)
    runner.train()
    return runner, folder / 'run/epoch_2.pth'


def published(capsys, *arguments):
    """Publish; the file whose name the command prints, and what it holds, as torch itself reads it."""
    assert main(['publish', *map(str, arguments)]) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    file = said.partition(': ')[0]
    return file, torch.load(file, weights_only=True), said


def test_the_weights_are_published_alone_under_their_hash(tmp_path, capsys):
    runner, checkpoint = run(tmp_path)
    file, content, said = published(capsys, checkpoint)
    digest = hashlib.sha256(open(file, 'rb').read()).hexdigest()
    assert file == str(tmp_path / f'run/epoch_2-{digest[:8]}.pth') and 'averaged' not in said
    assert content.keys() == {'state_dict', 'meta'}
    assert content['meta'].keys() <= {'dataset_meta', 'epoch', 'iter', 'mmengine_version', 'mmrev_version'}
    for name, value in runner.model.state_dict().items():
        assert torch.equal(content['state_dict'][name], value)
    again, _, _ = published(capsys, checkpoint, '--out', tmp_path / 'line.pth')
    assert again == str(tmp_path / f'line-{digest[:8]}.pth')  # the same weights, the same file
    assert len(list((tmp_path / 'run').glob('*.pth'))) == 3  # two epochs, and what was published


def test_averaged_weights_are_published_where_the_run_had_them(tmp_path, capsys):
    runner, checkpoint = run(tmp_path, [dict(type='EMAHook', momentum=0.1)])
    ema, = (hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    _, content, said = published(capsys, checkpoint)
    assert 'averaged by EMAHook' in said
    assert torch.equal(content['state_dict']['fc.weight'], ema.module.fc.weight)
    assert not torch.equal(content['state_dict']['fc.weight'], runner.model.fc.weight)


@pytest.mark.parametrize('content, reason', [
    (dict(state_dict={}, meta={}), 'holds no weights'), (dict(a=torch.tensor([torch.nan])), 'NaN or infinity'),
    (None, 'does not exist'), ([1, 2], 'not a dict of weights')])
def test_a_file_without_weights_is_refused(content, reason, tmp_path, capsys):
    if content is not None:
        torch.save(content, tmp_path / 'other.pth')
    assert main(['publish', str(tmp_path / 'other.pth')]) == 2
    assert reason in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {'other.pth'}
