"""Passes as graphs: bits of the eager training, with a recorder that replays on a CPU; the calls of CUDA."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerBase

from repro.benchmarks.commonsense.module import CommonsenseModule
from repro.benchmarks.commonsense.settings import ClozeSettings
from repro.methods import METHODS, Method
from repro.methods.base import fused
from repro.methods.dual_lora import DualLoRA
from repro.methods.lora import LoRA
from repro.training import graphs, packing
from repro.training.causal_lm import IGNORED, Example, collate, micro_batches, negative_log_likelihood
from repro.training.finetuning_data import FineTuningData
from repro.training.graphs import CudaRecorder, GraphedPasses
from repro.training.spec import TrainingSpec
from tests.tiny_models import run_context

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about workers and resuming

DUAL_LORA = DualLoRA(magnitude_rank=2, init_std=0.2, warmup="ramp", warmup_steps=4)
TRAINING = TrainingSpec(
    epochs=2,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
    weight_decay=0.1,
    loss_on="completion",
    append_eos=True,
    validate_every=3,
)


class Replaying:
    """Repeats the recorded function, into the tensors that it used: as a graph does, without its memory."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        self.done.append("warm-up")
        return work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.done.append("record")
        gradients = [(p, p.grad, p.grad.clone()) for p in self.parameters if p.grad is not None]
        loss = work().clone()
        for parameter, gradient, before in gradients:
            assert parameter.grad is gradient
            gradient.copy_(before)  # recording computes nothing

        def replay() -> None:
            self.done.append("replay")
            assert all(parameter.grad is gradient for parameter, gradient, _ in gradients)
            loss.copy_(work())

        return replay, loss.fill_(math.nan)

    parameters: Sequence[nn.Parameter] = ()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in which few of the short texts have room."""
    monkeypatch.setattr(packing, "REGULAR_TOKENS", 64)


@pytest.fixture
def train(
    tokenizer: PreTrainedTokenizerBase, attach: Callable[..., nn.Module], examples: list[Example]
) -> Callable[..., CommonsenseModule]:
    def trained(
        method: Method,
        recorder: Replaying | None,
        *,
        seed: int = 0,
        micro: int = 3,
        callbacks: Sequence[L.Callback] = (),
        checkpoint: Path | None = None,
        notes: list[str] | None = None,
        reuses: bool = False,
        kind: type[CommonsenseModule] = CommonsenseModule,
        device: str = "cpu",
        precision: Any = None,
    ) -> CommonsenseModule:
        context = run_context(tokenizer, TRAINING, method, micro_batch_size=micro)
        data = FineTuningData(
            train=examples[::2],
            validation=examples[1::8],
            test_batches=[],
            fingerprints={},
            length=lambda example: len(example.ids),
            collate=micro_batches("completion", 3, regular=True),
            context=context,
        )
        model = attach(method, seed)
        if precision is not None:
            model.float()
        module = kind(model, context, data.steps, ClozeSettings())
        if recorder is not None:
            recorder.parameters = list(module.parameters())
            module.recorder = lambda: recorder
        module.reuses_weights = reuses
        module.note = (notes if notes is not None else []).append
        trainer = L.Trainer(
            accelerator=device,
            devices=1,
            precision=precision,
            max_epochs=1,
            logger=False,
            callbacks=list(callbacks),
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=TRAINING.validate_every,
            check_val_every_n_epoch=None,
            inference_mode=False,
        )
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and str(checkpoint), weights_only=False)
        return module

    return trained


def assert_same(one: CommonsenseModule, other: CommonsenseModule) -> None:
    assert one.losses == other.losses and one.validation_losses == other.validation_losses
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [DUAL_LORA.model_copy(update={"freeze_direction_after": 0.5}), LoRA(rank=2, dropout=0.0)],
    ids=lambda method: method.name,
)
def test_replayed_passes_train_as_eager_ones_do_bit_for_bit(
    train: Callable[..., CommonsenseModule], method: Method
) -> None:
    """Three micro-batches a step, of several shapes, of which some come once and are never recorded."""
    eager, recorder = train(method, None), Replaying()
    graphed = train(method, recorder)
    assert_same(graphed, eager)
    done = {kind: recorder.done.count(kind) for kind in set(recorder.done)}
    assert done["record"] >= 2 and done["warm-up"] > done["record"] and done["replay"] > done["warm-up"]
    assert done["warm-up"] + done["replay"] == 2 * (3 * 3 + 1) - 3  # all but those of the first step
    assert graphed.graph_problem is None
    assert all(parameter.grad is None for parameter in graphed.model.parameters())


def test_a_resumed_training_records_anew_and_ends_as_the_eager_one(
    train: Callable[..., CommonsenseModule], tmp_path: Path
) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    eager = train(DUAL_LORA, None, callbacks=[keep])
    recorder = Replaying()
    assert_same(train(DUAL_LORA, recorder, seed=9, checkpoint=tmp_path / "step=3.ckpt"), eager)
    assert "replay" in recorder.done


class Failing(Replaying):
    def record(self, work: Callable[[], Tensor]) -> Any:
        try:
            super().record(work)
            raise RuntimeError("operation not permitted when stream is capturing\nand more of CUDA's advice")
        finally:
            raise ValueError("the capture was invalidated")  # as ending it does


class TooLarge(Replaying):
    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        if self.done.count("warm-up") == 2:
            work()
            raise torch.OutOfMemoryError("no room beside the graphs")
        return super().warm_up(work)


@pytest.mark.parametrize(
    ("recorder", "problem"),
    [
        (Failing(), "RuntimeError: operation not permitted when stream is capturing"),
        (TooLarge(), "no room beside the graphs"),
    ],
    ids=["failing", "too-large"],
)
def test_where_graphs_fail_the_training_goes_on_eagerly_and_says_so_in_one_line(
    train: Callable[..., CommonsenseModule], recorder: Replaying, problem: str
) -> None:
    notes: list[str] = []
    graphed = train(DUAL_LORA, recorder, notes=notes)
    assert_same(graphed, train(DUAL_LORA, None))
    assert graphed.graph_problem == problem and graphed.oom_backoff == 0
    assert notes == [f"trains on without CUDA graphs, in more time: {problem}"]
    assert recorder.done.count("record") <= 1


def test_beyond_the_most_shapes_passes_are_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 1)
    weight, untouched = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def run(inputs: dict[str, Tensor]) -> Tensor:
        loss = (inputs["x"] * weight.sum()).sum()
        loss.backward()
        return loss.detach()

    run({"x": torch.ones(1)})
    recorder = Replaying()
    recorder.parameters = [weight, untouched]
    passes = GraphedPasses(run, [weight, untouched], recorder)
    assert untouched.grad is None  # so that the optimiser goes on skipping it
    # Losses stay what they were when the same graph runs again.
    losses = [passes({"x": torch.full((n,), 2.0 + i)}) for i, n in enumerate([2, 2, 3, 2, 3])]
    assert [float(loss) for loss in losses] == [12, 18, 36, 30, 54]
    assert weight.grad is not None and weight.grad.tolist() == [50] * 3
    assert recorder.done == ["warm-up", "record", "replay", "replay"]


def test_all_passes_of_a_step_share_the_reused_weights(
    train: Callable[..., CommonsenseModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, inside = DualLoRA.reused_weights, []

    @contextlib.contextmanager
    def reused_weights(method: DualLoRA, model: nn.Module) -> Iterator[None]:
        inside.append(0)
        with kept(method, model):
            yield

    class Watched(CommonsenseModule):
        def loss_sum(self, micro_batch: dict[str, Tensor]) -> Tensor:
            if self.training:
                inside[-1] += 1
            return super().loss_sum(micro_batch)

    monkeypatch.setattr(DualLoRA, "reused_weights", reused_weights)
    reusing = train(DUAL_LORA, None, reuses=True, kind=Watched)
    assert inside == [3, 3, 3, 1] * 2
    assert reusing.losses == pytest.approx(train(DUAL_LORA, None).losses, rel=1e-6)
    assert len(inside) == 8  # none where they are not reused


def test_a_gradient_that_comes_later_ends_the_graphs() -> None:
    """A graph would put it into memory of its own, where nothing clears it."""
    weight, late = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def run(inputs: dict[str, Tensor]) -> Tensor:
        loss = inputs["x"].sum() * weight + (inputs["x"].sum() * late if len(inputs["x"]) > 1 else 0)
        loss.backward()
        return loss.detach()

    run({"x": torch.ones(1)})
    recorder = Replaying()
    recorder.parameters = [weight]
    passes = GraphedPasses(run, [weight, late], recorder)
    for n in (1, 1, 2, 2, 1):
        passes({"x": torch.ones(n)})
    assert recorder.done == ["warm-up", "record", "replay", "warm-up"]
    assert passes.problem == "a parameter without a gradient in the first step has one later"
    assert weight.grad is not None and late.grad is not None
    assert (float(weight.grad), float(late.grad)) == (7, 4)
    passes.clear_gradients()
    assert late.grad is None and float(weight.grad) == 0


# --- batches of few shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_regular_batches_have_the_loss_and_the_gradients_of_plain_ones(
    attach: Callable[..., nn.Module], examples: list[Example], loss_on: str
) -> None:
    model = attach(DUAL_LORA)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = collate(examples[:7], loss_on=loss_on, pad_id=3)
    regular = collate(examples[:7], loss_on=loss_on, pad_id=5, regular=True)
    losses = [negative_log_likelihood(model, batch, label_smoothing=0.1) for batch in (plain, regular)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    ours, theirs = (torch.autograd.grad(loss, trained) for loss in (losses[1], losses[0]))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert int((regular["targets"] != IGNORED).sum()) == int((plain["labels"][:, 1:] != IGNORED).sum())


def test_regular_batches_have_few_shapes(examples: list[Example]) -> None:
    def shapes(regular: bool) -> set[Any]:
        parts = [examples[i : i + 7] for i in range(40)]
        batches = [collate(part, loss_on="completion", pad_id=3, regular=regular) for part in parts]
        return {tuple(tensor.shape for tensor in batch.values()) for batch in batches}

    assert len(shapes(regular=True)) <= 8 < 20 < len(shapes(regular=False))


def test_calibration_sees_no_padding(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> None:
    context = run_context(tokenizer, TRAINING, regular=True)
    data = FineTuningData(
        train=examples[:9],
        validation=examples[9:],
        test_batches=[],
        fingerprints={},
        length=lambda example: len(example.ids),
        collate=micro_batches("completion", 3),
        collate_regular=micro_batches("completion", 3, regular=True),
        context=context,
    )
    assert [tuple(batch) for batch in data.calibration_inputs(2)] == [("input_ids",)] * 2
    assert [batch["input_ids"].numel() for batch in data.calibration_inputs(2)] == [
        len(example.ids) for example in examples[:2]
    ]
    assert all("sources" in batch for batch in next(iter(data.train_dataloader()))["micro_batches"])
    assert all("labels" in batch for batch in next(iter(data.val_dataloader()))["micro_batches"])


class Unrecordable(TorchDispatchMode):
    """Refuses what reads values on the host, or makes shapes of them: a GPU that records would fail there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if masks or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


