"""What a request leaves: the chosen model in its place, measured whole, with report and erasure record."""

import shutil

from expunge.erase.request import CONTROL, MODEL, REPORT, START, TRIED, Request
from expunge.models.load import load_model
from expunge.record.record import ErasureRecord, record
from expunge.record.statement import FILE as RECORD
from expunge.record.statement import read_statement
from expunge.report.html import report
from expunge.results.attacked import load_attacked
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION


def finished(request: Request, name: str, *, called: str, ground: str | None) -> ErasureRecord:
    """Put the chosen model in its place, measure it whole, and write report and record.

    Args:
        request: the request, of which a candidate was chosen.
        name: the candidate.
        called: the name of the request in the controller's files.
        ground: its legal ground.
    """
    folder, models = request.folder, request.models
    model, records = folder / MODEL, folder / f"{MODEL}-records"
    if (model / RECORD).is_file() and not (folder / TRIED).exists():
        return ErasureRecord(model, read_statement(model), folder / f"{MODEL}.salt")
    if not model.exists():
        request.run(name).rename(model)
    records.mkdir(exist_ok=True)
    before = request.evaluated(models.start, START, "start model")
    reference = None
    if (control := models.control) is not None:
        reference = folder / CONTROL
        request.evaluated(control, CONTROL, "control")
    models.let_go()
    after = request.evaluated(load_model(model), records.name, name, start=folder / START, reference=reference)
    place = request.attacked(name)
    for file in sorted(place.iterdir()) if place.is_dir() else ():
        file.replace(records / file.name)
    attacks = load_attacked(records)
    compared: list[Evaluation] = [] if reference is None else [Evaluation.load(reference / EVALUATION)]
    report(
        [before, *compared, after],
        folder / REPORT,
        title=f"Erasure: {called}",
        start=before.label,
        retain=compared[0].label if compared else None,
        attacked=[attacks],
        overwrite=True,
    )
    made = record(
        model,
        request=called,
        ground=ground,
        corpus=request.corpus,
        evaluation=after,
        start=before,
        attacked=attacks,
        policy=request.policy,
        overwrite=True,
    )
    shutil.rmtree(folder / TRIED, ignore_errors=True)
    return made
