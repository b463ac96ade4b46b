"""Whether every loss of a recipe is defined for the signal it reads.

In: a validated recipe. Out: nothing, or a ``CapabilityError``. It imports torch, so loading a
recipe leaves it to its caller.
"""

from tutelage.config.grid import grid_points, with_point
from tutelage.config.methods import distribution_signal, expand_losses
from tutelage.config.own_losses import UnregisteredLoss
from tutelage.config.schema import Recipe
from tutelage.config.signals import SampledSignal, TopKSignal
from tutelage.errors import CapabilityError


def check_capabilities(recipe: Recipe) -> None:
    """Look every loss of every grid point up in ``losses.CAPABILITIES``.

    Raises:
        CapabilityError: If one is not defined, with the method's name and the reason.
    """
    from tutelage.losses.capabilities import check_capability

    stored = {s.kind: s.temperatures if isinstance(s, TopKSignal | SampledSignal) else None for s in recipe.signals}
    for name, searched in recipe.methods.items():
        for point in grid_points(searched):
            method = with_point(searched, point)
            signal = distribution_signal(method)
            for loss in expand_losses(method):
                if isinstance(loss, UnregisteredLoss):
                    continue
                try:
                    check_capability(
                        source="none" if signal is None else "cached",
                        signal=signal or "none",
                        divergence=loss.kind,
                        temperature=getattr(loss, "temperature", 1.0),
                        cached_temperatures=stored.get(signal or ""),
                    )
                except CapabilityError as error:
                    raise CapabilityError(f"methods.{name}: {error}") from None
