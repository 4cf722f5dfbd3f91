"""What goes wrong in the middle of a sweep loses nothing: every finished trial counts once, on disk and everywhere.

Each test compares with a sweep that nothing disturbed: what Optuna and MLflow hold of every trial, metric by metric
and epoch by epoch, and the leaderboard. Moments are random; a failure prints the seed that FAULT_SEED takes.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from sweeps import (
    LIMIT,
    ONE_AT_A_TIME,
    ROOT,
    differences,
    finished,
    free_port,
    leaderboard,
    mlflow_state,
    proposed,
    run,
    serving,
    started,
    suffered,
    suffering,
    suspended,
    sweep,
    until,
)

from harness import deliver

pytestmark = [pytest.mark.fault, pytest.mark.slow]
SEED = int(os.environ.get("FAULT_SEED", time.time_ns() % 10**6))
CHANCE = random.Random(SEED)


def endure(out, *words, faults=()):
    """The command, with trials that suffer these faults, at its end."""
    return finished(suffering(*sweep(out, *ONE_AT_A_TIME, *words)), env=os.environ | suffered(faults))


def same(out, undisturbed):
    differ = differences(proposed(out), proposed(undisturbed)) + differences(
        mlflow_state(out), mlflow_state(undisturbed)
    )
    assert not differ, f"FAULT_SEED={SEED}"
    assert leaderboard(out) == leaderboard(undisturbed), f"FAULT_SEED={SEED}"


def test_the_command_killed_at_random_moments(undisturbed, tmp_path, fresh):
    for _ in range(3):
        with started(tmp_path, *ONE_AT_A_TIME) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CHANCE.uniform(0.3, 1.1) * undisturbed.seconds)
            break  # it came to its end: the moments were late ones
    again = run(tmp_path, *ONE_AT_A_TIME)
    assert again.returncode == 0, again.stderr
    same(tmp_path, undisturbed.out)


def test_preempted_with_grace_and_started_twice(undisturbed, tmp_path, fresh):
    """SIGTERM ends it in good order; a second command on the same output says so and changes nothing."""
    with started(tmp_path, *ONE_AT_A_TIME) as process:
        until(lambda: list(tmp_path.glob("trials/*/checkpoint.pt")), process)
        with suspended(process):
            second = run(tmp_path, *ONE_AT_A_TIME)
            process.send_signal(signal.SIGTERM)
        assert second.returncode == 2 and "another command is writing" in second.stderr
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130 and "Continue with: python -m harness.tune" in said, said
    again = run(tmp_path, *ONE_AT_A_TIME)
    assert again.returncode == 0, again.stderr
    same(tmp_path, undisturbed.out)


def test_a_worker_killed_and_a_disk_full(undisturbed, tmp_path, fresh):
    """A dead worker costs nothing but time; a full disk ends the command with one line, and the next one goes on."""
    faults = [["killed", "standard", 0, None, 4], ["full", "sat", 1, None, 2]]
    done = endure(tmp_path, faults=faults)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: cannot write") and done.stderr.count("\n") == 1, done.stderr
    happened = {file.name.split("-")[0] for file in (tmp_path / "happened").iterdir()}
    assert {"killed", "full"} <= happened
    again = endure(tmp_path, faults=faults)
    assert again.returncode == 0, again.stderr
    same(tmp_path, undisturbed.out)


def test_a_gpu_that_is_lost_once_costs_nothing_but_time(undisturbed, tmp_path, fresh):
    """The worker tells why and ends, and the trial goes on in another one."""
    faults = [["device", "standard", 0, None, 4], ["device", "sat", 1, None, 2]]
    done = endure(tmp_path, faults=faults)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lost = [line for line in done.stdout.splitlines() if "continues on another worker" in line]
    happened = list((tmp_path / "happened").glob("device-*"))
    assert len(lost) == len(happened) >= 2, done.stdout
    assert all(
        line.endswith("lost its GPU: AcceleratorError: CUDA error: an illegal memory access was encountered")
        for line in lost
    )
    same(tmp_path, undisturbed.out)


def test_gpus_that_are_lost_again_and_again(tmp_path, fresh):
    """By the machine: not spent from the budget. By an assertion: the trial's own failure, run again when asked."""
    words = ["--space", "smoke", "--trials", "1", "--seeds", "0", "--set", "epochs=2"]
    faults = [["broken", "standard", 0, None, 1], ["assert", "sat", 0, None, 1]]
    done = endure(tmp_path, *words, faults=faults)
    assert done.returncode == 1 and "no finished trial in: standard, sat" in done.stderr, done.stderr

    def states():
        return {name.split("/")[1][:3]: [t[1] for t in trials] for name, trials in proposed(tmp_path).items()}

    assert states() == {"sta": ["FAIL", "FAIL"], "sat": ["FAIL"]}
    reasons = {
        tags["harness.reason"] for run in mlflow_state(tmp_path).values() if "harness.reason" in (tags := run["tags"])
    }
    assert reasons == {
        "its worker died: it lost its GPU: AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        "AcceleratorError: CUDA error: device-side assert triggered",
    }
    again = endure(tmp_path, *words)
    assert states() == {"sta": ["FAIL", "FAIL", "COMPLETE"], "sat": ["FAIL"]}, again.stderr
    asked = endure(tmp_path, *words, "--retry-failed")
    assert asked.returncode == 0 and "failed trials that run again: 1\n" in asked.stdout, asked.stderr
    assert states() == {"sta": ["FAIL", "FAIL", "COMPLETE"], "sat": ["FAIL", "COMPLETE"]}


