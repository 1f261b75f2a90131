"""The same path patches done with TransformerLens and with nnsight, to be timed and compared with the engine.

Both tools wrap the very network they are given: a second tree of modules, the same weights in memory, nothing folded,
centred or cast. One environment holds both and the project (``requirements-peers.txt``), so all runs in one process.
Every pass (A into the logits; B, C and D into queries or values at a position that may differ by example) can be
expressed in both; first of all they are held to the plain implementation on small models, to 1e-5.

Both are written as their users would: all examples in one batch, clean and noise activations captured once for all
senders, no gradients, only the last token's logits, the whole prompt run again for every sender, and the first of two
passes stopped once the receivers have been read. What the tools differ in:

- TransformerLens (``TransformerBridge``) stops between layers (``stop_at_layer``), so the highest receiver's layer is
  run whole. It has no call that leaves a module out: its ``start_at_layer`` still runs the layers below. Its hooks come
  with an attention written out in steps, in place of the fused one that the network would use.
- nnsight (``NNsight``) stops anywhere, and can leave modules out (``skip``) whose output is known: the layers below the
  first edit, and attention where every head is frozen. ``skipping=False`` has it run all of them.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from setting import (
    MEMORY,
    Pass,
    Shape,
    four_passes,
    in_turn,
    machine,
    options,
    random_examples,
    random_model,
    report,
)
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mechdiff.circuits import Head, Position, all_heads
from mechdiff.engine.edits import Part
from mechdiff.engine.examples import Examples
from mechdiff.engine.plain import PlainRun
from mechdiff.engine.run import Run
from mechdiff.experiments.path_patching import relative_changes
from mechdiff.models.patchable import PatchableModel, patchable

CALL = {"use_cache": False, "logits_to_keep": 1}  # how the network is called: the last token's logits only
TOLERANCE = 1e-5


@dataclass
class Peer(ABC):
    """Path patches of one pass by another tool: make it, ``capture``, then ``change`` for any number of senders.

    receivers None: the logits; via: "q", "k" or "v" of the receivers. All is held on the network's device.
    Axes: N examples, T tokens, H heads, d dimensions of a head, D of the stream, V words.
    """

    network: LlamaForCausalLM
    examples: Examples
    noise: Examples
    position: Position
    receivers: Sequence[Head] | None
    via: str | None

    def __post_init__(self) -> None:
        self.outputs: list[Tensor] = []
        model, device = patchable("peer", self.network), self.network.device
        self.head_dim, self.layer_count = model.head_dim, len(model.layers)
        self.input_ids, self.answers = self.examples.input_ids.to(device), self.examples.answers.to(device)
        self.rows = torch.arange(len(self.examples), device=device)[:, None]  # [N, 1]
        self.at = self.examples.positions[self.position].to(device)[:, None]
        self.slots: dict[int, list[int]] = {}  # layer -> places of the receivers' vectors
        for head in sorted(self.receivers or ()):
            self.slots.setdefault(head.layer, []).append(model.slot(head, self.via))
        self.top = self.layer_count if self.receivers is None else max(self.slots, default=0)
        self._wrap(_twin(self.network))

    @torch.no_grad()
    def capture(self) -> None:
        """Run the original and the noise prompts, and keep what every sender's patch needs of them."""
        noise_at = self.noise.positions[self.position].to(self.at)[:, None]
        self._run_unpatched(self.noise.input_ids.to(self.at))
        self.source = [z[self.rows, noise_at] for z in self.outputs]  # per layer [N, 1, H, d]
        self.original = self._log_probability(self._run_unpatched(self.input_ids))  # last: its outputs stay

    @torch.no_grad()
    def change(self, sender: Head) -> Tensor:
        """(p_patch - p_org) / p_org [N], float64; 0 and nothing run for a sender that cannot reach a receiver."""
        if sender.layer >= self.top:
            return torch.zeros(len(self.rows), dtype=torch.float64)
        frozen = list(self.outputs)
        frozen[sender.layer] = frozen[sender.layer].clone()
        frozen[sender.layer][self.rows, self.at, sender.index] = self.source[sender.layer][:, :, sender.index]
        return torch.expm1(self._log_probability(self._run_patched(sender, frozen)) - self.original).cpu()

    def changes(self, senders: Sequence[Head]) -> dict[Head, Tensor]:
        """``capture``, and the ``change`` of every sender."""
        self.capture()
        return {sender: self.change(sender) for sender in senders}

    def _log_probability(self, logits: Tensor) -> Tensor:
        return logits.double().log_softmax(-1).gather(1, self.answers[:, None])[:, 0]

    @abstractmethod
    def _wrap(self, network: LlamaForCausalLM) -> None:
        """Hand the network to the tool, which may alter its modules."""

    @abstractmethod
    def _run_unpatched(self, input_ids: Tensor) -> Tensor:
        """Run prompts [N, T]: keep the heads' ``outputs``, per layer [N, T, H, d]; return logits [N, V]."""

    @abstractmethod
    def _run_patched(self, sender: Head, frozen: list[Tensor]) -> Tensor:
        """Logits [N, V] of the path patch; frozen: every head's output in its first pass, per layer [N, T, H, d]."""


