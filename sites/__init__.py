"""What a hospital is: one file per data layout, and in `parts` what several share."""

from pkgutil import extend_path

# A folder `sites` elsewhere on the Python path adds its layouts to these.
__path__ = extend_path(__path__, __name__)
