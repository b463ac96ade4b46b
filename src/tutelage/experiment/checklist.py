"""What the code assumes about a model, proven on that model and shown as a checklist.

In: a loaded model. Out: a few lines, or an error.
"""

from typing import Any

from tutelage.errors import ModelError
from tutelage.experiment.stage import Context


def show_checklist(context: Context, name: str, model: Any, tokenizer: Any) -> None:
    """Run the load-time proofs once per model and process.

    Raises:
        ModelError: If one fails: what would follow is silently wrong numbers.
    """
    from tutelage.models.probe import prove_model

    if name in context.proven:
        return
    results = prove_model(model, tokenizer)
    for result in results:
        context.show(
            f"  {'ok  ' if result.passed else 'FAIL' if result.required else 'no  '} {result.name}: {result.detail}"
        )
    failed = [result for result in results if result.required and not result.passed]
    if failed:
        raise ModelError(
            f"{name} does not behave as the code needs: {failed[0].name}: {failed[0].detail}. "
            "Choose another model, or report this architecture."
        )
    context.proven.add(name)
