"""`expunge erase`: what its dry run says before anything is done."""

import pytest


@pytest.fixture
def words(model_folder, data, tmp_path):
    return (f"model={model_folder}", f"forget={data}/forget.jsonl", f"output={tmp_path}/out")


def test_a_dry_run_says_what_will_be_done_and_what_was_found_in_the_data(call, words, data, tmp_path):
    code, out, err = call("erase", *words, f"retain={data}/retain.jsonl", "--dry-run")
    assert code == 0, out + err
    assert "10 retain rows for 6 forget rows hold little" in out and "npo_small_beta" in out
    assert "No problem found" not in out and "1 finding on the data above" in out and not (tmp_path / "out").exists()
    many = tmp_path / "many.jsonl"
    many.write_text(
        "".join(f'{{"question": "What is {n} and {n * n}?", "answer": "It is {n} {n}."}}\n' for n in range(40))
    )
    code, out, err = call("erase", *words, f"retain={many}", "--dry-run")
    assert code == 0 and "No problem found" in out and "finding" not in out, out + err


def test_a_dry_run_refuses_what_the_run_refuses(call, words):
    for flags in (("--dry-run",), ()):
        code, out, err = call("erase", *words, *flags)
        assert code == 1 and "a request needs a forget and a retain set" in out, out + err


def test_no_control_is_said_by_leaving_it_out(call, words, data):
    for flags in (("--dry-run",), ()):
        code, _, err = call("erase", *words, f"retain={data}/retain.jsonl", "control=nothing", *flags)
        assert code == 2 and "leave control out, or name a model" in err
