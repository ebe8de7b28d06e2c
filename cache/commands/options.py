"""The options that say what is read: problems, or the texts of a corpus."""

from dataclasses import fields
from functools import wraps

import click
from click.core import ParameterSource

from cache.building.config import BuildConfig
from cache.building.mixture import Mixture
from cache.data.corpus import Corpus
from cache.data.problems import LONG_DOCUMENTS
from cache.data.sft import Sft
from cache.data.templates import CHAT, PAIR, TEMPLATES
from cache.data.text_format import BOS_CHOICES
from cache.errors import CacheError
from cache.machine.choices import PRECISIONS
from cache.machine.click_options import add_options
from cache.targets.format import TAIL_KL, TAILS, TargetFormat


def data_options(command, default: str | None):
    """Options of the data, handed on as `dataset` or `corpus`, `splits` and `limit`.

    Args:
        default: the dataset where none is named.
    """

    @wraps(command)
    def with_corpus(**options):
        return command(**_with_corpus(options))

    return add_options(
        with_corpus,
        [
            click.option(
                "--dataset",
                "datasets",
                multiple=True,
                default=(default,) if default else (),
                help="Hub id, or a JSON-lines file; repeat it for several. Of a corpus also a "
                "folder or a .parquet, .csv or .txt file.",
            ),
            click.option(
                "--split",
                "splits",
                multiple=True,
                help="Repeat it for several."
                + ("  [default: train and validation; of a corpus, train]" if default else ""),
            ),
            click.option(
                "--text-field",
                help="Column of the texts: the dataset is a corpus, packed into documents of "
                "--max-length tokens.",
            ),
            click.option(
                "--sft",
                is_flag=True,
                help="The dataset holds conversations (messages or conversations), prompts with "
                "completions, or instructions with outputs: one document a row.",
            ),
            click.option(
                "--weight",
                "weights",
                type=float,
                multiple=True,
                help="Share of the texts of a corpus, or of the training problems, taken from each "
                "--dataset, in their order.  [default: even; of problems, all there are]",
            ),
            click.option(
                "--dataset-config",
                "names",
                multiple=True,
                help="Of a corpus: config name, for all datasets or once for each.",
            ),
            click.option(
                "--data-dir",
                "data_dirs",
                multiple=True,
                help="Of a corpus: folder inside the dataset, for all or once for each.",
            ),
            click.option(
                "--streaming",
                is_flag=True,
                help="Of a corpus or --sft: read it without downloading it.",
            ),
            click.option(
                "--skip", default=0, help="Of a corpus: pass over the first texts of each split."
            ),
            click.option(
                "--max-tokens", type=int, help="Of a corpus: end each split at so many tokens."
            ),
            click.option(
                "--validation-every",
                type=int,
                help="Of a corpus or --sft: hold out every so many texts as the split validation.",
            ),
            click.option(
                "--limit", type=int, help="Only the first problems, or texts, of each split."
            ),
        ],
    )


def _with_corpus(options: dict) -> dict:
    """The options of a BuildConfig, `corpus` or `dataset` among them."""
    names = [field.name for field in fields(Corpus) if field.name != "sources"]
    asked = {name: options.pop(name) for name in names}
    sources, splits = options.pop("datasets"), options.pop("splits")
    if options.pop("sft", False):
        return _with_sft(options, asked, sources, splits)
    if asked["text_field"] is None:
        several = len(sources) > 1
        given = _given([name for name in names if name != "weights" or not several])
        if given:
            raise CacheError(
                f"{', '.join(_flag(name) for name in given)}: only a corpus takes that.\n"
                "Name the column of its texts with --text-field, or leave it out."
            )
        if several:
            options["mixture"] = Mixture(sources=sources, weights=asked["weights"])
        return {
            **options,
            "dataset": sources[0] if sources else None,
            "splits": splits or BuildConfig.splits,
        }
    require_unset(["template", "long_documents"], "--text-field packs texts as they stand")
    if not _given(["datasets"]):
        raise CacheError("--text-field is given, but no dataset. Name one or more with --dataset.")
    corpus = Corpus(sources=sources, **asked)
    return {**options, "corpus": corpus, "splits": splits or ("train",)}


def _with_sft(options: dict, asked: dict, sources: tuple, splits: tuple) -> dict:
    """The options of a BuildConfig for rows of conversations."""
    names = ("text_field", "weights", "skip", "max_tokens")
    require_unset(list(names), "--sft takes every row as a document")
    if not _given(["datasets"]) or len(sources) != 1:
        raise CacheError("--sft is given; name one dataset with --dataset.")
    if "template" in options and not _given(["template"]):
        options["template"] = CHAT
    sft = Sft(
        source=sources[0],
        name=next(iter(asked["names"]), None),
        data_dir=next(iter(asked["data_dirs"]), None),
        streaming=asked["streaming"],
        validation_every=asked["validation_every"],
    )
    return {**options, "sft": sft, "splits": splits or ("train",)}


