"""How a site follows its gradients, one file each."""

from pkgutil import extend_path

# A folder `fedcl/optimisers` elsewhere on the Python path adds its optimisers to these.
__path__ = extend_path(__path__, __name__)
