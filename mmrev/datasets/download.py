"""Data sets that download themselves, such as mmpretrain's CIFAR."""
import os.path as osp
import urllib.request
from typing import Any, Iterator

from mmengine.fileio import LocalBackend, get_file_backend

from mmrev.problems import Problem, one_line


def problems_of_download(dataset: Any, path: str) -> Iterator[Problem]:
    """Yield a problem unless the data set is complete, can be downloaded, or is of another kind.

    Args:
        dataset: The data set, which has not read its data yet.
        path: Its place in the config.
    """
    if not all(hasattr(dataset, name) for name in ('url', 'filename', 'tgz_md5', 'download', '_check_integrity')) \
            or not isinstance(get_file_backend(dataset.data_prefix['root']), LocalBackend):
        return
    from mmpretrain.datasets.utils import check_integrity
    name, url, root = type(dataset).__name__, dataset.url, osp.normpath(dataset.data_prefix['root'])
    archived = dataset.download and check_integrity(osp.join(root, dataset.filename), dataset.tgz_md5)
    if archived or dataset._check_integrity():
        return
    elsewhere = f'or say where it is unpacked: --cfg-options {path}.data_root=FOLDER'
    if not dataset.download:
        yield Problem(f'{name} is not in `{root}`, or not whole, and `{path}.download` is False',
                      f'Leave `download` out, unpack {url} there, {elsewhere}')
        return
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except OSError as error:
        yield Problem(f'{name} is not in `{root}` ({path}) and cannot be downloaded: {one_line(error)}',
                      f'Download {url} where that is possible and put it there as it is, {elsewhere}', error)
