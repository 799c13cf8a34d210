"""How to learn without forgetting: `base` holds what all share, then one file per method."""

from pkgutil import extend_path

# A folder `strategies` elsewhere on the Python path adds its methods to these.
__path__ = extend_path(__path__, __name__)
