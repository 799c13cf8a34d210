"""Networks, one file each."""

from pkgutil import extend_path

# A folder `fedcl/models` elsewhere on the Python path adds its networks to these.
__path__ = extend_path(__path__, __name__)
