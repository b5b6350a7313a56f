"""Is anything lost when a process is killed? ``python -m benchmarks.kill_trials [--trials 200] [--seed 0]``.

A writer writes one version of an item after another and says so when each call has returned; it gets kill −9. Then
the workspace is read the way the app reads it: what was acknowledged must be there (or something newer), and
whatever is visible must be whole. The answer is a line of JSON.

Three kinds of process are killed:

- a fork of this one, on every write path (``writers.py``): half of the time at a random moment, half of the time
  right before one of the file operations of a write, whichever was drawn; a fork costs no start of an interpreter,
  so most trials are of this kind;
- a job's runner, its command, or both, at a random moment of a pretraining (``jobs.py``); run again, the job
  must end with the encoder that an undisturbed run makes, to the bit;
- the server itself, while somebody uploads zoos and keeps them (``server.py``).
"""
