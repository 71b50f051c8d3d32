"""Volumes through SimpleITK: NIfTI, NRRD, MetaImage, GIPL <-> array and geometry."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.stamp import data_file
from autoseg.images import nifti
from autoseg.images.intact import check_gipl, check_meta

READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".gipl": "GiplImageIO",
}


def read(file: Path, ending: str, dtype: DTypeLike | None) -> tuple[NDArray[Any], Geometry]:
    """Read a volume, or a 2D image, with all its channels.

    Parameters
    ----------
    file : Path
    ending : str
        Lower case.
    dtype : numpy dtype or None
        Wanted element type; None keeps the file's.

    Returns
    -------
    array_czyx : ndarray, shape (C, Z, Y, X)
    geometry : Geometry

    Raises
    ------
    ValueError
        The file is damaged or of a kind autoseg can't use.
    OSError, RuntimeError
        It can't be read.
    """
    plain = _checked_voxels(file, ending)
    reader = _reader(file, ending)
    if plain is not None:
        with quiet():
            reader.ReadImageInformation()
        geometry, channels = _grid(reader)
        wanted = np.dtype(dtype) if dtype is not None else plain.dtype.newbyteorder("=")
        with np.errstate(over="ignore", invalid="ignore"):
            return plain.astype(wanted).reshape((channels, *geometry.shape)), geometry
    with quiet():
        image = reader.Execute()
    geometry, channels = _grid(image)
    # A view lives only as long as its image, so it is converted, hence copied, here.
    view = _itk().GetArrayViewFromImage(image)
    if np.iscomplexobj(view):
        raise ValueError("its voxels are complex numbers")
    if image.GetNumberOfComponentsPerPixel() > 1:
        view = np.moveaxis(view, -1, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.array(view, dtype=dtype, order="C")
    return array.reshape((channels, *geometry.shape)), geometry


def read_geometry(file: Path, ending: str) -> Geometry:
    """The geometry from the header alone; raises as `read` does for a header that is damaged."""
    _check_size(file, ending, inflate=False)
    reader = _reader(file, ending)
    with quiet():
        reader.ReadImageInformation()
    return _grid(reader)[0]


def write(path: Path, array_zyx: NDArray[Any], geometry: Geometry) -> None:
    """Write one label map with its geometry; a 2D file when the geometry says so."""
    sitk = _itk()
    flat = geometry.num_dimensions == 2
    image = sitk.GetImageFromArray(array_zyx[0] if flat else array_zyx)
    size = 2 if flat else 3
    image.SetSpacing(geometry.spacing_mm[::-1][:size])
    image.SetOrigin(geometry.origin_mm[:size])
    image.SetDirection(np.reshape(geometry.direction, (3, 3))[:size, :size].ravel().tolist())
    with quiet():
        sitk.WriteImage(image, str(path), useCompression=True)


def _checked_voxels(file: Path, ending: str) -> NDArray[Any] | None:
    """Make sure that the file is whole; the voxels, as stored, if that gave them anyway."""
    if not ending.startswith(".nii"):
        _check_size(file, ending, inflate=True)
        return None
    header = nifti.read_header(file)
    if header.plain_dtype is not None:
        return nifti.read_plain(file, header)
    found = len(nifti.inflate(file, header)) if ending == ".nii.gz" else file.stat().st_size
    nifti.check_length(found, header)
    return None


def _check_size(file: Path, ending: str, *, inflate: bool) -> None:
    if file.stat().st_size == 0:
        raise ValueError("the file is empty")
    data = data_file(file)
    if data is not None and (Path(data).name != data or data in (".", "..")):
        raise ValueError(f"its voxels are said to lie in {data}, which is no file beside it")
    if data is not None and (data.split(maxsplit=1)[0].upper() == "LIST" or "%" in data):
        raise ValueError("its voxels lie in several files, which are not read")
    match ending:
        case ".nii" | ".nii.gz":
            nifti.read_header(file)
        case ".mha" | ".mhd":
            check_meta(file, inflate=inflate)
        case ".gipl":
            check_gipl(file)


def _itk() -> Any:  # noqa: ANN401 - SimpleITK has no types
    """SimpleITK, imported when first needed: it takes longer to load than `autoseg --help` may."""
    import SimpleITK

    return SimpleITK


def _reader(file: Path, ending: str) -> Any:  # noqa: ANN401 - SimpleITK has no types
    sitk = _itk()
    reader = sitk.ImageFileReader()
    # Naming the reader saves ITK from asking every one it has.
    reader.SetImageIO(READERS[ending])
    reader.SetFileName(str(file))
    return reader


def _grid(header: Any) -> tuple[Geometry, int]:  # noqa: ANN401 - SimpleITK has no types
    """Geometry and number of channels of a SimpleITK image or of a reader that has seen a header."""
    dimensions = header.GetDimension()
    size, spacing, origin = header.GetSize(), header.GetSpacing(), header.GetOrigin()
    direction = np.reshape(header.GetDirection(), (dimensions, dimensions))
    extra = [n for n in size[3:] if n > 1]
    components = header.GetNumberOfComponents() if hasattr(header, "GetNumberOfComponents") else 0
    channels = components or header.GetNumberOfComponentsPerPixel()
    if len(extra) > 1 or (extra and channels > 1):
        raise ValueError(f"it has too many axes: {size}, {channels} values a voxel")
    if extra:
        channels = extra[0]
    n = min(dimensions, 3)
    cosines = np.eye(3)
    cosines[:n, :n] = direction[:n, :n]
    xx, xy, xz, yx, yy, yz, zx, zy, zz = (cosines + 0.0).ravel().tolist()
    if not all(0 < edge < np.inf for edge in spacing):
        raise ValueError(f"it states an impossible spacing {spacing}")
    if dimensions == 2:
        size, spacing, origin = (*size, 1), (*spacing, 999 * max(spacing)), (*origin, 0.0)
    geometry = Geometry(
        shape=tuple(size[2::-1]),
        spacing_mm=tuple(spacing[2::-1]),
        origin_mm=tuple(origin[:3]),
        direction=(xx, xy, xz, yx, yy, yz, zx, zy, zz),
        num_dimensions=n,
    )
    return geometry, channels


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ITK's remarks on harmless header details off stderr."""
    sitk = _itk()
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