def _twin(network: LlamaForCausalLM) -> LlamaForCausalLM:
    """The network with modules and config of its own around the same weights."""
    return copy.deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})


class TransformerLensPeer(Peer):
    """TransformerLens: hooks on ``hook_z`` (what enters ``o_proj``) and ``hook_q``, ``hook_k`` or ``hook_v``."""

    def _wrap(self, network: LlamaForCausalLM) -> None:
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        self.bridge = build_bridge_from_module(network, type(network).__name__, hf_config=network.config)

    def _run_unpatched(self, input_ids: Tensor) -> Tensor:
        logits, cache = self.bridge.run_with_cache(
            input_ids, names_filter=lambda name: name.endswith("attn.hook_z"), **CALL
        )
        self.outputs = [cache[f"blocks.{layer}.attn.hook_z"] for layer in range(self.layer_count)]
        return logits[:, -1]

    def _run_patched(self, sender: Head, frozen: list[Tensor]) -> Tensor:
        received: dict[int, Tensor] = {}

        def freeze(z: Tensor, hook) -> Tensor:
            return frozen[hook.layer()]

        def read(x: Tensor, hook) -> None:
            received[hook.layer()] = x[self.rows, self.at, self.slots[hook.layer()]]

        def replace(x: Tensor, hook) -> Tensor:
            x[self.rows, self.at, self.slots[hook.layer()]] = received[hook.layer()]
            return x

        freezing = [(f"blocks.{layer}.attn.hook_z", freeze) for layer in range(self.top)]
        if self.receivers is None:
            return self._run(freezing)[:, -1]
        self._run(freezing + self._at_receivers(read), stop_at_layer=self.top + 1)
        return self._run(self._at_receivers(replace))[:, -1]

    def _at_receivers(self, hook: Callable) -> list[tuple[str, Callable]]:
        return [(f"blocks.{layer}.attn.hook_{self.via}", hook) for layer in self.slots]

    def _run(self, hooks: list[tuple[str, Callable]], stop_at_layer: int | None = None) -> Tensor:
        return self.bridge.run_with_hooks(self.input_ids, fwd_hooks=hooks, stop_at_layer=stop_at_layer, **CALL)


@dataclass
class NnsightPeer(Peer):
    """nnsight: one trace a pass; what enters ``o_proj`` and leaves ``q_proj``, ``k_proj`` or ``v_proj`` is assigned.

    skipping: modules whose output is known are left out.
    """

    skipping: bool = True

    def _wrap(self, network: LlamaForCausalLM) -> None:
        import nnsight

        self.model, self.save = nnsight.NNsight(network), nnsight.save
        self.layers = self.model.model.layers

    def _run_unpatched(self, input_ids: Tensor) -> Tensor:
        with self.model.trace(input_ids=input_ids, **CALL):
            outputs, attention, streams = self.save([]), self.save([]), self.save([])
            for layer in self.layers:
                outputs.append(self._by_head(layer.self_attn.o_proj.input))
                attention.append(layer.self_attn.output)
                streams.append(layer.output)
            logits = self.model.output.logits.save()
        self.outputs, self.attention, self.streams = outputs, attention, streams
        return logits[:, -1]

    def _run_patched(self, sender: Head, frozen: list[Tensor]) -> Tensor:
        if self.receivers is None:
            with self.model.trace(input_ids=self.input_ids, **CALL):
                self._freeze(sender, frozen)
                logits = self.model.output.logits.save()
            return logits[:, -1]
        with self.model.trace(input_ids=self.input_ids, **CALL) as tracer:
            received = self.save(self._freeze(sender, frozen))
            tracer.stop()
        with self.model.trace(input_ids=self.input_ids, **CALL):
            self._skip_layers(min(received))
            for layer, vectors in received.items():
                self._vectors(layer)[self.rows, self.at, self.slots[layer]] = vectors
            logits = self.model.output.logits.save()
        return logits[:, -1]

    def _freeze(self, sender: Head, frozen: list[Tensor]) -> dict[int, Tensor]:
        """In a trace, the first pass up to the highest receiver; by layer, the receivers' vectors [N, receivers, d].

        Those in or below the sender's layer are as they were, and left alone.
        """
        received = {}
        for layer in range(self._skip_layers(sender.layer), self.layer_count):
            receiving = layer in self.slots and layer > sender.layer
            if receiving:
                received[layer] = self._vectors(layer)[self.rows, self.at, self.slots[layer]]
            if layer == self.top:
                break
            attention = self.layers[layer].self_attn
            if self.skipping and layer > sender.layer and not receiving:
                attention.skip(self.attention[layer])
            else:
                attention.o_proj.input = frozen[layer].flatten(-2)
        return received

    def _skip_layers(self, count: int) -> int:
        """In a trace, leave out the lowest layers, in which nothing is edited; how many are."""
        if not self.skipping:
            return 0
        for layer in range(count):
            self.layers[layer].skip(self.streams[layer])
        return count

    def _vectors(self, layer: int) -> Tensor:
        """In a trace, a layer's query, key or value vectors [N, T, heads, d]."""
        return self._by_head(getattr(self.layers[layer].self_attn, f"{self.via}_proj").output)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


