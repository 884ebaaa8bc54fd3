"""Starts a placement service, generates a client for it from the protos, and lets that client prove itself.

Needs grpcio and grpcio-tools (requirements.txt) and the binary in ROADSTEAD_BIN; `cargo xtask test python` sees to both.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"
FILES = ["types", "placement", "fleet", "admin"]
READY_WITHIN_S = 30


def generate(folder: Path) -> None:
    """Generates the Python client the way any user would."""
    well_known = Path(protoc.__file__).parent / "_proto"
    files = [str(PROTO / f"roadstead/v1/{name}.proto") for name in FILES]
    flags = [f"-I{PROTO}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", *flags, *files]) != 0:
        sys.exit("the protos could not be compiled for Python")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Replica:
    """One replica; a group of one is enough to speak to."""

    def __init__(self, folder: Path) -> None:
        binary = os.environ.get("ROADSTEAD_BIN")
        if not binary:
            sys.exit("ROADSTEAD_BIN does not name the binary")
        self.pki = folder / "pki"
        for arguments in (["init"], ["issue", "replica", "r1"], ["issue", "operator", "test"], ["issue", "client", "test"]):
            subprocess.run([binary, "pki", *arguments, "--dir", self.pki], check=True, stdout=subprocess.DEVNULL)
        self.address = f"127.0.0.1:{free_port()}"
        peer = f"127.0.0.1:{free_port()}"
        data = folder / "r1"
        addresses = ["--client-address", self.address, "--peer-address", peer]
        subprocess.run([binary, "server", "init", "--data", data, *addresses], check=True, stdout=subprocess.DEVNULL)
        self.log_path = folder / "r1.log"
        tls = ["--cert", self.pki / "replica-r1.crt", "--key", self.pki / "replica-r1.key", "--ca", self.pki / "ca-bundle.crt"]
        listen = ["--listen-client", self.address, "--listen-peer", peer, "--listen-probes", "127.0.0.1:0"]
        with self.log_path.open("wb") as log:
            command = [binary, "server", "run", "--data", data, *listen, *tls]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def channel(self, stem: str) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=(self.pki / "ca-bundle.crt").read_bytes(),
            private_key=(self.pki / f"{stem}.key").read_bytes(),
            certificate_chain=(self.pki / f"{stem}.crt").read_bytes(),
        )
        return grpc.secure_channel(self.address, credentials, [("grpc.ssl_target_name_override", "replica.roadstead")])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def wait_until_ready(replica: Replica) -> None:
    import claims

    end = time.monotonic() + READY_WITHIN_S
    while True:
        if replica.process.poll() is not None:
            sys.exit(f"the replica ended:\n{replica.log_path.read_text()}")
        try:
            claims.answers(replica)
            return
        except grpc.RpcError as error:
            if time.monotonic() > end:
                sys.exit(f"the replica did not answer: {error}\n{replica.log_path.read_text()}")
            time.sleep(0.05)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="roadstead-python-") as name:
        folder = Path(name)
        generated = folder / "generated"
        generated.mkdir()
        generate(generated)
        sys.path[:0] = [str(generated), str(HERE)]
        import claims

        replica = Replica(folder)
        failed = 0
        try:
            wait_until_ready(replica)
            for claim in claims.CLAIMS:
                try:
                    claim(replica)
                    print(f"test {claim.__name__} ... ok")
                except Exception as error:  # Every claim is tried, whatever became of the one before.
                    failed += 1
                    print(f"test {claim.__name__} ... FAILED\n{type(error).__name__}: {error}")
            if failed:
                print(f"--- the replica's log:\n{replica.log_path.read_text()[-8000:]}")
        finally:
            replica.stop()
        passed = len(claims.CLAIMS) - failed
        print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
