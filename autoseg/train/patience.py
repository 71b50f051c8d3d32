"""How long to wait for a better validation, and how training ends when none comes."""

from dataclasses import dataclass, replace

SMOOTHING = 0.1
# When patience runs out, training goes on for this share of what was done so far, while the rate falls to zero.
ANNEALING_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Plateau:
    """What is known of the validation's course.

    Attributes
    ----------
    smoothed : float or None
        Patch Dice, averaged over the epochs with weights that fall by a tenth from each to the one before; None
        before the first.
    best : float or None
        The highest so far.
    waited : int
        Epochs since then.
    annealing : tuple of float, length 3, or None
        Once patience ran out: where the last stretch begins and ends, in iterations or seconds, and the share of the
        schedule that was done at its beginning.
    """

    smoothed: float | None = None
    best: float | None = None
    waited: int = 0
    annealing: tuple[float, float, float] | None = None


def follow(plateau: Plateau, dice: float | None) -> Plateau:
    """The plateau after one more epoch; an epoch without a Dice counts as one without a better one."""
    if dice is None:
        return replace(plateau, waited=plateau.waited + 1)
    smoothed = dice if plateau.smoothed is None else plateau.smoothed + SMOOTHING * (dice - plateau.smoothed)
    if plateau.best is None or smoothed > plateau.best:
        return replace(plateau, smoothed=smoothed, best=smoothed, waited=0)
    return replace(plateau, smoothed=smoothed, waited=plateau.waited + 1)


def annealing(done: float, planned: float, progress: float, unit: float) -> tuple[float, float, float]:
    """The stretch in which the rest of the schedule is run through.

    Parameters
    ----------
    done, planned : float
        Iterations, or seconds.
    progress : float
        Share of the schedule done.
    unit : float
        The stretch is a multiple of it, so that it ends with an epoch.

    Returns
    -------
    tuple of float, length 3
        See `Plateau.annealing`.
    """
    stretch = unit * max(1, -(-ANNEALING_SHARE * done // unit))
    return done, min(planned, done + stretch), progress
