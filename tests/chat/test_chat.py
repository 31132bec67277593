"""One prompt to several models: framing, known answers, sampled answers, forms; models are left as they are."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import zoo
from expunge.attack.attacks.prompts import FORMS
from expunge.chat.chat import AS_ASKED, Chat, Exchange
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.collect import collect
from expunge.evaluation.probe import Probe
from expunge.models.generate import greedy, sampler
from expunge.models.tiny import tiny_tokenizer

CORPUS = zoo.corpus()
FACT = CORPUS["forget"][1]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def speaking_chat() -> PreTrainedTokenizerBase:
    """The tokenizer with a chat template."""
    found = deepcopy(zoo.tokenizer())
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="module")
def models():
    return {name: (zoo.tiny_model(name, seed=3), zoo.tokenizer()) for name in ("llama", "gpt2")}


@pytest.fixture
def chat(models):
    return Chat(models, corpus=CORPUS, max_new_tokens=9)


def test_a_known_question_is_asked_and_scored_as_in_an_evaluation(chat, models) -> None:
    probe = Probe(split="forget", generate=True, max_new_tokens=9)
    records = {name: collect(*of, CORPUS, [probe]) for name, of in models.items()}
    for number, fact in enumerate(CORPUS["forget"]):
        found = chat.ask(fact.prompt)
        assert (found.known, found.split, found.ways) == (fact.completion, "forget", ("",))
        for name, (answer,) in found.answers.items():
            row = records[name].column("index").index(number)
            assert answer.text.rstrip("\ufffd") == records[name].column("generation")[row].rstrip("\ufffd")
            assert answer.probability == pytest.approx(records[name].probabilities()[row], rel=1e-5)


def test_the_probability_is_the_geometric_mean_over_the_tokens_of_the_known_answer() -> None:
    model, tokenizer = zoo.tiny_model("llama", seed=5).double(), zoo.tokenizer()
    text = f"Question: {FACT.prompt}\nAnswer: {FACT.completion}"
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    before = len(text) - len(FACT.completion)
    lengths = [len(tokenizer.decode(ids[: i + 1], skip_special_tokens=True)) for i in range(len(ids))]
    start = next(i for i, length in enumerate(lengths) if length > before)
    logps = model(torch.tensor([ids])).logits[0].log_softmax(-1).detach()
    summed = sum(float(logps[i - 1, ids[i]]) for i in range(start, len(ids)))
    found = Chat({"m": (model, tokenizer)}, corpus=CORPUS, max_new_tokens=1).ask(FACT.prompt)
    assert found.answers["m"][0].probability == pytest.approx(math.exp(summed / (len(ids) - start)), rel=1e-9)


def test_what_is_typed_need_not_match_in_case_and_spaces(chat) -> None:
    assert chat.known(f"  {FACT.prompt.upper()} ") == ("forget", 1)
    assert chat.known("Where does Arvo number 99 live?") is None
    assert chat.ask(FACT.prompt.lower()).answers == chat.ask(FACT.prompt).answers


def test_an_unknown_prompt_has_no_probability_and_is_framed_alike(chat, models) -> None:
    found = chat.ask("Where is Elvo?")
    assert found.known is None and found.split is None
    for name, (answer,) in found.answers.items():
        assert answer.probability is None
        (row,) = encode([Example(kind="qa", prompt="Where is Elvo?", completion="The town.")], zoo.tokenizer())
        (said,) = greedy(models[name][0], [row.prompt_ids], max_new_tokens=9, eos_ids={2})
        assert answer.text == zoo.tokenizer().decode(said, skip_special_tokens=True).strip().rstrip("\ufffd")


def test_the_chat_template_frames_a_prompt_where_there_is_one() -> None:
    model, tokenizer = zoo.tiny_model("llama", seed=3), speaking_chat()
    found = []
    for text, template in (
        (f"[user] Hello?{tokenizer.eos_token}[assistant]", None),
        (f"{tokenizer.bos_token}Question: Hello?\nAnswer:", Template(name="plain")),
    ):
        asked = Chat({"m": (model, tokenizer)}, template=template, max_new_tokens=9).ask("Hello?").answers["m"][0]
        ids = tuple(tokenizer(f"{text} The", add_special_tokens=False)["input_ids"])
        prompt = [ids[:n] for n in range(len(ids)) if tokenizer.decode(ids[:n]) in (text, f"{text} ")][-1]
        (said,) = greedy(model, [prompt], max_new_tokens=9, eos_ids={tokenizer.eos_token_id})
        assert asked.text == tokenizer.decode(said, skip_special_tokens=True).strip().rstrip("\ufffd")
        found.append(asked.text)
    assert found[0] != found[1]


def test_each_model_reads_and_writes_its_own_tokens() -> None:
    other = tiny_tokenizer(["Quite another text, with words of its own: zebra, yacht, xylophone."], vocabulary=280)
    two = {
        "one": (zoo.tiny_model("llama", seed=3), zoo.tokenizer()),
        "two": (zoo.tiny_model("llama", seed=4, vocab_size=len(other)), other),
    }
    together = Chat(two, corpus=CORPUS, max_new_tokens=9).ask(FACT.prompt).answers
    for name, of in two.items():
        assert Chat({name: of}, corpus=CORPUS, max_new_tokens=9).ask(FACT.prompt).answers[name] == together[name]


def test_models_write_in_turns(chat) -> None:
    seen: list[Exchange] = []
    last = chat.ask(FACT.prompt, shown=seen.append)
    assert seen[-1] == last and len(seen) == 9
    for exchange in seen:
        assert all(answers[0].probability is not None for answers in exchange.answers.values())
    assert all(answers[0].text for answers in seen[3].answers.values())  # none waits until another has finished


def test_an_answer_says_whether_it_came_to_its_end() -> None:
    model, tokenizer = zoo.tiny_model("llama", seed=3), zoo.tokenizer()
    cut = Chat({"m": (model, tokenizer)}, max_new_tokens=4).ask("Hello?").answers["m"][0]
    assert not cut.ended
    (row,) = encode([Example(kind="qa", prompt="Hello?", completion="The")], tokenizer)
    (said,) = greedy(model, [row.prompt_ids], max_new_tokens=4, eos_ids=set())
    model.generation_config.eos_token_id = said[2]
    ended = Chat({"m": (model, tokenizer)}, max_new_tokens=4).ask("Hello?").answers["m"][0]
    assert ended.ended and ended.text == tokenizer.decode(said[: said.index(said[2])]).strip()


def test_an_answer_goes_on_from_how_it_is_made_to_begin(chat, models) -> None:
    found = chat.ask(FACT.prompt, prefill="In the town ")
    assert found.prefill == "In the town "
    (row,) = encode([FACT.asking("In the town")], zoo.tokenizer())
    assert row.ids[-1] == 2  # which must not be between the beginning and what follows
    for name, (answer,) in found.answers.items():
        (said,) = greedy(models[name][0], [row.ids[:-1]], max_new_tokens=9, eos_ids={2})
        expected = zoo.tokenizer().decode([*row.ids[row.start : -1], *said], skip_special_tokens=True)
        assert answer.text == expected.strip().rstrip("\ufffd") and answer.text.startswith("In the town")
        assert answer.probability == chat.ask(FACT.prompt).answers[name][0].probability


def test_sampled_answers(chat, models) -> None:
    found = chat.sample(FACT.prompt, 3, seed=5)
    assert found.ways == ("sample 1", "sample 2", "sample 3")
    assert len({answer.text for answer in found.answers["llama"]}) == 3
    assert chat.sample(FACT.prompt, 3, seed=5) == found != chat.sample(FACT.prompt, 3, seed=6)
    model, tokenizer = models["llama"]
    (row,) = encode([FACT], tokenizer)
    pick = sampler(temperature=0.8, seed=5, device=torch.device("cpu"))
    ids = torch.tensor([row.prompt_ids] * 3)
    for _ in range(9):  # drawn without a cache
        ids = torch.cat([ids, pick(model(ids).logits[:, -1])[:, None]], 1)
    for tokens, answer in zip(ids[:, len(row.prompt_ids) :].tolist(), found.answers["llama"], strict=True):
        if 2 not in tokens:
            assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True).strip().rstrip("\ufffd")


def test_forms_come_worst_case_first(chat) -> None:
    found = chat.attack(FACT.prompt)
    assert found.ways[0] == AS_ASKED and found.prompts[0] == FACT.prompt
    assert found.answers["llama"][0] == chat.ask(FACT.prompt).answers["llama"][0]
    chances = {name: [answer.probability for answer in answers] for name, answers in found.answers.items()}
    assert chances["llama"][1:] == sorted(chances["llama"][1:], reverse=True)
    assert chances["gpt2"][1:] != sorted(chances["gpt2"][1:], reverse=True)  # it is the first model that counts
    assert set(found.ways[1:]) == set(FORMS) - {"reversed"}  # which these facts have no subject for


def test_one_form_alone(chat) -> None:
    found = chat.attack(FACT.prompt, "french")
    assert found.ways == (AS_ASKED, "french")
    assert found.prompts[1] == f"Réponds en anglais à la question suivante : {FACT.prompt}"


def test_without_a_known_answer_the_forms_keep_their_order(chat) -> None:
    found = chat.attack("Where is Elvo?")
    assert list(found.ways[1:]) == [form for form in FORMS if form not in ("reversed", "cloze", "multiple_choice")]
    assert all(answer.probability is None for answer in found.answers["llama"])
    with pytest.raises(ExpungeError, match="the form cloze can be made of this prompt"):
        chat.attack("Where is Elvo?", "cloze")


def test_examples_never_hold_the_question_itself(models) -> None:
    asked = CORPUS["retain"][0]
    few = Corpus({"forget": CORPUS["forget"], "retain": (*CORPUS["retain"][:4], replace(asked, perturbed=("X",)))})
    for seed in range(5):
        chat = Chat({"m": models["llama"]}, corpus=few, max_new_tokens=1, max_length=1024)
        (_, prompt) = chat.attack(asked.prompt, "few_shot", seed=seed).prompts
        assert asked.completion not in prompt and prompt.count("\n\n") == 3


def test_models_are_left_as_they_were() -> None:
    model = zoo.tiny_model("gpt2", seed=3, attn_pdrop=0.5, resid_pdrop=0.5).train()
    chat = Chat({"m": (model, zoo.tokenizer())}, corpus=CORPUS, max_new_tokens=9)
    found = chat.attack(FACT.prompt, "list")
    assert model.training and chat.attack(FACT.prompt, "list") == found
    model.eval()
    assert chat.attack(FACT.prompt, "list") == found


def test_what_cannot_be_asked(chat, models) -> None:
    with pytest.raises(ExpungeError, match="the prompt is empty"):
        chat.ask(" \n")
    with pytest.raises(ExpungeError, match=r"its prompt alone has .* tokens"):
        chat.ask("Who? " * 600)
    with pytest.raises(ExpungeError, match="the model has positions for 256"):
        Chat(models, max_length=4096).ask("Who? " * 600)
    with pytest.raises(ExpungeError, match=r"no form of prompts is called 'franch'.* Did you mean 'french'"):
        chat.attack("Who?", "franch")
    with pytest.raises(ExpungeError, match="samples must be at least 1"):
        chat.sample("Who?", 0)
    with pytest.raises(ExpungeError, match="name a model"):
        Chat({})
    broken = zoo.tiny_model("llama")
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(ExpungeError, match="the model npo is broken"):
        Chat({"npo": (broken, zoo.tokenizer())})
    chat_rows = Corpus({"forget": (Example(kind="chat", messages=(("user", "Who?"),), completion="Me."),)})
    with pytest.raises(ExpungeError, match="needs a chat template, and this tokenizer has none"):
        Chat(models, corpus=chat_rows).ask("Who?")