# CorDA first has to see examples, and is LoRA then. LoHa asks the CPU's generator, not the device.
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"base", "corda", "loha"}))
def test_no_methods_pass_waits_for_the_device(
    attach: Callable[..., nn.Module], examples: list[Example], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass after the first step; on a GPU with the kernels of torch."""
    monkeypatch.setenv("REPRO_KERNEL", "torch")
    dropout = {"dropout": 0.0} if "dropout" in METHODS[name].model_fields else {}
    method = METHODS[name](**dropout)
    model = attach(method).train()
    batch = collate(examples[:5], loss_on="completion", pad_id=3, regular=True)
    optimizer = method.optimizer(model, TRAINING.optimizer_settings)
    negative_log_likelihood(model, batch).backward()
    optimizer.step()
    with Unrecordable():
        negative_log_likelihood(model, batch).backward()
    with pytest.raises(AssertionError, match="index"), Unrecordable():
        negative_log_likelihood(model, collate(examples[:5], loss_on="completion", pad_id=3))


# --- CUDA ---------------------------------------------------------------------------------------------------


class FakeCuda:
    """What `CudaRecorder` calls of torch.cuda, written down."""

    def __init__(self, fails: bool = False) -> None:
        self.calls: list[str] = []
        self.current, self.fails = "main", fails

    def Stream(self) -> Any:
        return FakeStream(self, "side")

    def current_stream(self) -> Any:
        return FakeStream(self, self.current)

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def graph_pool_handle(self) -> str:
        return "pool"

    class CUDAGraph:
        def replay(self) -> None:
            raise NotImplementedError

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: str, stream: Any) -> Iterator[None]:
        self.calls.append(f"record in {pool} on {stream.name}")
        self.current = stream.name
        yield
        if self.fails:
            raise RuntimeError("capture invalidated")  # and the stream stays, as with torch's own
        self.current = "main"


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Any) -> None:
        self.cuda.calls.append(f"{self.name} waits for {other.name}")


def recorder_on(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> CudaRecorder:
    monkeypatch.setattr(graphs.torch, "cuda", cuda)
    monkeypatch.setattr(CudaRecorder, "_failed", [])
    return CudaRecorder()


def test_warming_up_and_recording_share_a_stream_and_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    recorder = recorder_on(cuda, monkeypatch)

    def work() -> Tensor:
        cuda.calls.append(f"work on {cuda.current}")
        return torch.ones(())

    recorder.warm_up(work)
    replay, _ = recorder.record(work)
    assert cuda.current == "main" and replay.__name__ == "replay" and CudaRecorder._failed == []
    assert cuda.calls == [
        "side waits for main",
        "work on side",
        "main waits for side",
        "record in pool on side",
        "work on side",
    ]


def test_after_a_failed_recording_the_stream_is_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(fails=True)
    recorder = recorder_on(cuda, monkeypatch)
    with pytest.raises(RuntimeError, match="invalidated"):
        recorder.record(lambda: torch.ones(()))
    assert cuda.current == "main" and len(CudaRecorder._failed) == 1


def test_an_optimiser_is_fused_on_a_gpu_alone() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        there = nn.Parameter(torch.empty(2, device="cuda"))
    assert fused([there]) is True and fused([there, nn.Parameter(torch.ones(2))]) is None


class Counting(CudaRecorder):
    """Also knows what it has recorded."""

    parameters: Sequence[nn.Parameter] = ()

    def __init__(self) -> None:
        super().__init__()
        self.recorded = 0

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        found = super().record(work)
        self.recorded += 1
        return found


class Synchronising(CommonsenseModule):
    def loss_sum(self, micro_batch: dict[str, Tensor]) -> Tensor:
        loss = super().loss_sum(micro_batch)
        assert math.isfinite(float(loss))
        return loss


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("method", [DUAL_LORA, LoRA(rank=2, dropout=0.0)], ids=lambda method: method.name)
@pytest.mark.parametrize("kind", [CommonsenseModule, Synchronising])
@pytest.mark.gpu
def test_on_a_gpu_graphs_train_as_eager_passes_do_and_a_pass_that_synchronises_stays_eager(
    train: Callable[..., CommonsenseModule], kind: type[CommonsenseModule], method: Method, precision: str
) -> None:
    recorder = Counting()
    graphed = train(method, recorder, kind=kind, device="cuda", precision=precision)
    eager = train(method, None, device="cuda", precision=precision)
    assert graphed.losses == pytest.approx(eager.losses, rel=1e-2)
    assert min(eager.losses) < eager.losses[0]
    if kind is Synchronising:
        assert recorder.recorded == 0 and graphed.graph_problem is not None
    else:
        assert recorder.recorded >= 2 and graphed.graph_problem is None
