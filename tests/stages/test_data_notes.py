"""What is to be known of the data stands in the manifest of every stage that reads them."""

from dataclasses import replace

import expunge
import zoo
from expunge.data.corpus import Corpus

KEEP = zoo.corpus()["retain"]
CORPUS = Corpus({"forget": zoo.corpus()["forget"], "retain": (*KEEP, replace(KEEP[0], origin="r.jsonl, line 11"))})
NOTE = "1 of 11 retain rows repeat another row of the set, so that it counts more than once: r.jsonl, line 11."


def test_notes_stand_in_every_manifest() -> None:
    settings = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-3}
    run = expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), CORPUS, method="grad_diff", **settings)
    assert run.manifest.results["data_notes"] == [NOTE]
    run = expunge.finetune(zoo.tiny_model(), zoo.tokenizer(), CORPUS, **settings)
    assert run.manifest.results["data_notes"] == [NOTE]
    scores = expunge.localize(zoo.tiny_model(), zoo.tokenizer(), CORPUS, attribution="gradient")
    assert scores.manifest is not None and scores.manifest.results["data_notes"] == [NOTE]