def test_workers_that_die_after_their_last_report(undisturbed, tmp_path, fresh):
    """Every job has its outcome before its worker dies, so nothing runs again, fails, or stops the sweep."""
    faults = [["late", "standard", 0, None, 2], ["late", "sat", 0, None, 2], ["late", "standard", 1, None, 2]]
    done = endure(tmp_path, faults=faults)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(list((tmp_path / "happened").glob("late-*"))) >= 3
    same(tmp_path, undisturbed.out)


def test_trials_that_raise_or_ask_for_too_much_fail_alone(undisturbed, tmp_path, fresh):
    """The searched trial of each cell that did not win, and the repetition of one winner; one dies with its workers."""
    before = proposed(undisturbed.out)
    (standard,), (sat,) = (
        [t for t in before[name] if t[0] != max(before[name], key=lambda t: (t[1] == "COMPLETE", t[3] or [0]))[0]]
        for name in sorted(before, key=lambda name: "/sat" in name)
    )
    faults = [
        ["raise", "standard", 0, standard[2]["optim.lr"], 1],
        ["dies", "sat", 0, sat[2]["optim.lr"], 1],
        ["memory", "standard", 1, None, 1],
    ]
    done = endure(tmp_path, faults=faults)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    mine, theirs = mlflow_state(tmp_path), mlflow_state(undisturbed.out)
    assert mine.keys() == theirs.keys()
    failed = {name: run["tags"]["harness.reason"] for name, run in mine.items() if run["status"] == "FAILED"}
    assert len(failed) == 3
    by_end = {name.split(" @")[0].split("/")[-1] + name[-2:]: reason for name, reason in failed.items()}
    assert by_end[f"standard#{standard[0]}"] == "ZeroDivisionError: a deliberate one"
    assert by_end["standard#1"].startswith("MemoryError: Unable to allocate 1.00 PiB")
    assert by_end[f"sat#{sat[0]}"].startswith("its worker died: The actor died unexpectedly")
    left = {file.name: file.read_text() for file in (tmp_path / "happened").glob("nets-*")}
    assert set(left.values()) == {"0"}, left  # those who were stopped or failed leave their memory to the next
    intact = mine.keys() - failed.keys()
    parents = {theirs[name]["parent"] for name in failed}
    assert {name: mine[name] for name in intact - parents} == {name: theirs[name] for name in intact - parents}


def test_a_trial_that_hangs_ends_at_the_time_limit(tmp_path, fresh):
    words = ["--space", "standard", "--trials", "2", "--seeds", "0", "--set", "epochs=2"]
    for limit in (12, 60, 300):  # on a busy machine the other trial needs more of them
        out = tmp_path / str(limit)
        out.mkdir()
        shutil.copy(tmp_path / "mlflow.db", out)
        done = endure(out, *words, "--time-limit", str(limit), faults=[["hang", "standard", 0, 0.05, 1]])
        ended = {name[-1]: run["tags"] for name, run in mlflow_state(out).items() if "search #" in name}
        if not ended["1"].get("harness.reason", "").startswith("not done after"):
            break
    assert done.returncode == 0, done.stderr
    assert {number: tags["harness.state"] for number, tags in ended.items()} == {"0": "failed", "1": "complete"}
    assert ended["0"]["harness.reason"].startswith(f"not done after {limit} s, at fault_injection.py, line ")


def test_a_tracking_server_that_is_gone_for_good(undisturbed, tmp_path, fresh, empty_store):
    """The study completes, a command says what waits, and another store learns everything later."""
    (served := tmp_path / "served").mkdir()
    shutil.copy(empty_store, served / "server.db")
    port = free_port()
    python = suffering(*sweep(tmp_path, *ONE_AT_A_TIME, "--tracking-uri", f"http://127.0.0.1:{port}"))
    with contextlib.ExitStack() as serves:
        serves.enter_context(serving(served / "server.db", port, served / "server.log"))
        env = os.environ | suffered([]) | {"PATIENCE": "3"}
        process = subprocess.Popen(python, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: list(tmp_path.glob("trials/*/result.json")), process)
            serves.close()
            _, said = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 1 and "events wait in" in said and said.count("\n") == 1, said
    assert proposed(tmp_path) == proposed(undisturbed.out)
    assert deliver.main(["--out", str(tmp_path)]) == 0
    again = run(tmp_path, *ONE_AT_A_TIME)  # has nothing left to run, and reports
    assert again.returncode == 0, again.stderr
    same(tmp_path, undisturbed.out)
