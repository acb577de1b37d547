"""Two processes with half the batch each against one: the same weights up to rounding. Run by `make test-slow`."""
import pytest

from mmrev.checkpoints import load_local
from support import toy_classification
from support.commands import forked

pytest.importorskip('mmpretrain')

# Greatest difference of a weight in float32 over the greatest change of a weight in three epochs.
TOLERANCE = 1e-5
BACKBONES = dict(
    RevViT='model = dict()\n',
    RevBiFPN="""
model = dict(backbone=dict(_delete_=True, type='mmrev.RevBiFPN', arch='s0', out_indices=(3, ), norm_eval=True),
             neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=160))
""",
    InPlaceABNSync="""
model = dict(backbone=dict(_delete_=True, type='mmrev.IABNResNet', depth=18,
                           norm_cfg=dict(type='mmrev.InPlaceABNSync')),
             neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=512))
""")


def trained(folder, name, processes):
    work_dir = f'{name}_{processes}'
    lines = (f"_base_ = ['./base.py']\ntrain_dataloader = dict(batch_size={8 // processes})\n"
             "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01, weight_decay=1e-4),\n"
             '                     paramwise_cfg=None)\n')
    (folder / f'{work_dir}.py').write_text(lines + BACKBONES[name])
    launcher = ['--launcher', 'pytorch'] if processes > 1 else []
    status, errors = forked('train', f'{work_dir}.py', '--work-dir', work_dir, *launcher, cwd=folder,
                            processes=processes)
    assert status == 0, errors
    first, last = (load_local(str(folder / work_dir / f'epoch_{epoch}.pth'))['state_dict'] for epoch in (1, 4))
    return first, last


@pytest.mark.training
@pytest.mark.parametrize('name', BACKBONES)
def test_two_processes_train_the_weights_of_one_within_the_tolerance(name, tmp_path):
    toy_classification.write_dataset(tmp_path / 'data', size=32)
    text = toy_classification.config_text(tmp_path / 'data', 8).replace('img_size=16', 'img_size=32')
    (tmp_path / 'base.py').write_text(text)
    first, one = trained(tmp_path, name, 1)
    _, two = trained(tmp_path, name, 2)
    floating = [key for key, weight in one.items() if weight.is_floating_point()]
    moved = max(float((one[key] - first[key]).abs().max()) for key in floating)
    apart = max(float((one[key] - two[key]).abs().max()) for key in floating)
    assert 0 < moved and apart <= TOLERANCE * moved
