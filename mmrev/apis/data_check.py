"""Read every sample of the data sets of a config."""
import copy
import math
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Dict, Iterator, Sequence

from mmrev.problems import Problem, one_line, phase

if TYPE_CHECKING:
    from mmengine.config import Config

_SECONDS = 5.  # between two progress lines


def unreadable(cfg: 'Config', splits: Sequence[str]) -> Iterator[Problem]:
    """Run every sample through its pipeline: the annotations, the image, the transforms; and look at its labels.

    Args:
        cfg: The config.
        splits: Its splits, of ``train``, ``val`` and ``test``.

    Yields:
        A problem for each data set with unreadable samples: their number, and the first error.

    Raises:
        ProblemError: If a data set cannot be built, or if their classes differ.
    """
    from mmengine.registry import DATASETS, init_default_scope

    from mmrev.datasets.checks import check_boxes, check_classes, check_files, check_labels, check_mask, without_objects
    from mmrev.hooks import PhaseHook
    from mmrev.side_effects import unnoticed
    init_default_scope(str(cfg.get('default_scope') or 'mmengine'))
    datasets: Dict[str, Any] = {}
    heads = _heads(cfg)
    for split in splits:
        with phase(f'building {split}_dataloader.dataset', f'Fix it in {cfg.filename}'), unnoticed():
            dataset = datasets[split] = DATASETS.build(copy.deepcopy(cfg[f'{split}_dataloader'].dataset))
            getattr(dataset, 'full_init', bool)()
            check_files(split, dataset, math.inf)
        PhaseHook.name_samples(dataset)
        wrong, first, shown, labels, warning = 0, None, time.monotonic(), set(), ''
        for index in range(len(dataset)):
            try:
                with unnoticed():
                    sample = dataset[index]
                labels |= check_mask(f'sample {index}', sample, heads)
                check_labels(f'sample {index}', sample, heads)
                if hasattr(dataset, 'get_data_info'):
                    warning = warning or check_boxes(dataset.get_data_info(index), sample)
            except Exception as error:
                wrong, first = wrong + 1, first or error
            if time.monotonic() - shown > _SECONDS:
                shown = time.monotonic()
                print(f'{split}: {index + 1} of {len(dataset)} samples, {wrong} unreadable', file=sys.stderr)
        if warning:
            print(f'{split}: {warning}', file=sys.stderr)
        if first is not None:
            yield Problem(f'{wrong} of {len(dataset)} samples of {split}_dataloader cannot be read, first: '
                          f'{one_line(first)}', 'Fix or remove them', first)
        elif without_objects(split, labels, heads):
            yield Problem(without_objects(split, labels, heads), 'Write the numbers of the classes into the masks')
    check_classes({split: dataset for split, dataset in datasets.items() if split != 'test'})


def _heads(cfg: 'Config') -> SimpleNamespace:
    """The heads of a classifier or segmentor, with their numbers of classes, as far as the config says them."""
    heads = {}
    for part, implied in (('head', {}), ('decode_head', dict(ignore_index=255))):
        head = (cfg.get('model') or {}).get(part)
        head = head[-1] if isinstance(head, (list, tuple)) and head else head
        if isinstance(head, dict):
            heads[part] = SimpleNamespace(**{**implied, **head})
    return SimpleNamespace(**heads)
