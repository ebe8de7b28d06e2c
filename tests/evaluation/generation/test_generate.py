import inspect

import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from evaluation.generation.generate import Request, generate, generate_each
from evaluation.generation.sampling import choose
from evaluation.generation.tokens import (
    decode_after,
    encode_opening,
    encode_prompt,
    end_ids,
    position_limit,
    truncate_at_stop,
)
from evaluation.problems.benchmarks import load_benchmark
from tests.support.tiny_models import EOS, byte_tokenizer, settings, tiny_gpt2
from tests.support.tokenizers import byte_level, line_ends_joined

PROMPTS = ("def f(x):\n", "x", "class LongerThanTheOthers:\n    def method(self):\n        ")


def tiny_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config).eval()


def tiny_mistral():
    """Attention reaches back over a window that some prompts and all texts are longer than."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        sliding_window=16,
        initializer_range=0.3,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    return MistralForCausalLM(config).eval()


def requests(tokenizer, prompts=PROMPTS, stop=(), sample=0):
    return [
        Request(
            task_id=f"T/{i}", sample=sample, prompt_ids=encode_prompt(tokenizer, prompt), stop=stop
        )
        for i, prompt in enumerate(prompts)
    ]


class Scripted(torch.nn.Module):
    """Writes a given text whatever it reads, and then end-of-text for ever."""

    def __init__(self, tokenizer, text, positions=64, size=257):
        super().__init__()
        self.script = [*tokenizer(text)["input_ids"], *[EOS] * 200]
        self.embedding = torch.nn.Embedding(size, 1)
        self.config = GPT2Config(n_positions=positions)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask, past_key_values=None, use_cache=True):
        step = past_key_values or 0
        logits = torch.zeros(*input_ids.shape, self.embedding.num_embeddings)
        logits[:, -1, self.script[step]] = 1.0
        return type("Output", (), {"logits": logits, "past_key_values": step + 1})


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama, tiny_mistral])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_left_padded_batch_equals_one_by_one(build, temperature):
    model, tokenizer = build(), byte_tokenizer()
    batch = requests(tokenizer)
    together = generate(model, tokenizer, batch, settings(temperature))
    alone = [generate(model, tokenizer, [one], settings(temperature))[0] for one in batch]
    assert together == alone
    assert len({completion.text for completion in together}) > 1


def many_requests(tokenizer):
    """Prompts of many lengths, two samples each, some with no room left."""
    prompts = [text * count for text in PROMPTS for count in (1, 2, 4)] + ["z" * 120, "z" * 200]
    stop = ("e", "\n")  # end the rows at different times
    return [
        request
        for sample in range(2)
        for request in requests(tokenizer, prompts, stop=stop, sample=sample)
    ]


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama, tiny_mistral])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_rows_that_take_the_places_of_others_are_as_if_alone(build, batch_size):
    model, tokenizer = build(), byte_tokenizer()
    batch = many_requests(tokenizer)
    done = list(generate_each(model, tokenizer, batch, settings(0.8, 30), batch_size=batch_size))
    assert sorted(place for place, _ in done) == list(range(len(batch)))
    for place, completion in done[::3]:
        assert [completion] == generate(model, tokenizer, [batch[place]], settings(0.8, 30))
    ends = {completion.finish for _, completion in done}
    assert ends >= {"length", "prompt_too_long"} and ends & {"stop", "eos"}


@pytest.mark.parametrize("text", ["def g", "class", "x\ndef"])
def test_what_the_prompt_has_begun_belongs_to_the_completion(text):
    """As if the line's end had been written and not read."""
    tokenizer, stops = byte_tokenizer(), ("\ndef", "\nclass")
    ids = encode_prompt(tokenizer, "a:\n")
    begun = Request(task_id="T", sample=0, prompt_ids=ids, stop=stops, begun="\n")
    (read,) = generate(Scripted(tokenizer, text), tokenizer, [begun], settings(0.0, 30))
    whole = requests(tokenizer, ["a:"], stop=stops)
    (written,) = generate(Scripted(tokenizer, f"\n{text}"), tokenizer, whole, settings(0.0, 30))
    assert (read.text, read.raw, read.finish) == (written.text, written.raw, written.finish)
    assert read.finish == "stop" and read.num_tokens == written.num_tokens - 1


@pytest.mark.parametrize(("make", "begun"), [(byte_level, ""), (line_ends_joined, "\n")])
def test_a_prompt_ends_where_the_tokens_of_its_program_part(make, begun):
    tokenizer = make()
    for problem in load_benchmark("humaneval").problems[:20]:
        ids, there = encode_opening(tokenizer, problem.prompt, problem.opening)
        whole = encode_prompt(tokenizer, f"{problem.prompt}\n{problem.canonical_solution}")
        assert there == begun and ids == whole[: len(ids)]
        other = encode_prompt(tokenizer, problem.prompt + ("" if begun else "\n"))
        assert other != whole[: len(other)]


