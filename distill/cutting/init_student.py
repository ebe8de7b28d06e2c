"""A student's first weights from the teacher's own: runs once, where the teacher is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from cache.machine.durable import new_directory, write_json
from cache.machine.precision import precision_named, resolve_dtype
from cache.reading.reader import CacheReader
from cache.teacher.load import load_causal_lm, load_tokenizer
from cache.teacher.teacher import Teacher, max_positions_of
from distill.cutting.choose import (
    block_influences,
    by_influence,
    by_kl,
    divergence,
    evenly_spaced,
    require_number,
    teacher_log_probs,
)
from distill.cutting.documents import Texts, cached_texts, dataset_texts
from distill.cutting.narrow import largest, measure_magnitudes, narrow, require_widths
from distill.cutting.passes import OnMeasured, probe_ids
from distill.cutting.reconstruct import flows_of, reconstruct, require_fit
from distill.errors import DistillError
from distill.learning.blocks import blocks_of, keep_blocks, only_blocks, require_kept
from distill.learning.causal_lm import plain_head
from distill.settings.cut import CutConfig
from distill.settings.origin import STUDENT_FILE, StudentOrigin


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """A student that was cut."""

    out: Path
    """Its folder."""
    origin: StudentOrigin
    """Where it comes from."""
    num_parameters: int
    """Its weights, a head tied to the embedding counted once."""


def init_student(
    config: CutConfig, on_measured: OnMeasured = lambda done, total: None
) -> CutResult:
    """Cut a student from a teacher, and write it as a folder that `train --student` takes.

    The student computes what the teacher would with its other layers left out, and then with the
    other neurons and heads of those that are left silent; where it is reconstructed, what
    `distill.cutting.reconstruct` makes of that.

    Args:
        on_measured: called with how many measurements of a choice are done, of how many.

    Raises:
        DistillError: the teacher's parts cannot be told or are too few, its head is not plain, its
            cuts cannot be fitted (`require_fit`), the cache is of another teacher, or `out` is
            taken.
        CacheError: the teacher, the cache or the dataset cannot be read.
    """
    if config.out.exists() and any(config.out.iterdir()):
        raise DistillError(f"{config.out} is not empty. Choose another --out.")
    tokenizer = load_tokenizer(config.teacher, config.revision)
    model, sha256, (texts, more) = _load(config, tokenizer)
    num_layers = len(blocks_of(model))
    require_widths(model, num_neurons=config.feed_forward, num_kv_heads=config.kv_heads)
    if config.reconstruct:
        require_fit(model, more)
    expected = teacher_log_probs(model, texts)
    kept = _kept(config, model, texts, expected, on_measured)
    flows = flows_of(model, more, on_measured)
    keep_blocks(model, kept)
    narrowed = _narrow(config, model, texts, on_measured)
    if flows:
        reconstruct(model, flows, kept, on_measured)
    measured_on = config.dataset if config.cache is None else str(config.cache)
    origin = StudentOrigin(
        teacher=config.teacher,
        teacher_sha256=sha256,
        teacher_layers=num_layers,
        kept_layers=tuple(kept),
        chosen_by=_chosen_by(config),
        kl_before_training=divergence(model, texts, expected) if texts else None,
        measured_on=measured_on,
        reconstructed_on=sum(map(len, more)) if flows else None,
        **narrowed,
    )
    with new_directory(config.out, DistillError) as tmp:
        model.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)
        write_json(tmp / STUDENT_FILE, asdict(origin), DistillError)
    return CutResult(out=config.out, origin=origin, num_parameters=model.num_parameters())


def _load(config: CutConfig, tokenizer) -> tuple[Any, str, tuple[Texts, Texts]]:
    """The teacher, the hash of its weights, and the texts to measure and to fit on."""
    if config.cache is None:
        model, sha256 = _load_teacher(config, config.dtype)
        if config.dataset is None:
            return model, sha256, ([], [])
        return model, sha256, dataset_texts(config, tokenizer, max_positions_of(model))
    with CacheReader(config.cache) as reader:
        found = reader.identity
        model, sha256 = _load_teacher(config, precision_named(found.dtype))
        if found.teacher_sha256 != sha256:
            raise DistillError(
                f"the cache at {config.cache} was built with another teacher ({found.teacher}): "
                f"its weights have the hash {found.teacher_sha256[:12]}, those of "
                f"{config.teacher} {sha256[:12]}. Give that teacher, or leave --cache out."
            )
        return model, sha256, cached_texts(reader, config.num_tokens, config.reconstruct)


def _load_teacher(config: CutConfig, precision: str) -> tuple[Any, str]:
    model = load_causal_lm(config.teacher, revision=config.revision, dtype=resolve_dtype(precision))
    plain_head(model, probe_ids(model).unsqueeze(0))
    return model, Teacher(model, check=False).weights_sha256


def _kept(
    config: CutConfig,
    model: PreTrainedModel,
    texts: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    on_measured: OnMeasured,
) -> list[int]:
    num_layers = len(blocks_of(model))
    among = range(num_layers) if config.kept is None else config.kept
    require_kept(among, num_layers)
    if config.num_layers is None:
        return list(among)
    require_number(len(among), config.num_layers)
    with only_blocks(model, among):
        if config.choose == "influence":
            influences = block_influences(model, texts, on_measured)
            chosen = by_influence(influences, config.num_layers)
        elif config.choose == "kl":
            chosen = by_kl(model, texts, expected, config.num_layers, on_measured)
        else:
            chosen = evenly_spaced(len(among), config.num_layers)
    return [among[number] for number in chosen]


def _chosen_by(config: CutConfig) -> str:
    if config.chooses_layers:
        return config.choose
    return "all" if config.kept is None else "hand"


def _narrow(
    config: CutConfig,
    model: PreTrainedModel,
    texts: Sequence[torch.Tensor],
    on_measured: OnMeasured,
) -> dict[str, Any]:
    """Take out neurons and heads; what `student.json` says of them."""
    if not config.narrows:
        return {}
    found = measure_magnitudes(
        model,
        texts,
        neurons=config.feed_forward is not None,
        kv_heads=config.kv_heads is not None,
        on_measured=on_measured,
    )
    neurons = kv_heads = None
    told: dict[str, Any] = {}
    if config.feed_forward is not None:
        neurons = largest(found.neurons, config.feed_forward)
        told["teacher_feed_forward"] = len(found.neurons[0])
        told["feed_forward"] = config.feed_forward
    if config.kv_heads is not None:
        kv_heads = largest(found.kv_heads, config.kv_heads)
        told["teacher_kv_heads"] = len(found.kv_heads[0])
        told["kept_kv_heads"] = tuple(map(tuple, kv_heads))
    narrow(model, neurons=neurons, kv_heads=kv_heads)
    return told
