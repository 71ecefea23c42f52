#!/usr/bin/env python3
"""Looks at the dashboard of `reef serve` in headless Chromium, with playwright from PyPI.

Serves small models of the zoo, sends them load, and compares what the page shows with `/v2/models/stats`. Sends
requests through the page's form, stops and restarts the server under it, looks at it in dark and light, wide and narrow,
with a hundred models and with names that try to be markup. Chromium is Debian's (`apt-get install chromium`).
"""

import argparse
import contextlib
import copy
import http.client
import json
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback

from playwright.sync_api import sync_playwright

import oracle
from triton_client import Server

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
MODELS = ["control", "resnet18", "densenet201", "distilbert"]
SETTINGS = """
[model.control]
class = "real-time"
deadline_ms = 20000
[model.resnet18]
class = "real-time"
level = 3
[model.densenet201]
weight = 3
"""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 860}
WAIT_MS = 60_000


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-dashboard-") as temporary:
        work = pathlib.Path(temporary)
        oracle.write_zoo(args.reef, work / "serve", MODELS, tiny=True)
        (work / "serve" / "reef.toml").write_text(SETTINGS)
        try:
            with Server(args, work) as server, sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=args.browser, args=FLAGS)
                failures = run(Checks(args, server, browser))
                browser.close()
        except oracle.OracleError as error:
            sys.exit(f"dashboard: {error}")
    sys.exit(1 if failures else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="the browser; Chromium by default")
    parser.add_argument("--screenshots", type=pathlib.Path, help="where to write pictures of the page")
    parser.add_argument("--only", help="checks whose name has this")
    parser.add_argument("--start-timeout-s", type=float, default=180.0)
    parser.set_defaults(serve_arg=[])
    args = parser.parse_args()
    if not args.browser:
        sys.exit("dashboard: there is no chromium; apt-get install chromium, or --browser PATH")
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    return args


def run(checks):
    """Every `check_*` method in the order it is written; returns how many failed."""
    failures = 0
    names = [name for name in vars(Checks) if name.startswith("check_")]
    for name in [name for name in names if not checks.args.only or checks.args.only in name]:
        start, note = time.monotonic(), ""
        try:
            note, verdict = getattr(checks, name)() or "", "ok"
        except Exception:
            failures, verdict = failures + 1, "FAILED"
            traceback.print_exc()
        print(f"{verdict:6}  {name.removeprefix('check_').replace('_', ' '):44} {time.monotonic() - start:6.2f} s  {note}", flush=True)
    return failures


class Load:
    """Threads that send requests until they are told to stop; every answer is read."""

    def __init__(self, server):
        self.server, self.stopped, self.problems = server, threading.Event(), []
        shapes = {name: json.loads(server.get(server.http_port, f"/v2/models/{name}")[1])["inputs"] for name in MODELS}
        plans = [("control", 0.02, {}), ("resnet18", 0.1, {}), ("densenet201", 0, {}), ("distilbert", 0, {}),
                 ("control", 0.4, {"deadline_us": 1})]
        self.threads = [threading.Thread(target=self.send, args=(name, shapes[name], pause, parameters), daemon=True)
                        for name, pause, parameters in plans]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def send(self, name, inputs, pause, parameters):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=60)
        body = body_of(inputs, parameters)
        while not self.stopped.is_set():
            connection.request("POST", f"/v2/models/{name}/infer", body)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status not in ((504,) if parameters else (200, 504)):
                self.problems.append((name, answer.status, text[:200]))
                return
            time.sleep(pause * random.uniform(0.5, 1.5))


def until(page, condition):
    """Waits for it. The page's policy forbids what the browser's own way of waiting does."""
    end = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never: {condition}"
        page.wait_for_timeout(100)


def body_of(inputs, parameters):
    tensors = []
    for tensor in inputs:
        count = 1
        for extent in tensor["shape"]:
            count *= extent
        tensors.append({**tensor, "data": [1] * count})
    return json.dumps({"inputs": tensors, "parameters": parameters})