def check() -> float:
    """Print, for small random networks, how far each tool's changes are from the plain ones; return the farthest."""
    farthest = 0.0
    for values in (6, 2):
        network = _random_network(layers=3, heads=6, values=values)
        examples, noise = _random_examples(seed=1), _random_examples(seed=2)
        for name, (position, receivers, via) in _PASSES.items():
            case = (network, examples, noise, position, receivers, via)
            model = patchable("check", network)
            runs: list[Any] = [PlainRun(model, each) for each in (examples, noise)]  # in place of Run
            plain = relative_changes(runs[0], runs[1], position, receivers, Part(via) if via else None)
            tools = {
                "TransformerLens": TransformerLensPeer(*case),
                "nnsight": NnsightPeer(*case),
                "nnsight, nothing skipped": NnsightPeer(*case, skipping=False),
            }
            largest = max(change.abs().max().item() for change in plain.values())
            print(f"{name}, 6 heads on {values} key/value heads: changes up to {largest:.2g}")
            for tool, peer in tools.items():
                found = peer.changes(all_heads(3, 6))
                off = max((found[head] - plain[head]).abs().max().item() for head in plain)
                print(f"  {tool:25} {off:.1e} off the plain implementation")
                farthest = max(farthest, off)
    return farthest


_PASSES = {
    "A": (Position.LAST, None, None),
    "B": (Position.LAST, [Head(2, 0), Head(1, 1), Head(2, 5)], "q"),
    "C": (Position.QUERY_LABEL, [Head(2, 1), Head(1, 4), Head(2, 0)], "v"),
    "D": (Position.PREVIOUS_QUERY_LABEL, [Head(1, 2), Head(1, 3)], "v"),
}


def _random_network(layers: int, heads: int, values: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=values,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def _random_examples(seed: int, count: int = 4, tokens: int = 20) -> Examples:
    random = torch.Generator().manual_seed(seed)
    positions = {
        Position.LAST: torch.full((count,), tokens - 1),
        Position.QUERY_LABEL: torch.full((count,), tokens - 3),
        Position.PREVIOUS_QUERY_LABEL: torch.randint(2, tokens - 4, (count,), generator=random),
    }
    input_ids = torch.randint(200, (count, tokens), generator=random)
    return Examples(input_ids, torch.randint(200, (count,), generator=random), positions)


def measured(model: PatchableModel, clean: Examples, noise: Examples, step: Pass, senders: int, rounds: int) -> dict:
    """One pass: seconds for a sender by each tool and by the engine (all senders in one call, captures left out), and
    the largest difference of its scores from the engine's."""
    case = (model.network, clean, noise, step.position, step.receivers, step.via)
    peers = {
        "TransformerLens": TransformerLensPeer(*case),
        "nnsight": NnsightPeer(*case, skipping=False),
        "nnsight, skipping": NnsightPeer(*case),
    }
    run, source, reaching = Run(model, clean, MEMORY), Run(model, noise, MEMORY), step.senders(model)
    tried = [reaching[round(i * (len(reaching) - 1) / max(1, senders - 1))] for i in range(senders)]
    for peer in peers.values():
        peer.capture()
    found = {}

    def engine() -> None:
        base, patched = run.evaluate(step.edits(reaching), source)
        found.update(zip(reaching, torch.expm1(patched.log_probability - base.log_probability).mean(1), strict=True))

    times = in_turn(
        {"engine": engine, "captures": lambda: run.evaluate(step.edits(reaching[-1:]), source)}
        | {name: lambda peer=peer: [peer.change(head) for head in tried] for name, peer in peers.items()},
        rounds,
    )
    alone = (times["engine"] - times["captures"]) / len(reaching)
    row = {"pass": step.group, "engine [s/sender]": alone}
    for name, peer in peers.items():
        row |= {f"{name} [s/sender]": times[name] / senders, f"{name} / engine": times[name] / senders / alone}
        row[f"{name}: off"] = max((peer.change(head).mean() - found[head]).abs().item() for head in tried)
    return row


def main() -> None:
    o = options(__doc__.splitlines()[0], examples=32, senders=3, rounds=2)
    if (farthest := check()) > TOLERANCE:
        raise SystemExit(f"{farthest:g} off the plain implementation, over {TOLERANCE:g}")
    shape = Shape()
    model = random_model(shape)
    clean, noise = (random_examples(o.examples, shape.vocabulary, seed) for seed in (1, 2))
    rows = [measured(model, clean, noise, step, o.senders, o.rounds) for step in four_passes(model)]
    settings = machine("cpu", torch.float32) | {
        "model": str(shape),
        "examples": o.examples,
        "senders timed": o.senders,
        "rounds": o.rounds,
        "transformer-lens": version("transformer-lens"),
        "nnsight": version("nnsight"),
        "receivers": {step.group: [str(head) for head in step.receivers or ()] for step in four_passes(model)},
    }
    report("peers", "Path patching: the engine against TransformerLens and nnsight", settings, rows)


if __name__ == "__main__":
    main()
