"""The CIFAR-10 configs: they train, and without the data they say so before anything is written."""
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmpretrain')
from mmpretrain.datasets import CIFAR10  # noqa: E402

from mmrev.cli import main  # noqa: E402
from support.commands import ROOT  # noqa: E402

CONFIGS = sorted((ROOT / 'configs').glob('*/*_cifar10.py'))
REVERSIBLE = [path for path in CONFIGS if path.stem.startswith('rev') and 'amp' not in path.stem]
NOBODY = 'http://127.0.0.1:9/cifar-10-python.tar.gz'  # the port that discards: nothing answers


def train(config, folder, *options):
    return main(['train', str(config), '--work-dir', str(folder / 'run'), '--cfg-options', *options,
                 *(f'{split}_dataloader.dataset.data_root={folder / "cifar10"}' for split in ('train', 'val'))])


def write(root: Path, monkeypatch) -> None:
    """A data set of eight images a file under CIFAR-10's names, and the sums by which it is known."""
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for part in ('train_list', 'test_list'):
        known = []
        for name, _ in getattr(CIFAR10, part):
            content = pickle.dumps(dict(data=random.randint(0, 256, (8, 3072), dtype=np.uint8), labels=[*range(8)]))
            (folder / name).write_bytes(content)
            known.append([name, hashlib.md5(content).hexdigest()])
        monkeypatch.setattr(CIFAR10, part, known)


def pack(root: Path, monkeypatch) -> None:
    """The same as the archive that the data set comes in."""
    write(root, monkeypatch)
    with tarfile.open(root / CIFAR10.filename, 'w:gz') as tar:
        tar.add(root / CIFAR10.base_folder, CIFAR10.base_folder)
    for file in (root / CIFAR10.base_folder).iterdir():
        file.unlink()
    monkeypatch.setattr(CIFAR10, 'tgz_md5', hashlib.md5((root / CIFAR10.filename).read_bytes()).hexdigest())


@pytest.mark.parametrize('config', REVERSIBLE, ids=lambda path: path.stem)
def test_data_that_cannot_be_downloaded_is_named_with_a_way_out(config, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(CIFAR10, 'url', NOBODY)
    assert train(config, tmp_path) == 2
    said = capfd.readouterr().err.partition(': error: ')[2].strip().splitlines()
    assert len(said) == 2 and not list(tmp_path.iterdir())
    assert f'CIFAR10 is not in `{tmp_path / "cifar10"}` (train_dataloader.dataset)' in said[0]
    assert 'cannot be downloaded' in said[0] and 'refused' in said[0]
    assert NOBODY in said[1] and '--cfg-options train_dataloader.dataset.data_root=FOLDER' in said[1]


def test_a_damaged_file_is_noticed_where_nothing_may_be_downloaded(tmp_path, monkeypatch, capfd):
    write(tmp_path / 'cifar10', monkeypatch)
    file = tmp_path / 'cifar10' / CIFAR10.base_folder / CIFAR10.test_list[0][0]
    file.write_bytes(file.read_bytes()[:-1])
    assert train(REVERSIBLE[0], tmp_path, 'train_dataloader.dataset.download=False') == 2
    assert 'or not whole, and `train_dataloader.dataset.download` is False' in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('provide', [write, pack])
def test_data_that_is_there_or_waits_as_an_archive_is_trained_with(provide, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, 'url', NOBODY)
    provide(tmp_path / 'cifar10', monkeypatch)
    run = ['train_cfg.max_epochs=1', 'default_hooks.checkpoint=None',
           *(f'{split}_dataloader.{key}' for split in ('train', 'val')
             for key in ('batch_size=20', 'num_workers=0', 'persistent_workers=False'))]
    assert train(ROOT / 'configs/revvit/revvit-minrev_cifar10.py', tmp_path, *run) == 0
    log, = (tmp_path / 'run').rglob('*.log')
    assert 'Epoch(train) [1][2/2]' in log.read_text() and 'accuracy/top1' in log.read_text()


def test_data_that_can_be_downloaded_is_not_asked_for(tmp_path, monkeypatch, capfd):
    archive = tmp_path / 'elsewhere.tar.gz'
    archive.write_bytes(b'an archive')
    monkeypatch.setattr(CIFAR10, 'url', archive.as_uri())
    assert train(REVERSIBLE[0], tmp_path, 'train_cfg.max_epochs=0') == 2  # the next mistake is found
    assert 'train_cfg.max_epochs' in capfd.readouterr().err
