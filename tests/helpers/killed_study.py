"""Measure a study that is killed many times: ``python killed_study.py FOLDER KILLS SEED``.

The study in ``FOLDER/whole`` is not killed, the one in ``FOLDER/killed`` is, and is resumed after each kill. The last
line printed is JSON with the number of parts that were finished at each kill.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from helpers import toy_study
from seqjax.study.settings import Settings

SETTINGS = Settings(cells=("elman", "lstm"), lengths=(4,), seeds=60, training_steps=1, sections=("training",))
RECORD = toy_study.RECORD._replace(settings=SETTINGS.to_json())


def slowly(experiment, part):
    """The parts take different times, so that kills hit any moment of measuring, writing and merging."""
    time.sleep(random.Random(part.name).random() * 0.03)
    yield from toy_study.measure(experiment, part)


def begin(folder):
    """Measure in a process of its own."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        code = int(not toy_study.run(folder, resume=True, record=RECORD, settings=SETTINGS, measure=slowly))
    finally:
        sys.stderr.flush()
        os._exit(code)


def parts(folder):
    """The number of parts whose files are there."""
    return len(list((folder / "parts").glob("*.parquet")))


def main(folder, kills, seed):
    chance = random.Random(seed)
    found = []
    for number in range(kills):
        process = begin(folder / "killed")
        goal = (number + 1) * 2 * SETTINGS.seeds // (kills + 2)
        while parts(folder / "killed") < goal and os.waitpid(process, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)  # any place within a part, a write, or the start
        os.kill(process, signal.SIGKILL)
        assert os.waitpid(process, 0)[1] == signal.SIGKILL
        found.append(parts(folder / "killed"))
    for name in ("killed", "whole"):
        assert os.waitpid(begin(folder / name), 0)[1] == 0, name
    print(json.dumps({"kills": kills, "parts_at_kills": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
