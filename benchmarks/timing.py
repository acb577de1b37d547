"""Seconds of runs that are compared with each other, round by round."""
import random
import time
from typing import Callable, Dict, Hashable, List, TypeVar

Key = TypeVar('Key', bound=Hashable)
UNCOUNTED = 2  # first rounds, in which caches fill and the engine works out its plan


def time_rounds(runs: Dict[Key, Callable[[], object]], rounds: int,
                clock: Callable[[], float] = time.perf_counter) -> Dict[Key, List[float]]:
    """Seconds of each run in each of so many rounds, after two that are not counted.

    Each round runs all of them in an order of its own, so that neither drift of the machine nor what ran before favors
    one of them.

    Args:
        runs: What is timed, by name.
        rounds: How many are counted.
        clock: ``time.process_time`` for processor time, which leaves out the time of other jobs; with one thread only.
    """
    taken: Dict[Key, List[float]] = {name: [] for name in runs}
    shuffle = random.Random(0)
    for i in range(rounds + UNCOUNTED):
        for name in shuffle.sample(list(runs), len(runs)):
            begin = clock()
            runs[name]()
            taken[name].append(clock() - begin)
        print(f'\r  round {i + 1} of {rounds + UNCOUNTED}', end='', flush=True)
    print('\r' + ' ' * 40, end='\r')
    return {name: seconds[UNCOUNTED:] for name, seconds in taken.items()}
