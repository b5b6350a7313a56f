"""Open an item that came from elsewhere: ``python -m sane_engine.inventory.checking KIND FOLDER``.

A process of its own: a file that makes a library crash or hang ends this and nothing else. Answers with a line of
JSON, the digest of what is there or the reason why it is refused.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from pathlib import Path

from sane_engine.checkpoint import Refusal

# A table says how large it will be before it is read; a few bytes can declare billions of equal cells.
_MOST_CELLS = 100_000_000
_LARGEST_TABLE = 4 * 1024**3
_CPU_SECONDS = 900
_MOST_BLOCKS = 10_000


def main(kind: str, folder: Path) -> int:
    """Say what is there."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    check = {"zoo": _zoo, "encoder": _encoder, "embeddings": _embeddings, "samples": _samples}[kind]
    try:
        print(json.dumps({"digest": check(folder)}))
    except Exception as error:  # whatever a library makes of a hostile file
        print(json.dumps({"refusal": str(error) or type(error).__name__}))
    return 0


def _table(path: Path) -> None:
    import pyarrow.parquet as parquet

    about = parquet.read_metadata(path)
    size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    if about.num_rows * about.num_columns > _MOST_CELLS or size > _LARGEST_TABLE:
        raise Refusal("too-large", "its table is too large")


def _zoo(folder: Path) -> str:
    from sane_engine.workspace import atomic_file
    from sane_engine.zoo.native import DESCRIPTION, TABLE, load_native

    _table(folder / TABLE)
    zoo = load_native(folder)
    # Reads every weight. A digest is never believed: caches are found by it.
    honest = zoo.with_weights_digest()
    record = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if (record.get("digest"), record["weights_digest"]) != (honest.digest, honest.weights_digest):
        # Zoos that were folders of checkpoints carry a digest of those files, which are not here.
        record.update(digest=honest.digest, weights_digest=honest.weights_digest)
        with atomic_file(folder / DESCRIPTION) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return honest.digest


def _encoder(folder: Path) -> str:
    from sane_engine.sane import load_encoder

    return load_encoder(folder).digest  # compares it with the weights


def _embeddings(folder: Path) -> str:
    from sane_engine.demo import precomputed_folder, read_precomputed

    _table(folder / "weightwatcher.parquet")
    record = read_precomputed(folder).record
    digests = str(record["zoo_digest"]), str(record["encoder_digest"])
    if not all(re.fullmatch(r"[0-9a-f]{16,128}", digest) for digest in digests):
        raise Refusal("broken-item", "its digests make no sense")
    return precomputed_folder(*digests).name


def _samples(folder: Path) -> str:
    from sane_engine.inventory.taking_out import digest_of_files

    # The weights are opened by the intake, like any other checkpoint, when they are asked for.
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise Refusal("broken-item", "its record makes no sense")
    code = _model_code(record.get("architecture"))
    if code is not None:
        (folder / "model.py").write_text(code, encoding="utf-8")
    return digest_of_files("samples", folder)


def _model_code(architecture: object) -> str | None:
    """The definition that the samples' README speaks of: made here of checked numbers, as code is never let in."""
    from sane_engine.sampling.model_code import model_code
    from sane_engine.zoo.architecture_families import architecture_from_json

    if not isinstance(architecture, dict):
        return None
    try:
        spec = architecture_from_json(architecture)
    except (ValueError, TypeError):
        return None
    # A few bytes can ask for a billion blocks.
    return None if sum(getattr(spec, "blocks", ())) > _MOST_BLOCKS else model_code(spec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