class Checks:
    """One method per behaviour; a method returns a note for the report."""

    def __init__(self, args, server, browser):
        self.args, self.server, self.browser = args, server, browser

    @contextlib.contextmanager
    def page(self, scheme="light", viewport=WIDE, port=None, path="/", prepare=None, quiet=True):
        """A page that asks nobody else and complains of nothing."""
        context = self.browser.new_context(color_scheme=scheme, viewport=viewport, device_scale_factor=1)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        origin = f"http://127.0.0.1:{port or self.server.http_port}"
        outside, complaints = [], []
        page.on("request", lambda request: None if request.url.startswith(f"{origin}/") else outside.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if prepare:
            prepare(page)
        page.goto(origin + path)
        yield page
        context.close()
        assert not outside, f"the page asks {outside}"
        assert not (quiet and complaints), f"the page complains: {complaints}"

    def shoot(self, page, name, full=True):
        if self.args.screenshots:
            page.screenshot(path=self.args.screenshots / f"{name}.png", full_page=full)

    def stats(self):
        models = json.loads(self.server.get(self.server.http_port, "/v2/models/stats")[1])["model_stats"]
        return {model["name"]: model for model in models}

    def send(self, page, wanted):
        """Sends what is in the form; the answer must begin like this."""
        page.click("#send")
        until(page, "!document.querySelector('#send').disabled && !document.querySelector('#answer').hidden")
        answer = page.locator("#answer").inner_text()
        assert answer.startswith(wanted), f"{answer[:300]!r} does not begin with {wanted!r}"
        return answer

    def check_load_shows_and_screenshots(self):
        with Load(self.server) as load, self.page() as page:
            until(page, "document.querySelector('#state').textContent === 'serving'")
            until(page, "document.querySelector('#tile-be .value').textContent !== '0/s'")
            page.wait_for_timeout(12_000)
            for tile in ("ratio", "rt", "be", "preempt", "misses"):
                value = page.locator(f"#tile-{tile} .value").inner_text()
                assert value[0].isdigit(), f"tile {tile} shows {value!r}"
            words = "document.querySelector('.device-line').textContent"
            until(page, f"!{words}.includes('real-time 0 %') && !{words}.includes('best-effort 0 %')")
            words = page.locator(".device-line .muted").inner_text()
            page.locator('.row[data-model="control"] .model-cell button').click()
            self.shoot(page, "light")
            page.emulate_media(color_scheme="dark")
            page.wait_for_timeout(1_500)
            self.shoot(page, "dark")
            with self.page("dark", NARROW) as narrow:
                narrow.wait_for_timeout(3_000)
                self.shoot(narrow, "narrow")
        assert not load.problems, load.problems
        return words

    def check_numbers_are_those_of_the_statistics(self):
        with self.page() as page:
            for name in MODELS:
                page.locator(f'.row[data-model="{name}"] .model-cell button').first.click()
            page.wait_for_timeout(1_500)
            stats = self.stats()
            for name, model in stats.items():
                success, fail = (model["inference_stats"][what]["count"] for what in ("success", "fail"))
                answered = sum(int(text.replace(",", "")) for text in page.evaluate(
                    """name => [...document.querySelectorAll(`.row[data-model="${name}"] + .detail-row`)].flatMap(detail =>
                       [...detail.querySelectorAll('dt')].filter(dt => dt.textContent === 'answered').map(dt => dt.nextSibling.textContent))""", name))
                failed = sum(int(text.replace(",", "")) for text in
                             page.locator(f'.row[data-model="{name}"] [data-cell="failed"]').all_inner_texts())
                assert (answered, failed) == (success, fail), f"{name}: {answered} and {failed}, not {success} and {fail}"
            assert stats["control"]["inference_stats"]["fail"]["count"] > 0, "no deadline was missed"
            return ", ".join(f"{name} {model['inference_count']}" for name, model in stats.items())

    def check_form(self):
        # The browser itself complains of answers that are refusals.
        with self.page(quiet=False) as page:
            page.select_option("#request-model", label="control")
            page.locator(".tensor legend", has_text="input").wait_for()
            page.locator(".tensor select").select_option("constant")
            page.locator(".tensor label", has_text="value").locator("input").fill("1")
            self.send(page, "Answered by control")
            self.shoot(page, "form")
            shown = [float(text) for text in page.locator("#answer pre").inner_text().split()[:8]]
            inputs = json.loads(self.server.get(self.server.http_port, "/v2/models/control")[1])["inputs"]
            status, text = self.server.request(self.server.http_port, "POST", "/v2/models/control/infer", body_of(inputs, {}))
            wanted = json.loads(text)["outputs"][0]["data"]
            assert status == 200 and all(abs(a - b) <= 1e-4 * max(1, abs(b)) for a, b in zip(shown, wanted)), (shown, wanted)
            facts = page.locator("#answer dl").inner_text()
            assert "real-time" in facts and "compute" in facts, facts
            page.locator(".tensor select").select_option("values")
            for given, problem in [("[1, 2", "not JSON"), ("[1, 2]", "2 values for"), ('["a"]', "values for")]:
                page.locator(".tensor textarea").fill(given)
                answer = self.send(page, "Not sent")
                assert problem in answer, answer
            page.locator(".tensor select").select_option("random")
            page.fill("#request-deadline", "1")
            self.send(page, "504")
            page.fill("#request-deadline", "")
            for name in ("distilbert", "densenet201"):
                page.select_option("#request-model", label=name)
                page.locator(".tensor legend").first.wait_for()
                page.select_option("#request-class", "real-time")
                self.send(page, "400")
                page.select_option("#request-class", "")
                self.send(page, f"Answered by {name}")
        return f"control answers {shown[:3]}"

    def check_elements_are_made_and_read_as_the_types_say(self):
        """The form's conversions against NumPy's, through the page's own functions."""
        import numpy as np
        source = pathlib.Path(__file__).resolve().parents[2] / "crates/reef-server/assets/dashboard.js"
        text = source.read_text()
        begin, end = text.index("  const scratch ="), text.index("  let formWorks")
        values = [0.0, -0.0, 1.0, -2.5, 65504.0, 65519.0, 65520.0, 1e30, 6e-8, 2.98e-8, 2.9802322387695312e-08, 5.9e-5,
                  6.103515625e-05, 6.1e-05, 1 / 3, 2049.0, 2051.0, 0.1, 1e-40]
        values += [float(np.float32(random.uniform(-1, 1) * 10.0 ** random.randint(-9, 5))) for _ in range(3000)]
        with self.page() as page:
            halves, back, brains = page.evaluate(
                f"json => {{ {text[begin:end]} const values = JSON.parse(json); return [values.map(toHalf), values.map(v => fromHalf(toHalf(v))).map(String), values.map(toBrain)]; }}", json.dumps(values))
        with np.errstate(over="ignore"):
            exact = np.array(values, np.float32).astype(np.float16)
        assert halves == exact.view(np.uint16).tolist(), "FP16 is not NumPy's"
        assert [float(text.replace("Infinity", "inf")) for text in back] == exact.astype(float).tolist(), "FP16 is not read back"
        bits = np.array(values, np.float32).view(np.uint32).astype(np.uint64)
        assert brains == ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).tolist(), "BF16 is not rounded to even"
        return f"{len(values)} values"

    def check_metrics_port(self):
        with self.page(port=self.server.metrics_port, quiet=False) as page:
            page.locator("#try-elsewhere a").wait_for()
            assert not page.locator("#request").is_visible()
            link = page.locator("#try-elsewhere a").get_attribute("href")
            assert link == f"http://127.0.0.1:{self.server.http_port}/#try", link
            until(page, "document.querySelectorAll('.row[data-model]').length >= 4")

    def check_keyboard_and_names(self):
        with self.page() as page:
            page.locator('.row[data-model="control"] button').first.wait_for()
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            reached = set()
            for _ in range(60):
                page.keyboard.press("Tab")
                reached.add(page.evaluate("document.activeElement.id || document.activeElement.closest('.row')?.dataset.model || ''"))
            missing = {"pause", "filter", "class-filter", "order", "control", "request-model", "request-class", "send"} - reached
            assert not missing, f"not reached by the keyboard: {missing}"
            page.locator('.row[data-model="control"] button').first.focus()
            page.keyboard.press("Enter")
            page.locator('.row[data-model="control"] + .detail-row').first.wait_for()
            nameless = page.evaluate("""[...document.querySelectorAll('input, select, textarea, button')].filter(field =>
                !(field.labels?.length || field.getAttribute('aria-label') || field.textContent.trim())).map(field => field.outerHTML)""")
            assert not nameless, nameless
            twice = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, at, ids) => ids.indexOf(id) !== at)")
            assert not twice, twice
            page.click("#pause")
            assert page.get_attribute("#pause", "aria-pressed") == "true"

    def check_contrast(self):
        """Text against what is behind it, WCAG's 4.5 to 1, in both schemes."""
        least = {}
        for scheme in ("light", "dark"):
            with self.page(scheme) as page:
                page.locator('.row[data-model="control"] button').first.click()
                found = page.evaluate(CONTRAST)
                least[scheme] = min(ratio for ratio, _ in found)
                low = [(ratio, what) for ratio, what in found if ratio < 4.5]
                assert not low, f"{scheme}: {low[:8]}"
        return str(least)

    def check_widths(self):
        for width in (1280, 1024, 768, 400, 320):
            with self.page(viewport={"width": width, "height": 800}) as page:
                page.locator('.row[data-model="control"]').first.wait_for()
                page.wait_for_timeout(1_200)
                beyond = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
                assert beyond <= 0, f"{beyond} pixels beyond a width of {width}"

    def check_many_models_and_hostile_names(self):
        """A hundred models, 64 compute units and names that try to be markup: what a larger server would say."""
        real = json.loads(self.server.get(self.server.http_port, "/dashboard/data")[1])
        data = many(real)
        prepare = lambda page: page.route("**/dashboard/data", lambda route: route.fulfill(json=data))
        with self.page("dark", prepare=prepare, quiet=False) as page:
            until(page, "document.querySelectorAll('.row[data-model]').length >= 102")
            assert page.evaluate("window.hurt === undefined && document.querySelectorAll('#models img, #models script').length === 0")
            assert page.locator(".row", has_text="<img src=x").count() == 1
            self.shoot(page, "many")
            page.fill("#filter", "model-07")
            until(page, "document.querySelectorAll('.row[data-model]').length === 10")
            page.fill("#filter", "")
            page.select_option("#order", "rate")
            order = page.evaluate("[...document.querySelectorAll('.row [data-cell=rate]')].map(cell => cell.textContent)")
            rates = [float(text.replace(",", "").replace("<", "")) for text in order]
            assert rates == sorted(rates, reverse=True), rates[:10]
            page.locator(".row[data-model='model-050'] button").first.click()
            data["models"] = data["models"][::-1]
            page.wait_for_timeout(2_500)
            assert page.locator(".row[data-model='model-050'] button").first.get_attribute("aria-expanded") == "true"

    def check_empty_server(self):
        data = {"server": {"name": "reef", "version": "0", "state": "loading", "scheme": "reset", "uptime_s": 1, "http_port": 1},
                "window_s": 0, "preempt": {"count": 0}, "devices": [], "models": [], "timeline": None}
        prepare = lambda page: page.route("**/dashboard/data", lambda route: route.fulfill(json=data))
        with self.page(prepare=prepare) as page:
            page.locator("#rows-empty", has_text="no models yet").wait_for()
            page.locator("#timeline", has_text="Nothing is recorded").wait_for()
            page.locator("#request-note", has_text="No model takes requests").wait_for()
            assert page.locator("#send").is_disabled()
            self.shoot(page, "empty")

    def check_token(self):
        """A server with credentials answers 401 until the token is right."""
        def guard(route):
            right = route.request.headers.get("authorization") == "Bearer s3cret"
            route.continue_() if right else route.fulfill(status=401, json={"error": "a token is needed"})
        prepare = lambda page: page.route("**/dashboard/data", guard)
        with self.page(prepare=prepare, quiet=False) as page:
            page.locator("#token").wait_for()
            for text, shown in [("wrong", True), ("s3cret", False)]:
                page.fill("#token-text", text)
                page.keyboard.press("Enter")
                page.locator("#token").wait_for(state="visible" if shown else "hidden")
                if shown:
                    page.locator("#notice", has_text="refused").wait_for()
            page.locator('.row[data-model="control"]').first.wait_for()
            assert page.evaluate("sessionStorage.getItem('reef-token')") == "s3cret"

    def check_server_that_goes_and_comes_back(self):
        with self.page(quiet=False) as page:
            page.locator('.row[data-model="control"]').first.wait_for()
            self.server.process.kill()
            self.server.process.wait()
            page.locator("#notice", has_text="does not answer").wait_for()
            assert page.locator("#state").inner_text() == "unreachable"
            page.wait_for_timeout(3_000)
            assert "Trying again" in page.locator("#notice").inner_text()
            self.shoot(page, "gone")
            self.send(page, "No answer")
            self.server.__enter__()
            until(page, "document.querySelector('#state').textContent === 'serving'")
            assert not page.locator("#notice").is_visible()
            self.send(page, "Answered by")


