"""Measure named cases one after another, and keep the figures of each in a JSON file."""
import argparse
import json
import warnings
from pathlib import Path
from typing import Any, Callable, Dict

import torch
from mmengine.logging import MMLogger


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """The options of `measured`.

    Args:
        description: Its first line is shown in the help.
        out: Default of the file of figures.
    """
    options = argparse.ArgumentParser(description=description.split('\n', 1)[0],
                                      formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument('--only', default='', help='cases whose name contains this')
    options.add_argument('--table', action='store_true', help='measure nothing, print the figures of the file')
    options.add_argument('--again', action='store_true', help='also measure cases that are in the file')
    options.add_argument('--out', default=out, help='file of figures')
    return options


def measured(args: argparse.Namespace, cases: Dict[str, Any], measure: Callable[[Any], Any],
             report: Callable[[Dict[str, Any]], str]) -> Dict[str, Any]:
    """Measure the selected cases in one thread; write the file and print a report after each.

    Args:
        args: Options of `parser`.
        cases: Cases by name.
        measure: Returns the figures of a case.
        report: Called with the figures of one case, by its name; returns the text to print.

    Returns:
        The figures of all measured cases, by name, in the order of `cases`.
    """
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    torch.set_num_threads(1)
    file = Path(args.out)
    figures = json.loads(file.read_text()) if file.exists() else {}
    for name, case in cases.items():
        if not args.table and args.only.lower() in name.lower() and (args.again or name not in figures):
            figures[name] = measure(case)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(figures, indent=2))
            print(report({name: figures[name]}), flush=True)
    return {name: figures[name] for name in cases if name in figures}
