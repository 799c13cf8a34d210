"""How to learn without forgetting: one file per method, and in `parts` what several share."""

from pkgutil import extend_path

# A folder `strategies` elsewhere on the Python path adds its methods to these.
__path__ = extend_path(__path__, __name__)