def many(real):
    data = copy.deepcopy(real)
    samples = [model for model in data["models"] if model["classes"]]
    data["models"] = []
    for index in range(100):
        model = copy.deepcopy(samples[index % len(samples)])
        model["name"] = f"model-{index:03}"
        for row in model["classes"]:
            row["success_per_s"] = random.choice([0, random.expovariate(0.02)])
            row["cu_share"] = random.random() / 100
            row["alone_us"], worst = 1000.0, random.uniform(1.1, 9) * 1000
            row["latency"] = {"count": 9, "p50_us": 1050.0, "p90_us": worst * 0.8, "p99_us": worst, "max_us": worst * 1.2}
        data["models"].append(model)
    hostile = copy.deepcopy(data["models"][0])
    hostile["name"] = "<img src=x onerror='window.hurt = 1'>"
    data["models"].append(hostile)
    data["models"].append({**hostile, "name": "x" * 300, "state": "unavailable", "reason": "<script>window.hurt = 1</script>" * 9, "classes": []})
    units = [[cu, at * 1e4, random.uniform(1e3, 1e4), random.choice([0, 1, -1]), random.choice([0, 1, 1, 1]), random.choice([0, 0, 0, 0, 1, 2])]
             for cu in range(64) for at in range(100)]
    data["timeline"] = {"span_us": 1e6, "models": ["a", "<b>b</b>"], "devices": [
        {"device": "cpu:0", "cus": 64, "complete_from_us": 1e5, "resolution_us": 20, "stretches": units}]}
    return data


CONTRAST = """() => {
  const parse = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => { const part = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
  const behind = element => { for (let at = element; at; at = at.parentElement) { const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] > 0.99) return colour; } return [255, 255, 255]; };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest('svg, .skip, noscript, script, style, option, :disabled')) continue;
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    const back = behind(element), text = parse(getComputedStyle(element).color).slice(0, 3).map((c, i) => c * opacity + back[i] * (1 - opacity));
    const [a, b] = [light(text), light(back)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), `${element.tagName} ${element.className}: ${element.textContent.slice(0, 30)}`]);
  }
  return found;
}"""


if __name__ == "__main__":
    main()
