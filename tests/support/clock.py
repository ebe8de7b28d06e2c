"""A clock that stands still until a test moves it."""


class Clock:
    def __init__(self, now: float = 0.0):
        self.now = now

    def monotonic(self) -> float:
        return self.now
