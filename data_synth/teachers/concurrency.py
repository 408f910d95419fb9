"""Adaptive limit of the requests in flight per server.

Additive increase, multiplicative decrease, as in TCP congestion control (Chiu and Jain 1989): the limit doubles per
round trip until the server first reports an overload, then halves, and from there grows by one per round trip.
"""


class AdaptiveConcurrency:
    """The limit of one server.

    Attributes:
        limit: requests allowed in flight, rounded down.
        in_flight: requests under way.
    """

    def __init__(self, initial: int, maximum: int) -> None:
        self.limit = float(min(initial, maximum))
        self.in_flight = 0
        self._maximum = maximum
        self._is_starting = True
        self._last_decrease = float("-inf")

    @property
    def has_room(self) -> bool:
        return self.in_flight < int(self.limit)

    def succeeded(self) -> None:
        """A request that is still counted in ``in_flight`` was answered."""
        # A limit that is not reached is not confirmed by a success, so it does not grow.
        if self.in_flight >= int(self.limit):
            self.limit = min(self.limit + (1.0 if self._is_starting else 1.0 / self.limit), float(self._maximum))

    def overloaded(self, started: float, now: float) -> bool:
        """A request sent at ``started`` was refused; returns whether the limit was halved for it.

        A burst counts once: requests sent before the last decrease were subject to the old limit.
        """
        if started < self._last_decrease:
            return False
        self.limit = max(1.0, self.limit / 2)
        self._is_starting = False
        self._last_decrease = now
        return True

    def restart(self) -> None:
        """The server was ejected: it starts with one request."""
        self.limit = 1.0
        self._is_starting = True
