"""Runs that are broken off: killed at any moment and taken up again they end in the same network; and what a checkpoint holds."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from spiking import SHORT, BrokenError, broken_at, build, few, weights
from torch.utils.data import DataLoader, TensorDataset

from neurodeploy.errors import DataError, RequestError, TrainingError
from neurodeploy.training.batches import Batches
from neurodeploy.training.checkpoint import Checkpoint, load_state, save_state
from neurodeploy.training.data_loading import load_data
from neurodeploy.training.encoders import Direct
from neurodeploy.training.fit import fit

FACTORY = """
import torch
from torch.utils.data import DataLoader, TensorDataset


def events():
    spikes = torch.rand(8, 3, 4, generator=torch.Generator().manual_seed({seed})).round()
    loader = DataLoader(TensorDataset(spikes, torch.arange(8) % 2), 4, shuffle=True)
    return loader, loader
"""


@pytest.mark.parametrize("seed", [0, pytest.param(int.from_bytes(os.urandom(2), "big"), id="random", marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_ends_in_the_same_network(seed: int, tmp_path: Path) -> None:
    script, tests = Path(__file__).with_name("killed_runs.py"), str(Path(__file__).parent)
    path = os.pathsep.join([tests, str(Path(tests).parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(seed)], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"seed {seed}: {ran.stderr}"
    assert int(ran.stdout) >= 2, f"seed {seed}: hardly killed"
    killed, history = pickle.loads((tmp_path / "killed.pickle").read_bytes())
    whole, wanted = pickle.loads((tmp_path / "whole.pickle").read_bytes())
    assert all(np.array_equal(a, b) for a, b in zip(killed, whole, strict=True)), f"seed {seed}"
    assert history == wanted, f"seed {seed}"
    assert 0 < sum((layer != 0).sum() for layer in whole) < 12 * 70 + 70 * 3
    assert not list(tmp_path.glob(".*.part"))


def test_a_loader_of_torch_goes_on_where_it_was(tmp_path: Path) -> None:
    dataset = torch.utils.data.TensorDataset(torch.cat([x for x, _ in few()]), torch.cat([y for _, y in few()]))
    loader = torch.utils.data.DataLoader(dataset, batch_size=7, shuffle=True)

    def model() -> SequentialState:
        torch.manual_seed(0)
        lif = LIFCell(LIFParameters(v_th=torch.tensor(0.1)))
        return SequentialState(torch.nn.Linear(12, 20), lif, torch.nn.Dropout(0.3), torch.nn.Linear(20, 3), LICell())

    options, checkpoint = replace(SHORT, epochs_dense=3), Checkpoint(path=tmp_path / "run.safetensors", every_s=0)
    (whole, broken), records = (model(), model()), []
    _, wanted = fit(whole, None, loader, options)
    with pytest.raises(BrokenError):
        fit(broken, None, loader, options, progress=broken_at("dense", 1, 3), checkpoint=checkpoint)
    again = model()
    _, history = fit(again, None, loader, options, checkpoint=checkpoint, resume=True, on_epoch=records.append)
    assert all(np.array_equal(a, b) for a, b in zip(weights(again), weights(whole), strict=True))
    assert [record.loss for record in history] == [record.loss for record in wanted]
    assert [record.epoch for record in records] == [1, 2]
    assert not all(np.array_equal(a, b) for a, b in zip(weights(broken), weights(whole), strict=True))


def test_a_loader_is_known_by_the_samples_of_its_data_set(tmp_path: Path) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*few(), strict=True))

    def loader(images: torch.Tensor) -> DataLoader[Any]:
        return DataLoader(TensorDataset(images, labels), batch_size=20, shuffle=True)

    checkpoint = Checkpoint(path=tmp_path / "run.safetensors")
    fit(build(12, 5, 3), None, loader(images), SHORT, checkpoint=checkpoint)
    fit(build(12, 5, 3), None, loader(images), SHORT, checkpoint=checkpoint, resume=True)
    with pytest.raises(TrainingError, match="belongs to a run with samples"):
        fit(build(12, 5, 3), None, loader(1 - images), SHORT, checkpoint=checkpoint, resume=True)


def test_data_of_a_factory_are_known_by_their_samples_too(tmp_path: Path) -> None:
    def loaded(seed: int) -> str | None:
        factory = tmp_path / f"data{seed}.py"
        factory.write_text(FACTORY.format(seed=seed))
        return getattr(load_data(f"{factory}:events").train, "fingerprint", None)

    first = loaded(0)
    assert first is not None
    assert loaded(0) == first != loaded(1)


def test_an_error_after_a_run_was_taken_up_leaves_the_last_finished_epoch(tmp_path: Path) -> None:
    checkpoint, options = Checkpoint(path=tmp_path / "run.safetensors", every_s=0), replace(SHORT, epochs_dense=4)
    models = build(12, 5, 3), build(12, 5, 3)
    for model, resume, last in zip(models, (False, True), (0, 1), strict=True):
        with pytest.raises(BrokenError):
            fit(model, None, few(), options, progress=broken_at("dense", 2, last), checkpoint=checkpoint, resume=resume)
    assert all(np.array_equal(a, b) for a, b in zip(*map(weights, models), strict=True))


def test_a_run_that_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    checkpoint, models, steps = Checkpoint(path=tmp_path / "run.safetensors"), (build(12, 5, 3), build(12, 5, 3, seed=1)), []
    ways = [fit(m, None, few(), SHORT, checkpoint=checkpoint, resume=True, progress=steps.append) for m in models]
    assert len(steps) == 2
    assert all(np.array_equal(a, b) for a, b in zip(*map(weights, models), strict=True))
    assert ways[0][1] == ways[1][1]


def forgetful() -> SequentialState:
    cells = [LIFCell(LIFParameters(tau_mem_inv=torch.tensor(100.0))), LICell()]
    return SequentialState(torch.nn.Linear(12, 5, bias=False), cells[0], torch.nn.Linear(5, 3, bias=False), cells[1])


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(path=tmp_path / "run.safetensors", every_s=0)
    fit(build(12, 5, 3), None, few(), SHORT, checkpoint=checkpoint)
    whole = Batches(*map(torch.cat, zip(*few(), strict=True)), 20)
    for model, data, options, message in (
        (build(12, 5, 3), few(), replace(SHORT, learning_rate=0.5), "learning_rate 0.004, this one has 0.5"),
        (build(12, 6, 3), few(), SHORT, r"weights 0\.weight \[5, 12\], this one has \[6, 12\]"),
        (build(12, 5, 3), few() * 2, SHORT, "batches 2, this one has 4"),
        (build(12, 5, 3), whole, SHORT, "samples [0-9a-f]{16}, this one has [0-9a-f]{16}"),
        (build(12, 5, 3), [(1 - images, labels) for images, labels in few()], SHORT, "samples [0-9a-f]{16}, this one has "),
        (forgetful(), few(), SHORT, r"model .*tau_mem_inv=tensor\(300\.\).*, this one has .*tau_mem_inv=tensor\(100\.\).*"),
        (build(12, 5, 3), few(), replace(SHORT, encoder=Direct(3)), r"encoder rate, this one has Direct\(levels=3\)"),
        (build(12, 5, 3), few(), replace(SHORT, loss=torch.nn.functional.nll_loss), "loss cross_entropy, this one has nll_loss"),
    ):
        before = weights(model)
        with pytest.raises(TrainingError, match=rf"run\.safetensors: belongs to a run with {message}.* Use the same"):
            fit(model, None, data, options, checkpoint=checkpoint, resume=True)
        assert all(np.array_equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_a_checkpoint_is_written_when_it_is_due(tmp_path: Path) -> None:
    path, seen = tmp_path / "run.safetensors", []
    seldom = Checkpoint(path=path, every_s=3600)
    fit(build(12, 5, 3), None, few(), SHORT, checkpoint=seldom, progress=lambda _: seen.append(path.exists()))
    assert seen == [False, False]
    assert path.exists()  # at its end
    seen.clear()
    often = Checkpoint(path=path, every_s=0)
    fit(
        build(12, 5, 3),
        None,
        few(),
        SHORT,
        checkpoint=often,
        progress=lambda _: seen.append(load_state(path)["state"]["position"]),
    )
    assert [place["step"] for place in seen] == [1, 2]
    with pytest.raises(RequestError, match="every_s: is nan, not at least 0"):
        Checkpoint(path=path, every_s=float("nan"))


def test_whatever_a_state_holds_comes_back(tmp_path: Path) -> None:
    state = {
        "tensors": [torch.arange(4).view(2, 2).T, torch.tensor(True), torch.tensor(0.5, dtype=torch.float64), torch.zeros(0, 3)],
        "numbers": (1, 0.1, float("inf"), None, True, "one", np.float64(0.3), np.int64(7)),
        "nested": {0: {"a/b": [(), [], {}]}, "array": np.array([[1.5], [2.5]])},
    }
    save_state(state, tmp_path / "state.safetensors")
    found = load_state(tmp_path / "state.safetensors")
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found["tensors"], state["tensors"], strict=True))
    assert found["numbers"] == state["numbers"]
    assert found["nested"][0] == {"a/b": [(), [], {}]}
    assert np.array_equal(found["nested"]["array"], [[1.5], [2.5]])


def test_what_cannot_be_kept_or_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="checkpoint: a/1 is set, which cannot be kept"):
        save_state({"a": [1, {2}]}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=r"x\.safetensors: cannot be written"):
        save_state({}, tmp_path / "nowhere" / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"x\.safetensors: is not of a training run"):
        load_state(tmp_path / "x.safetensors")
    from neurodeploy.training.checkpoint import save_weights

    save_weights(build(3, 2, 1), tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=r"x\.safetensors: is not of a training run \(no format"):
        Checkpoint(path=tmp_path / "x.safetensors").read({})


def test_a_file_in_which_anything_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state({"weights": torch.linspace(0, 1, 100), "numbers": [1, 2.5, {"a": True}]}, path)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    places = [*range(0, len(whole), 3), len(whole) - 1]  # of the header, of the JSON, of the tensor
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"state\.safetensors: is not of a training run .* Start over"):
            load_state(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"is not of a training run .* Start over"):
        load_state(path)


JUNK = (None, 3, "x", [], {}, -1, 10**30, 1.5, True)


def forgeries(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """States with a value changed or left out, which `save_state` writes with a checksum that matches."""
    for key in ("ended", "history", "model", "position", "finished", "optimizer", "overruns", "prices", "order"):
        yield f"no {key}", {name: value for name, value in state.items() if name != key}
        for junk in JUNK:
            # an interrupted run has none of these yet
            if not (key in ("overruns", "prices") and junk == {}) and not (key == "ended" and junk is True):
                yield f"{key} {junk!r}", state | {key: junk}
    for key in ("phase", "epoch", "step", "loss", "correct", "samples", "seconds"):
        yield f"position without {key}", state | {"position": {k: v for k, v in state["position"].items() if k != key}}
        for junk in (None, "x", [], -1 if key in ("epoch", "step", "samples") else {}, {}, *([10**30] if key == "step" else [])):
            yield f"position {key} {junk!r}", state | {"position": state["position"] | {key: junk}}
    for key in state["history"][0]:
        yield f"history without {key}", state | {"history": [{k: v for k, v in state["history"][0].items() if k != key}]}
        yield f"history {key} 'x'", state | {"history": [state["history"][0] | {key: "x"}]}
    yield "history of two", state | {"history": state["history"] * 2}
    yield "ended early", state | {"ended": True}
    moments, groups = state["optimizer"]["state"], state["optimizer"]["param_groups"]
    for name, first in moments[0].items():
        others = {key: value for key, value in moments[0].items() if key != name}
        wrong = (None, "x", first.new_zeros(3), first.new_full(first.shape, float("nan")))
        for n, changed in enumerate((others, *(others | {name: value} for value in wrong))):
            yield f"moment {name}, {n}", state | {"optimizer": {"state": moments | {0: changed}, "param_groups": groups}}
    for name in ("lr", "betas", "eps", "params"):
        for changed in ({key: value for key, value in groups[0].items() if key != name}, groups[0] | {name: "x"}):
            yield f"group {name}", state | {"optimizer": {"state": moments, "param_groups": [changed]}}
    for key in ("begun", "random"):
        yield f"order {key}", state | {"order": state["order"] | {key: {}}}


def test_a_checkpoint_that_was_forged_is_refused(tmp_path: Path) -> None:
    checkpoint, options = Checkpoint(path=tmp_path / "run.safetensors", every_s=0), replace(SHORT, epochs_dense=3)
    with pytest.raises(BrokenError):
        fit(build(12, 5, 3), None, few(), options, progress=broken_at("dense", 1, 0), checkpoint=checkpoint)
    whole = load_state(checkpoint.path)
    forged: list[tuple[str, Any]] = [(f"state {name}", whole | {"state": state}) for name, state in forgeries(whole["state"])]
    forged += [(f"state {junk!r}", whole | {"state": junk}) for junk in JUNK]
    forged += [(f"fingerprint {junk!r}", whole | {"fingerprint": junk}) for junk in JUNK if junk != {}]
    forged += [(f"without {key}", {name: value for name, value in whole.items() if name != key}) for key in whole]
    forged += [(repr(junk), junk) for junk in JUNK]
    told, model = {}, build(12, 5, 3)
    for name, state in forged:
        save_state(state, checkpoint.path)
        told[name] = "accepted"
        try:
            fit(model, None, few(), options, checkpoint=replace(checkpoint, every_s=3600), resume=True)
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    assert {name: text for name, text in told.items() if "run.safetensors: is not of a training run" not in text} == {}
    save_state(whole, checkpoint.path)
    _, history = fit(model, None, few(), options, checkpoint=checkpoint, resume=True)
    assert len(history) == 3
