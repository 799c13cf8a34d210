"""How training images are varied, one file each."""

from pkgutil import extend_path

# A folder `fedcl/augment` elsewhere on the Python path adds its augmentations to these.
__path__ = extend_path(__path__, __name__)
