"""What is done to updates before the server uses them, or to reports, one file each."""

from pkgutil import extend_path

# A folder `fedcl/privacy` elsewhere on the Python path adds its rules to these.
__path__ = extend_path(__path__, __name__)
