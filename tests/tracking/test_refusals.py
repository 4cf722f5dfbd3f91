"""What a store refuses is set aside, counted and named, and delivered as soon as it can be; the rest goes on."""

import json
import os
import random
import shutil
import time

import pytest
import requests
from logged_sweep import Memory, delivered, happen, tell
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos import databricks_pb2
from mlflow.utils.rest_utils import verify_rest_response
from small_mlflow import small_mlflow

from harness import deliver
from harness.errors import UserError, exit_status
from harness.tracking import delivery as tracking_delivery
from harness.tracking import refusals
from harness.tracking.refusals import is_final
from harness.tracking.tracker import Tracker

DELETED = databricks_pb2.RESOURCE_DOES_NOT_EXIST
AGAIN = {408, 425, 429}


def answered(status, text="<html></html>"):
    response = requests.Response()
    response.status_code, response._content = status, text.encode()
    return response


def errors(status):
    """What MLflow raises for an answer with that status: to an upload, to a request, to one with a gateway's JSON."""
    yield requests.HTTPError(f"{status} of a gateway", response=answered(status))
    for text in ("<html></html>", json.dumps({"error_code": status, "message": "too large"})):
        try:
            verify_rest_response(answered(status, text), "/api/2.0/mlflow/runs/log-batch")
        except MlflowException as error:
            yield error


@pytest.mark.parametrize("status", [*range(400, 432), 451, 499, 500, 501, 502, 503, 504, 507, 511, 599])
def test_of_the_statuses_all_4xx_are_final_but_three(status):
    found = [is_final(error) for error in errors(status)]
    assert found == [400 <= status < 500 and status not in AGAIN] * 3


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (MlflowException("a value", databricks_pb2.INVALID_PARAMETER_VALUE), True),
        (MlflowException("no run", DELETED), True),
        (MlflowException("deleted", databricks_pb2.INVALID_STATE), True),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "no"}), True),
        (MlflowException("database is locked", databricks_pb2.TEMPORARILY_UNAVAILABLE), False),
        (MlflowException("a bug"), False),
        (RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "later"}), False),
        (RestException({"detail": "no code"}), False),
        (ConnectionError("reset"), False),
        (requests.ConnectionError("reset"), False),
        (TimeoutError(), False),
        (refusals.Refused("none"), True),
        (KeyError("run"), True),
        (TypeError("no dict"), True),
    ],
)
def test_errors_are_final_or_tried_again(error, final):
    assert is_final(error) is final


def test_what_is_refused_now_and_then_is_delivered_as_if_it_never_was(workspace, monkeypatch, brisk):
    log = tell(workspace)
    steady = Memory()
    delivered(steady, log, workspace, monkeypatch)

    def held(store):
        runs = store.held().items()
        return {
            name: [{k: sorted(v) for k, v in part.items()} if at == 4 else part for at, part in enumerate(run)]
            for name, run in runs
        }

    expected = held(steady)
    for seed in range(6):
        for mark in log.parent.glob("*.delivered"):
            mark.unlink()
        chance, choosy, counts = random.Random(seed), Memory(), []

        def act(name, do, chance=chance, choosy=choosy):
            if chance.random() < 0.3 and len(choosy.runs):  # an empty store would count as a new one
                raise MlflowException("rejected", DELETED)
            choosy.acts.append(name)
            return do()

        choosy._act = act
        while not counts or counts[-1]:
            counts.append(delivered(choosy, log, workspace, monkeypatch)._refused.count())
            assert len(counts) < 60
        assert held(choosy) == expected, seed
        assert len(counts) > 1
        before = len(choosy.acts)
        delivered(choosy, log, workspace, monkeypatch)
        assert len(choosy.acts) == before  # nothing is left to send


def files_of(store, run):
    """The names of a run's files; its inputs, which are beside them, have three parts."""
    return [file[0] for file in store.held()[run][5] if len(file) == 2]


def weights(tracker, workspace, name="weights.pt"):
    """Log a file that a run already has others beside, and something after it."""
    folder = next(workspace.out.glob("trials/*"))
    (folder / name).write_bytes(b"x" * 100)
    tracker._log.append("study search #0", files=tracker._files([folder / "result.json", folder / name]))
    tracker._log.append("study search #0", tags={"after": "it"}, status="FINISHED")