def require_given(name: str, reason: str) -> None:
    """Raise CacheError unless the command line names an option."""
    if not _given([name]):
        raise CacheError(f"{reason}; give {_flag(name)}.")


def require_unset(names: list[str], reason: str) -> None:
    """Raise CacheError where the command line sets what another option decides."""
    given = _given(names)
    if given:
        words = ", ".join(_flag(name) for name in given)
        raise CacheError(f"{reason}; leave out {words}, or leave it out.")


def _given(names: list[str]) -> list[str]:
    context = click.get_current_context()
    return [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]


def _flag(name: str) -> str:
    """The option of a parameter, as users type it."""
    parameters = click.get_current_context().command.params
    return next(p.opts[0] for p in parameters if p.name == name)


def _number_or_auto(context, parameter, value: str) -> float | None:
    if value == "auto":
        return None
    return click.FLOAT(value, parameter, context)


def target_options(command):
    """Options that make up a `TargetFormat`, handed on as `targets`."""

    @wraps(command)
    def with_targets(**options):
        given = {field.name: options.pop(field.name) for field in fields(TargetFormat)}
        return command(targets=TargetFormat(**given), **options)

    return add_options(
        with_targets,
        [
            click.option(
                "--top-k",
                default=TargetFormat.top_k,
                help="Most entries stored a row. Without the tail's shape (mass, sampled, "
                "renormalize) 64 are better.",
            ),
            click.option(
                "--top-p", type=float, help="Fewer entries where they hold this much probability."
            ),
            click.option(
                "--logprob-bits",
                type=click.Choice([8, 16]),
                default=TargetFormat.logprob_bits,
                help="8: log-spaced codes; 16: fp16.",
            ),
            click.option(
                "--tail",
                default=TargetFormat.tail,
                type=click.Choice(TAILS),
                help="What is kept of the tokens outside the top-k: their shape, only their mass, "
                "all (from the hidden state), weighted draws, or nothing.",
            ),
            click.option(
                "--tail-rank",
                default=TargetFormat.tail_rank,
                help="Most coefficients of lowrank tails; a teacher's width bounds them too.",
            ),
            click.option(
                "--tail-bytes",
                default="auto",
                callback=_number_or_auto,
                help="Bytes a row that they may take once coded; auto: as many as a KL of "
                f"{TAIL_KL:g} at T = 2 needs with this teacher.",
            ),
            click.option(
                "--tail-samples", default=TargetFormat.tail_samples, help="Draws of a sampled tail."
            ),
        ],
    )


def corpus_options(command):
    """Options that say which teacher reads what, and how; `corpus` is made of those about it."""
    command = data_options(command, BuildConfig.dataset)
    return add_options(
        command,
        [
            click.option(
                "--teacher", default=BuildConfig.teacher, help="Hub id, folder or .gguf file."
            ),
            click.option("--revision", help="Branch, tag or commit of the teacher on the hub."),
            click.option(
                "--template",
                default=BuildConfig.template,
                type=click.Choice([*TEMPLATES, CHAT, PAIR]),
                help="How a problem, or a row of --sft, becomes text; chat: the teacher's own "
                "template.",
            ),
            click.option(
                "--bos",
                default=BuildConfig.bos,
                type=click.Choice(BOS_CHOICES),
                help="Beginning-of-sequence token; auto: as the tokenizer itself does.",
            ),
            click.option(
                "--parse-special",
                is_flag=True,
                help="Take names of special tokens in the data for these tokens.",
            ),
            click.option(
                "--isolate", is_flag=True, help="Of a corpus: packed texts do not see each other."
            ),
            click.option(
                "--max-length", default=BuildConfig.max_length, help="Longest document, in tokens."
            ),
            click.option(
                "--long-documents",
                default=BuildConfig.long_documents,
                type=click.Choice(LONG_DOCUMENTS),
                help="What happens to longer ones.",
            ),
            click.option(
                "--dtype",
                default=BuildConfig.dtype,
                type=click.Choice(PRECISIONS),
                help="auto: bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere.",
            ),
            click.option(
                "--device-map", default=BuildConfig.device_map, help="As in transformers."
            ),
            click.option(
                "--batch-tokens",
                default=BuildConfig.batch_tokens,
                help="Padded tokens of a teacher batch.",
            ),
        ],
    )
