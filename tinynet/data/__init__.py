"""Data sets, the loader that makes batches of them, and random changes of their samples; NumPy alone."""
from tinynet.data.augmentation import Augmented, Brightness, Contrast, Crop, Flip, Scale, Zoom
from tinynet.data.camvid import CamVid
from tinynet.data.loader import DataLoader
from tinynet.data.mnist import MNIST
from tinynet.data.scenes import Scenes
from tinynet.data.tiny_imagenet import TinyImageNet
from tinynet.data.voc import VOC

__all__ = [
    "Augmented", "Brightness", "CamVid", "Contrast", "Crop", "DataLoader", "Flip", "MNIST", "Scale", "Scenes",
    "TinyImageNet", "VOC", "Zoom",
]