def test_a_file_that_a_gateway_refuses_is_set_aside_and_the_rest_goes_on(workspace, brisk, capsys):
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    happen(tracker, workspace, 1)
    weights(tracker, workspace)
    words = ["--out", str(workspace.out)]
    with small_mlflow() as server:
        server.refuses = lambda method, path: 413 if method == "PUT" and path.endswith("weights.pt") else 0
        assert exit_status(lambda: deliver.main([*words, "--tracking-uri", server.uri])) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "refused 1 writes, which are kept: " in error
        assert "/weights.pt of 'trial 0: cell' (HTTPError: 413 " in error
        assert error.endswith(f"python -m harness.deliver --out {workspace.out} --tracking-uri {server.uri}\n")
        tags = server.tags(server.by_event("study search #0"))
        assert tags["after"] == "it" and server.by_event("study search #0")["info"]["status"] == "FINISHED"
        assert server.files("study search #0") == ["result.json"]
        tries = [path for method, path, _ in server.asked if method == "PUT" and path.endswith("weights.pt")]
        assert len(tries) == 2  # at once, and at the end
        server.refuses = lambda method, path: 0
        assert deliver.main([*words, "--tracking-uri", server.uri]) == 0
        assert server.files("study search #0") == ["result.json", "weights.pt"]
        before = len(server.asked)
        assert deliver.main([*words, "--tracking-uri", server.uri]) == 0
        assert not [path for method, path, _ in server.asked[before:] if method == "PUT"]
    assert capsys.readouterr().err == ""


def test_a_file_that_is_cut_off_without_an_answer_is_set_aside_at_last(workspace, monkeypatch, brisk):
    """As by a gateway that closes the connection on what is too large for it, while it takes all else."""
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    happen(tracker, workspace, 1)
    weights(tracker, workspace)
    store, tries = Memory(), []

    def log_artifact(run, file, folder):
        if file.endswith("weights.pt"):
            tries.append(file)
            raise ConnectionResetError("reset by peer")
        store.runs[run].files.add((file.rpartition("/")[2], folder))

    store.log_artifact = log_artifact
    delivery = delivered(store, tracker.log, workspace, monkeypatch)
    assert "refused 1 writes, which are kept: " in delivery.failure() and "reset by peer" in delivery.failure()
    assert store.held()["study search #0"][2]["after"] == "it"
    assert files_of(store, "study search #0") == ["result.json"]
    assert len(tries) >= tracking_delivery.UPLOAD_TRIES


def test_a_file_whose_tries_take_longer_than_the_patience_is_set_aside_too(workspace, monkeypatch, brisk):
    """As by a gateway that answers 504 after a minute: else every delivery would end before the last try."""
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    happen(tracker, workspace, 1)
    weights(tracker, workspace)
    monkeypatch.setattr(tracking_delivery, "PATIENCE_SECONDS", 2.0)
    store = Memory()

    def log_artifact(run, file, folder):
        if file.endswith("weights.pt"):
            time.sleep(2.5 / tracking_delivery.UPLOAD_TRIES)
            raise TimeoutError("504")

    store.log_artifact = log_artifact
    failure = delivered(store, tracker.log, workspace, monkeypatch).failure()
    assert "refused 1 writes" in failure and "TimeoutError: 504" in failure and "wait in" not in failure
    assert store.held()["study search #0"][2]["after"] == "it"


@pytest.mark.parametrize("what", ["link", "folder", "fifo", "above", "absolute"])
def test_a_file_from_outside_the_folder_is_refused_counted_and_named(workspace, monkeypatch, brisk, what):
    """A folder that was received may have links beside its log."""
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    happen(tracker, workspace, 1)
    secret = workspace.out.parent / "id_rsa"
    secret.write_text("private")
    (folder,) = workspace.out.glob("trials/*")
    name = f"trials/{folder.name}/weights.pt"
    if what == "link":
        (folder / "weights.pt").symlink_to(secret)
    elif what == "folder":
        (workspace.out / "linked").symlink_to(secret.parent)
        name = "linked/id_rsa"
    elif what == "fifo":
        os.mkfifo(folder / "weights.pt")
    else:
        name = "../id_rsa" if what == "above" else str(secret)
    tracker._log.append("study search #0", files=[(name, "")], tags={"after": "it"})
    store = Memory()
    delivery = delivered(store, tracker.log, workspace, monkeypatch)
    said = delivery.failure()
    assert f"refused 1 writes, which are kept: {name} of 'trial 0: cell' (" in said and "wait" not in said
    assert files_of(store, "study search #0") == ["result.json"]
    assert store.held()["study search #0"][2]["after"] == "it"


