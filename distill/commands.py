"""The commands `init-student`, `train` and `sweep`."""

from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from cache.machine.choices import PRECISIONS, WANDB_MODES
from cache.machine.click_options import ANY_PATH, FILE, FOLDER, add_options
from distill.settings.config import ENGINES, SweepConfig, TrainConfig
from distill.settings.cut import CHOICES, CutConfig
from distill.settings.recipe import (
    BATCHINGS,
    BEST_BY,
    DECAYS,
    DIVERGENCES,
    INITS,
    LOSS_ON,
    LR_SCHEDULES,
    OPTIMIZERS,
    WITHOUT_TEACHER,
)
from distill.settings.recipe_files import find_recipe


def _recipe_overrides(command):
    """Options that replace single fields of a recipe."""
    return add_options(
        command,
        [
            click.option(
                "--student",
                help="44m, 202m, tiny, LAYERSxWIDTHxHEADS, or a folder or hub id of a model.",
            ),
            click.option(
                "--init", type=click.Choice(INITS), help="Of such a model: its own weights, or new."
            ),
            click.option("--temperature", type=float, help="1 to 4."),
            click.option("--temperature-end", type=float, help="Of the last step."),
            click.option("--alpha", type=float, help="Weight of the teacher's term, 0 to 1."),
            click.option("--alpha-end", type=float, help="Of the last step."),
            click.option(
                "--divergence", type=click.Choice(DIVERGENCES), help="See docs/losses.md."
            ),
            click.option("--epochs", type=int),
            click.option("--max-steps", type=int, help="Optimizer steps, if the epochs have more."),
            click.option("--lr", type=float, help="Highest learning rate."),
            click.option("--lr-schedule", type=click.Choice(LR_SCHEDULES)),
            click.option("--warmup-ratio", type=float, help="Share of the steps."),
            click.option("--weight-decay", type=float),
            click.option("--decay", type=click.Choice(DECAYS), help="What decays."),
            click.option("--optimizer", type=click.Choice(OPTIMIZERS)),
            click.option("--clip", type=float, help="Largest gradient norm."),
            click.option("--dropout", type=float),
            click.option("--batch-size", type=int, help="Documents of a microbatch."),
            click.option("--accumulate", type=int, help="Microbatches of an optimizer step."),
            click.option(
                "--batching",
                type=click.Choice(BATCHINGS),
                help="Documents side by side, or end to end.",
            ),
            click.option("--loss-on", type=click.Choice(LOSS_ON), help="Which tokens count."),
            click.option("--precision", type=click.Choice(PRECISIONS)),
            click.option(
                "--gradient-checkpointing/--no-gradient-checkpointing",
                default=None,
                help="Less memory, more time.",
            ),
            click.option(
                "--freeze", multiple=True, help="Parts that do not learn, by name; repeat it."
            ),
            click.option("--lora-rank", type=int, help="Train adapters of this rank alone."),
            click.option("--lora-alpha", type=int, help="Their strength.  [default: 2 x rank]"),
            click.option("--compile/--no-compile", default=None, help="torch.compile the blocks."),
            click.option(
                "--best-by", type=click.Choice(BEST_BY), help="Validation measure of OUT/best."
            ),
            click.option("--early-stopping", type=int, help="Epochs without a better validation."),
            click.option("--validate-every", type=int, help="Steps, within an epoch too."),
            click.option(
                "--validation-documents", type=int, help="Measured of the split.  [default: all]"
            ),
            click.option("--sample-prompts", type=int, help="Completed at each validation."),
            click.option("--seed", type=int),
        ],
    )


