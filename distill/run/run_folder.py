"""The directory of a run: started, gone on with, or finished, and never mistaken for another.

run.json             what ran, on what; `status` is `running` until all else is in place
metrics.jsonl        losses step by step
checkpoints/         while the run lasts
config.json, model.safetensors, generation_config.json, tokenizer files, README.md, plots/
                     when it has finished
"""

import json
import secrets
import shutil
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from cache.machine.durable import PARTIAL_SUFFIX, new_directory, write_json
from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.learning.student import max_positions
from distill.run.checkpoint import last_checkpoint
from distill.run.export_tokenizer import export_tokenizer
from distill.settings.config import TrainConfig

RUNNING, FINISHED = "running", "finished"
RUN_FILE, METRICS_FILE = "run.json", "metrics.jsonl"
CHECKPOINTS = "checkpoints"


def read_run(folder: Path) -> dict[str, Any] | None:
    """The `run.json` of a directory, or None where no run was started.

    Raises:
        DistillError: the file is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        run["status"], run["recipe"], run["cache"]["identity_hash"], run["wandb_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise DistillError(
            f"{path} is damaged ({type(error).__name__}: {error}). Remove {folder} and train anew."
        ) from error
    return run


def new_run(config: TrainConfig, reader: CacheReader) -> dict[str, Any]:
    """What `run.json` says of a run before its first step."""
    return {
        "status": RUNNING,
        "recipe": asdict(config.recipe),
        "cache": {
            "path": str(config.cache),
            "identity_hash": reader.identity_hash,
            "identity": asdict(reader.identity),
        },
        "wandb_id": secrets.token_hex(8),
    }


def require_usable(config: TrainConfig, reader: CacheReader) -> dict[str, Any] | None:
    """The unfinished run to go on with, or None where a new one can start.

    Raises:
        DistillError: `out` holds a finished run, an unfinished one and resuming was not
            asked for, a run of another recipe or cache, or something else.
    """
    out = config.out
    run = read_run(out)
    if run is None:
        _require_empty(out)
        return None
    require_same_run(run, config, reader)
    if run["status"] == FINISHED:
        raise DistillError(
            f"{out} already holds a finished run of {run['recipe']['name']}. "
            "Choose another --out, or remove the directory to train anew."
        )
    if not config.resume:
        raise DistillError(
            f"{out} holds an unfinished run of {run['recipe']['name']}. Go on with it by adding "
            "--resume, choose another --out, or remove the directory to train anew."
        )
    return run


def require_same_run(run: dict[str, Any], config: TrainConfig, reader: CacheReader) -> None:
    """Raises DistillError, naming the fields, unless a run has this recipe and this cache."""
    # What a recipe did not know when the run was started had its default.
    defaults = {f.name: f.default for f in fields(config.recipe) if f.default is not MISSING}
    recipe, before = _as_json(asdict(config.recipe)), {**_as_json(defaults), **run["recipe"]}
    differing = [
        f"recipe.{field} was {before.get(field)!r} and is {recipe.get(field)!r}"
        for field in {**recipe, **before}
        if before.get(field) != recipe.get(field)
    ]
    if run["cache"]["identity_hash"] != reader.identity_hash:
        old = run["cache"].get("identity", {})
        differing += [
            f"cache.{field} was {old.get(field)!r} and is {value!r}"
            for field, value in _as_json(asdict(reader.identity)).items()
            if old.get(field) != value
        ] or [f"cache identity was {run['cache']['identity_hash']} and is {reader.identity_hash}"]
    if differing:
        raise DistillError(
            f"{config.out} holds another run: {'; '.join(differing)}. Use the recipe and the "
            "cache it was started with, or choose another --out."
        )


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """What is read back of them from a JSON file: tuples are lists there."""
    return json.loads(json.dumps(values))


def checkpoint_of(out: Path) -> Path | None:
    """The checkpoint a run goes on from, or None before its first one."""
    return last_checkpoint(out / CHECKPOINTS)


def finish_run(
    out: Path, run: dict[str, Any], *, student: Any, tokenizer_path: Path, card: str
) -> None:
    """Turn a run's directory into a Hugging Face folder, and mark it as finished last of all.

    Killed in the middle, the run is still unfinished and still has its last checkpoint.

    Args:
        run: the final content of `run.json`, without its status.
        student: the trained model.
        tokenizer_path: the cache's tokenizer, which goes along with it.
        card: text of README.md.
    """
    staged = out / "finished"
    with new_directory(staged, OSError) as tmp:
        student.save_pretrained(tmp)
        # safetensors writes for the owner alone; a run is shared like the files beside it.
        shutil.copymode(tmp / "config.json", tmp / "model.safetensors")
        (tmp / "README.md").write_text(card, encoding="utf-8")
        export_tokenizer(
            tokenizer_path,
            tmp,
            prefix_ids=run["cache"]["identity"].get("texts", {}).get("prefix_ids", ()),
            num_positions=max_positions(student),
        )
    for path in staged.iterdir():
        path.replace(out / path.name)
    staged.rmdir()
    write_json(out / RUN_FILE, {**run, "status": FINISHED}, OSError)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def _require_empty(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DistillError(f"{out} is a file, but a run needs a directory. Choose another --out.")
    foreign = [] if not out.exists() else sorted(path.name for path in out.iterdir())
    foreign = [name for name in foreign if not name.endswith(PARTIAL_SUFFIX)]
    if foreign:
        raise DistillError(
            f"{out} is not empty and holds no run (found {', '.join(foreign[:3])}). "
            "Choose another --out, or empty the directory."
        )
