"""reef on Ray Serve: one `reef serve` per replica, real-time requests to the one that is expected to end first.

Two deployments. `Door` takes HTTP (the Open Inference Protocol, as `reef serve` speaks it), finds the model in the path
and asks again where a replica has died under a request. `Reef` is a replica: a `reef serve` of its own, which it
watches, and whose metrics it tells the router. Ray adds and removes replicas by the length of their queues.

    serve run reef_serve:app models=/models reef=/usr/local/bin/reef

What is expected to end when is made of reef's own metrics, as a router inside one engine does it: the requests of
real-time models that a replica has, each times what its model took per request of late, and the request itself. What is
less urgent counts for nothing there: it is preempted.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile

import httpx
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica
from starlette.requests import Request
from starlette.responses import Response

# How often replicas tell what their metrics say.
STATS_PERIOD_S = 0.5
# A request whose replica died is asked for again so often, on whichever replica there is by then.
ATTEMPTS_MAX = 20
ATTEMPT_PAUSE_S = 0.5
# What a model takes that was never asked.
UNKNOWN_US = 1000.0
START_S = 600.0
MODEL = re.compile(r"^/v2/models/([^/]+)(/versions/[^/]+)?/infer$")
# A question, though it is a POST.
INDEX = "/v2/repository/index"
# What belongs to one connection and not to the next.
HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length", "upgrade"}


class ReplicaGone(Exception):
    """The `reef serve` of a replica does not answer any more."""


def forecast(metrics):
    """What a router has to know, from the text of reef's metrics: requests by model, their time, who is real-time."""
    sums = {}
    for line in metrics.splitlines():
        if match := re.match(r'(\w+)\{model="([^"]+)"[^}]*?(?:class="([^"]+)")?[^}]*\} (\S+)$', line):
            key = (match[1], match[2])
            sums[key] = sums.get(key, 0.0) + float(match[4])
    models = {model for name, model in sums if name == "nv_inference_pending_request_count"}
    def mean_us(model):
        count = sums.get(("nv_inference_exec_count", model), 0.0)
        return sums.get(("nv_inference_compute_infer_duration_us", model), 0.0) / count if count else UNKNOWN_US
    pending = {model: sums["nv_inference_pending_request_count", model] for model in models}
    return {model: {"pending": pending[model], "mean_us": mean_us(model)} for model in models}


class EarliestEndRouter(RequestRouter):
    """Real-time requests go where they are expected to end first; others where the fewest requests are."""

    def initialize_state(self, real_time=()):
        self.real_time = set(real_time)
        # Requests that were routed from here and have not ended, by replica: newer than what a replica told last.
        self.routed = {}

    async def choose_replicas(self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest = None):
        if not pending_request or not pending_request.args:
            return [candidate_replicas]
        model = pending_request.args[0]
        if model in self.real_time:
            cost = lambda replica: self.expected_end_us(replica, model)
        else:
            cost = lambda replica: sum(self.pending(replica).values())
        # One rank each: the next is asked only if the one before is full.
        return [[replica] for replica in sorted(candidate_replicas, key=cost)]

    def pending(self, replica):
        told = {model: stats["pending"] for model, stats in replica.routing_stats.items()}
        own = {}
        for model in self.routed.get(replica.replica_id, {}).values():
            own[model] = own.get(model, 0) + 1
        return {model: max(told.get(model, 0), own.get(model, 0)) for model in told.keys() | own.keys()}

    def expected_end_us(self, replica, model):
        def mean_us(name):
            return replica.routing_stats.get(name, {}).get("mean_us", UNKNOWN_US)
        urgent = {name: count for name, count in self.pending(replica).items() if name in self.real_time}
        return sum(count * mean_us(name) for name, count in urgent.items()) + mean_us(model)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result):
        routed = self.routed.setdefault(replica_id, {})
        routed[pending_request.metadata.internal_request_id] = (pending_request.args or [None])[0]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str):
        self.routed.get(replica_id, {}).pop(internal_request_id, None)

    def on_replica_actor_died(self, replica_id: ReplicaID):
        super().on_replica_actor_died(replica_id)
        self.routed.pop(replica_id, None)


