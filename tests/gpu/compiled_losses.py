"""The fused path on a GPU as users run it: compiled, without the tests' type checker. Prints errors against float64."""

import json
from dataclasses import replace

import torch

from tutelage.losses import head_losses
from tutelage.types import DenseLogits, FinalHidden, LossTerm, OutputHead, TopK

POSITIONS, IDS, WIDTH, K = 333, 5003, 64, 16
HEADS = {"plain": {}, "softcap": {"scale": 0.9, "softcap": 15.0}}


def problem(dtype: torch.dtype):
    draw = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device="cuda").bfloat16().to(dtype)

    labels = torch.randint(IDS, (POSITIONS,), generator=draw, device="cuda")
    return normal(POSITIONS, WIDTH), normal(IDS, WIDTH) * 0.25, normal(POSITIONS, WIDTH), labels


def signals(teacher: torch.Tensor, weight: torch.Tensor, temperature: float):
    head = OutputHead(weight)
    logits = teacher.float() @ weight.float().T
    logprobs = logits.log_softmax(1)
    kept, ids = logprobs.topk(K)
    log_z = {temperature: (logprobs / temperature).logsumexp(1)}
    yield "final_hidden", FinalHidden(teacher, head)
    yield "dense", DenseLogits(logits)
    yield "topk", TopK(ids, kept, log_z, IDS)
    yield "none", None


def gradients(hidden, weight, head, labels, signal, terms, *, fused: bool):
    leaves = [hidden.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()]
    student_head = replace(head, weight_VD=leaves[1])
    chunk = 100 if fused else None
    losses = head_losses(leaves[0], student_head, labels, signal, terms=terms, fused=fused, chunk=chunk)
    return [losses.objective.total.detach(), *torch.autograd.grad(losses.objective.total, leaves)]


def main() -> None:
    errors: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for head_name, settings in HEADS.items():
            for temperature in (1.0, 2.0):
                hidden, weight, teacher, labels = problem(dtype)
                for name, signal in signals(teacher, weight, temperature):
                    terms = [LossTerm("cross_entropy", 0.3)]
                    terms += [] if signal is None else [LossTerm("forward_kl", 0.7, temperature)]
                    head = OutputHead(weight, **settings)
                    found = gradients(hidden, weight, head, labels, signal, terms, fused=True)
                    wide = [tensor.double() for tensor in (hidden, weight)]
                    if isinstance(signal, FinalHidden):
                        signal = FinalHidden(teacher.double(), OutputHead(weight.double()))
                    expected = gradients(*wide, OutputHead(wide[1], **settings), labels, signal, terms, fused=False)
                    key = f"{str(dtype).removeprefix('torch.')} {name} T={temperature:g} {head_name}"
                    errors[key] = [
                        float((one.double() - other).norm() / other.norm())
                        for one, other in zip(found, expected, strict=True)
                    ]
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
