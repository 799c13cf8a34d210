"""How the server joins what the sites send, one file each."""

from pkgutil import extend_path

# A folder `fedcl/aggregations` elsewhere on the Python path adds its rules to these.
__path__ = extend_path(__path__, __name__)
