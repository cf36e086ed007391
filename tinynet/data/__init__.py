"""Data sets, the loader that makes batches of them, and random changes of their samples; NumPy alone."""
from tinynet.data.augmentation import Augmented, Brightness, Contrast, Crop, Flip, Scale
from tinynet.data.camvid import CamVid
from tinynet.data.loader import DataLoader
from tinynet.data.scenes import Scenes

__all__ = ["Augmented", "Brightness", "CamVid", "Contrast", "Crop", "DataLoader", "Flip", "Scale", "Scenes"]
