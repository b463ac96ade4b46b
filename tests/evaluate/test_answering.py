"""Written answers: what a batch writes is what each prompt writes alone, and the surest of several windows counts."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.data import ReadingPrompt
from tutelage.errors import NumericsError, PreemptedError
from tutelage.evaluate import Reply, answer_prompts, answer_stops
from tutelage.evaluate import answering as answering_module
from tutelage.models.chat import Stops

VOCAB = 61
LIMIT = 6
NO_STOPS = Stops(())


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """A model whose answers wander: with tied weights it would repeat one word."""
    return make_model()


def make_model(*, dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False, attention_dropout=dropout,
        eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
    return model.eval()


def words_tokenizer(**words: str) -> PreTrainedTokenizerFast:
    """``w7`` is id 7; ``i7="text"`` gives it another word."""
    names = {words.get(f"i{number}", f"w{number}"): number for number in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", unk_token="w0")


def prompts(number: int = 7, *, windows: int = 1, seed: int = 0) -> list[ReadingPrompt]:
    rng = np.random.default_rng(seed)
    return [
        ReadingPrompt(
            f"q{index}",
            tuple(rng.integers(2, VOCAB, size=rng.integers(2, 20)).astype(np.int32) for _ in range(windows)),
            False,
        )
        for index in range(number)
    ]


def alone(model, ids: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Greedy ids and their log-probabilities; one row, no padding, no cache, float64."""
    written, logprobs = [], []
    model = model.double()
    with torch.no_grad():
        for _ in range(count):
            every = torch.tensor([[*ids.tolist(), *written]])
            row = torch.log_softmax(model(input_ids=every, use_cache=False).logits[0, -1], dim=-1)
            written.append(int(row.argmax()))
            logprobs.append(float(row.max()))
    model.float()
    return written, logprobs


def answer(model, asked, *, stops=NO_STOPS, tokenizer=None, **settings) -> list[Reply]:
    values = {"max_answer_length": LIMIT, "token_budget": 64} | settings
    return answer_prompts(model, tokenizer or words_tokenizer(), asked, stops=stops, **values)


@pytest.mark.parametrize("token_budget", [1, 64, 10_000])
def test_every_prompt_gets_the_answer_that_it_gets_alone_whatever_the_batch(model, token_budget):
    asked = prompts()
    for prompt, reply in zip(asked, answer(model, asked, token_budget=token_budget), strict=True):
        ids, logprobs = alone(model, prompt.windows[0], LIMIT)
        assert reply.text == " ".join(f"w{number}" for number in ids)
        assert reply.mean_logprob == pytest.approx(np.mean(logprobs), abs=1e-5)
        assert reply.is_cut
        assert (reply.window, reply.num_windows) == (0, 1)


def test_an_answer_ends_at_an_end_token_which_is_not_part_of_its_text_but_of_its_probability(model):
    (prompt,) = prompts(1)
    ids, logprobs = alone(model, prompt.windows[0], LIMIT)
    stop = ids.index(ids[3])
    assert stop > 0
    (reply,) = answer(model, [prompt], stops=Stops((ids[3],)))
    assert reply.text == " ".join(f"w{number}" for number in ids[:stop])
    assert reply.mean_logprob == pytest.approx(np.mean(logprobs[: stop + 1]), abs=1e-5)
    assert not reply.is_cut


def test_an_answer_ends_with_its_line(model):
    written = [(prompt, alone(model, prompt.windows[0], LIMIT)[0]) for prompt in prompts(20)]
    prompt, ids = next((prompt, ids) for prompt, ids in written if len(set(ids)) > 2)
    place = next(number for number in range(1, LIMIT) if ids[number] not in ids[:number])
    tokenizer = words_tokenizer(**{f"i{ids[place]}": "\n"})
    stops = answer_stops(tokenizer, model, end_of_turn_id=1)
    (reply,) = answer(model, [prompt], tokenizer=tokenizer, stops=Stops((), stops.strings))
    assert reply.text == " ".join(f"w{number}" for number in ids[:place])
    assert not reply.is_cut


def test_an_answer_ends_at_the_models_end_token_the_rows_end_of_turn_and_a_line_end(model):
    stops = answer_stops(words_tokenizer(), model, end_of_turn_id=9)
    assert {1, 9} <= set(stops.ids)
    assert stops.strings == ("\n",)


def test_of_several_windows_the_surest_answer_counts(model):
    asked = prompts(4, windows=3)
    each = [[answer(model, [ReadingPrompt("q", (window,), False)])[0] for window in prompt.windows] for prompt in asked]
    best = [max(range(3), key=lambda window: own[window].mean_logprob) for own in each]
    found = answer(model, asked, token_budget=10_000)
    assert [reply.window for reply in found] == best
    assert [reply.text for reply in found] == [own[window].text for own, window in zip(each, best, strict=True)]
    assert {reply.num_windows for reply in found} == {3}
    assert len(set(best)) > 1, "a choice that is always the first would prove nothing"


def test_a_window_without_words_loses_against_any_other_and_the_first_of_equals_wins():
    empty, sure, unsure = Reply("", -0.1, False, 0), Reply("x", -0.5, False, 1), Reply("y", -2.0, False, 2)
    assert max([empty, unsure, sure], key=answering_module._rank) is sure
    twin = Reply("z", -0.5, False, 3)
    assert max([twin, sure], key=answering_module._rank) is sure
    assert max([empty], key=answering_module._rank) is empty


def test_an_answer_that_ends_at_once_is_empty(model):
    (prompt,) = prompts(1)
    ids, logprobs = alone(model, prompt.windows[0], 1)
    (reply,) = answer(model, [prompt], stops=Stops((ids[0],)))
    assert (reply.text, reply.is_cut) == ("", False)
    assert reply.mean_logprob == pytest.approx(logprobs[0], abs=1e-5)


def test_the_model_is_in_evaluation_mode_meanwhile_and_put_back():
    model = make_model(dropout=0.5)
    model.train()
    assert answer(model, prompts(2)) == answer(model, prompts(2))
    assert model.training


def test_a_stop_is_answered_before_a_batch(model):
    with pytest.raises(PreemptedError, match="Run the same command again"):
        answer(model, prompts(2), should_stop=lambda: True)


def test_progress_counts_windows(model):
    seen = []
    answer(model, prompts(3, windows=2), token_budget=1, progress=lambda done, total, rate: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]


def test_a_model_with_nan_weights_is_refused_and_the_items_named():
    model = make_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NumericsError, match=r"2 generated answers is not finite \(first: q"):
        answer(model, prompts(2))
