"""Checks of the data: files exist, data sets and metrics can be built, and classes match the model."""
import copy
import inspect
import math
import os.path as osp
from typing import Iterator, Sequence, Tuple

from mmengine.registry import DATASETS, METRICS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, SequentialSampler

from mmrev.apis.entries import walk
from mmrev.datasets.checks import problems_of_folders, problems_of_list, require_plain
from mmrev.datasets.coco import (NEEDED, category_names, have_nothing_in_common, image_apart, is_local,
                                 mislabelled, needed_keys, problems_of_file)
from mmrev.datasets.download import problems_of_download
from mmrev.problems import Problem
from mmrev.registry import find

from .config import misused, named_classes
from .plan import Plan, building

_TAKEN_BY_MMENGINE = ('num_batch_per_epoch', 'disable_subprocess_warning')  # keys of a dataloader that torch lacks
_QUICKLY_READ = 1 << 26  # bytes of an annotation file that is read before every run; `mmrev check --data` reads any


def files(plan: Plan) -> Iterator[Problem]:
    """Annotation files and image folders exist, and no annotation file is truncated."""
    for path, entry in _sets(plan):
        root, where = entry.get('data_root') or '', f'Put the data there, or say where it is: --cfg-options {path}'
        if not isinstance(root, str):
            yield Problem(f'`{path}.data_root` is {root!r}, not a folder', f'Fix it in {plan.cfg.filename}')
            continue
        built = find(entry['type'], DATASETS, scope=entry.get('_scope_'))
        for key in ('ann_file', 'proposal_file'):
            require_plain(_join(root, str(entry.get(key))), f'{path}.{key}')
        if isinstance(entry.get('ann_file'), str) and entry['ann_file']:
            file, most = _join(root, entry['ann_file']), math.inf if plan.whole else _QUICKLY_READ
            yield from problems_of_list(built, entry, path, file)
            yield from problems_of_file(
                file, path, f'{where}.data_root=FOLDER', hasattr(built, 'COCOAPI') * most, plan.skip_wrong,
                needed_keys(built, entry, plan.cfg.get(path.split('_')[0] + '_evaluator')))
        yield from problems_of_folders(built, entry, path)
        prefixes = entry.get('data_prefix') or {}
        for key, folder in prefixes.items() if isinstance(prefixes, dict) else [('', prefixes)]:
            folder = _join(root, folder) if isinstance(folder, str) else ''
            if folder and is_local(folder) and not osp.isdir(folder):
                place = f'{path}.data_prefix.{key}'.rstrip('.')
                yield Problem(f'image folder `{folder}` does not exist ({place})', f'{where}.data_root=FOLDER')
    for path, entry in _metrics(plan):
        if isinstance(entry.get('ann_file'), str) and _reads_files(entry):
            file, coco = entry['ann_file'], 'CocoMetric' in str(entry['type'])
            sets = [_join(one.get('data_root') or '', one.get('ann_file') or '') for place, one in _sets(plan)
                    if place.split('_')[0] == path.split('_')[0]]
            yield from problems_of_file(
                file, path, f'Say where it is: --cfg-options {path}.ann_file=FILE',
                _QUICKLY_READ * (coco and file not in sets), plan.skip_wrong, NEEDED if coco else ())
            if sets and all(have_nothing_in_common(file, one) for one in sets):  # ids may be the same
                yield Problem(f'`{file}` ({path}.ann_file) shares no annotation with `{sets[0]}`, '
                              'which lists the images', plan.fix(f'{path}.ann_file', sets[0]))
            for one, image in ((one, image_apart(one, file)) for one in sets if coco):
                if image:
                    yield Problem(f'`{file}` ({path}.ann_file) lacks {image} of `{one}`, which lists the images',
                                  plan.fix(f'{path}.ann_file', one))


def pipelines(plan: Plan) -> Iterator[Problem]:
    """Data sets and their pipelines can be built, without reading data."""
    for path, entry in _sets(plan):
        built = find(entry['type'], DATASETS, scope=entry.get('_scope_'))
        bases = built.__mro__ if inspect.isclass(built) else ()
        if any('lazy_init' in inspect.signature(base.__init__).parameters for base in bases):
            dataset = yield from building(plan, path, DATASETS.build, dict(copy.deepcopy(entry), lazy_init=True))
            yield from problems_of_download(dataset, path)


