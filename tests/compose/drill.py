"""The steps: each leaves the system as it found it, and returns what it has measured, in words."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import httpx

from deploy.programs import demo_folder
from tests.compose import dashboard, images
from tests.compose.images import NODES, ROLES, TAG
from tests.compose.network import cut_off, run_ip, slow
from tests.compose.project import PROJECT, Container, Project, wait_until
from tests.compose.questions import answers, ask, check_answers, fresh_image, known_image, question
from tests.compose.traffic import traffic
from tests.hub import Hub, in_two_shards
from tests.otlp_collector import Collector, collecting

PORT = 18000  # of the router on this host
DATA = "data"  # the network between the servers


class Drill:
    """Args:
    variables: of the environment of `docker`.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {
            **variables,
            "EPD_PORT": str(PORT),
            "EPD_TAG": TAG,
            # whatever the caller's environment says
            "MODEL": "demo",
            "MODELS": "no-models",
            "API_KEY": "",
            "HF_TOKEN": "",
            "EPD_BIND": "127.0.0.1",
            # torch from where this machine's pip finds it: the default index may be out of reach
            "TORCH_INDEX": os.environ.get("TORCH_INDEX", ""),
        }
        self.project = Project(self._variables)
        self._all_profiles = Project(self._variables, profiles=["observability"])
        self.url = f"http://127.0.0.1:{PORT}"

    def end(self) -> None:
        """Removes whatever is left."""
        self._all_profiles.compose("down", "--volumes", "--timeout", "1", check=False)

    def recover(self) -> None:
        """After a step that failed: everything anew."""
        self.end()
        with contextlib.suppress(AssertionError):
            self.project.up()

    def images(self) -> str:
        """Built; small, without torch where that is not needed, without compilers, not root."""
        return images.build(self.project, self._variables)

    # -- a system that runs -------------------------------------------------------------------------------------------

    def start_in_any_order(self) -> str:
        """The router first: it says what it waits for, and serves as soon as that is there."""
        self.project.compose("up", "--detach", "--no-build", "router")
        wait_until("the router answers", lambda: self._waiting_for() != ["nobody"])
        wait_until("its log says what it waits for", lambda: "waiting for: " in self.project.logs("router"))
        assert any("language" in entry for entry in self._waiting_for()), self._waiting_for()
        self.project.compose("up", "--detach", "--no-build", "encode")
        wait_until("the encode server is healthy", lambda: self.project.container("encode").health == "healthy")
        assert any("language" in entry for entry in self._waiting_for()), self._waiting_for()
        self.project.compose("up", "--detach", "--no-build", "language")
        took = wait_until("it answers", lambda: answers(self.url))
        return f"served {took:.1f} s after the last one was started"

    def _waiting_for(self) -> list[str]:
        try:
            body = httpx.get(f"{self.url}/ready", trust_env=False).json()
        except httpx.HTTPError:
            return ["nobody"]
        missing: list[str] = body["waiting_for"]
        return missing

    def right_answers(self) -> str:
        """To a text and an image, and as a stream."""
        check_answers(self.url)
        body = {**question(known_image()), "stream": True}
        with httpx.stream(
            "POST", f"{self.url}/v1/chat/completions", json=body, timeout=60, trust_env=False
        ) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]", lines[-3:]
        return ""

    def walls(self) -> str:
        """Nothing is written, nothing is root, and only the router is reached from outside."""
        for role in ROLES:
            container = self.project.container(role)
            host = container.facts["HostConfig"]
            assert host["ReadonlyRootfs"], role
            assert host["CapDrop"] == ["ALL"], role
            assert bool(host["PortBindings"]) == (role == "router"), (role, host["PortBindings"])
            assert ("edge" in container.addresses) == (role == "router"), (role, container.addresses)
            assert self.project.compose("exec", "-T", role, "id", "-u").strip() == "10001"
            written = self.project.compose(
                "exec", "-T", role, "sh", "-c", "touch /opt/x 2>/dev/null && echo written || true"
            )
            assert "written" not in written, role
        return ""

    def check_pairs(self) -> str:
        """As an operator would ask, from inside of the router's container; and `epd top` likewise."""
        (last, said) = self._check()
        assert last.startswith("all is well: 1 pair"), said
        places = ("http://127.0.0.1:8000", "--metrics", "encode:9101", "language:9102")
        shown = self.project.compose("exec", "-T", "router", "epd", "top", *places, "--once")
        for title in ("routers", "encode servers", "language servers"):
            assert f"\n{title}" in shown, shown
        assert "no answer" not in shown, shown
        return last

    def _check(self, *options: str) -> tuple[str, str]:
        """The last line of `epd check`, and all of them."""
        command = ("epd", "check", "http://127.0.0.1:8000", *options)
        said = self.project.compose("exec", "-T", "router", *command, check=False)
        return said.strip().splitlines()[-1], said

    # -- servers that die ---------------------------------------------------------------------------------------------

    def encode_killed(self) -> str:
        """With a second one nobody notices; the images that it was at are encoded by the other. Texts never do."""
        told = self._one_of_two_killed("encode")
        with traffic(self.url, images=0) as seen:
            took = self._kill("encode")
        seen.check("text")
        return f"{told}; of the only one: images again after {took:.1f} s, meanwhile texts: {seen.text}"

    def language_killed(self) -> str:
        """With a second one nobody notices; the answers that it was at go on at the other."""
        told = self._one_of_two_killed("language")
        return f"{told}; of the only one: answers again after {self._kill('language'):.1f} s"

    def _one_of_two_killed(self, role: str) -> str:
        """And in the end one of two is told to end. No request fails."""
        self.project.up("--scale", f"{role}=2")
        wait_until("both are there", lambda: self._ready_servers(role) == 2)
        with traffic(self.url, images=4) as seen:
            wait_until("there is traffic", lambda: len(seen.text.seconds) > 3 and len(seen.image.seconds) > 3)
            took = self._kill(role, 0)
            wait_until("both are there again", lambda: self._ready_servers(role) == 2)
            self.project.up("--scale", f"{role}=1")
            wait_until("one is left", lambda: self._ready_servers(role) == 1)
        seen.check("text", "image")
        again = f"{self._retries(role):.0f} tried again"
        return f"of two: back after {took:.1f} s, {again}, texts {seen.text}, images {seen.image}"

    def _retries(self, role: str) -> float:
        """Attempts after the first one, since the router was started."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        name = f'epd_retries_total{{what="{role}"}}'
        return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    def router_killed(self) -> str:
        return f"answers again after {self._kill('router'):.1f} s"

    def _kill(self, role: str, index: int = 0) -> float:
        """kill -9 of a container's process; seconds until it was started again and all is right."""
        victim = self.project.containers(role)[index]
        begin = time.monotonic()
        os.kill(victim.local_pid, signal.SIGKILL)

        def is_back() -> bool:
            now = next(found for found in self.project.containers(role) if found.id == victim.id)
            return now.restarts > victim.restarts and now.pid > 0 and answers(self.url)

        wait_until(f"{role} is back", is_back)
        return time.monotonic() - begin

    def _ready_servers(self, role: str) -> int:
        servers = httpx.get(f"{self.url}/servers", trust_env=False).json()["servers"]
        return sum(server["ready"] for server in servers if server["role"] == role)

    # -- more and fewer -----------------------------------------------------------------------------------------------

    def scaled(self) -> str:
        """No request fails, and every encode server gets some of the work."""
        with traffic(self.url, texts=2, images=4) as seen:
            wait_until("there is traffic", lambda: len(seen.image.seconds) > 3)
            self.project.up("--scale", "encode=3")
            wait_until("the router has found all three", lambda: self._ready_servers("encode") == 3)
            before = len(seen.image.seconds)
            wait_until("images go through three", lambda: len(seen.image.seconds) > before + 30)
            work = [self._encoded(container) for container in self.project.containers("encode")]
            assert all(items > 0 for items in work), work
            last, said = self._check()
            assert last.startswith("all is well: 3 pairs"), said
            self.project.up("--scale", "encode=1")
            wait_until("the router has forgotten two", lambda: self._ready_servers("encode") == 1)
            before = len(seen.image.seconds)
            wait_until("images go through one", lambda: len(seen.image.seconds) > before + 5)
        seen.check("text", "image")
        return f"images encoded {work}; texts: {seen.text}; images: {seen.image}"

    def _encoded(self, container: Container) -> float:
        text = httpx.get(f"http://{container.addresses[DATA]}:9101/metrics", trust_env=False).text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("epd_encode_items_total"))

    # -- networks that fail -------------------------------------------------------------------------------------------

    def encode_cut_off(self) -> str:
        """Images are refused, and soon; texts don't notice; all is well when the network is."""
        with traffic(self.url, images=0) as seen:
            with cut_off(self.project.container("encode"), DATA):
                refused = self._refused_within(60.0, fresh_image())
            healed = wait_until("images are answered", lambda: answers(self.url))
        seen.check("text")
        return f"refused after {refused:.1f} s, well {healed:.1f} s after it healed; texts: {seen.text}"

    def language_cut_off(self) -> str:
        with cut_off(self.project.container("language"), DATA):
            refused = self._refused_within(60.0, None)
        healed = wait_until("it answers", lambda: answers(self.url))
        return f"refused after {refused:.1f} s, well {healed:.1f} s after it healed"

    def servers_apart(self) -> str:
        """The encode server can't reach the language server, and only that: a firewall that was forgotten."""
        with traffic(self.url, images=0) as seen:
            link = cut_off(self.project.container("language"), DATA, from_peer=self.project.container("encode"))
            with link, ThreadPoolExecutor() as pool:
                checked = pool.submit(self._check)
                refused = self._refused_within(60.0, fresh_image())
                _, said = checked.result()
            healed = wait_until("images are answered", lambda: answers(self.url))
        seen.check("text")
        assert "1 problem:" in said, said
        assert re.search(
            r"encode server \S+ and language server \S+ fail: HTTP 503: .* can't reach the language", said
        ), said
        return f"refused after {refused:.1f} s, well {healed:.1f} s after it healed; texts: {seen.text}"

    def _refused_within(self, limit: float, image: str | None) -> float:
        """Seconds until a request ends in a 503."""
        begin = time.monotonic()
        with httpx.Client(base_url=self.url, timeout=limit, trust_env=False) as client:
            response = client.post("/v1/chat/completions", json=question(image))
        assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE, f"{response.status_code}: {response.text}"
        return time.monotonic() - begin

    def slow_network(self) -> str:
        """Slower, and nothing else."""
        usual = self._image_seconds()
        with contextlib.ExitStack() as stack:
            links = [
                stack.enter_context(slow(self.project.container(role), DATA, mbit=100, delay_ms=20))
                for role in ("encode", "language")
            ]
            late = self._image_seconds()
            shaken = self._metrics_seconds()
            assert shaken >= 2 * 0.02, f"packets are not late: {shaken:.3f} s"
            with traffic(self.url) as seen:
                time.sleep(10)
            held_back = links[0].held_back()
            assert held_back > 0, "embeddings went at full speed"
        seen.check("text", "image")
        return (
            f"an image: {usual:.2f} s, then {late:.2f} s; {held_back} packets held back for the rate; "
            f"texts: {seen.text}; images: {seen.image}"
        )

    def _metrics_seconds(self) -> float:
        """Of a connection to the encode server and a question to it: twice its packets have to arrive first."""
        container = self.project.container("encode")
        begin = time.monotonic()
        self._encoded(container)
        return time.monotonic() - begin

    def _image_seconds(self) -> float:
        """Median of some new images, one after another."""
        took = []
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            for _ in range(7):
                begin = time.monotonic()
                ask(client, fresh_image())
                took.append(time.monotonic() - begin)
        return median(took)

    # -- what is seen, and the end ------------------------------------------------------------------------------------

    def dashboard(self) -> str:
        """Every query of the dashboard has data, in a real Prometheus with our configuration."""
        return dashboard.check(self._variables, self.url)

    def traces(self) -> str:
        """One trace of an image request, with spans of all three containers, at a collector on this host."""
        with collecting(self._this_host()) as collector:
            traced = Project({**self._variables, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
            traced.up()
            check_answers(self.url)
            wait_until(
                "a trace has spans of all three", lambda: len(self._services_of_a_trace(collector)) == len(ROLES)
            )
            return ", ".join(sorted(self._services_of_a_trace(collector)))

    def _services_of_a_trace(self, collector: Collector) -> set[str]:
        """Of the one that has most."""
        spans = list(collector.spans)
        traces = {span.trace_id for span in spans}
        return max(
            ({span.service for span in spans if span.trace_id == trace} for trace in traces), key=len, default=set()
        )

    def _this_host(self) -> str:
        """Its address, as containers see it."""
        (network,) = json.loads(self.project.docker("network", "inspect", f"{PROJECT}_{DATA}"))
        address: str = network["IPAM"]["Config"][0]["Gateway"]
        return address

    def drained(self) -> str:
        """A stream that runs when the router is told to stop is answered to its end."""
        said: list[str] = []
        body = {
            "messages": [{"role": "user", "content": "Hello!"}],
            "max_tokens": 400,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begun = threading.Event()

        def read() -> None:
            with httpx.stream(
                "POST", f"{self.url}/v1/chat/completions", json=body, timeout=60, trust_env=False
            ) as answer:
                for line in answer.iter_lines():
                    said.append(line)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(30)
        since = time.time()
        self.project.compose("stop", "router")
        reader.join(60)
        assert said[-2:] == ["data: [DONE]", ""], said[-3:]
        told = self.project.logs("--since", f"{since:.3f}", "router")
        assert "finishing 1 request" in told, f"it had ended before the router was told to stop: {told}"
        usage = json.loads(said[-4].removeprefix("data: "))["usage"]
        assert usage["completion_tokens"] == body["max_tokens"], usage
        assert self.project.container("router").exit_code == 0
        return f"{len(said) // 2} pieces"

    def another_model(self) -> str:
        """From a folder of this machine; the router, which stays with the first model that it meets, is made anew."""
        folder = {"MODELS": str(demo_folder()), "MODEL": "/models/model"}
        other = Project({**self._variables, **folder})
        other.up()
        check_answers(self.url)
        shown = httpx.get(f"{self.url}/v1/models", trust_env=False).json()["data"][0]["id"]
        assert shown == "models", shown
        return ""

    def model_of_a_hub(self) -> str:
        """Each server downloads its own weights, once: from then on they are in the volume, and no hub is needed."""
        with Hub(self._this_host()) as hub:
            hub.models["drill/eyes"] = in_two_shards(demo_folder() / "model")
            other = Project({**self._variables, "MODEL": "drill/eyes", "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"})
            other.up()
            check_answers(self.url)
            weights = {name: count for name, count in hub.files.items() if name.endswith(".safetensors")}
            assert sorted(weights.values()) == [1, 1], weights
        for role in ("encode", "language"):
            assert "1 of 2 shards hold weights of this role" in other.logs(role), role
            other.compose("exec", "-T", role, "test", "-d", "/cache/huggingface/hub/models--drill--eyes/snapshots")
        shown = httpx.get(f"{self.url}/v1/models", trust_env=False).json()["data"][0]["id"]
        assert shown == "eyes", shown
        other.up("--force-recreate")
        check_answers(self.url)
        return f"{sum(map(len, hub.models['drill/eyes'].values())) / 1e6:.1f} MB, then without the hub"

    def all_in_one(self) -> str:
        """The image with everything, walled in like the others: one container is a system."""
        name = f"{PROJECT}-all"
        walls = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
        self.project.docker("run", "--detach", f"--name={name}", *walls, f"epd-all:{TAG}")
        try:
            took = wait_until("it is healthy", lambda: self._inspect(name)["State"]["Health"]["Status"] == "healthy")
            address = self._inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            check_answers(f"http://{address}:8000")
            self.project.docker("stop", "--time=30", name)
            assert self._inspect(name)["State"]["ExitCode"] == 0
        finally:
            self.project.docker("rm", "--force", "--volumes", name)
        return f"healthy after {took:.1f} s"

    def _inspect(self, name: str) -> dict[str, Any]:
        (facts,) = json.loads(self.project.docker("inspect", name))
        return dict(facts)

    def two_machines(self) -> str:
        """The files for two real ones, each at an address of its own that containers reach as if it were far."""
        self.end()
        with contextlib.ExitStack() as stack:
            for address in NODES.values():
                run_ip("address", "add", f"{address}/32", "dev", "lo")
                stack.callback(run_ip, "address", "del", f"{address}/32", "dev", "lo")
            variables = {**self._variables, **NODES, "API_KEY": "a-key-of-the-drill"}
            for node in ("language", "encode"):  # the router waits for both
                machine = Project(variables, f"node-{node}.compose.yaml", name=f"{PROJECT}-{node}")
                stack.callback(machine.compose, "down", "--volumes", "--timeout", "1", check=False)
                machine.up()
            refused = httpx.get(f"{self.url}/v1/models", trust_env=False).status_code
            assert refused == httpx.codes.UNAUTHORIZED, refused
            wait_until("it answers", lambda: answers(self.url, key=variables["API_KEY"]), 30.0)
        return ""

    def down(self) -> str:
        """All end by themselves, and nothing is left."""
        self.project.compose("stop")
        codes = {container.service: container.exit_code for container in self.project.containers()}
        assert codes == dict.fromkeys(ROLES, 0), codes
        self._all_profiles.compose("down", "--volumes")
        for kind in ("ps --all", "network ls", "volume ls"):
            left = self.project.docker(*kind.split(), "--quiet", f"--filter=label=com.docker.compose.project={PROJECT}")
            assert not left.split(), f"{kind}: {left}"
        return ""
