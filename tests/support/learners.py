"""A learner on a cache in memory, its batches and the gradient of a step."""

from transformers import AutoTokenizer

from distill.batches.batch import collate
from distill.learning.learner import Learner
from distill.learning.precision import start_accelerator
from distill.learning.student import build_student
from distill.run.checkpoint import seed_process
from distill.settings.shapes import parse_shape
from tests.support.distill_fakes import small_recipe


def make_learner(reader, *, model=None, precision="fp32", **recipe):
    """`model`: a student in place of the recipe's."""
    seed_process(0, rank=0)
    recipe = small_recipe(**{"dropout": 0.0, **recipe})
    student = model or build_student(
        parse_shape(recipe.student),
        vocab_size=reader.vocab_size,
        max_length=reader.max_length,
        tokenizer=AutoTokenizer.from_pretrained(reader.tokenizer_path),
        dropout=recipe.dropout,
    )
    return Learner(student, recipe, start_accelerator(precision), num_steps=10)


def batches(reader, groups, **options):
    return [collate(reader.read("train", group), pad_id=0, **options) for group in groups]


def gradient(learner, microbatches):
    losses = learner.accumulate_gradients(microbatches, step=1)
    gradients = [parameter.grad.clone() for parameter in learner.student.parameters()]
    return losses, gradients
