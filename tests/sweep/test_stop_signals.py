"""SIGTERM and SIGHUP do what Ctrl-C does, whatever that is at the moment."""

import os
import signal
import subprocess
import threading

import pytest

from harness.sweep import remote_command, stop_signals


@pytest.fixture(autouse=True)
def _as_before():
    numbers = (*stop_signals.ENDING, *stop_signals.CHANGED_BY_RAY)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", stop_signals.ENDING)
@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL])
def test_the_command_is_interrupted_even_where_ctrl_c_itself_is_ignored(number, ctrl_c):
    signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, ctrl_c)
    with pytest.raises(KeyboardInterrupt), stop_signals.as_ctrl_c():
        send(number)
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", stop_signals.ENDING)
def test_ray_tune_is_told_first_and_the_second_signal_interrupts(number):
    signal.signal(number, signal.SIG_DFL)
    told = []

    def once(received, frame):  # as Ray Tune's
        told.append(received)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with stop_signals.as_ctrl_c():
        signal.signal(signal.SIGINT, once)
        send(number)
        assert told == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            send(number)


def test_what_is_ignored_stays_ignored():
    """As `nohup` starts a command."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals.as_ctrl_c():
        send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", [*stop_signals.ENDING, signal.SIGINT])
def test_a_command_on_a_remote_cluster_is_told_first_and_the_second_signal_interrupts(number):
    for each in stop_signals.ENDING:
        signal.signal(each, signal.SIG_DFL)
    stop = remote_command._Stop()
    send(number)
    assert stop.requested
    with pytest.raises(KeyboardInterrupt):
        send(number)


def test_a_command_on_a_remote_cluster_ignores_what_is_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = remote_command._Stop()
    send(signal.SIGHUP)
    assert not stop.requested


def test_handlers_that_ray_leaves_behind_are_gone_afterwards():
    before = [signal.getsignal(number) for number in stop_signals.CHANGED_BY_RAY]
    with stop_signals.restored():
        for number in stop_signals.CHANGED_BY_RAY:
            signal.signal(number, lambda *_: None)
    assert [signal.getsignal(number) for number in stop_signals.CHANGED_BY_RAY] == before


def test_in_another_thread_no_handler_is_set():
    raised = []

    def work():
        try:
            with stop_signals.as_ctrl_c(), stop_signals.restored():
                remote_command._Stop()
        except BaseException as error:
            raised.append(error)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == [] and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", stop_signals.ENDING)
def test_processes_that_start_meanwhile_never_receive_the_signals(number):
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt), stop_signals.as_ctrl_c():
        with stop_signals.held_back():
            process = subprocess.Popen(["sleep", "900"])
            send(number)  # is received afterwards
        pytest.fail("the signal was lost")
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.kill()
    assert process.wait() == -signal.SIGKILL
