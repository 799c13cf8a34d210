"""The command `fedcl deploy`: the folders of a federation, and who belongs to it.

Certificates and keys are made here, with the library that Flower itself uses; each folder holds
what its owner needs to start, and no other's private key.
"""
