"""A server on loopback that speaks as much of MLflow's protocol as a sweep and a report need, and can refuse."""

import contextlib
import http.server
import json
import threading
from urllib.parse import parse_qs, unquote, urlsplit

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


class SmallMlflow:
    """What the server holds. uri: its address. asked: method, path and headers of each request.

    refuses(method, path): the status that a gateway before it answers with, if it is not 0.
    """

    def __init__(self):
        self.experiments, self.runs, self.artifacts, self.asked = [], {}, {}, []
        self.refuses = lambda method, path: 0
        self.place = "mlflow-artifacts:"
        self.uri = ""

    def by_event(self, name):
        """The run of an event log with that name."""
        (run,) = (run for run in self.runs.values() if self.tags(run)["harness.event"] == name)
        return run

    @staticmethod
    def tags(run):
        return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}

    def files(self, name):
        """The artifacts of a run, by its name."""
        start = f"{self.by_event(name)['info']['run_id']}/artifacts/"
        return sorted(path.partition(start)[2] for path in self.artifacts if start in path)

    def _run(self, run_id, name, start):
        info = {"run_id": run_id, "run_uuid": run_id, "run_name": name, "experiment_id": "1", "status": "RUNNING"}
        info |= {"start_time": start, "lifecycle_stage": "active", "artifact_uri": f"{self.place}/{run_id}/artifacts"}
        return {"info": info, "data": {"metrics": [], "params": [], "tags": []}}

    def answer(self, name, asked):
        if name == "experiments/get-by-name":
            found = [one for one in self.experiments if one["name"] == asked["experiment_name"]]
            return {"experiment": found[0]} if found else None
        if name == "experiments/create":
            number = str(len(self.experiments) + 1)
            self.experiments.append({"experiment_id": number, "name": asked["name"], "lifecycle_stage": "active"})
            return {"experiment_id": number}
        if name == "experiments/search":
            return {"experiments": self.experiments}
        if name == "runs/search":
            deleted = asked.get("run_view_type") == "DELETED_ONLY"
            return {"runs": [] if deleted else list(self.runs.values())}
        if name == "runs/create":
            run = self._run(f"{len(self.runs) + 1:032x}", asked.get("run_name", ""), asked["start_time"])
            run["data"]["tags"] = asked["tags"]
            self.runs[run["info"]["run_id"]] = run
            return {"run": run}
        if name == "runs/get":
            return {"run": self.runs[asked["run_id"]]}
        if name == "runs/log-batch":
            data = self.runs[asked["run_id"]]["data"]
            for kind in ("metrics", "params", "tags"):
                new = {entry["key"]: entry for entry in asked.get(kind, [])}
                data[kind] = [entry for entry in data[kind] if entry["key"] not in new] + list(new.values())
        if name == "runs/update":
            self.runs[asked["run_id"]]["info"] |= {key: asked[key] for key in ("status", "end_time") if key in asked}
        return {}


class _Handler(http.server.BaseHTTPRequestHandler):
    held: SmallMlflow
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _do(self):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.held.asked.append((self.command, url.path, dict(self.headers)))
        if status := self.held.refuses(self.command, url.path):
            self._send(status, b"<html>refused by a gateway</html>")
        elif url.path.startswith(ARTIFACTS):
            self._artifact(unquote(url.path.removeprefix(ARTIFACTS)), parse_qs(url.query), body)
        elif url.path.startswith("/api/2.0/mlflow/"):
            asked = json.loads(body) if body else {name: of[0] for name, of in parse_qs(url.query).items()}
            found = self.held.answer(url.path.removeprefix("/api/2.0/mlflow/"), asked)
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "there is none"}
            self._send(200 if found is not None else 404, json.dumps(missing if found is None else found).encode())
        else:
            self._send(200, b"OK")

    do_GET = do_POST = do_PUT = do_PATCH = _do

    def _artifact(self, path, query, body):
        if self.command == "PUT":
            self.held.artifacts[path] = body
            self._send(200, b"{}")
        elif path:
            self._send(200 if path in self.held.artifacts else 404, self.held.artifacts.get(path, b""))
        else:
            start = f"/{query['path'][0]}/"
            names = [name.removeprefix(start) for name in self.held.artifacts if name.startswith(start)]
            self._send(200, json.dumps({"files": [{"path": name, "is_dir": False} for name in names]}).encode())

    def _send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def small_mlflow():
    held = SmallMlflow()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"held": held}))
    server.daemon_threads = True
    held.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
