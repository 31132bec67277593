"""lm-evaluation-harness on our model object, with a local task; and what is said without it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import zoo
from expunge.cli import main
from expunge.core.checks import ExpungeError
from expunge.evaluation.lm_eval import harness
from expunge.models.load import save_model
from expunge.results.measures import Evaluation

TASK = """
task: wmdp_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nAnswer:"
doc_to_choice: ["A", "B"]
doc_to_target: answer
num_fewshot: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def test_without_the_harness_it_says_what_to_install(monkeypatch, model, tokenizer):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ExpungeError, match=r"pip install 'expunge\[lm-eval\]'.*suites wmdp and multiple_choice"):
        harness(model, tokenizer, ["wmdp"])


@pytest.fixture
def stand_in(monkeypatch):
    """Modules in place of the harness: one task, and the call of git that the harness ends with."""

    def revision():
        try:
            return subprocess.check_output(["git", "describe", "--always"]).decode().strip()
        except (subprocess.CalledProcessError, FileNotFoundError):
            return None

    def simple_evaluate(**_):
        asked.append(evaluator.get_git_commit_hash())
        return {"results": {"t": {"acc,none": 0.5}}, "n-samples": {"t": {"effective": 2}}}

    asked = []
    evaluator = SimpleNamespace(get_git_commit_hash=revision)
    modules = {
        "lm_eval": SimpleNamespace(simple_evaluate=simple_evaluate),
        "lm_eval.evaluator": evaluator,
        "lm_eval.models.huggingface": SimpleNamespace(HFLM=lambda **_: None),
        "lm_eval.tasks": SimpleNamespace(TaskManager=lambda **_: SimpleNamespace(all_tasks=["t"])),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(revision=revision, evaluator=evaluator, asked=asked)


def test_outside_of_a_git_tree_nothing_is_said_about_it(stand_in, model, tokenizer, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert stand_in.revision() is None and "not a git repository" in capfd.readouterr().err  # as the harness would
    assert harness(model, tokenizer, ["t"])["t_acc"] == 0.5
    assert stand_in.asked == [None] and capfd.readouterr().err == ""
    assert stand_in.evaluator.get_git_commit_hash is stand_in.revision  # left as it was


def test_no_task_is_an_error(model, tokenizer):
    with pytest.raises(ExpungeError, match="no task named"):
        harness(model, tokenizer, [])


@pytest.fixture
def folder(tmp_path):
    rows = [{"question": f"Is {i} even?", "choices": ["yes", "no"], "answer": i % 2} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "wmdp_local.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
    return tmp_path / "tasks"


@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_a_local_task_gives_what_the_likeliest_letter_gives(folder, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = zoo.tiny_model("llama", seed=1, max_position_embeddings=512)
    found = harness(model, tokenizer, ["wmdp_local"], task_folder=folder)
    measure = found["wmdp_local_acc"]
    assert (measure.better, measure.target, measure.n) == ("near", 0.25, 6)
    expected = []
    for i in range(6):
        prompt = f"Is {i} even?\nA. yes\nB. no\nAnswer:"
        scores = []
        for letter in (" A", " B"):
            before, whole = (tokenizer(t, return_tensors="pt").input_ids for t in (prompt, prompt + letter))
            with torch.no_grad():
                logprobs = model(whole).logits[0].log_softmax(-1)
            scores.append(sum(logprobs[t - 1, whole[0, t]].item() for t in range(before.shape[1], whole.shape[1])))
        expected.append(float(scores.index(max(scores)) == i % 2))
    assert measure.per_example == tuple(expected) and measure.value == pytest.approx(sum(expected) / 6)
    assert measure.interval[0] <= measure.value <= measure.interval[1]
    found.save(tmp_path / "found.json")
    assert Evaluation.load(tmp_path / "found.json")["wmdp_local_acc"] == measure


@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_the_harness_itself_says_nothing_about_git(folder, tokenizer, tmp_path, monkeypatch, capfd):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    model = zoo.tiny_model("llama", seed=1, max_position_embeddings=512)
    assert harness(model, tokenizer, ["wmdp_local"], task_folder=folder)["wmdp_local_acc"].n == 6
    assert "fatal" not in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_is_answered_with_the_nearest(folder, model, tokenizer):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    with pytest.raises(ExpungeError, match=r"Did you mean 'wmdp_local'"):
        harness(model, tokenizer, ["wmdp_locl"], task_folder=folder)


@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_the_command_line_runs_a_local_task(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = save_model(zoo.tiny_model("llama", max_position_embeddings=512), zoo.tokenizer(), tmp_path / "model")
    words = ["harness", f"model={model}", "tasks=wmdp_local", f"task_folder={folder}", f"output={tmp_path / 'out'}"]

    def code(*more: str) -> object:
        with pytest.raises(SystemExit) as caught:
            main([*words, *more])
        return caught.value.code

    assert code("limit=4") == 0 and "wmdp_local_acc" in capsys.readouterr().out
    assert Evaluation.load(tmp_path / "out/harness.json")["wmdp_local_acc"].n == 4
    assert code() == 2 and "--overwrite" in capsys.readouterr().err
    assert code("limit=2", "--overwrite") == 0
    words[1] = "model=null"
    assert code() == 2 and "harness needs a model" in capsys.readouterr().err
