"""Runs schemathesis against a real node and its own OpenAPI document.

Twice: on a node that asks nobody who he is, and on one that asks for tokens, as its admin. Each is
a cluster of one in a folder of its own on free ports, and is ended by its pid. The seed is fixed,
and time is bounded; both are printed.

    run.py COORDINATOR SCHEMATHESIS [--seed N] [--seconds N]
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
READY_LIMIT_SECONDS = 60

# Left out on the open node, with the reason.
OPEN_LEAVES_OUT = {
    "^/raft/": "without a secret everybody counts as a peer there, and peers are believed",
}

CHECKS = [
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "only_the_documented_503",
    "refusals_are_problem_documents",
]


def free_ports(count):
    held = []
    for _ in range(count):
        one = socket.socket()
        one.bind(("127.0.0.1", 0))
        held.append(one)
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Node:
    """A cluster of one; it ends with the `with` block."""

    def __init__(self, program, folder, keys):
        port, metrics_port = free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        config = {
            "node_id": "n1",
            "host": "127.0.0.1",
            "port": port,
            "prometheus_port": metrics_port,
            "data_dir": str(folder / "data"),
            "enable_redundancy": False,
            **keys,
        }
        path = folder / "node.json"
        path.write_text(json.dumps(config))
        self.log = folder / "node.log"
        self.process = subprocess.Popen([program, "--config", path], stdout=self.log.open("w"), stderr=subprocess.STDOUT)

    def __enter__(self):
        deadline = time.monotonic() + READY_LIMIT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/api/health/ready", timeout=2).close()
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.__exit__()
        sys.exit(f"the node did not serve within {READY_LIMIT_SECONDS} s:\n{self.log.read_text()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def lives(self):
        """It is the process that was started, and it still takes a write."""
        if self.process.poll() is not None:
            return False
        with urllib.request.urlopen(f"{self.url}/api/health/live", timeout=10) as answer:
            return answer.status == 200

    def login(self, password):
        body = json.dumps({"username": "root", "password": password}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/auth/login", body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["token"]


def schemathesis(arguments, node, more):
    command = [
        arguments.schemathesis, "run", f"{node.url}/api/openapi.json",
        "--phases", "examples,coverage,fuzzing",
        "--max-time", str(arguments.seconds),
        "--seed", str(arguments.seed),
        # One at a time: a seed then makes the same requests in the same order.
        "--workers", "1",
        "--request-timeout", "45",
        "--generation-database", "none",
        "--warnings", "off",
        "--continue-on-failure",
        "--no-color",
        # Of what comes in several forms (the stream of events), the one that ends.
        "--header", "accept: application/json",
        *more,
    ]
    print(" ".join(str(part) for part in command if "Bearer" not in str(part)), flush=True)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "checks", "PYTHONPATH": str(HERE)}
    return subprocess.run(command, env=environment, cwd=node.log.parent).returncode


def run(arguments, folder, name, keys, password=None):
    folder = folder / name
    folder.mkdir()
    print(f"\n--- {name}", flush=True)
    with Node(arguments.coordinator, folder, keys) as node:
        more, checks = [], list(CHECKS)
        if password:
            more += ["--header", f"authorization: Bearer {node.login(password)}"]
        else:
            for pattern, why in OPEN_LEAVES_OUT.items():
                print(f"left out: {pattern} ({why})")
                more += ["--exclude-path-regex", pattern]
        code = schemathesis(arguments, node, [*more, "--checks", ",".join(checks)])
        if not node.lives():
            print(f"the node did not live through it:\n{node.log.read_text()[-4000:]}")
            return 1
        panics = [line for line in node.log.read_text().splitlines() if "panicked" in line]
        for line in panics:
            print(f"a thread of the node panicked: {line}")
        return code or bool(panics)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("coordinator", type=pathlib.Path)
    parser.add_argument("schemathesis", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=50, help="for each of the two nodes")
    arguments = parser.parse_args()
    arguments.coordinator = arguments.coordinator.resolve()
    arguments.schemathesis = arguments.schemathesis.absolute()
    print(f"seed {arguments.seed}, {arguments.seconds} s for each of two nodes")
    with tempfile.TemporaryDirectory(prefix="holdfast-openapi-") as name:
        folder = pathlib.Path(name)
        open_code = run(arguments, folder, "open", {})
        password = "correct horse battery staple"
        hashed = subprocess.run(
            [arguments.coordinator, "hash-password"], input=password, capture_output=True, text=True, check=True
        ).stdout.strip()
        secret = folder / "cluster.secret"
        secret.write_text("0123456789abcdef0123456789abcdef\n")
        secret.chmod(0o600)
        guarded = {
            "enable_auth": True,
            "auth_type": "jwt",
            "jwt_secret": "a secret that only this run knows, long enough",
            "auth_users": [{"username": "root", "password_hash": hashed, "role": "admin"}],
            "cluster_secret_file": str(secret),
        }
        guarded_code = run(arguments, folder, "guarded", guarded, password)
    return 1 if open_code or guarded_code else 0


if __name__ == "__main__":
    sys.exit(main())
