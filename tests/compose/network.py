"""What happens to a container's network: it is cut off, or becomes slow. From outside, in its network namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.compose.project import Container

_QUEUE = 7  # number of the packet queue, any that is free
_READY_S = 20.0


@contextmanager
def cut_off(container: Container, network: str, *, from_peer: Container | None = None) -> Iterator[None]:
    """Every packet to and from the container is dropped without a word, as by a broken switch.

    With `from_peer`, only packets to and from that one.
    """
    interface = _interface(container, network)
    rules = [["INPUT", "--in-interface", interface], ["OUTPUT", "--out-interface", interface]]
    if from_peer is not None:
        rules[0] += ["--source", from_peer.addresses[network]]
        rules[1] += ["--destination", from_peer.addresses[network]]
    for rule in rules:
        _inside(container, "iptables", "--append", *rule, "--jump", "DROP")
    try:
        yield
    finally:
        for rule in rules:
            _inside(container, "iptables", "--delete", *rule, "--jump", "DROP")


@dataclass(frozen=True)
class Link:
    """A container's side of a network."""

    container: Container
    interface: str

    def held_back(self) -> int:
        """How often a packet had to wait because of the rate."""
        (queue,) = json.loads(_inside(self.container, "tc", "-s", "-json", "qdisc", "show", "dev", self.interface))
        return int(queue["overlimits"])


@contextmanager
def slow(container: Container, network: str, *, mbit: int, delay_ms: int) -> Iterator[Link]:
    """What the container sends goes at so many Mbit/s, what it gets comes so much later."""
    interface = _interface(container, network)
    shape = ("tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "50ms")
    with ExitStack() as stack:
        _inside(container, "tc", "qdisc", "add", "dev", interface, "root", *shape)
        stack.callback(_inside, container, "tc", "qdisc", "del", "dev", interface, "root")
        stack.enter_context(_late(container, interface, delay_ms))
        yield Link(container, interface)


@contextmanager
def _late(container: Container, interface: str, delay_ms: int) -> Iterator[None]:
    """Packets are held where they arrive: one that is held on its way out counts against TCP's small queues."""
    rule = ("INPUT", "--in-interface", interface, "--jump", "NFQUEUE", "--queue-num", str(_QUEUE), "--queue-bypass")
    delay = [sys.executable, str(Path(__file__).with_name("delay.py")), str(_QUEUE), str(delay_ms)]
    with subprocess.Popen([*_enter(container), *delay], stdout=subprocess.PIPE, text=True) as delaying:
        try:
            assert delaying.stdout is not None
            assert delaying.stdout.readline() == "ready\n", "packets can't be delayed"
            _inside(container, "iptables", "--append", *rule)
            try:
                yield
                assert delaying.poll() is None, "the delay ended early"
            finally:
                _inside(container, "iptables", "--delete", *rule)
                time.sleep(2 * delay_ms / 1000)  # what is still held
        finally:
            delaying.terminate()


def run_ip(*arguments: str) -> None:
    """`ip` on this host."""
    subprocess.run(["ip", *arguments], check=True, timeout=_READY_S)


def _interface(container: Container, network: str) -> str:
    """Name of the container's interface in this network."""
    address = container.addresses[network]
    for interface in json.loads(_inside(container, "ip", "-json", "address")):
        if any(entry.get("local") == address for entry in interface["addr_info"]):
            return str(interface["ifname"])
    raise AssertionError(f"{container.name} has no interface with {address}")


def _inside(container: Container, *command: str) -> str:
    ended = subprocess.run([*_enter(container), *command], capture_output=True, text=True, timeout=_READY_S)
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stderr}"
    return ended.stdout


def _enter(container: Container) -> list[str]:
    return ["nsenter", f"--target={container.local_pid}", "--net"]
