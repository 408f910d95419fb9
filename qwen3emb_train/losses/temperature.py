"""Which temperatures a loss can divide by."""

import math

LOWEST = 1e-3


def require_temperature(value: float, name: str = "temperature", *, of: str = "the loss", usual: str) -> None:
    """Refuses a temperature that is not positive, or so small that the loss is rounding error.

    Args:
        value: divides cosines or scores.
        name: of the setting.
        of: whose setting.
        usual: what others use, for the message.

    Raises:
        ValueError: it is below ``LOWEST``, or no finite number.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} of {of} must be positive; {usual}.")
    if value < LOWEST:
        raise ValueError(
            f"{name}={value} of {of} is below {LOWEST}: float32 cosines are exact to about 1e-6, and divided "
            f"by it the error in the exponent is {1e-6 / value:.2g}: the loss would be rounding error; {usual}."
        )
