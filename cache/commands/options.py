"""The options that say what is read: problems, or the texts of a corpus."""

from dataclasses import fields
from functools import wraps

import click
from click.core import ParameterSource

from cache.building.config import BuildConfig
from cache.data.corpus import Corpus
from cache.errors import CacheError


def data_options(command, default: str | None):
    """Options of the data, handed on as `dataset` or `corpus`, `splits` and `limit`.

    Args:
        default: the dataset where none is named.
    """

    @wraps(command)
    def with_corpus(**options):
        return command(**_with_corpus(options))

    for option in reversed(
        [
            click.option(
                "--dataset",
                "datasets",
                multiple=True,
                default=(default,) if default else (),
                help="Hub id, or a JSON-lines file. Of a corpus also a folder or a .parquet, "
                ".csv or .txt file; repeat it for several.",
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
                "--weight",
                "weights",
                type=float,
                multiple=True,
                help="Of a corpus: share of the texts, once for each --dataset.  [default: even]",
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
                "--streaming", is_flag=True, help="Of a corpus: read it without downloading it."
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
                help="Of a corpus: hold out every so many texts as the split validation.",
            ),
            click.option(
                "--limit", type=int, help="Only the first problems, or texts, of each split."
            ),
        ]
    ):
        with_corpus = option(with_corpus)
    return with_corpus


def _with_corpus(options: dict) -> dict:
    """The options of a BuildConfig, `corpus` or `dataset` among them."""
    names = [field.name for field in fields(Corpus) if field.name != "sources"]
    asked = {name: options.pop(name) for name in names}
    sources, splits = options.pop("datasets"), options.pop("splits")
    if asked["text_field"] is None:
        given = _given(names) + (["datasets"] if len(sources) > 1 else [])
        if given:
            raise CacheError(
                f"{', '.join(_flag(name) for name in given)}: only a corpus takes so many.\n"
                "Name the column of its texts with --text-field, or leave it out."
            )
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
