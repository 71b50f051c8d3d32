"""autoseg: from a folder of labelled scans to a validated segmentation model, without hand tuning."""

__version__ = "0.1.0"
