"""What a student is and what its training took, as its run folder tells."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN_FILE = "run.json"  # beside a student's weights, as training leaves it
CUT_FILE = "student.json"  # beside those of a student that was cut and not trained


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a student was made."""

    start: str
    """Its first weights: random ones of a shape, a model's, or some of the teacher's layers."""
    taught: str
    """Temperature and weight of the teacher's term, or labels alone."""
    tokens: int
    """Tokens trained on, epochs counted."""
    seconds: float
    """Spent in optimizer steps."""
    device: str
    """On which."""
    from_teacher: bool = False
    """Whether its first weights are the teacher's own, as far as it has them."""


def read_training(source: str) -> Training | None:
    """The training of a run folder or of its `best`, or the cut of an untrained student's folder;
    None of anything else."""
    folder = Path(source)
    for path in (folder / RUN_FILE, folder.parent / RUN_FILE):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            return Training(
                start=_start(run),
                taught=_taught(run["recipe"]),
                # Runs of earlier versions say how fast they were, and how long it took.
                tokens=run.get("trained_tokens") or round(run["tokens_per_s"] * run["seconds"]),
                seconds=run["seconds"],
                device=run["device"]["name"],
                from_teacher=_was_cut(run),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # another kind of folder, or a run that has not ended
    try:
        origin = json.loads((folder / CUT_FILE).read_text(encoding="utf-8"))
        return Training(
            start=_cut(origin), taught="nothing", tokens=0, seconds=0.0, device="",
            from_teacher=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cut(origin: Mapping[str, Any]) -> str:
    kept, chosen = len(origin["kept_layers"]), origin["chosen_by"]
    fitted = ", reconstructed" if origin.get("reconstructed_on") else ""
    if chosen == "all":
        return f"all {kept} layers of the teacher, narrower{fitted}"
    return f"{kept} of the teacher's {origin['teacher_layers']} layers, by {chosen}{fitted}"


def _was_cut(run: Mapping[str, Any]) -> bool:
    return bool(run.get("origin")) and run["recipe"].get("init") != "random"


def _start(run: Mapping[str, Any]) -> str:
    recipe = run["recipe"]
    if _was_cut(run):
        return _cut(run["origin"])
    student = recipe["student"]
    if run.get("from_model", "/" in student):  # older runs do not say
        weights = "random weights" if recipe.get("init") == "random" else "its weights"
        return f"{Path(student).name}, {weights}"
    return f"{student}, random weights"


def _taught(recipe: Mapping[str, Any]) -> str:
    ends = (recipe.get("alpha_end"), recipe.get("temperature_end"))
    if recipe["alpha"] == 0 and not ends[0]:
        return "labels alone"
    words = [_course("T", recipe["temperature"], ends[1]), _course("α", recipe["alpha"], ends[0])]
    if recipe.get("divergence", "forward_kl") != "forward_kl":
        words.append(recipe["divergence"].replace("_", " "))
    return ", ".join(words)


def _course(name: str, first: float, last: float | None) -> str:
    return f"{name} = {first:g}" + (f" to {last:g}" if last not in (None, first) else "")
