"""Run the command on the head node of a remote Ray cluster (ray://), with its output and exit status here.

    python -m harness.tune --space sat --address ray://head:10001 --out /shared/runs

Ray Tune's driver must run on a cluster node. So this checkout is uploaded as the working directory, without the files
of `.rayignore`, and an actor with zero CPUs runs the command. Ctrl-C interrupts it there; finished trials are stored.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import IO, Any

from harness.errors import UserError, one_line
from harness.plugins import COPIES
from harness.storage import provenance
from harness.sweep import ray_internals, stop_signals
from harness.sweep.sent_plugins import Sources, unpacked

CHECKOUT = Path(__file__).parents[2]
POLL_SECONDS = 0.5  # seconds between two checks for a stop request


def run(address: str | None, arguments: list[str], plugins: Sources | None = None) -> int:
    """Run `python -m harness.tune ARGUMENTS` on the head node of the cluster at ray://host:port; its exit status.

    address: as in the arguments; None if the environment names the cluster. plugins: their sources, sent along. Its
    output is printed here. Raises `UserError` if there is no such cluster, or the connection is lost.
    """
    import ray

    from harness.sweep import cluster, ray_addresses

    chosen = ray_addresses.chosen(address)
    if chosen and chosen.source and "--quiet" not in arguments:
        print(f"runs on the cluster at {chosen}", flush=True)
    package = CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else None
    cluster.connect(address, package=package)
    stop = _Stop()
    try:
        command: Any = (  # a handle, whose methods Ray makes from those of the class
            ray.remote(Command)
            .options(num_cpus=0, max_concurrency=2, resources={ray_internals.HEAD_NODE: 0.001})
            .remote(arguments, commit=provenance.commit() if package else "", plugins=plugins or {})
        )
        interrupted, pending = False, command.output.remote()
        while True:
            if stop.requested and not interrupted:
                ray.get(command.interrupt.remote())
                interrupted = True
            try:
                output = ray.get(pending, timeout=POLL_SECONDS)
            except ray.exceptions.GetTimeoutError:
                continue
            if output is None:
                return ray.get(command.status.remote())
            for to_error, text in output:
                stream = sys.stderr if to_error else sys.stdout
                stream.buffer.write(text)
                stream.flush()
            pending = command.output.remote()
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise UserError(f"lost the command on {chosen}; run it again to continue ({one_line(error)})") from None
    finally:
        cluster.disconnect()


class _Stop:
    """Handler of Ctrl-C and the signals that end a sweep. It records one; only a second raises `KeyboardInterrupt`.

    An exception inside Ray's client would leave it in an undefined state.
    """

    def __init__(self) -> None:
        self.requested = False
        if stop_signals.is_main_thread():
            for number in (signal.SIGINT, *stop_signals.heeded()):
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Command:
    """Ray actor that runs the command as a subprocess, in the working directory that Ray unpacked.

    `output` blocks in one thread while `interrupt` arrives in another.
    """

    def __init__(self, arguments: list[str], commit: str, plugins: Sources):
        """commit: of the working directory, which is sent without its repository. plugins: their sources."""
        import ray

        context = ray.get_runtime_context()
        package = {k: v for k, v in context.runtime_env.items() if k == "working_dir"}
        environment = {k: v for k, v in os.environ.items() if k not in ray_internals.OF_PROCESS} | {
            ray_internals.IN_JOB: json.dumps({"runtime_env": package, "metadata": {}}),  # as for a Ray job
            "RAY_ADDRESS": context.gcs_address,
            "PYTHONUNBUFFERED": "1",
        }
        if plugins:
            environment[COPIES] = unpacked(plugins)
        if commit:
            environment[provenance.COMMIT] = commit
        self._output: queue.Queue[tuple[bool, bytes]] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.tune", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._open = 2
        for to_error, stream in ((False, self._process.stdout), (True, self._process.stderr)):
            threading.Thread(target=self._read, args=(to_error, stream), daemon=True).start()

    def _read(self, to_error: bool, stream: IO[bytes]) -> None:
        while text := os.read(stream.fileno(), 1 << 16):
            self._output.put((to_error, text))
        self._output.put((to_error, b""))

    def output(self) -> list[tuple[bool, bytes]] | None:
        """New output as (to standard error?, bytes); blocks until there is some. None at the end."""
        if not self._open:
            return None
        chunks = [self._output.get()]
        while not self._output.empty():
            chunks.append(self._output.get())
        self._open -= sum(not text for _, text in chunks)
        return chunks

    def interrupt(self) -> None:
        """Stop the command cleanly. Not by SIGINT: processes of a cluster started in the background ignore it."""
        self._process.send_signal(signal.SIGTERM)

    def status(self) -> int:
        """Exit status of the command, as a shell reports it."""
        status = self._process.wait()
        return status if status >= 0 else 128 - status
