"""The model card of a finished run, from its facts alone."""

import re
from typing import Any

from distill.settings.recipe import recipe_from_mapping
from distill.settings.shapes import names_model, parse_shape

LABELS_ALONE = "labels alone"
"""What a student is said to learn from that learns nothing from the teacher."""
YARDSTICK_NAMES = {
    "kl": "KL from the teacher, T = 1",
    "cross_entropy": "cross-entropy, all tokens",
    "top1": "top-1 agreement",
}
"""Of a validation: what compares students of any recipes."""
LOSS_NAMES = {
    "loss": "loss (weighted)",
    "distillation_loss": "distillation",
    "ce_loss": "cross-entropy",
}


def model_card(run: dict[str, Any]) -> str:
    """README.md of a run: what it is, how it was made, how to load it, what it cannot do.

    Args:
        run: the content of `run.json`.
    """
    recipe, identity = run["recipe"], run["cache"]["identity"]
    teacher = identity.get("teacher", "unknown")
    imitates = recipe_from_mapping(recipe).learns_from_teacher
    sections = [
        _front_matter(teacher if imitates else None),
        f"# {recipe['name']}\n\n{_origin(run)} {_aim(teacher, imitates)}",
        f"## Load it\n\n```python\n{loading_code(asked_in_chat(identity))}```",
        "## Training\n\n" + _table({**_cache_facts(run), **_recipe_facts(recipe), **_cost(run)}),
        _losses(run),
        _limits(run),
        _licence(teacher, imitates) + _inherited(run),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(teacher: str | None) -> str:
    """Of a student of a teacher, or of none."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if teacher is not None and re.fullmatch(r"[A-Za-z0-9][\w-]*/[\w.-]+", teacher):
        lines.append(f"base_model: {teacher}")
    lines.append(f"tags: [{'code' if teacher is None else 'distillation, code'}, logitcache]")
    return "\n".join(["---", *lines, "---"])


def _aim(teacher: str, imitates: bool) -> str:
    """What the student was trained for, as the end of a sentence, and from what."""
    if not imitates:
        return (
            f"on {LABELS_ALONE}: the tokens of the documents, without the next-token distributions "
            f"of `{teacher}`. It is the baseline of students that learn from those."
        )
    return (
        f"to imitate the next-token distributions of `{teacher}`. The teacher ran once; the "
        "student learned from a cache of its soft targets."
    )


def _origin(run: dict[str, Any]) -> str:
    """What was trained, from which weights, and how many of them learned."""
    recipe, num_parameters = run["recipe"], run["num_parameters"]
    num_trained, words = run.get("num_trained", num_parameters), _beginning(recipe, num_parameters)
    if num_trained == num_parameters:
        return words
    return f"{words} (parameters that learned: {trained_words(num_trained, recipe)})"


def trained_words(num_trained: int, recipe: dict[str, Any]) -> str:
    """How many parameters learned, and whether as adapters."""
    rank = recipe.get("lora_rank")
    return f"{num_trained:,}" + (f", LoRA adapters of rank {rank}, merged" if rank else "")


def _beginning(recipe: dict[str, Any], num_parameters: int) -> str:
    student, size = recipe["student"], f"{num_parameters:,} parameters"
    if names_model(student):
        if recipe.get("init") == "random":
            return f"A model of {size} and `{student}`'s configuration, trained from random weights"
        return f"A model of {size}, trained from the weights of `{student}`"
    family = {"gpt2": "GPT-2", "llama": "Llama"}[parse_shape(student).family]
    return f"A {family}-shaped model of {size}, trained from random weights"


def asked_in_chat(identity: dict[str, Any]) -> bool:
    """Whether training's texts were written in the tokenizer's chat template."""
    return bool(identity.get("texts", {}).get("chat_template_sha256"))


def loading_code(in_chat: bool = False) -> str:
    """Python that opens the folder it runs in and has a text written as training's were."""
    prompt = _CHAT_PROMPT if in_chat else _TEXT_PROMPT
    return _LOADING.replace("PROMPT", prompt)


_TEXT_PROMPT = 'tokenizer("def add(a, b):", return_tensors="pt")'
_CHAT_PROMPT = """tokenizer.apply_chat_template(
    [{"role": "user", "content": "Write a function that adds two numbers."}],
    add_generation_prompt=True, return_dict=True, return_tensors="pt",
)"""
_LOADING = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = PROMPT
ids = model.generate(prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=64)
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""


def _cache_facts(run: dict[str, Any]) -> dict[str, Any]:
    identity = run["cache"]["identity"]
    known = {**identity["targets"], **identity}
    names = ("teacher", "revision", "dataset", "template", "max_length", "top_k", "tail")
    facts = {name.replace("_", " "): known[name] for name in names if known.get(name)}
    return {**facts, "cache identity": run["cache"]["identity_hash"]}


def _recipe_facts(recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        name.replace("_", " "): value
        for name, value in recipe.items()
        if name not in ("name", "precision") and value is not None
    }


def _cost(run: dict[str, Any]) -> dict[str, Any]:
    device, versions = run["device"], run["versions"]
    return {
        "optimizer steps": run["steps"],
        "time in steps": f"{run['seconds']:,.1f} s, {run['tokens_per_s']:,.0f} tokens/s",
        "device": f"{device['num_processes']} x {device['name']}, {device['precision']}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _table(facts: dict[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _losses(run: dict[str, Any]) -> str:
    losses = run["losses"]
    has_validation = "val_loss" in losses
    lines = ["## Losses", ""]
    if "val_kl" in losses:
        lines += [
            f"On all tokens of {_measured_on(run)}, whatever a student is trained with:",
            "",
            "| | validation |",
            "|---|---|",
            *(
                f"| {label} | {shown_yardstick(name, losses[f'val_{name}'])} |"
                for name, label in YARDSTICK_NAMES.items()
            ),
            "",
        ]
    after = f", and after it on {_measured_on(run)}" if has_validation else ""
    lines += [
        f"This run's own losses, in nats a token: mean over the last epoch{after}. "
        + _own_terms(run["recipe"]),
        "",
        "| | train | validation |",
        "|---|---|---|",
    ]
    for name, label in LOSS_NAMES.items():
        validation = f"{losses[f'val_{name}']:.4f}" if has_validation else "not measured"
        lines.append(f"| {label} | {losses[f'train_{name}']:.4f} | {validation} |")
    if run.get("best"):
        lines += ["", f"The weights here are the last. {best_words(run['best'], _best_by(run))}."]
    if run.get("stopped_early"):
        lines += ["", f"Training stopped early, after step {run['steps']:,}."]
    curves = "[training](plots/train_loss.png)"
    curves += " and [validation](plots/val_loss.png)" if has_validation else ""
    lines += ["", f"Curves: {curves}; every step is in `metrics.jsonl`."]
    return "\n".join(lines)


def _measured_on(run: dict[str, Any]) -> str:
    most = run["recipe"].get("validation_documents")
    part = "" if most is None else f"{most:,} documents at most of "
    return f"{part}the validation split"


def _best_by(run: dict[str, Any]) -> str:
    return run["recipe"].get("best_by", "kl")


def best_words(best: dict[str, float], best_by: str) -> str:
    """When the best validation was, what it measured, and where its weights are."""
    value = shown_yardstick(best_by, best["value"])
    name = {**YARDSTICK_NAMES, **LOSS_NAMES}[best_by]
    if not best["step"]:
        return (
            f"Best: before the first step, {name} {value}, in best/. Training made it worse: try a "
            "tenth of lr, and a warmup_ratio"
        )
    when = f"epoch {best['epoch']:.0f}, step {best['step']:,.0f}"
    return f"Best: {when}, {name} {value}, in best/"


def _own_terms(recipe: dict[str, Any]) -> str:
    """At which temperature and alpha losses are, and whose they may be compared with."""
    moved, ends = [], []
    for name in ("temperature", "alpha"):
        end = recipe.get(f"{name}_end")
        start, end = recipe[name], recipe[name] if end is None else end
        moved += [f"{name} went from {start:g} to {end:g}"] if start != end else []
        ends.append(f"{name} {end:g}")
    words = f"Validation is at {' and '.join(ends)}"
    if moved:
        words += f", the last step's; in training {' and '.join(moved)}"
    return f"{words}. Runs with other values, divergences or `loss_on` have other losses."


def shown_yardstick(name: str, value: float) -> str:
    """A yardstick in its unit: a share in per cent, else nats a token."""
    return f"{value:.1%}" if name == "top1" else f"{value:.4f}"


def _limits(run: dict[str, Any]) -> str:
    times = run["recipe"]["epochs"]
    documents = f"{run['train_documents']:,} documents of {run['train_tokens']:,} tokens in all"
    seen = f"has seen {documents}, {'once' if times == 1 else f'{times} times'}"
    if run["recipe"].get("max_steps") is not None:
        seen = f"was trained for {run['steps']:,} optimizer steps on {documents}"
    return (
        "## Limits\n\n"
        f"A small model that {seen}. "
        "It is made to study distillation, not to write programs: measure before "
        "you expect any that run, and never run what it writes outside a sandbox. It knows no "
        "other languages than those documents, repeats the teacher's mistakes and biases, and may "
        "repeat text it was trained on."
    )


def _inherited(run: dict[str, Any]) -> str:
    """Whose licence the first weights bring with them; empty where they were random."""
    recipe, origin = run["recipe"], run.get("origin")
    if not names_model(recipe["student"]) or recipe.get("init") == "random":
        return ""
    whose = origin["teacher"] if origin else recipe["student"]
    return f"\n\nThe first weights are those of `{whose}`; its licence binds what is made of them."


def _licence(teacher: str, imitates: bool) -> str:
    if not imitates:
        return (
            "## Licence\n\n"
            "The weights were trained on documents alone. The licence of these applies to what is "
            f"repeated from them, and that of `{teacher}` where it wrote them. Read both before "
            "you publish or use this model; the code that trained it, under Apache-2.0, grants no "
            "right to the weights."
        )
    return (
        "## Licence\n\n"
        f"The weights were trained on outputs of `{teacher}`. Its licence may bind models made "
        "from its outputs (BigCode OpenRAIL-M, for one, passes its use restrictions on), and the "
        "licence of the problems applies to what is repeated from them. Read both before you "
        "publish or use this model; the code that trained it, under Apache-2.0, grants no right "
        "to the weights."
    )
