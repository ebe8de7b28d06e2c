"""The directory of a run: started, gone on with, or finished, and never mistaken for another.

run.json             what ran, on what; `status` is `running` until all else is in place
metrics.jsonl        losses step by step
samples.jsonl        completions of a few validation prompts, validation by validation
checkpoints/         two while the run lasts; the last one stays, for more epochs
writing.lock         while a process trains
best/                a Hugging Face folder with the weights of the best validation that the last
                     checkpoint knows of; those of a later one wait in best-of-step-00000012/
config.json, model.safetensors, generation_config.json, tokenizer files, README.md, plots/
                     when it has finished
"""

import hashlib
import json
import re
import secrets
import shutil
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from cache.machine.durable import PARTIAL_SUFFIX, new_directory, write_json
from cache.machine.lock import LOCK_NAME
from cache.reading.reader import CacheReader
from cache.teacher.teacher import max_positions_of
from distill.batches.epochs import TRAIN, planned_steps
from distill.errors import DistillError
from distill.learning.lora import merged_state
from distill.run.checkpoint_folder import CHECKPOINTS, list_checkpoints, remove_checkpoints
from distill.run.export_tokenizer import export_tokenizer
from distill.settings.config import TrainConfig
from distill.settings.origin import read_origin
from distill.settings.shapes import names_model

RUNNING, FINISHED = "running", "finished"
RUN_FILE, METRICS_FILE, SAMPLES_FILE = "run.json", "metrics.jsonl", "samples.jsonl"
BEST = "best"
_FIXED_LENGTH = (
    "With a warm-up, or an lr_schedule, temperature_end or alpha_end, a run of another length "
    "differs from its first step on. "
)


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
    origin = read_origin(Path(config.recipe.student))
    return {
        "status": RUNNING,
        "recipe": asdict(config.recipe),
        "from_model": names_model(config.recipe.student),
        "origin": None if origin is None else asdict(origin),
        "cache": {
            "path": str(config.cache),
            "identity_hash": reader.identity_hash,
            "identity": asdict(reader.identity),
            "order_sha256": order_sha256(reader),
        },
        "wandb_id": secrets.token_hex(8),
    }


def order_sha256(reader: CacheReader) -> str:
    """Hash of all that the order of an epoch follows from, but for the recipe: the lengths of the
    training documents, and which of them stand together. A cache of the same identity may have
    its documents in other shards."""
    digest = hashlib.sha256()
    if TRAIN in reader.splits and reader.num_documents(TRAIN):
        digest.update(reader.document_lengths(TRAIN).astype("<i8").tobytes())
        digest.update(reader.document_blocks(TRAIN).astype("<i8").tobytes())
    return digest.hexdigest()


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
    if is_finished(run, config, reader):
        raise DistillError(
            f"{out} already holds a finished run of {run['recipe']['name']}. Choose another --out, "
            "give it more --epochs with --resume, or remove the directory to train anew."
        )
    if not config.resume:
        raise DistillError(
            f"{out} holds {_how_far(run)} of {run['recipe']['name']}. Go on with it by adding "
            "--resume, choose another --out, or remove the directory to train anew."
        )
    if run["status"] == FINISHED and not list_checkpoints(out / CHECKPOINTS):
        raise DistillError(
            f"{out} holds {_how_far(run)} without the checkpoint from which it would go on. Train "
            "anew into another --out."
        )
    if run["cache"].get("order_sha256") not in (None, order_sha256(reader)):
        raise DistillError(
            f"the documents of the cache at {config.cache} stand in other shards than in the one "
            f"at {run['cache'].get('path')}, with which the run in {out} was started. The order of "
            "an epoch follows from them: some documents would be trained on twice and others "
            "never. Use the cache it was started with, or choose another --out."
        )
    return {**run, "status": RUNNING, "recipe": asdict(config.recipe)}


def _how_far(run: dict[str, Any]) -> str:
    if run["status"] == FINISHED:
        return f"a run that has finished after {run['steps']} steps"
    return "an unfinished run"


def is_finished(run: dict[str, Any], config: TrainConfig, reader: CacheReader) -> bool:
    """Whether a run has come to the end of what is asked for, which may be more epochs.

    Raises:
        DistillError: it is another run, or has gone further than that.
    """
    require_same_run(run, config, reader)
    if run["status"] != FINISHED:
        return False
    if run.get("stopped_early"):
        return True
    asked = planned_steps(reader, config.recipe)
    if asked < run["steps"]:
        raise DistillError(
            f"{config.out} holds {_how_far(run)}, but the recipe asks for {asked}. Choose another "
            "--out, or give it more --epochs or --max-steps."
        )
    return asked == run["steps"]


