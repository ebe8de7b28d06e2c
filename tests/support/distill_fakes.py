"""A cache in memory with what `CacheReader` promises, and a teacher simple enough to imitate."""

import resource
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cache.data.documents import completion_marks
from cache.reading.reader import CachedDocuments
from cache.targets.format import TargetFormat
from cache.targets.soft_targets import SoftTargets
from cache.targets.tail_mass import NODES
from cache.targets.tails import EvenTail
from distill.settings.config import TrainConfig
from distill.settings.recipe import Recipe

METRICS = "metrics.jsonl"


VOCAB_SIZE = 64
END_OF_TEXT = "<|endoftext|>"


def write_tokenizer(folder: Path, vocab_size: int = VOCAB_SIZE) -> Path:
    """A tokenizer of words w1, w2, … whose end of text is id 0."""
    words = {END_OF_TEXT: 0, **{f"w{number}": number for number in range(1, vocab_size)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT
    )
    fast.save_pretrained(folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class FakeIdentity:
    teacher: str = "example/bigram-teacher"
    teacher_sha256: str = "of-the-bigrams"
    dataset: str = "example/problems"
    template: str = "instruction"
    vocab_size: int = VOCAB_SIZE
    max_length: int = 40
    targets: TargetFormat = TargetFormat(top_k=8, tail="mass")


class FakeReader:
    """Documents whose teacher knows only which token tends to follow which."""

    def __init__(
        self,
        folder: Path,
        *,
        num_train: int = 24,
        num_validation: int = 6,
        identity_hash: str = "fake-identity",
        **identity: object,
    ) -> None:
        self.path = folder
        self.identity = FakeIdentity(**identity)
        self.identity_hash = identity_hash
        self.vocab_size = self.identity.vocab_size
        self.max_length = self.identity.max_length
        self.created: dict[str, object] = {}
        self.tokenizer_path = folder / "tokenizer"
        if not self.tokenizer_path.is_dir():
            write_tokenizer(self.tokenizer_path)
        generator = np.random.default_rng(0)
        self._table = torch.from_numpy(3 * generator.standard_normal((self.vocab_size,) * 2))
        counts = {"train": num_train, "validation": num_validation}
        self._documents = {
            split: [self._document(generator) for _ in range(count)]
            for split, count in counts.items()
            if count
        }
        self.splits = list(self._documents)
        self.num_reads = 0

    def _document(self, generator: np.random.Generator) -> np.ndarray:
        body = generator.integers(1, self.vocab_size, generator.integers(6, self.max_length))
        return np.append(body, 0)

    def num_documents(self, split: str) -> int:
        return len(self._documents[split])

    def document_lengths(self, split: str) -> np.ndarray:
        return np.array([len(document) for document in self._documents[split]], dtype=np.int64)

    def document_blocks(self, split: str) -> np.ndarray:
        return np.arange(self.num_documents(split)) // 7

    def read(self, split: str, indices: list[int]) -> CachedDocuments:
        self.num_reads += 1
        documents = [self._documents[split][index] for index in indices]
        lengths = np.array([len(document) for document in documents])
        before = np.concatenate([document[:-1] for document in documents])
        return CachedDocuments(
            task_ids=np.array([600 + index for index in indices], dtype=np.int64),
            token_ids=np.concatenate(documents).astype(np.int64),
            token_offsets=np.concatenate([[0], np.cumsum(lengths)]),
            prompt_lengths=lengths // 2,
            marks=np.concatenate([completion_marks(n, n // 2) for n in lengths.tolist()]),
            targets=self._targets(self._table[torch.from_numpy(before)].float()),
        )

    def _targets(self, logits: torch.Tensor) -> SoftTargets:
        logprobs = logits.log_softmax(-1)
        topk_logprobs, topk_ids = logprobs.topk(self.identity.targets.top_k, dim=-1)
        tail = logprobs.scatter(-1, topk_ids, -torch.inf)
        return SoftTargets(
            vocab_size=self.vocab_size,
            topk_ids=topk_ids,
            topk_logprobs=topk_logprobs,
            tail=EvenTail(
                num_tokens=self.vocab_size,
                log_mass=torch.stack([(beta * tail).logsumexp(-1) for beta in NODES], -1),
            ),
        )


def small_recipe(**changed: object) -> Recipe:
    """A recipe that trains in a second, and asks for no completions, which take longer."""
    values = {
        "name": "small",
        "student": "2x32x2",
        "temperature": 2.0,
        "alpha": 0.5,
        "epochs": 2,
        "batch_size": 2,
        "accumulate": 2,
        "lr": 1e-3,
        "sample_prompts": 0,
    }
    return Recipe(**{**values, **changed})


def config_for(
    reader: "FakeReader", out: Path, *, resume: bool = False, **recipe: object
) -> TrainConfig:
    """A small recipe on a fake cache, without W&B."""
    return TrainConfig(
        cache=reader.path, recipe=small_recipe(**recipe), out=out, resume=resume, wandb="disabled"
    )


class Interrupt:
    """A reader that is interrupted after some reads."""

    def __init__(self, reader, reads, error):
        self._reader, self._left, self._error = reader, reads, error

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def read(self, split, indices):
        self._left -= 1
        if self._left < 0:
            raise self._error
        return self._reader.read(split, indices)


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@contextmanager
def files_of_at_most(num_bytes):
    """Writing past so many bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
