"""From outside a cluster: the same command on its head node, what it prints here, and its exit status.

    python -m harness.tune --space sat --address ray://head:10001 --out /shared/runs

Ray Tune's driver needs a node of the cluster. So this checkout goes there as a package, without what `.rayignore`
names, and the command is run by an actor that takes no CPU. Ctrl-C interrupts it there; what is finished is kept.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import IO

from harness.errors import Mistake, one_line

CHECKOUT = Path(__file__).parent.parent
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the command of a job
CLIENT = "ray://"
LOOK = 0.5  # seconds between two looks whether to stop


def is_outside(address: str | None) -> bool:
    """Whether the address is for a client, and this is not already the command on the cluster."""
    return (address or os.environ.get("RAY_ADDRESS", "")).startswith(CLIENT) and IN_JOB not in os.environ


def check_paths(arguments: Namespace) -> None:
    """Raise `Mistake` for a folder relative to the copy of the checkout in which the cluster runs a command.

    That copy lies on one node, and is deleted after the command with all that was written to it.
    """
    if not (is_outside(arguments.address) or IN_JOB in os.environ):
        return
    root = arguments.data_root or os.environ.get("HARNESS_DATA")
    for option, path in (("--out", arguments.out), ("--data-root", root)):
        if path and not os.path.isabs(path) and "://" not in str(path):
            raise Mistake(
                f"{option} {str(path)!r} would lie in a Ray job's temporary copy of the code and vanish with it;"
                f" give an absolute path that all nodes see, such as /shared/{Path(path).name}"
            )


def run(address: str, words: list[str]) -> int:
    """Run `python -m harness.tune words` on the head node of the cluster at ray://host:port; its exit status.

    Prints there are printed here. Raises `Mistake` where there is no such cluster, or where it is lost.
    """
    from harness import schedule

    schedule.connect(address, package=CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else None)
    ray = schedule.ray
    stop = _Stop()
    try:
        command = (
            ray.remote(Command)
            .options(num_cpus=0, max_concurrency=2, resources={"node:__internal_head__": 0.001})
            .remote(words)
        )
        passed_on, asked = False, command.said.remote()
        while True:
            if stop.asked and not passed_on:
                ray.get(command.interrupt.remote())
                passed_on = True
            try:
                said = ray.get(asked, timeout=LOOK)
            except ray.exceptions.GetTimeoutError:
                continue
            if said is None:
                return ray.get(command.status.remote())
            for to_error, text in said:
                stream = sys.stderr if to_error else sys.stdout
                stream.buffer.write(text)
                stream.flush()
            asked = command.said.remote()
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise Mistake(f"lost the command on {address!r}; run it again, it goes on ({one_line(error)})") from None
    finally:
        schedule.disconnect()


class _Stop:
    """Whether Ctrl-C or SIGTERM came. An exception out of the middle of Ray's client would leave it in any state, so
    only a second one raises `KeyboardInterrupt`."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Command:
    """A command under way on a node of the cluster, in the folder into which Ray unpacked the package.

    `said` waits in one thread while `interrupt` comes in by another.
    """

    def __init__(self, words: list[str]):
        from harness.schedule import ray

        context = ray.get_runtime_context()
        package = {k: v for k, v in context.runtime_env.items() if k == "working_dir"}
        inner = ("RAY_JOB_ID", "RAY_RAYLET_PID")  # of this actor's own process
        environment = {k: v for k, v in os.environ.items() if k not in inner} | {
            IN_JOB: json.dumps({"runtime_env": package, "metadata": {}}),  # as Ray does for the command of a job
            "RAY_ADDRESS": context.gcs_address,
            "PYTHONUNBUFFERED": "1",
        }
        self._said: queue.Queue[tuple[bool, bytes]] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.tune", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._open = 2
        for to_error, stream in ((False, self._process.stdout), (True, self._process.stderr)):
            threading.Thread(target=self._hear, args=(to_error, stream), daemon=True).start()

    def _hear(self, to_error: bool, stream: IO[bytes]) -> None:
        while text := stream.read1(1 << 16):
            self._said.put((to_error, text))
        self._said.put((to_error, b""))

    def said(self) -> list[tuple[bool, bytes]] | None:
        """What was printed since the last call, as (to standard error?, bytes); waits for it. None after the last."""
        if not self._open:
            return None
        said = [self._said.get()]
        while not self._said.empty():
            said.append(self._said.get())
        self._open -= sum(not text for _, text in said)
        return said

    def interrupt(self) -> None:
        """Stop it in good order. Not by SIGINT: a cluster started in the background hands down that it is ignored."""
        self._process.send_signal(signal.SIGTERM)

    def status(self) -> int:
        """The command's exit status, as a shell gives it."""
        status = self._process.wait()
        return status if status >= 0 else 128 - status
