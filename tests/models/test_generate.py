"""What a batch writes is what each row writes alone; every answer knows why it ended."""

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES, VOCAB, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig, RwkvConfig

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.models import generate
from tutelage.models.batching import Steps, writes_in_batches
from tutelage.models.chat import Stops
from tutelage.models.generate import Decoding, SeededNoise, generate_batch, left_padded, row_seed

TOKENIZER = tiny_tokenizer()
NO_STOPS = Stops(())


def prompts(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 80, size=length).astype(np.int32) for length in lengths]


def greedy_alone(model, prompt: np.ndarray, count: int) -> list[int]:
    """The largest logit, ``count`` times; one row, no padding, no cache."""
    ids = prompt.tolist()
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def written(model, rows, **settings) -> list[list[int]]:
    decoding = Decoding(settings.pop("stops", NO_STOPS), **{"max_new_tokens": 8, **settings})
    return [answer.ids.tolist() for answer in generate_batch(model, TOKENIZER, rows, decoding=decoding)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_unequal_prompts_writes_what_each_one_writes_alone(family):
    model = tiny_model(family)
    rows = prompts(1, 9, 4, 6)
    assert written(model, rows) == [greedy_alone(model, row, 8) for row in rows]


def test_the_comparison_with_alone_finds_padding_on_the_wrong_side(monkeypatch):
    model = tiny_model()
    rows = prompts(1, 9, 4, 6)

    def right_padded(rows, *, device):
        ids_BT, mask_BT = left_padded(rows, device=device)
        return ids_BT.flip(1), mask_BT.flip(1)

    monkeypatch.setattr(generate, "left_padded", right_padded)
    assert written(model, rows) != [greedy_alone(model, row, 8) for row in rows]


def test_an_answer_ends_at_its_first_end_token_and_keeps_it_in_its_ids_only():
    model, (row, other) = tiny_model(), prompts(5, 3)
    whole = greedy_alone(model, row, 8)
    end = whole[3]
    stops = Stops((end,))
    answer, beside = generate_batch(model, TOKENIZER, [row, other], decoding=Decoding(stops, max_new_tokens=8))
    kept = whole.index(end)
    assert answer.finish == "stop"
    assert answer.ids.tolist() == whole[: kept + 1]
    assert answer.text == TOKENIZER.decode(whole[:kept])
    assert beside.ids.tolist()[:4] == greedy_alone(model, other, 8)[:4]


def test_an_answer_cut_at_the_limit_says_so_also_when_the_limit_is_one_token():
    model, rows = tiny_model(), prompts(5, 3)
    for limit in (1, 8):
        answers = generate_batch(model, TOKENIZER, rows, decoding=Decoding(NO_STOPS, max_new_tokens=limit))
        assert [(answer.finish, len(answer.ids)) for answer in answers] == [("length", limit)] * 2


def test_an_end_token_as_the_very_last_token_is_a_stop_and_no_cut():
    model, (row,) = tiny_model(), prompts(5)
    whole = greedy_alone(model, row, 8)
    last = next(number for number, token in enumerate(whole) if token not in whole[:number] and number >= 2)
    decoding = Decoding(Stops((whole[last],)), max_new_tokens=last + 1)
    answer = generate_batch(model, TOKENIZER, [row], decoding=decoding)[0]
    assert (answer.finish, answer.ids.tolist()) == ("stop", whole[: last + 1])


def test_any_of_several_end_tokens_ends_an_answer():
    model, rows = tiny_model(), prompts(5, 3)
    wholes = [greedy_alone(model, row, 8) for row in rows]
    stops = Stops(tuple(sorted({whole[2] for whole in wholes})))
    for answer, whole in zip(written(model, rows, stops=stops), wholes, strict=True):
        first = min(whole.index(end) for end in stops.ids if end in whole)
        assert answer == whole[: first + 1]


def test_the_fill_token_inside_an_answer_is_no_end():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))  # all logits equal: id 0
    short, long = generate_batch(model, TOKENIZER, prompts(2, 7), decoding=Decoding(Stops((5,)), max_new_tokens=4))
    assert short.ids.tolist() == long.ids.tolist() == [0, 0, 0, 0]
    assert short.finish == long.finish == "length"