@click.command("init-student")
@click.option("--teacher", required=True, help="Hub id, folder or .gguf file.")
@click.option("--revision", help="Branch, tag or commit of the teacher on the hub.")
@click.option("--layers", "num_layers", type=int, help="How many of its layers to keep.  [all]")
@click.option(
    "--keep",
    help="Which, by hand: numbers from 0 on, with commas. With --layers: choose among these.",
)
@click.option(
    "--choose",
    type=click.Choice(CHOICES),
    default=CutConfig.choose,
    help="Which layers: evenly spaced; those that change most; those whose loss costs most.",
)
@click.option(
    "--feed-forward",
    type=int,
    help="Neurons to keep in each layer's feed-forward network: those that add most.  [all]",
)
@click.option(
    "--kv-heads",
    type=int,
    help="Heads of keys and values to keep in each layer, with all queries of each.  [all]",
)
@click.option(
    "--reconstruct",
    metavar="TOKENS",
    default=CutConfig.reconstruct,
    help="Fit what is left to the teacher's states on so many tokens more: no training.  [none]",
)
@click.option(
    "--cache", help="Cache of this teacher: its documents are measured on, its dtype is taken."
)
@click.option(
    "--dataset",
    help="Instead: problems to measure on, a hub id or a JSON-lines file; with --text-field any "
    "texts.",
)
@click.option("--split", default=CutConfig.split, help="Of the dataset.")
@click.option("--text-field", help="Column of the dataset's texts.")
@click.option("--num-tokens", default=CutConfig.num_tokens, help="How many to measure on.")
@click.option(
    "--dtype",
    type=click.Choice(PRECISIONS),
    default=CutConfig.dtype,
    help="Of the weights, where no cache says it.",
)
@click.option("--out", type=FOLDER, required=True, help="Folder of the student.")
def init_student(keep: str | None, cache: str | None, **options):
    """Cut a student from a teacher, as a folder that `train --student` takes.

    Some of its layers, narrower ones, or both. Runs once, where the teacher is. With --cache or
    --dataset it also says what the cut costs before any training, in nats a token.

    \b
    Example:
      python cli.py init-student --teacher bigcode/starcoder2-3b --layers 15 --out runs/half
      python cli.py init-student --teacher bigcode/starcoder2-3b --layers 20 --choose kl \\
          --cache runs/cache --out runs/twenty
      python cli.py init-student --teacher bigcode/starcoder2-3b --feed-forward 8192 --kv-heads 1 \\
          --dataset google-research-datasets/mbpp --reconstruct 50000 --out runs/narrow
      python cli.py train --cache runs/cache --recipe model_44m_t2.0_a0.5 --student runs/half \\
          --alpha 1 --lr 1e-5 --warmup-ratio 0.1 --out runs/half
    """
    from cache.machine.progress import counted_progress
    from cache.remote.local_copy import local_cache
    from distill.cutting.init_student import init_student as cut
    from distill.cutting.tables import cut_table

    config = CutConfig(
        kept=None if keep is None else _numbers(keep),
        cache=None if cache is None else local_cache(cache),
        **options,
    )
    with counted_progress("measuring and fitting", first="loading the teacher") as on_measured:
        result = cut(config, on_measured)
    Console().print(cut_table(result))


