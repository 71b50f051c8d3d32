"""prediction.json: from which models and options the label maps beside it come."""

from autoseg.artifacts.base import Artifact


class PredictionSet(Artifact, frozen=True, kw_only=True):
    """A folder of predicted label maps.

    Attributes
    ----------
    inputs_sha256 : str
        Of the models' weights and of the options; while it is the same a second start predicts only what is missing.
    models : tuple of str
        Folders of the folds whose logits were averaged.
    previous_models : tuple of str
        In a cascade, those of the first stage.
    configuration_name : str
        Two whose probabilities were averaged are joined by ``" + "``.
    mirror_axes : tuple of int
        Axes of the patch along which predictions were mirrored and averaged; of the first configuration.
    step : float
        Distance of neighbouring windows, in patch edges.
    files : dict of str to str
        File of each case that was ever predicted here, relative to the folder.
    inputs : dict of str to str
        Hash of the input of each case that these models predicted; a case whose input changed is predicted again.
    """

    inputs_sha256: str
    models: tuple[str, ...]
    previous_models: tuple[str, ...] = ()
    configuration_name: str
    mirror_axes: tuple[int, ...]
    step: float
    files: dict[str, str]
    inputs: dict[str, str]
