"""Training through mmengine's runner with a seed: the same losses again, and those of plain autograd."""
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Dataset

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402

DROPS = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.3, out_type='avg_featmap')
BACKBONES = {
    'RevViT': (32, dict(arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32), img_size=32,
                        patch_size=8)),
    'RevSwin': (64, dict(arch=dict(embed_dims=8, depths=(1, 2, 3), num_heads=(1, 2, 4)), window_size=4)),
    'RevMViT': (64, dict(arch=dict(embed_dims=8, num_layers=7, num_heads=1, downscale_indices=(2, 4)), img_size=32,
                         window_size=4)),
}


class Images(Dataset):
    """Random images of two classes that differ in brightness."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index)) + index % 2
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 2))


def losses(name, reversible, folder):
    """Of three epochs, step by step."""
    channels, backbone = BACKBONES[name]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        runner = Runner(
            model=dict(
                type='ImageClassifier',
                backbone=dict(type=f'mmrev.{name}', reversible=reversible, **DROPS, **backbone),
                head=dict(type='LinearClsHead', num_classes=2, in_channels=channels),
                data_preprocessor=dict(mean=None, std=None, num_classes=2)),
            work_dir=str(folder),
            train_dataloader=dict(batch_size=8, num_workers=0, dataset=Images(),
                                  sampler=dict(type='DefaultSampler', shuffle=True)),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            default_hooks=dict(checkpoint=None),
            default_scope='mmpretrain',
            experiment_name=folder.name,
            randomness=dict(seed=0, deterministic=True))
        runner.train()
    return [float(loss) for loss in runner.message_hub.get_scalar('train/loss').data[0]]


@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_a_seed_gives_the_same_losses_again_and_those_of_plain_autograd(name, tmp_path):
    first, again, plain = (losses(name, reversible, tmp_path / f'{name}_{run}')
                           for run, reversible in (('first', True), ('again', True), ('plain', False)))
    assert len(first) == 9 and len(set(first)) == 9
    assert first == again
    assert first == pytest.approx(plain, rel=0, abs=1e-5)