def test_a_stop_string_ends_its_row_only_and_is_in_neither_text_nor_ids():
    model, rows = tiny_model(vocab_size=80), prompts(5, 3)
    wholes = [greedy_alone(model, row, 8) for row in rows]
    string = TOKENIZER.decode(wholes[0][3:5])  # two words: it is complete with the second one
    assert string not in TOKENIZER.decode(wholes[1])
    decoding = Decoding(Stops((), (string, "never")), max_new_tokens=8)
    first, second = generate_batch(model, TOKENIZER, rows, decoding=decoding)
    before = TOKENIZER.decode(wholes[0]).index(string)
    assert first.finish == "stop"
    assert first.text == TOKENIZER.decode(wholes[0])[:before]
    assert first.ids.tolist() == wholes[0][:3]
    assert (second.finish, second.ids.tolist()) == ("length", wholes[1])


def test_an_end_token_before_a_stop_string_decides():
    model, (row,) = tiny_model(vocab_size=80), prompts(5)
    whole = greedy_alone(model, row, 8)
    decoding = Decoding(Stops((whole[1],), (TOKENIZER.decode(whole[2:4]),)), max_new_tokens=8)
    answer = generate_batch(model, TOKENIZER, [row], decoding=decoding)[0]
    assert answer.ids.tolist() == whole[: whole.index(whole[1]) + 1]


def test_a_stop_string_that_the_filling_behind_an_end_token_spells_changes_nothing():
    model, rows = tiny_model(vocab_size=80), prompts(5, 3)
    wholes = [greedy_alone(model, row, 8) for row in rows]
    end = next(token for token in wholes[0][:4] if token not in wholes[1])  # the other row goes on beside it
    decoding = Decoding(Stops((end,), (TOKENIZER.decode([generate.FILL_ID] * 3),)), max_new_tokens=8)
    first, second = generate_batch(model, TOKENIZER, rows, decoding=decoding)
    assert first.ids.tolist() == wholes[0][: wholes[0].index(end) + 1]
    assert first.text == TOKENIZER.decode(first.ids[:-1].tolist())
    assert second.ids.tolist() == wholes[1]


def test_a_stop_string_at_once_gives_an_empty_answer():
    model, (row,) = tiny_model(vocab_size=80), prompts(5)
    string = TOKENIZER.decode(greedy_alone(model, row, 1))
    answer = generate_batch(model, TOKENIZER, [row], decoding=Decoding(Stops((), (string,)), max_new_tokens=8))[0]
    assert (answer.finish, answer.text, answer.ids.size) == ("stop", "", 0)


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_p": 0.95}


def test_a_sampled_answer_does_not_depend_on_the_rows_beside_it():
    model = tiny_model()
    rows = prompts(1, 9, 4, 6)
    together = written(model, rows, **SAMPLED)
    assert together == [written(model, [row], **SAMPLED)[0] for row in rows]
    assert together == written(model, rows[::-1], **SAMPLED)[::-1]
    assert together != written(model, rows)


