"""Detection, segmentation and classification data, decoding, transforms and the loader.

Names are imported when they are first used, so that importing one part does not cost the others.
"""

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from vireo.data.arrays import ArrayLoader as ArrayLoader
    from vireo.data.arrays import stack_classification as stack_classification
    from vireo.data.cifar import Cifar as Cifar
    from vireo.data.classification import ClassificationDataset as ClassificationDataset
    from vireo.data.classification import per_class as per_class
    from vireo.data.classification import resize_images as resize_images
    from vireo.data.classification_transforms import CIFAR10_MEAN as CIFAR10_MEAN
    from vireo.data.classification_transforms import CIFAR10_STD as CIFAR10_STD
    from vireo.data.classification_transforms import HorizontalFlip as HorizontalFlip
    from vireo.data.classification_transforms import Normalize as Normalize
    from vireo.data.classification_transforms import RandomCrop as RandomCrop
    from vireo.data.coco import CocoDetection as CocoDetection
    from vireo.data.crops import RandomResizedCrop as RandomResizedCrop
    from vireo.data.decode import decode_image as decode_image
    from vireo.data.decode import decode_jpeg_batch as decode_jpeg_batch
    from vireo.data.erasing import RandomErasing as RandomErasing
    from vireo.data.generated import GeneratedShapes as GeneratedShapes
    from vireo.data.generated_classes import GeneratedClasses as GeneratedClasses
    from vireo.data.image_folder import ImageFolder as ImageFolder
    from vireo.data.image_sets import build_dataset as build_dataset
    from vireo.data.image_sets import evaluation_view as evaluation_view
    from vireo.data.image_sets import labelled_loader as labelled_loader
    from vireo.data.image_sets import pretraining_loader as pretraining_loader
    from vireo.data.image_sets import require_batch as require_batch
    from vireo.data.image_sets import require_same_classes as require_same_classes
    from vireo.data.image_tree import ImageTree as ImageTree
    from vireo.data.loader import DeviceResidentLoader as DeviceResidentLoader
    from vireo.data.loader import Loader as Loader
    from vireo.data.mixing import Mixing as Mixing
    from vireo.data.pretraining_sets import pretraining_set as pretraining_set
    from vireo.data.random import batch_key as batch_key
    from vireo.data.random import counter_key as counter_key
    from vireo.data.random import counter_uniform as counter_uniform
    from vireo.data.random import seeded as seeded
    from vireo.data.recipes import finetune_transforms as finetune_transforms
    from vireo.data.recipes import imagenet_transforms as imagenet_transforms
    from vireo.data.records import DetectionDataset as DetectionDataset
    from vireo.data.records import DetectionRecord as DetectionRecord
    from vireo.data.resized_crops import BatchResizedCrop as BatchResizedCrop
    from vireo.data.sampler import EpochSampler as EpochSampler
    from vireo.data.sampler import aspect_ratio_groups as aspect_ratio_groups
    from vireo.data.segmentation import GeneratedSegmentation as GeneratedSegmentation
    from vireo.data.segmentation import SegmentationDataset as SegmentationDataset
    from vireo.data.segmentation_batches import segmentation_loader as segmentation_loader
    from vireo.data.segmentation_files import ImageLabelFolders as ImageLabelFolders
    from vireo.data.segmentation_sets import segmentation_set as segmentation_set
    from vireo.data.segmentation_transforms import RandomScaledCrop as RandomScaledCrop
    from vireo.data.segmentation_transforms import ResizeImage as ResizeImage
    from vireo.data.segmentation_transforms import StackSegmentation as StackSegmentation
    from vireo.data.transforms import Compose as Compose
    from vireo.data.transforms import NormalizePad as NormalizePad
    from vireo.data.transforms import PhotometricDistort as PhotometricDistort
    from vireo.data.transforms import RandomHorizontalFlip as RandomHorizontalFlip
    from vireo.data.transforms import Resize as Resize
    from vireo.data.transforms import ResizeShortSide as ResizeShortSide
    from vireo.data.transforms import TorchvisionTransform as TorchvisionTransform
    from vireo.data.transforms import detection_transforms as detection_transforms
    from vireo.data.voc import VocDetection as VocDetection

__all__, __getattr__, __dir__ = exports(__name__, __file__)
