"""How far training is, and the learning rate there."""


def poly_rate(initial: float, exponent: float, progress: float) -> float:
    """Learning rate at `progress` of the training, 0 at the start and 1 at the end."""
    return float(initial * (1.0 - min(max(progress, 0.0), 1.0)) ** exponent)


def progress_by_count(iterations_done: float, iterations_in_all: float) -> float:
    """Share of the iterations done."""
    return iterations_done / iterations_in_all


def progress_by_time(seconds_spent: float, seconds_in_all: float, step_seconds: float) -> float:
    """Share of a time budget spent, such that the last step that fits is taken at the very end of the schedule.

    Parameters
    ----------
    seconds_spent : float
        Before the step to be taken.
    seconds_in_all : float
    step_seconds : float
        What a step takes at present.

    Notes
    -----
    The rate follows the clock rather than a number of iterations guessed at the start, so that it reaches zero in
    time however the machine's speed drifts.
    """
    return min(1.0, seconds_spent / max(seconds_in_all - step_seconds, 1e-9))
