"""What a hospital is: `base` says what every site offers, then one file per data layout."""

from pkgutil import extend_path

# A folder `sites` elsewhere on the Python path adds its layouts to these.
__path__ = extend_path(__path__, __name__)
