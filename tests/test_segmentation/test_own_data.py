"""The ten lines of docs/own_data.md for folders of images and masks, on images of disks."""
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

pytest.importorskip('mmseg')
import mmrev.registry  # noqa: E402, F401  makes `mmrev::` known

PAGE = Path(__file__).parents[2] / 'docs' / 'own_data.md'


def masks(folder, split, number):
    """Images of bright disks, and masks of them."""
    for kind in ('images', 'annotations'):
        (folder / kind / split).mkdir(parents=True)
    rng = np.random.default_rng(len(split))
    for i in range(number):
        image, mask = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64), np.uint8)
        cv2.circle(mask, tuple(int(x) for x in rng.integers(16, 48, 2)), 10, 1, -1)
        image[mask == 1] += 120
        for kind, content in (('images', image), ('annotations', mask)):
            assert cv2.imwrite(str(folder / kind / split / f'{i}.png'), content)


@pytest.mark.slow
def test_the_ten_lines_train_and_test_on_folders_of_images_and_masks(tmp_path, monkeypatch):
    example = next(block for block in re.findall(r'```python\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)
                   if 'fpn_revbifpn' in block)
    assert len(example.splitlines()) == 10
    (tmp_path / 'nuclei.py').write_text(example)
    for split in ('train', 'val'):
        masks(tmp_path / 'data/nuclei', split, 2)
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(tmp_path / 'nuclei.py')
    assert cfg.train_dataloader.dataset.pipeline[2].scale == (256, 256)
    cfg.merge_from_dict(dict(
        work_dir='run', experiment_name='nuclei', visualizer=dict(name='nuclei', vis_backends=[]),
        train_dataloader=dict(num_workers=0, persistent_workers=False, batch_size=2),
        val_dataloader=dict(num_workers=0, persistent_workers=False),
        test_dataloader=dict(num_workers=0, persistent_workers=False), train_cfg=dict(max_epochs=1)))
    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline):
        next(step for step in pipeline if step.type.endswith('Resize')).scale = (64, 64)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1 and runner.model.decode_head.num_classes == 2
    assert 0 < runner.val()['mIoU'] <= 100