@pytest.fixture
def shapes():
    """A model, and the shapes (rows, columns) of the ids it is given."""
    model, seen = tiny_gpt2(), []
    forward = model.forward

    def watched(input_ids, **options):
        seen.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **options)

    watched.__signature__ = inspect.signature(forward)
    model.forward = watched
    return model, seen


def test_samples_of_one_prompt_read_it_once(shapes):
    model, seen = shapes
    tokenizer = byte_tokenizer()
    batch = [requests(tokenizer, ("a prompt",), sample=sample)[0] for sample in range(4)]
    generate(model, tokenizer, batch, settings(0.8, tokens=3))
    assert seen[-3:] == [(1, 8), (4, 1), (4, 1)]


def test_ended_rows_make_room_for_waiting_ones_before_the_others_end(shapes):
    model, seen = shapes
    tokenizer = byte_tokenizer()
    # 120 and 100 bytes leave room for 8 and 28 of the 128 positions.
    batch = requests(tokenizer, ("a" * 100, "b" * 120, "c" * 120))
    done = list(generate_each(model, tokenizer, batch, settings(tokens=99), batch_size=2))
    assert [place for place, _ in done] == [1, 2, 0]
    assert [shape for shape in seen[1:] if shape[1] > 1] == [(2, 120), (1, 120)]
    assert seen.count((2, 1)) == 7 + 7  # side by side with the second, then with the third
    assert seen.count((1, 1)) == 27 - 14
    assert max(rows for rows, _ in seen) == 2


def test_a_completion_is_given_out_the_moment_it_ends(shapes):
    """One of eight ends early: too few to move the others, which grow on after it was given out."""
    model, seen = shapes
    batch = requests(byte_tokenizer(), ("a" * 120, *["b" * 100] * 7))  # room for 8 and 28 tokens
    at = [
        (place, seen.count((8, 1)))
        for place, _ in generate_each(
            model, byte_tokenizer(), batch, settings(tokens=99), batch_size=8
        )
    ]
    assert at == [(0, 7), *((place, 27) for place in range(1, 8))]


def test_caches_that_cannot_be_joined_run_batch_by_batch():
    tokenizer = byte_tokenizer()
    model = Scripted(tokenizer, "return 1")
    batch = requests(tokenizer, ("x",) * 5)
    done = list(generate_each(model, tokenizer, batch, settings(), batch_size=2))
    assert [place for place, _ in done] == list(range(5))
    assert {completion.text for _, completion in done} == {"return 1"}


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama, tiny_mistral])
def test_greedy_equals_the_transformers_loop(build):
    model, tokenizer = build(), byte_tokenizer()
    for request in requests(tokenizer):
        ids = torch.tensor([request.prompt_ids])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24,
            pad_token_id=EOS,
        )  # fmt: skip
        expected = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        assert generate(model, tokenizer, [request], settings())[0].text == expected


def tiny_mamba():
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=257, hidden_size=16, state_size=4, num_hidden_layers=1, initializer_range=0.5,
        bos_token_id=EOS, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    return MambaForCausalLM(config).eval()