def test_seed_sample_number_and_prompt_decide_what_is_drawn():
    model, (row,) = tiny_model(), prompts(4)

    def draw(seed: int = 0, sample: int = 0) -> list[int]:
        decoding = Decoding(NO_STOPS, max_new_tokens=8, do_sample=True, temperature=2.0, seed=seed)
        return generate_batch(model, TOKENIZER, [row], decoding=decoding, samples=[sample])[0].ids.tolist()

    assert draw() == draw()
    assert len({tuple(draw(seed, sample)) for seed in range(3) for sample in range(3)}) == 9
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    draw()
    assert torch.rand(1) == before  # the process's own random numbers are not touched
    seeds = {row_seed(prompt, sample, seed) for prompt in prompts(3, 4) for sample in (0, 1, 11) for seed in (0, 1, 11)}
    assert len(seeds) == 18


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5)])
def test_drawn_first_tokens_follow_the_models_distribution(temperature, top_p):
    model, (row,) = tiny_model("llama_untied"), prompts(4)
    count = 4000
    decoding = Decoding(NO_STOPS, max_new_tokens=1, do_sample=True, temperature=temperature, top_p=top_p)
    answers = generate_batch(model, TOKENIZER, [row] * count, decoding=decoding, samples=range(count))
    with torch.no_grad():
        logits_V = model(input_ids=torch.tensor([row.tolist()])).logits[0, -1].double()
    probs_V = (logits_V / temperature).softmax(dim=0)
    order = probs_V.argsort(descending=True)
    kept = order[: int((probs_V[order].cumsum(0) < top_p).sum()) + 1]
    expected = torch.zeros_like(probs_V).scatter(0, kept, probs_V[kept] / probs_V[kept].sum())
    found = torch.zeros_like(probs_V)
    for token, number in Counter(int(answer.ids[0]) for answer in answers).items():
        found[token] = number / count
    assert bool((found[expected == 0] == 0).all())
    # Five standard deviations of a share, for every token at once.
    assert bool(((found - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt() + 1e-9).all())


def test_noise_leaves_what_is_impossible_impossible():
    scores = torch.full((2, 5), float("-inf"))
    scores[:, 3] = 0.0
    for _ in range(50):
        assert SeededNoise([1, 2])(torch.zeros(2, 1).long(), scores).argmax(dim=1).tolist() == [3, 3]


def test_the_models_own_generation_defaults_do_not_apply_and_are_put_back():
    model, rows = tiny_model(), prompts(5, 3)
    expected = [greedy_alone(model, row, 8) for row in rows]
    own = GenerationConfig(
        do_sample=True, repetition_penalty=5.0, no_repeat_ngram_size=1, eos_token_id=expected[0][0], min_new_tokens=6
    )
    model.generation_config = own
    assert written(model, rows) == expected
    assert model.generation_config is own


def test_the_model_is_in_evaluation_mode_only_meanwhile():
    model = tiny_model(attention_dropout=0.9).train()
    rows = prompts(5, 3)
    found = written(model, rows)
    assert model.training
    assert found == [greedy_alone(model.eval(), row, 8) for row in rows]


def test_prompts_that_cannot_be_answered_are_refused():
    model = tiny_model()
    with pytest.raises(AlignmentError, match="60 ids and 8 new tokens exceed the 64 positions"):
        written(model, prompts(3, 60))
    assert len(written(model, prompts(56))[0]) == 8
    for rows in ([], prompts(3, 0)):
        with pytest.raises(AlignmentError, match="from no prompt, or from one without ids"):
            written(model, rows)


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"num_samples": 0, "do_sample": True}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1},
     {"temperature": float("nan")}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(CapabilityError, match="Cannot decode with"):
        Decoding(NO_STOPS, **settings)


def test_greedy_decoding_has_one_sample_and_one_spelling():
    with pytest.raises(CapabilityError, match="Greedy decoding writes one answer, but num_samples = 2"):
        Decoding(NO_STOPS, num_samples=2)
    assert Decoding(NO_STOPS, temperature=0.7, top_p=0.9, seed=3) == Decoding(NO_STOPS)
    assert Decoding(NO_STOPS, do_sample=True, seed=3) != Decoding(NO_STOPS, do_sample=True)


@pytest.mark.parametrize("family", ["rwkv", "recurrent_gemma"])
def test_a_model_that_mixes_the_rows_of_a_batch_writes_them_one_by_one(family):
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    model = AutoModelForCausalLM.from_config(config).eval() if family == "rwkv" else tiny_model(family)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    assert not writes_in_batches(model)
    prompts = [np.arange(5, 14, dtype=np.int32), np.arange(20, 23, dtype=np.int32)]
    decoding = Decoding(stops=Stops((), ()), max_new_tokens=4)
    together, each = Steps(), [Steps(), Steps()]
    answers = generate_batch(model, tiny_tokenizer(), prompts, decoding=decoding, observer=together)
    for row, prompt in enumerate(prompts):
        alone = generate_batch(model, tiny_tokenizer(), [prompt], decoding=decoding, observer=each[row])
        assert answers[row].ids.tolist() == alone[0].ids.tolist()
        for seen, own in zip(together.scores, each[row].scores, strict=True):
            assert torch.equal(seen[row], own[0])


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral_sliding"])
def test_ordinary_models_write_batches(family):
    assert writes_in_batches(tiny_model(family))
    assert writes_in_batches(tiny_model(family).bfloat16())
