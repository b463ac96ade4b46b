"""What the code assumes about a model, proven on that model and shown as a checklist.

In: a loaded model. Out: a few lines, or an error.
"""

from typing import Any

from tutelage.errors import ModelError
from tutelage.experiment.stage import Context


def show_checklist(context: Context, name: str, model: Any, tokenizer: Any, *, packed: bool = False) -> None:
    """Run the load-time proofs once per model, layout and process; ``packed`` says whether rows will be packed.

    Raises:
        ModelError: If one fails: what would follow is silently wrong numbers.
    """
    from tutelage.models.probe import prove_model

    proof = f"{name}, packed" if packed else name
    if proof in context.proven:
        return
    results = prove_model(model, tokenizer, packed=packed)
    for result in results:
        context.show(
            f"  {'ok  ' if result.passed else 'FAIL' if result.required else 'no  '} {result.name}: {result.detail}"
        )
    failed = [result for result in results if result.required and not result.passed]
    if failed:
        raise ModelError(
            f"{name} does not behave as the code needs: {failed[0].name}: {failed[0].detail}. {_remedy(failed)}"
        )
    context.proven |= {proof, name}


def _remedy(failed: list[Any]) -> str:
    if {result.name for result in failed} <= {"packed", "isolated"}:
        return "Its rows cannot be packed: set `train.packed: false`."
    return "Choose another model, or report this architecture."
