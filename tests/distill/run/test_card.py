"""Sentences of a model card: what its losses are at, and what the student has seen."""

from dataclasses import asdict

import pytest

from distill.run.card import model_card
from tests.support.distill_fakes import small_recipe

LOSSES = {
    "train_loss": 3.0, "train_distillation_loss": 4.0, "train_ce_loss": 5.0,
    "val_kl": 1.25, "val_cross_entropy": 2.5, "val_top1": 0.375,
    "val_loss": 6.0, "val_distillation_loss": 7.0, "val_ce_loss": 8.0,
}  # fmt: skip


def card(**recipe):
    return model_card(
        {
            "recipe": asdict(small_recipe(**recipe)),
            "cache": {"identity": {"teacher": "a/b", "targets": {}}, "identity_hash": "hash"},
            "num_parameters": 1000, "train_documents": 2_000_000, "train_tokens": 1_500_000_000,
            "steps": 10, "seconds": 1.0, "tokens_per_s": 1.0, "losses": LOSSES, "versions": {},
            "device": {"num_processes": 1, "name": "cpu", "precision": "fp32"},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, "Validation is at temperature 2 and alpha 0.5. Runs"),
        (
            {"temperature": 4.0, "temperature_end": 1.0, "alpha": 0.9, "alpha_end": 0.1},
            "Validation is at temperature 1 and alpha 0.1, the last step's; in training "
            "temperature went from 4 to 1 and alpha went from 0.9 to 0.1. Runs",
        ),
        (
            {"alpha_end": 0.1},
            "Validation is at temperature 2 and alpha 0.1, the last step's; in training alpha "
            "went from 0.5 to 0.1. Runs",
        ),
    ],
)
def test_losses_are_said_to_be_at_what_they_were_measured_at(recipe, words):
    assert words in card(**recipe)


def test_what_compares_students_comes_first():
    text = card()
    assert text.index("| KL from the teacher, T = 1 | 1.2500 |") < text.index("| loss (weighted)")
    assert "| top-1 agreement | 37.5% |" in text


def test_what_a_student_has_seen_is_counted():
    assert "has seen 2,000,000 documents of 1,500,000,000 tokens in all, 2 times." in card()
    cut = card(max_steps=10)
    assert "that was trained for 10 optimizer steps on 2,000,000 documents" in cut
    assert "short problems" not in card()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"student": "2x64x2"}, "A GPT-2-shaped model of 1,000 parameters, trained from random"),
        (
            {"student": "llama:2x64x2"},
            "A Llama-shaped model of 1,000 parameters, trained from rand",
        ),
        (
            {"student": "a/b"},
            "A model of 1,000 parameters, trained from the weights of `a/b` to im",
        ),
        ({"student": "a/b", "init": "random"}, "and `a/b`'s configuration, trained from random"),
    ],
)
def test_where_a_student_began_is_said(recipe, words):
    assert words in card(**recipe)


def test_weights_that_were_there_bring_their_own_licence():
    words = "The first weights are those of `org/small`; its licence binds what is made of them."
    assert words in card(student="org/small", alpha=0.0) and "outputs of" in card()
    assert "The first weights" not in card() + card(student="org/small", init="random")