def tiny_rwkv():
    torch.manual_seed(0)
    config = RwkvConfig(
        vocab_size=257, hidden_size=16, num_hidden_layers=2, context_length=128,
        bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    return RwkvForCausalLM(config).eval()


@pytest.mark.parametrize("build", [tiny_mamba, tiny_rwkv])
def test_models_without_a_key_value_cache_complete_as_if_alone(build):
    model, tokenizer = build(), byte_tokenizer()
    batch = requests(tokenizer, (*PROMPTS, "y"))
    done = dict(generate_each(model, tokenizer, batch, settings(0.8, 6), batch_size=3))
    for place, request in enumerate(batch):
        assert [done[place]] == generate(model, tokenizer, [request], settings(0.8, 6))
    ids = torch.tensor([batch[0].prompt_ids])
    expected = model(input_ids=ids).logits[0, -1].argmax()
    (greedy,) = generate(model, tokenizer, batch[:1], settings(0.0, 1))
    assert greedy.raw == tokenizer.decode([expected]) or greedy.finish == "eos"


def test_samples_depend_on_seed_task_and_sample_alone():
    model, tokenizer = tiny_gpt2(), byte_tokenizer()
    first = generate(model, tokenizer, requests(tokenizer), settings(0.8))
    backwards = generate(model, tokenizer, requests(tokenizer)[::-1], settings(0.8))
    assert first == backwards[::-1]
    assert first != generate(model, tokenizer, requests(tokenizer), settings(0.8, seed=1))
    assert first != generate(model, tokenizer, requests(tokenizer, sample=1), settings(0.8))


def test_text_ends_before_the_first_stop_sequence():
    tokenizer = byte_tokenizer()
    model = Scripted(tokenizer, "    return 1\n\ndef g():\n    pass")
    (completion,) = generate(
        model, tokenizer, requests(tokenizer, ("x",), ("\nclass", "\ndef")), settings(tokens=60)
    )
    assert completion.text == "    return 1\n"
    assert completion.raw == "    return 1\n\ndef"
    assert completion.finish == "stop"
    assert completion.num_tokens == len("    return 1\n\ndef")


def test_end_of_text_ends_a_completion_and_is_no_part_of_it():
    tokenizer = byte_tokenizer()
    model = Scripted(tokenizer, "return é")
    (completion,) = generate(model, tokenizer, requests(tokenizer, ("x",)), settings())
    assert (completion.text, completion.finish) == ("return é", "eos")


def test_completion_without_an_end_stops_at_the_limit():
    tokenizer = byte_tokenizer()
    model = Scripted(tokenizer, "a" * 40)
    (completion,) = generate(model, tokenizer, requests(tokenizer, ("x",)), settings(tokens=5))
    assert (completion.text, completion.finish) == ("aaaaa", "length")


def test_each_row_uses_the_positions_it_has():
    model, tokenizer = tiny_gpt2(positions=40), byte_tokenizer()
    batch = requests(tokenizer, ("a" * 38, "b" * 3, "c" * 20, "d" * 40, "e" * 90))
    done = generate(model, tokenizer, batch, settings(tokens=500))
    assert [c.finish for c in done] == ["length"] * 3 + ["prompt_too_long"] * 2
    assert [c.num_tokens for c in done] == [2, 37, 20, 0, 0]
    assert [c.text for c in done[3:]] == ["", ""]
    assert done[1] == generate(model, tokenizer, batch[1:2], settings(tokens=500))[0]


def test_position_limit_and_end_ids_come_from_the_model():
    model, tokenizer = tiny_gpt2(positions=40), byte_tokenizer()
    assert position_limit(model) == 40
    assert position_limit(tiny_llama()) == 128
    model.generation_config.eos_token_id = [7, EOS]
    assert end_ids(model, tokenizer) == {7, EOS}


def marked_tokenizer():
    """Two marks between files, one of which the tokenizer does not call special."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(AddedToken("<file_sep>", special=True))
    tokenizer.add_tokens([AddedToken("<|file_sep|>", special=False), "    "])
    return tokenizer


@pytest.mark.parametrize("mark", ["<file_sep>", "<|file_sep|>"])
def test_every_mark_between_files_ends_a_completion(mark):
    tokenizer = marked_tokenizer()
    model = Scripted(tokenizer, f"    return x + y{mark}import os", size=len(tokenizer))
    (completion,) = generate(model, tokenizer, requests(tokenizer, ("x",)), settings(tokens=60))
    assert (completion.text, completion.finish) == ("    return x + y", "eos")
    assert completion.raw == completion.text


def test_an_id_without_a_text_ends_a_completion():
    tokenizer = byte_tokenizer()
    model = Scripted(tokenizer, "ab", size=300)  # a vocabulary padded to a round number
    model.script[1:1] = [299]
    (completion,) = generate(model, tokenizer, requests(tokenizer, ("x",)), settings())
    assert (completion.text, completion.finish) == ("a", "eos")


def test_no_token_is_dropped_from_the_middle_of_a_text():
    tokenizer = marked_tokenizer()
    ids = tokenizer("x + y<file_sep>import os")["input_ids"]
    assert decode_after(tokenizer, ids[:1], ids[1:]) == " + y<file_sep>import os"


def test_first_of_several_stops_counts():
    assert truncate_at_stop("a\nif b\ndef c", ("\ndef", "\nif")) == "a"
    assert truncate_at_stop("abc", ("\ndef",)) == "abc"


def test_nucleus_sampling_has_the_probabilities_of_its_definition():
    probs = torch.tensor([0.05, 0.4, 0.3, 0.25])
    uniforms = (torch.arange(1000) + 0.5) / 1000
    chosen = choose(probs.log().expand(1000, 4), settings(1.0, top_p=0.6), uniforms)
    # Down to 0.6 the two most likely are kept: 0.4 and 0.3 of 0.7.
    counts = torch.bincount(chosen, minlength=4) / 1000
    assert torch.allclose(counts, torch.tensor([0, 4 / 7, 3 / 7, 0]), atol=2e-3)


def test_wide_nucleus_is_not_cut_at_the_first_guess():
    uniforms = (torch.arange(2000) + 0.5) / 2000
    chosen = choose(torch.zeros(2000, 1000), settings(1.0, top_p=1.0), uniforms)
    assert len(chosen.unique()) == 1000


def test_low_temperature_approaches_greedy():
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    chosen = choose(logits, settings(1e-3), torch.rand(8))
    assert torch.equal(chosen, logits.argmax(-1))
