"""One step under a launcher: each rank takes its share. Argument: the file for the weights of rank 0."""

import sys

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from test_step import DoubleTeacher, cut
from tiny_training import KD_TERMS, PAD, tiny_options, tiny_rows, tiny_student

from tutelage.train.loop import make_learner
from tutelage.train.module import DistillationModule
from tutelage.train.step import Stepper


def main(path):
    torch.set_num_threads(1)
    rows, options = tiny_rows(8), tiny_options(warmup_ratio=0.0)
    module = DistillationModule(tiny_student(dropout=0.0).double(), KD_TERMS)
    learner = make_learner(module, options, 10)
    accelerator = Accelerator(cpu=True, device_placement=False, mixed_precision="no")
    prepared_module, prepared_optimizer = accelerator.prepare(module, learner.optimizer)
    stepper = Stepper(
        accelerator=accelerator,
        module=prepared_module,
        optimizer=prepared_optimizer,
        parameters=learner.parameters,
        rows=rows,
        teachers=(DoubleTeacher(),),
        units=module.units,
        device=torch.device("cpu"),
        pad_id=PAD,
        packed=False,
        max_grad_norm=1.0,
    )
    means = stepper.run(cut(rows, (2, 3, 1, 1, 1)), number=1)  # five micro-batches: one rank gets an empty one
    numbers = torch.tensor([means.objective, means.grad_norm, *means.parts.values()], dtype=torch.float64)
    if accelerator.is_main_process:
        weights = {name: p.detach().contiguous() for name, p in learner.parameters.items()}
        save_file({**weights, "numbers": numbers, "world": torch.tensor(accelerator.num_processes)}, path)


if __name__ == "__main__":
    main(sys.argv[1])
