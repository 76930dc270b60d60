"""CUDA graphs: one launch replays all kernels of a step that has the usual batch size."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 3  # eager steps before recording, in which libraries choose their kernels and allocate memory

Pass = Callable[[Tensor, Tensor, torch.Generator, Tensor], None]


class StepGraph:
    """The forward and backward pass of a batch, recorded once and then replayed.

    A small network's step has hundreds of short kernels. Launching each from Python takes longer than the
    kernels themselves, so the GPU waits. A replay launches the same kernels on the same memory: the figures
    are those of eager steps. Source: "CUDA Graphs" in the CUDA notes of the PyTorch documentation.

    `run_pass(images, labels, generator, number)` leaves gradients in `parameters`. It may not wait for the
    device, and it reads everything that changes between steps from its arguments or from memory that stays
    where it is. A batch of another size runs eagerly.
    """

    def __init__(self, run_pass: Pass, parameters: list[nn.Parameter], batch_size: int) -> None:
        self._run_pass, self._parameters, self._batch_size = run_pass, parameters, batch_size
        self._eager_steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._gradients: list[Tensor | None] = []

    def run(self, images: Tensor, labels: Tensor, generator: torch.Generator, number: Tensor) -> None:
        """Run the pass on images uint8 [B, S, S] and labels int64 [B]; `generator` is freshly seeded."""
        if len(images) != self._batch_size or self._eager_steps < WARM_UP_STEPS:
            self._eager_steps += 1
            self._clear_gradients()
            self._run_pass(images, labels, generator, number)
            return
        if self._graph is None:
            self._record(images, labels, number)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._number.copy_(number)
        self._generator.manual_seed(generator.initial_seed())
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        assert self._graph is not None
        self._graph.replay()

    def _record(self, images: Tensor, labels: Tensor, number: Tensor) -> None:
        """Record the pass without running it."""
        self._images, self._labels, self._number = images.clone(), labels.clone(), number.clone()
        self._generator = torch.Generator(images.device)
        self._clear_gradients()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._run_pass(self._images, self._labels, self._generator, self._number)
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._graph = graph

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