@serve.deployment
class Reef:
    """A replica."""

    def __init__(self, models, reef, arguments=()):
        self.log = tempfile.NamedTemporaryFile(prefix="reef-", suffix=".log")
        # Dies with the replica, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", reef, "serve", models, "--http-port", "0", "--metrics-port", "0"]
        self.process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=self.log, text=True)
        said = self.process.stdout.readline()
        # serving http=HOST:PORT …
        places = dict(word.split("=", 1) for word in said.split() if "=" in word)
        if not {"http", "metrics"} <= places.keys():
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"reef did not start: {said!r}\n{open(self.log.name).read()[-4000:]}")
        self.metrics_url = f"http://{places['metrics']}/metrics"
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self.client = httpx.AsyncClient(base_url=f"http://{places['http']}", timeout=None, limits=limits)

    async def ask(self, model, method, path, headers, body):
        """Status, headers and body of reef's answer. `model` is for the router."""
        try:
            answer = await self.client.request(method, path, headers=headers, content=body)
        except httpx.TransportError as error:
            raise ReplicaGone(str(error)) from None
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        kept["reef-replica"] = serve.get_replica_context().replica_id.unique_id
        return answer.status_code, kept, answer.content

    async def record_routing_stats(self):
        try:
            return forecast((await self.client.get(self.metrics_url)).text)
        except httpx.TransportError:
            return {}

    async def check_health(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"reef ended with {self.process.returncode}")

    async def pids(self):
        """Of the replica and of its reef, for tests."""
        return os.getpid(), self.process.pid

    def __del__(self):
        if getattr(self, "process", None) and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


@serve.deployment(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1000)
class Door:
    """Where clients come in."""

    def __init__(self, reef):
        self.reef = reef

    async def __call__(self, request: Request):
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        match = MODEL.match(request.url.path)
        if not (match or request.method in ("GET", "HEAD") or request.url.path == INDEX):
            return refused(501, f"{request.method} {path} would reach one replica of several")
        headers = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
        body = await request.body()
        for attempt in range(ATTEMPTS_MAX):
            try:
                answer = await self.reef.ask.remote(match[1] if match else "", request.method, path, headers, body)
                status, kept, content = answer
                return Response(content, status, {**kept, "reef-attempts": str(attempt + 1)})
            except Exception as error:
                # An inference has no effect but its answer: asking twice is safe.
                if not is_gone(error):
                    raise
                await asyncio.sleep(ATTEMPT_PAUSE_S)
        return refused(503, "no replica answers")


def refused(status, why):
    return Response(json.dumps({"error": why}), status, {"content-type": "application/json"})


def is_gone(error):
    """Whether it was the replica that ended, not the request that was wrong."""
    return isinstance(error, (ReplicaGone, RayActorError, DeploymentUnavailableError))


def build(models, reef, real_time, target_queue=4, replicas_max=2, cpus=0.5, delays_s=(2.0, 10.0), arguments=()):
    """The application. Replicas are added when each has more than `target_queue` requests for the first of the delays,
    and removed when they have less for the second."""
    up, down = delays_s
    replica = Reef.options(
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=256,
        health_check_period_s=1.0,
        graceful_shutdown_timeout_s=20.0,
        autoscaling_config=AutoscalingConfig(
            min_replicas=1, max_replicas=replicas_max, target_ongoing_requests=target_queue, upscale_delay_s=up,
            downscale_delay_s=down, metrics_interval_s=0.5, look_back_period_s=2.0),
        request_router_config=RequestRouterConfig(
            request_router_class=EarliestEndRouter, request_router_kwargs={"real_time": list(real_time)},
            request_routing_stats_period_s=STATS_PERIOD_S, request_routing_stats_timeout_s=10.0),
    )
    return Door.bind(replica.bind(models, reef, list(arguments)))


def app(args):
    """For `serve run reef_serve:app models=DIR [reef=PATH] [real_time=NAME,NAME]`."""
    return build(args["models"], args.get("reef", "reef"), args.get("real_time", "").split(","))