def require_same_run(run: dict[str, Any], config: TrainConfig, reader: CacheReader) -> None:
    """Raises DistillError, naming the fields, unless a run has this recipe and this cache.

    Its length may be another one, where the recipe's other fields mean the same at any length.
    """
    # What a recipe did not know when the run was started had its default.
    defaults = {f.name: f.default for f in fields(config.recipe) if f.default is not MISSING}
    recipe, before = _as_json(asdict(config.recipe)), {**_as_json(defaults), **run["recipe"]}
    fields_differing = [f for f in {**recipe, **before} if before.get(f) != recipe.get(f)]
    only_length = bool(fields_differing) and set(fields_differing) <= {"epochs", "max_steps"}
    if only_length and config.recipe.may_change_length:
        fields_differing = []
    differing = [
        f"recipe.{field} was {before.get(field)!r} and is {recipe.get(field)!r}"
        for field in fields_differing
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
            f"{config.out} holds another run: {'; '.join(differing)}. "
            f"{_FIXED_LENGTH if only_length else ''}"
            "Use the recipe and the cache it was started with, or choose another --out."
        )


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """What is read back of them from a JSON file: tuples are lists there."""
    return json.loads(json.dumps(values))


def remove_leftovers(out: Path) -> None:
    """Delete what killed runs left half-written of the files that every run writes."""
    for name in (RUN_FILE, METRICS_FILE, SAMPLES_FILE):
        for path in out.glob(f"{name}.*{PARTIAL_SUFFIX}"):
            path.unlink(missing_ok=True)


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
        _write_student(tmp, run, student, tokenizer_path)
        (tmp / "README.md").write_text(card, encoding="utf-8")
    for path in staged.iterdir():
        path.replace(out / path.name)
    staged.rmdir()
    write_json(out / RUN_FILE, {**run, "status": FINISHED}, OSError)
    remove_checkpoints(out / CHECKPOINTS, kept=1)


def save_best(
    out: Path, run: dict[str, Any], *, step: int, student: Any, tokenizer_path: Path
) -> None:
    """Write a Hugging Face folder of the weights as they are, which `settle_best` makes `best/`."""
    waiting = _best_of(out, step)
    with new_directory(waiting, OSError) as tmp:
        _write_student(tmp, run, student, tokenizer_path)
    _remove_waiting(out, but=waiting)


def settle_best(out: Path, best: dict[str, float]) -> None:
    """Make `best/` what a checkpoint says is best, once that is written or when it is gone on from.

    Weights of a better validation that came after it are removed: its step will come again.

    Args:
        best: of the checkpoint's `TrainState`; empty before the first.
    """
    waiting = _best_of(out, int(best["step"])) if best else None
    _remove_waiting(out, but=waiting)
    if waiting is not None and waiting.is_dir():
        if (out / BEST).exists():
            shutil.rmtree(out / BEST)
        waiting.replace(out / BEST)


def _best_of(out: Path, step: int) -> Path:
    return out / f"best-of-step-{step:08d}"


def _remove_waiting(out: Path, *, but: Path | None) -> None:
    for path in out.iterdir():
        name = path.name.removesuffix(PARTIAL_SUFFIX)
        if re.fullmatch(r"best-of-step-\d{8,}", name) and path != but:
            shutil.rmtree(path)


def _write_student(folder: Path, run: dict[str, Any], student: Any, tokenizer_path: Path) -> None:
    student.save_pretrained(folder, state_dict=merged_state(student))
    # safetensors writes for the owner alone; a run is shared like the files beside it.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    export_tokenizer(
        tokenizer_path,
        folder,
        prefix_ids=run["cache"]["identity"].get("texts", {}).get("prefix_ids", ()),
        num_positions=max_positions_of(student),
    )


def _require_empty(out: Path) -> None:
    names = sorted(path.name for path in out.iterdir())
    foreign = [name for name in names if name != LOCK_NAME and not name.endswith(PARTIAL_SUFFIX)]
    if foreign:
        raise DistillError(
            f"{out} is not empty and holds no run (found {', '.join(foreign[:3])}). "
            "Choose another --out, or empty the directory."
        )