def _numbers(words: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{words!r} is not a list like 0,2,5.") from error


@click.command("train")
@click.option("--cache", required=True, help="Cache directory, or URL of one: docs/sharing.md.")
@click.option("--recipe", "recipe_name", required=True, help="Name of a recipe.")
@click.option("--recipes", type=FILE, help="YAML file it stands in.  [default: those shipped]")
@click.option("--out", type=FOLDER, help="Run directory.  [default: runs/NAME]")
@click.option("--labels-alone", is_flag=True, help="Train its baseline, without the teacher.")
@click.option("--resume", is_flag=True, help="Resume, or go on for more --epochs.")
@click.option(
    "--save-every",
    default=TrainConfig.save_every,
    help="Most steps between checkpoints; ten minutes and an epoch end with one too.",
)
@click.option(
    "--wandb", type=click.Choice(WANDB_MODES), help="[default: disabled unless logged in]"
)
@click.option("--wandb-project", default=TrainConfig.wandb_project)
@_recipe_overrides
def train(
    cache: str,
    recipe_name: str,
    recipes: Path | None,
    out: Path | None,
    labels_alone: bool,
    resume: bool,
    save_every: int,
    wandb: str | None,
    wandb_project: str,
    **overrides,
):
    """Train one student from a cache; the teacher is not needed.

    Options left out are the recipe's.

    \b
    Example:
      python cli.py train --cache runs/cache --recipe model_44m_t2.0_a0.5
      python cli.py train --cache runs/cache --recipe model_44m_t2.0_a0.5 --temperature 1.5 \\
          --out runs/warmer
      python cli.py train --cache runs/cache --recipe model_44m_t2.0_a0.5 --labels-alone
    """
    given = {field: value for field, value in overrides.items() if value not in (None, ())}
    recipe = replace(find_recipe(recipe_name, recipes), **given)
    if labels_alone:
        of_teacher = [f"--{name.replace('_', '-')}" for name in WITHOUT_TEACHER if name in given]
        if of_teacher:
            raise click.UsageError(
                f"--labels-alone leaves the teacher's term out, and {', '.join(of_teacher)} with "
                "it: give the one or the other."
            )
        recipe = recipe.labels_alone()
    from cache.remote.local_copy import local_cache

    config = TrainConfig(
        cache=local_cache(cache),
        recipe=recipe,
        out=out or Path("runs") / recipe.name,
        resume=resume,
        save_every=save_every,
        wandb=wandb,
        wandb_project=wandb_project,
    )
    from accelerate import PartialState

    from distill.run.tables import summary_table
    from distill.run.train import train as run_training

    result = run_training(config)
    if PartialState().is_main_process:  # one of those that train together
        Console().print(summary_table(result))


@click.command("sweep")
@click.option("--cache", required=True, help="Cache directory, or URL of one: docs/sharing.md.")
@click.option(
    "--recipes",
    type=ANY_PATH,
    default=Path("starcoder2-mbpp"),
    help="YAML file of recipes, or the name of a shipped one.",
)
@click.option("--out", type=FOLDER, required=True, help="Gets one run directory a recipe.")
@click.option("--only", multiple=True, help="Name of a recipe to run; repeat it for several.")
@click.option("--with-baseline", is_flag=True, help="Train each on labels alone too.")
@click.option("--jobs", default=SweepConfig.jobs, help="Students trained at a time.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default=SweepConfig.engine, help="See docs/clusters.md."
)
@click.option("--ray-address", help="Of the Ray cluster.  [default: this machine alone]")
@click.option("--gpus-per-job", type=float, help="Of a Ray task, 0.5 for two students a GPU.")
@click.option("--cpus-per-job", default=SweepConfig.cpus_per_job, help="Of a Ray task.")
@click.option("--dry-run", is_flag=True, help="Print the runs and their sizes; train nothing.")
@click.option("--teacher-parameters", type=int, help="For the costs.  [default: the cache's]")
@click.option(
    "--wandb", type=click.Choice(WANDB_MODES), help="[default: disabled unless logged in]"
)
@click.option("--wandb-project", default=SweepConfig.wandb_project)
def sweep(cache: str, dry_run: bool, **options):
    """Train every recipe of a file from one cache.

    Finished runs are skipped, unfinished ones are resumed; a failed run does not stop the others.

    Jobs share the GPUs in turn, one GPU each, or divide the CPU's threads.

    \b
    Example:
      python cli.py sweep --cache runs/cache --recipes recipes/starcoder2-mbpp.yaml --out runs
      python cli.py sweep --cache runs/cache --recipes small-1-steps --out runs --jobs 4
      python cli.py sweep --cache runs/cache --recipes small-1-steps --out runs --with-baseline
      python cli.py sweep --cache /shared/cache --out /shared/runs --engine ray --gpus-per-job 0.5
    """
    from cache.remote.local_copy import local_cache

    config = SweepConfig(cache=local_cache(cache), **options)
    from distill.sweeps.sweep import plan_sweep
    from distill.sweeps.sweep import sweep as run_sweep
    from distill.sweeps.tables import plan_table

    if dry_run:
        Console().print(plan_table(plan_sweep(config)))
        return
    result = run_sweep(config)
    if result.failed:
        names = ", ".join(run.name for run in result.failed)
        raise click.ClickException(f"{len(result.failed)} of {len(result.runs)} failed: {names}.")
