# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A made-up report that holds everything a real one may, and a browser to look at its page."""

import io
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from qkit.graph.coverage import Coverage, LeftFloat
from qkit.report.analyses import Analyses, LayerSensitivity, Parts, Sensitivity
from qkit.report.evaluation import ClassReport, Metric, Mistake
from qkit.report.layer import BlockReport, Channel, HistogramReport, LayerReport, TensorReport
from qkit.report.model import ModelReport
from qkit.report.space import Space

NASTY = "</script><b>no markup</b><img src=x onerror=alert(1)>&amp;"
PREFIX = {"image": "visual.transformer.resblocks", "text": "transformer.resblocks"}
BLOCKS = 3


@dataclass
class Seen:
    """A page in the browser and what it did that it should not."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_text_contents()]

    def cells(self, row: str) -> list[list[str]]:
        """Texts of the cells of every row that a selector finds."""
        script = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
        return self.page.locator(row).evaluate_all(script)

    @contextmanager
    def scheme(self, name: str) -> Iterator[None]:
        """For a while the reader prefers dark or light."""
        self.page.emulate_media(color_scheme=name)
        self.settle()
        yield
        self.page.emulate_media(color_scheme="light")
        self.settle()

    @contextmanager
    def phone(self) -> Iterator[None]:
        """For a while the window is narrow."""
        before = self.page.viewport_size
        self.page.set_viewport_size({"width": 390, "height": 844})
        self.settle()
        yield
        self.page.set_viewport_size(before)
        self.settle()

    def settle(self) -> None:
        """Let the page notice what has changed and draw itself."""
        for _ in range(3):
            self.page.evaluate("new Promise(requestAnimationFrame)")

    def chart(self, selector: str) -> dict[str, Any]:
        """What Plotly holds of a drawn chart."""
        script = "({ data, layout, _fullLayout: { font } }) => ({ data, layout, font: font.color })"
        return self.page.locator(selector).evaluate(script)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        message = "chromium is not installed: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    rules = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=rules)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def show(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Seen]]:
    """Open pages; afterwards none may have complained or asked for anything."""
    opened: list[tuple[BrowserContext, Seen]] = []
    folder = tmp_path_factory.mktemp("pages")

    def open_page(html: str, **options: Any) -> Seen:
        path = folder / f"page-{len(opened)}.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(offline=True, **{"color_scheme": "light"} | options)
        context.set_default_timeout(5000)
        seen = Seen(context.new_page())
        opened.append((context, seen))
        seen.page.on("console", lambda message: seen.messages.append(message.text))
        seen.page.on("pageerror", lambda error: seen.messages.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(path.as_uri())
        return seen

    yield open_page
    for context, seen in opened:
        context.close()
        assert seen.messages == []
        assert [url for url in seen.requests[1:] if not url.startswith("data:")] == []


def histogram(low: float, high: float, bins: int = 64, peak: float = 1e5) -> HistogramReport:
    """A bell, fractions in its tails."""
    places = [6 * (bin_ + 0.5) / bins - 3 for bin_ in range(bins)]
    return HistogramReport(low, high, tuple(peak * math.exp(-2 * x * x) for x in places))


def tensor(role: str, bits: int, granularity: str = "tensor") -> TensorReport:
    if granularity == "token":
        return TensorReport(role, bits, "token", False, histogram(-4, 9), None, None, None, None)
    count = 2**bits
    if granularity == "channel":
        step = 0.02
        ends = (-1.5 * step * count / 2, 1.5 * step * (count / 2 - 1))
        return TensorReport(role, bits, "channel", True, histogram(-0.4, 0.4), *ends, step, 0.93)
    low, high = -1.25, 2.5
    step = (high - low) / (count - 1)
    return TensorReport(role, bits, "tensor", False, histogram(-1.4, 6.0), low, high, step, 0.51)


def layer(name: str, tower: str, block: int | None, local: float, **other: Any) -> LayerReport:
    made = {
        "name": name,
        "tower": tower,
        "kind": "linear",
        "block": block,
        "weight_bits": 4,
        "act_bits": 4,
        "operands": {"weight": 4, "input": 4},
        "weight_sqnr_db": 19.6,
        "local_sqnr_db": local,
        "inherited_sqnr_db": local + 2.5,
        "cumulative_sqnr_db": local - 2.0,
        "made": 0.64,
        "cosine": 0.987,
        "clipped": 0.0123,
        "weights": 262144,
        "macs": 13_107_200,
        "tensors": (tensor("weight", 4, "channel"), tensor("input", 4)),
        "channel": Channel(411, 0.63),
        "token_spread": 7.25,
        "errors": histogram(-3, 3, peak=4096),
        "trials": {"weights in 8 bits": 1.5, "inputs in 8 bits": 9.25, "per token": -0.5},
        "cause": "channel 411 of the input stretches the grid",
        "evidence": "it alone takes up 63 % of the range; the median channel uses 2 levels",
        "remedy": "inputs in 8 bits gain 9.3 dB",
    }
    return LayerReport(**made | other)


def tower_layers(tower: str, base: float) -> list[LayerReport]:
    layers = []
    for block in range(BLOCKS):
        path = f"{PREFIX[tower]}.{block}"
        sdpa = {
            "kind": "attention",
            "weight_bits": None,
            "act_bits": 8,
            "operands": dict.fromkeys(("query", "key", "value", "probs"), 8),
            "weight_sqnr_db": None,
            "weights": 0,
            "clipped": None,
            "tensors": tuple(tensor(r, 8) for r in ("query", "key", "value", "probs")),
            "channel": None,
            "token_spread": None,
            "trials": {},
        }
        layers.append(layer(f"{path}.attn.sdpa", tower, block, base + 9 - block, **sdpa))
        layers.append(layer(f"{path}.mlp.c_fc", tower, block, base - 1.5 * block))
    return layers


def all_layers() -> tuple[LayerReport, ...]:
    exact = {
        "weight_bits": None,
        "act_bits": None,
        "operands": {"weight": None, "input": None},
        "weight_sqnr_db": None,
        "inherited_sqnr_db": math.inf,
        "cumulative_sqnr_db": math.inf,
        "made": 0.0,
        "clipped": None,
        "tensors": (),
        "channel": None,
        "token_spread": None,
        "errors": None,
        "trials": {},
        "cause": "",
        "evidence": "",
        "remedy": "",
    }
    tokens = {
        "operands": {"weight": 8, "input": 8},
        "weight_bits": 8,
        "act_bits": 8,
        "clipped": None,
        "tensors": (tensor("weight", 8, "channel"), tensor("input", 8, "token")),
    }
    return (
        layer("visual.conv1", "image", None, math.inf, kind="conv", **exact),
        *tower_layers("image", 14.0),
        layer("visual.proj", "image", None, 31.5, kind="projection", **tokens),
        *tower_layers("text", 17.25),
        layer("text_projection", "text", None, 9.75, kind="projection", cause=NASTY),
    )


def blocks() -> tuple[BlockReport, ...]:
    return tuple(
        BlockReport(
            f"{PREFIX[tower]}.{index}",
            tower,
            index,
            math.inf if tower == "text" and index == 1 else 18.0 - index,
            15.0 - 3 * index,
            0.99 - 0.01 * index,
        )
        for tower in PREFIX
        for index in range(BLOCKS)
    )


def space(scale: float, labels: bool = False) -> Space:
    errors = (0.041, 0.041 + 0.1 * scale) if labels else (None, None)
    return Space(
        1 - scale / 4, 1 - scale / 9, scale, 1 - scale / 2, scale / 3, 0.82, 0.79, 0.93, *errors
    )


def metrics() -> tuple[Metric, ...]:
    ranks = {"image_to_text": {"r1": 0.376, "r5": 0.692}, "text_to_image": {"r1": 0.32, "r5": 0.6}}
    worse = {"image_to_text": {"r1": 0.3, "r5": 0.61}, "text_to_image": {"r1": 0.33, "r5": 0.55}}
    mistakes = (Mistake(NASTY, 4, 17), Mistake("Eskimo dog", 2, 3))
    worst = (
        ClassReport("golden <i>retriever</i>", 10, 0.9, 0.3, mistakes),
        ClassReport("tench", 10, 0.8, 0.7, (Mistake("barracouta", 1, 5),)),
    )
    top = {"top1": 0.856, "top5": 0.983}, {"top1": 0.712, "top5": 0.931}
    return (
        Metric(
            "classes:some/where/imagenet-sample",
            "classification",
            top[1],
            top[0],
            0.795,
            1000,
            2,
            space(0.3, labels=True),
            worst,
        ),
        Metric("captions:pairs/test.csv", "retrieval", worse, ranks, 0.59, 500, 0, space(0.2)),
        Metric("classes:alone", "classification", top[1], None, None, 100),
    )


def analyses(layers: tuple[LayerReport, ...]) -> Analyses:
    each = tuple(
        LayerSensitivity(one.name, space(0.001 * (number + 1)), space(0.3 - 0.01 * number))
        for number, one in enumerate(layers)
    )
    parts = {"all": space(0.3), "weights": space(0.05), "activations": space(0.2)}
    return Analyses(
        Sensitivity("captions:pairs/calib.csv", "ab12", 128, space(0.3), each),
        Parts("captions:pairs/calib.csv", "ab12", 128, parts),
        {"folder:elsewhere": space(0.4)},
    )


@pytest.fixture(scope="session")
def report() -> ModelReport:
    layers = all_layers()
    left = (
        LeftFloat("visual.conv1", 9408, 1_204_224, "the recipe leaves it in float"),
        LeftFloat("LayerNorm", 12288, 0, "a scale and a shift a channel, computed in float"),
    )
    return ModelReport(
        label="W4A4 <b>attn8</b>, mse",
        model="local-dir:models/vit-tiny",
        metrics=metrics(),
        embedding_cosine={"image": 0.9312, "text": 0.9841},
        coverage=Coverage(0.9958, 0.9871, 24_614_145, 1_459_126_784, left),
        size={"float_bytes": 98_456_580, "quantized_bytes": 13_115_916},
        timing={"observe calibration data": 6.72},
        calibration={"source": "captions:pairs/calib.csv", "images": 128, "skipped": []},
        layers=layers,
        blocks=blocks(),
        analyses=analyses(layers),
    )


@pytest.fixture(scope="session")
def nasty() -> str:
    """A name that would be markup, a script's end and an entity if it were not escaped."""
    return NASTY


@pytest.fixture(scope="session")
def bare(report: ModelReport) -> ModelReport:
    """As little as a report can hold."""
    return ModelReport("bare", "m", (), {}, report.coverage, {}, {}, {})


@pytest.fixture(scope="session")
def images() -> dict[tuple[str, int], bytes]:
    """Examples of all mistakes but one."""
    source = "classes:some/where/imagenet-sample"
    return {(source, 17): picture((200, 150, 40)), (source, 3): picture((40, 90, 160))}


def picture(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "PNG")
    return stream.getvalue()
