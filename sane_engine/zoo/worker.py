"""A child process that trains chunks of models: ``python -m sane_engine.zoo.worker FOLDER``.

It reads the number of a chunk from standard input, one a line, and answers each epoch and each finished chunk with
one JSON line. It ends when its input ends, or with its parent: a line that nobody reads any more stops it.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from sane_engine.zoo.chunk_files import TrainingFolder
from sane_engine.zoo.training import train_chunk


def _say(**message: int | bool) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _say_epoch(chunk: int, epoch: int) -> None:
    _say(chunk=chunk, epoch=epoch)


def main(path: str) -> None:
    """Train the chunks whose numbers arrive on standard input."""
    folder, dataset = TrainingFolder.open(Path(path))
    _say(ready=True)
    for line in sys.stdin:
        number = int(line)
        say_epoch = partial(_say_epoch, number)
        trained = train_chunk(folder.spec, folder.chunks[number], dataset, after_epoch=say_epoch)
        folder.save(number, trained)
        _say(chunk=number, done=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (BrokenPipeError, KeyboardInterrupt):
        # The parent is gone or stopping: there is nobody to tell.
        sys.stderr.close()
