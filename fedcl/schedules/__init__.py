"""How the learning rate changes in the course of a stage, one file each."""

from pkgutil import extend_path

# A folder `fedcl/schedules` elsewhere on the Python path adds its schedules to these.
__path__ = extend_path(__path__, __name__)