def test_events_of_the_wrong_form_are_refused_and_the_rest_goes_on(workspace, monkeypatch, brisk):
    log = tell(workspace, 1)
    wrong = ["[]", '"x"', "7", "{}", '{"run":"study","time":1,"metrics":7}', '{"run":[],"time":1}']
    wrong += ['{"run":"new","time":1,"begin":7}', '{"run":"sweep"}', '{"run":"study","time":"1","status":"FINISHED"}']
    wrong += [f'{{"run":"study","time":{10**30},"tags":{{"a":"b"}}}}']
    parts = ['"status":"ENDED"', '"status":[]', '"tags":{"a":7}', '"tags":{"a":"\\ud800"}', '"params":[]']
    parts += ['"files":[7]', '"files":[["a"]]', '"files":[["a","",""]]', '"files":[["\\ud800",""]]', '"inputs":[["a"]]']
    parts += [f'"metrics":[{row}]' for row in ('["a",1]', '["a","x",1]', '["a",NaN,1]', '["a",1,1.5]', "[[],1,1]")]
    parts += [f'"metrics":[["a",{value},{step}]]' for value, step in ((10**400, 1), (1, 10**30))]
    parts += ['"begin":{"title":"a","tags":{}}', '"begin":{"title":7,"parent":null,"tags":{}}']
    wrong += [f'{{"run":"study","time":1,{part}}}' for part in parts]
    with open(log, "a") as file:
        file.writelines(f"{line}\n" for line in wrong)
        file.write('{"run":"study","time":1,"tags":{"after":"it"}}\n')
    store = Memory()
    delivery = delivered(store, log, workspace, monkeypatch)
    assert delivery._refused.count() == len(wrong) and f"refused {len(wrong)} writes" in delivery.failure()
    assert store.held()["study"][2]["after"] == "it" and "a" not in store.held()["study"][2] | store.held()["study"][3]


def test_a_text_that_is_not_utf_8_is_delivered_without_what_it_has_of_no_letter(workspace, monkeypatch, brisk):
    """As an error that names a file of another encoding: no database takes that."""
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    tracker.start_sweep("title", "about")
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    tracker._log.append("sweep", tags={"harness.reason": f"cannot read {name}"})
    store = Memory()
    assert delivered(store, tracker.log, workspace, monkeypatch).failure() == ""
    assert store.held()["sweep"][2]["harness.reason"] == "cannot read caf? é.png"


@pytest.mark.parametrize(
    "header", ["[]", '{"log":"a"}', '{"log":"a\' or","experiment":"e"}', '{"log":"a","experiment":1}']
)
def test_a_header_of_the_wrong_form_is_named(workspace, header, capsys, brisk):
    folder = workspace.out / "track"
    folder.mkdir()
    (folder / "x.jsonl").write_text(f"{header}\n")
    with small_mlflow() as server:
        words = ["--out", str(workspace.out), "--tracking-uri", server.uri]
        assert exit_status(lambda: deliver.main(words)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: x: ") and "is not an event log" in error and error.count("\n") == 1


def test_a_deleted_experiment_and_deleted_runs_are_named_with_the_way_back(workspace, empty_store, brisk):
    log, uri = tell(workspace, 1), f"sqlite:///{workspace.out / 'mlflow.db'}"
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    writer = tracking_delivery.deliver_all(uri, log, workspace).writer
    writer.check_not_deleted(["study"])
    client = MlflowClient(tracking_uri=uri)
    client.delete_run(writer.runs["study"])
    with pytest.raises(UserError, match=rf"'cell' was deleted .* mlflow runs restore --run-id {writer.runs['study']}$"):
        writer.check_not_deleted(["sweep", "study"])
    writer.check_not_deleted(["sweep", "another"])
    happen(Tracker(workspace, "experiment", {"harness.sweep": "5eed"}), workspace, 2)
    delivery = tracking_delivery.deliver_all(uri, log, workspace)
    assert "of 'cell' (run 'study' does not exist; it was deleted)" in delivery.failure()
    client.restore_run(writer.runs["study"])
    delivery = tracking_delivery.deliver_all(uri, log, workspace)
    assert delivery.failure() == "" and len(delivery.writer.runs) == 4
    client.delete_experiment(writer.experiment)
    with pytest.raises(UserError, match=r"'experiment' was deleted .* mlflow experiments restore --experiment-id \d+$"):
        tracking_delivery.deliver_all(uri, log, workspace)


def test_a_store_that_does_not_say_what_was_deleted_is_one_line(workspace, monkeypatch, brisk):
    store = Memory()
    writer = delivered(store, tell(workspace, 1), workspace, monkeypatch).writer

    def search_runs(*of, **how):
        raise next(errors(502))

    store.search_runs = search_runs
    with pytest.raises(UserError, match=r"^the tracking store '.*' failed: "):
        writer.check_not_deleted(["study"])


def test_a_mark_of_the_wrong_form_delivers_again(workspace, monkeypatch, brisk):
    log = tell(workspace, 1)
    store = Memory()
    delivered(store, log, workspace, monkeypatch)
    (mark,) = log.parent.glob("*.delivered")
    expected, position = store.held(), json.loads(mark.read_text())["at"]
    for wrong in (
        "[]",
        "{",
        '{"at":null}',
        f'{{"at":{position},"refused":[]}}',
        f'{{"at":{position},"refused":{{"a":7}}}}',
    ):
        mark.write_text(wrong)
        before = len(store.acts)
        assert delivered(store, log, workspace, monkeypatch).failure() == ""
        assert store.held() == expected and len(store.acts) > before
