"""A student's first weights from the teacher's own: runs once, where the teacher is."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cache.machine.durable import new_directory, write_json
from cache.machine.precision import precision_named, resolve_dtype
from cache.reading.reader import CacheReader
from cache.teacher.load import load_causal_lm, load_tokenizer
from cache.teacher.teacher import Teacher
from distill.cutting.choose import (
    block_influences,
    by_influence,
    by_kl,
    divergence_of,
    evenly_spaced,
    require_number,
)
from distill.errors import DistillError
from distill.learning.blocks import blocks_of, keep_blocks, require_kept
from distill.learning.causal_lm import PROBE_TOKENS, plain_head
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
    config: CutConfig, on_measured: Callable[[int, int], None] = lambda done, total: None
) -> CutResult:
    """Cut a student from a teacher, and write it as a folder that `train --student` takes.

    The student computes what the teacher would with its other layers left out.

    Args:
        on_measured: called with how many measurements of `kl` are done, of how many.

    Raises:
        DistillError: the teacher's layers cannot be told or are too few, its head is not plain, the
            cache is of another teacher, or `out` is taken.
        CacheError: the teacher or the cache cannot be read.
    """
    if config.out.exists() and any(config.out.iterdir()):
        raise DistillError(f"{config.out} is not empty. Choose another --out.")
    tokenizer = load_tokenizer(config.teacher, config.revision)
    model, sha256, texts = _load(config)
    kept = _kept(config, model, texts, on_measured)
    kl = divergence_of(model, texts, kept) if texts else None
    num_layers = len(blocks_of(model))
    keep_blocks(model, kept)
    origin = StudentOrigin(
        teacher=config.teacher,
        teacher_sha256=sha256,
        teacher_layers=num_layers,
        kept_layers=tuple(kept),
        chosen_by="hand" if config.kept is not None else config.choose,
        kl_before_training=kl,
    )
    with new_directory(config.out, DistillError) as tmp:
        model.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)
        write_json(tmp / STUDENT_FILE, asdict(origin), DistillError)
    return CutResult(out=config.out, origin=origin, num_parameters=model.num_parameters())


def _load(config: CutConfig) -> tuple[Any, str, list[torch.Tensor]]:
    """The teacher, the hash of its weights, and the texts to measure on."""
    if config.cache is None:
        return *_load_teacher(config, config.dtype), []
    with CacheReader(config.cache) as reader:
        found = reader.identity
        model, sha256 = _load_teacher(config, precision_named(found.dtype))
        if found.teacher_sha256 != sha256:
            raise DistillError(
                f"the cache at {config.cache} was built with another teacher ({found.teacher}): "
                f"its weights have the hash {found.teacher_sha256[:12]}, those of "
                f"{config.teacher} {sha256[:12]}. Give that teacher, or leave --cache out."
            )
        return model, sha256, _texts(reader, config.num_tokens)


def _load_teacher(config: CutConfig, precision: str) -> tuple[Any, str]:
    model = load_causal_lm(config.teacher, revision=config.revision, dtype=resolve_dtype(precision))
    plain_head(model, torch.arange(PROBE_TOKENS, device=model.device).unsqueeze(0))
    return model, Teacher(model, check=False).weights_sha256


def _kept(
    config: CutConfig,
    model,
    texts: Sequence[torch.Tensor],
    on_measured: Callable[[int, int], None],
) -> list[int]:
    num_layers = len(blocks_of(model))
    if config.kept is not None:
        require_kept(config.kept, num_layers)
        return list(config.kept)
    assert config.num_layers is not None
    require_number(num_layers, config.num_layers)
    if config.choose == "influence":
        return by_influence(block_influences(model, texts), config.num_layers)
    if config.choose == "kl":
        return by_kl(model, texts, config.num_layers, on_measured)
    return evenly_spaced(num_layers, config.num_layers)


def _texts(reader: CacheReader, num_tokens: int) -> list[torch.Tensor]:
    """Documents of the first split, until there are so many tokens."""
    split, texts, total = reader.splits[0], [], 0
    for index in range(reader.num_documents(split)):
        if total >= num_tokens:
            break
        ids = torch.from_numpy(reader.read(split, [index]).token_ids)
        texts.append(ids[: num_tokens - total])
        total += len(texts[-1])
    return texts