def dataloaders(plan: Plan) -> Iterator[Problem]:
    """Dataloaders can be built, with a list in place of the data set."""
    for path in (f'{split}_dataloader' for split in plan.splits if plan.cfg.get(f'{split}_dataloader') is not None):
        config = copy.deepcopy(plan.cfg[path])
        yield from misused(plan, DataLoader, config, path, besides=_TAKEN_BY_MMENGINE)
        if config.get('generator') is not None:
            yield Problem(f'`{path}.generator` is {config["generator"]!r}, and randomness.seed decides about samples',
                          f'Leave it out of {plan.cfg.filename}')
        config.update(dataset=[0], sampler=SequentialSampler([0]), num_batch_per_epoch=None)
        yield from building(plan, path, Runner.build_dataloader, config, 0)


def metrics(plan: Plan) -> Iterator[Problem]:
    """Metrics can be built, if possible without reading their annotations."""
    for path, entry in _metrics(plan):
        built, config = find(entry.get('type'), METRICS, scope=entry.get('_scope_')), copy.deepcopy(entry)
        if 'ann_file' in config:
            parameter = inspect.signature(built).parameters.get('ann_file')
            if parameter is None or parameter.default is not None:
                continue
            config['ann_file'] = None
        if not config.get('outfile_prefix'):  # building it may write
            yield from building(plan, path, METRICS.build, config)


def classes(plan: Plan) -> Iterator[Problem]:
    """The classes of the config, the annotations (in COCO's format) and the heads match."""
    for path, entry in _sets(plan):
        built = find(entry['type'], DATASETS, scope=entry.get('_scope_'))
        named = (entry.get('metainfo') or {}).get('classes', getattr(built, 'METAINFO', {}).get('classes'))
        names = category_names(osp.join(entry.get('data_root') or '', entry.get('ann_file') or ''))
        if names is None or named is None:
            continue
        if isinstance(named, str):
            yield Problem(f'`{path}.metainfo.classes` is the text `{named}`, not a tuple of names',
                          f"In {plan.cfg.filename}, one class is metainfo=dict(classes=('{named}', ))")
            continue
        numbered = [name for name in names if name in named]  # mmdet numbers them in the order of the file
        if not numbered:
            yield Problem(f'`{entry["ann_file"]}` has none of the classes {_listed(named)} ({path}): it has '
                          f'{_listed(names)}', f'Set metainfo=dict(classes={tuple(names)!r}) for each data set '
                          f'in {plan.cfg.filename}, and num_classes of the heads')
        elif getattr(getattr(built, 'load_data_list', None), '__qualname__', '') == 'CocoDataset.load_data_list':
            yield from mislabelled(entry['ann_file'], numbered, named, path)
        for name, head in plan.model.named_modules() if plan.model is not None else ():
            if name.split('.')[-1] == 'bbox_head' and getattr(head, 'num_classes', len(named)) != len(named):
                yield Problem(f'model.{name} has num_classes={head.num_classes}, but {path} has {len(named)} classes',
                              f'Set num_classes={len(named)} there in {plan.cfg.filename}, or metainfo.classes of the '
                              'data set')


def _sets(plan: Plan) -> Iterator[Tuple[str, dict]]:
    """The data sets that read local files, inside any wrappers."""
    for split in plan.splits:
        root = f'{split}_dataloader.dataset'
        for path, entry in walk((plan.cfg.get(f'{split}_dataloader') or {}).get('dataset'), root):
            wraps = isinstance(entry, dict) and ('dataset' in entry or 'datasets' in entry)
            if isinstance(entry, dict) and entry.get('type') and not wraps and '.pipeline.' not in path:
                if _reads_files(entry):
                    yield path, entry


def _metrics(plan: Plan) -> Iterator[Tuple[str, dict]]:
    for path, entry, among in named_classes(plan):
        if among[0] is METRICS and 'type' in entry and 'metrics' not in entry:
            yield path, entry


def _reads_files(entry: dict) -> bool:
    """Whether an entry reads local files, not those of another backend of mmengine."""
    return (entry.get('backend_args') or {}).get('backend', 'local') == 'local'


def _join(root: str, path: str) -> str:
    return path if not path or osp.isabs(path) or not is_local(path) else osp.join(root, path)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (f', ... ({len(names)})' if len(names) > 5 else '')
