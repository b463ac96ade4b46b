"""What the code assumes about a model, proven on that model and shown as a checklist.

In: a loaded model. Out: a few lines, or an error.
"""

from typing import Any

from tutelage.errors import ModelError, NumericsError
from tutelage.experiment.stage import Context


def show_checklist(context: Context, name: str, model: Any, tokenizer: Any, *, packed: bool = False) -> None:
    """Run the load-time proofs once per model, layout and process; ``packed`` says whether rows will be packed.

    Raises:
        ModelError: If one fails: what would follow is silently wrong numbers.
        NumericsError: If it fails because the model's own logits are not finite.
    """
    from tutelage.models.probe import NOT_FINITE, prove_model

    proof = f"{name}, packed" if packed else name
    if proof in context.proven:
        return
    results = prove_model(model, tokenizer, packed=packed)
    for result in results:
        context.show(
            f"  {'ok  ' if result.passed else 'FAIL' if result.required else 'no  '} {result.name}: {result.detail}"
        )
    failed = [result for result in results if result.required and not result.passed]
    if any(NOT_FINITE in result.detail for result in failed):
        raise NumericsError(
            f"{name}: {failed[0].detail}: its numbers overflow on the way. Compute in another precision "
            "(`dtype: fp32`), or use another checkpoint."
        )
    if failed:
        raise ModelError(
            f"{name} does not behave as the code needs: {failed[0].name}: {failed[0].detail}. {_remedy(failed)}"
        )
    context.proven |= {proof, name}


def _remedy(failed: list[Any]) -> str:
    if {result.name for result in failed} <= {"packed", "isolated"}:
        return "Its rows cannot be packed: set `train.packed: false`."
    return "Choose another model, or report this architecture."
